"""The floor under a training step: its floating-point operations and bytes, over the machine's own rates, part by part.

    python benchmarks/roofline.py                        # published MNIST configuration, agent daps
    python benchmarks/roofline.py --cpu-kernels
    python benchmarks/roofline.py --agent daps-na --own  # the project's own settings at that shape
    python benchmarks/roofline.py --config cifar10 --batch-size 16

Operations are counted by PyTorch's own counter (matrix products, convolutions and attention; a multiply and an add are
two). Bytes are those that each operation reads and writes, as if nothing stayed in a cache: eager PyTorch's traffic.
The floor of a part is its operations over the rate of large matrix products in float32, which is measured before every
repeat, as machines that are shared have good and bad minutes; times and rates are medians. What comes on top of the
floor is memory, small operations and overhead. With CPU kernels both are counted on the same step without them, and
scoring is one part with the backward pass, on which kernels do it. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import write_row
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from daps_rl.agents import Scorer
from daps_rl.agents.base import Group
from daps_rl.config import PUBLISHED_SHAPES, make_config
from daps_rl.data import from_arrays
from daps_rl.functional import target_weights
from daps_rl.policies import draw, score_drawn
from daps_rl.policies.code_transformer import CodeTransformer
from daps_rl.training import Trainer

# The counter knows attention on a GPU; this is what a CPU takes.
ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *args, **kwargs: sdpa_flop(*args, **kwargs),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, **kwargs: sdpa_backward_flop(
        *args, **kwargs
    ),
}
for count in ATTENTION.values():
    count._get_raw = True  # takes tensors, as the counter's own do


class Traffic(TorchDispatchMode):
    """Bytes read and written by every operation that makes or changes a tensor; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def rates(threads: int, repeats: int = 7) -> tuple[float, float]:
    """The machine's matrix products, in FLOP/s, and copies, in bytes/s (read and written): the best of several."""
    torch.set_num_threads(threads)
    best = 0.0
    for size in (512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        best = max(best, 2 * size**3 / fastest(lambda a=a, b=b: a @ b, repeats))
    source, target = torch.randn(2**26), torch.empty(2**26)
    return best, 2 * 4 * 2**26 / fastest(lambda: target.copy_(source), repeats)


def fastest(function: Callable[[], Any], repeats: int = 7) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


class Step:
    """A training step of DAPS taken apart; each part leaves behind what the next one needs."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.x = trainer, trainer.batch()
        self.parts: dict[str, Callable[[], None]] = {
            "encode x": self.encode,
            "draw codes": self.draw,
            "decode and score x": self.decode,
            "temperature and weights": self.weigh,
        }
        if trainer.config.cpu_kernels:
            self.parts["score codes, and backward"] = self.score_and_backward
        else:
            self.parts |= {"score codes under the policy": self.score, "backward": self.backward}
        self.parts["clip and AdamW"] = self.update

    def encode(self) -> None:
        self.posterior = self.trainer.autoencoder.policy(self.x)

    def draw(self) -> None:
        codes, log_prob = draw(self.posterior, (self.trainer.config.samples,))
        self.codes, self.log_prob = codes.transpose(0, 1), log_prob.t()

    def decode(self) -> None:
        t = self.trainer
        self.scorer = Scorer(
            t.autoencoder.decoder, t.autoencoder.prior(), self.x, t.beta, 0, t.config.decoder_samples,
            t.learner.score_precision == "bfloat16",
        )  # fmt: skip
        self.reward = self.scorer(self.codes, self.log_prob)

    def weigh(self) -> None:
        temperature = self.trainer.agent.trust_region(self.reward, self.trainer.beta)
        self.weights = target_weights(self.reward, temperature)

    def score(self) -> None:
        config = self.trainer.config

        def log_prob_of(codes: Tensor, drawn: Tensor) -> Tensor:
            return score_drawn(self.posterior, codes.transpose(0, 1), drawn.t()).t()

        group = Group(self.codes, self.log_prob, log_prob_of, log_prob_of, config.policy_samples)
        self.loss = group.loss(self.weights, centered=config.centered).mean() + self.scorer.decoder_loss()

    def backward(self) -> None:
        self.trainer.optimizer.optimizer.zero_grad(set_to_none=True)
        self.loss.backward()

    def score_and_backward(self) -> None:
        self.score()
        self.backward()

    def without_kernels(self) -> None:
        """From here on; to count operations, which a kernel does not show."""
        for module in self.trainer.agent.modules():
            if isinstance(module, CodeTransformer):
                module.backend = None

    def update(self) -> None:
        # A loss whose backward pass costs next to nothing stands in for the one that is counted above.
        optimizer = self.trainer.optimizer
        kept = [(p, p.grad) for p in optimizer.parameters]
        zero_grad, optimizer.optimizer.zero_grad = optimizer.optimizer.zero_grad, lambda set_to_none=True: None
        for parameter, gradient in kept:
            parameter.grad = gradient
        optimizer.step(torch.zeros((), requires_grad=True).sum())
        optimizer.optimizer.zero_grad = zero_grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist", choices=("mnist", "cifar10", "imagenet256"))
    parser.add_argument("--agent", default="daps", choices=("daps", "daps-na"))
    parser.add_argument("--own", action="store_true", help="the project's own settings, at Fashion-MNIST's shape")
    parser.add_argument("--cpu-kernels", action="store_true")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(600, *PUBLISHED_SHAPES["mnist" if options.own else options.config], generator=generator)
    settings: dict[str, Any] = {
        "agent": options.agent,
        "steps": 10**6,
        "device": "cpu",
        "batch_size": options.batch_size,
        "cpu_kernels": options.cpu_kernels,
    }
    if options.own:
        config = make_config(data="fashion-mnist", likelihood="bernoulli", **settings)
    else:
        config = make_config(options.config, **settings)
    step = Step(Trainer(config, from_arrays((values > 0.5).float())))
    step.trainer.train_step()
    times: dict[str, list[float]] = {name: [] for name in step.parts}
    measured_rates = []
    for _ in range(options.repeats):
        measured_rates.append(rates(options.threads, repeats=3))
        step.trainer.train_step()  # what a step finds in the caches is of a step
        for name, part in step.parts.items():
            start = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - start)
    flop_rate, byte_rate = (statistics.median(values) for values in zip(*measured_rates, strict=True))
    counts: dict[str, tuple[int, int]] = {}
    step.without_kernels()
    for name, part in step.parts.items():
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops, Traffic() as traffic:
            part()
        counts[name] = flops.get_total_flops(), traffic.bytes
    title = (
        f"{'own' if options.own else options.config}, {options.agent}, batch {config.batch_size}, K = {config.samples}"
        f"{', CPU kernels' if config.cpu_kernels else ''}"
    )
    print(f"{title}; {flop_rate / 1e9:.0f} GFLOP/s, {byte_rate / 1e9:.1f} GB/s on {options.threads} threads")
    print(f"{'part':32} {'GFLOP':>8} {'GB':>7} {'floor ms':>9} {'memory ms':>10} {'measured':>9} {'share':>6}")
    rows = []
    for name, taken in times.items():
        flops, moved = counts[name]
        rows.append(
            (name, flops, moved, flops / flop_rate * 1e3, moved / byte_rate * 1e3, statistics.median(taken) * 1e3)
        )
    rows.append(("the step", *(sum(row[i] for row in rows) for i in range(1, 6))))
    for name, flops, moved, floor, memory, measured in rows:
        print(
            f"{name:32} {flops / 1e9:8.2f} {moved / 1e9:7.3f} {floor:9.1f} {memory:10.1f} {measured:9.1f} "
            f"{floor / measured:6.0%}"
        )
    names = ("flops", "bytes", "floor_ms", "memory_ms", "measured_ms")
    write_row(
        "roofline",
        {
            "configuration": "own" if options.own else options.config,
            "agent": options.agent,
            "batch_size": config.batch_size,
            "samples": config.samples,
            "cpu_kernels": config.cpu_kernels,
            "gflops": flop_rate / 1e9,
            "gbytes": byte_rate / 1e9,
            "parts": {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows},
        },
    )


if __name__ == "__main__":
    main()
