"""Training steps per second on a GPU, for the published configurations, and a check of the results against the CPU.

    python benchmarks/gpu.py                        # mnist, cifar10, imagenet256; writes rows
    python benchmarks/gpu.py --seconds 3 --rows gpu.jsonl mnist

"default" is no published configuration but the project's own, on data of Fashion-MNIST's shape. Needs PyTorch, this
project and what it requires; the data are random, of the right shape, and the batch the published one unless
--batch-size says otherwise. Each configuration is timed in four ways: float32 and bfloat16 matrix products, each as a
CUDA graph and without (agents that cannot be recorded say `cuda_graph: false` twice). A way that fails is a row that
says why.

The check: one step's loss, rewards' mean and gradient norm on the GPU against the same in float32 on the CPU, on the
same weights, data and codes. The share of the floor: a step's operations, which the check's row has per datum, times
steps per second, over the rate of large products, which has a row for each precision.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from common import ROWS, environment
from roofline import ATTENTION
from torch.utils.flop_counter import FlopCounterMode

from daps_rl.agents import Scorer
from daps_rl.config import PUBLISHED_SHAPES, TrainConfig, make_config
from daps_rl.data import Splits, from_arrays
from daps_rl.functional import daps_loss, solve_temperature
from daps_rl.training import Trainer

SHAPES = {"default": (1, 28, 28), **{name: PUBLISHED_SHAPES[name] for name in ("mnist", "cifar10", "imagenet256")}}
COUNTS = {"default": 2048, "mnist": 2048, "cifar10": 1024, "imagenet256": 128}
SMALL = {"default": 32, "mnist": 32, "cifar10": 4, "imagenet256": 1}  # batch of the check, which the CPU has to do too


def random_splits(name: str) -> Splits:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(COUNTS[name], *SHAPES[name], generator=generator)
    return from_arrays((values > 0.5).float() if SHAPES[name][0] == 1 else values)


def settings(name: str, **options: Any) -> TrainConfig:
    options = {"steps": 10**6, "validate_every": 0, **options}
    return make_config(data="fashion-mnist", **options) if name == "default" else make_config(name, **options)


def time_steps(name: str, splits: Splits, seconds: float, **options: Any) -> dict[str, Any]:
    """Steps per second over at least so many seconds, and peak memory, with a GPU that has been waited for."""
    gc.collect()  # a trainer that was recorded holds on to itself
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(settings(name, device="cuda", **options), splits)
    trainer.agent.train()
    trainer.autoencoder.train()
    start = time.perf_counter()
    for _ in range(5):
        metrics = trainer.train_step()
    torch.cuda.synchronize()
    warmup = time.perf_counter() - start
    steps, taken, start = 0, 0.0, time.perf_counter()
    while taken < seconds:
        for _ in range(1 if warmup > 5.0 else 5):
            metrics = trainer.train_step()
            steps += 1
        torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return {
        "cuda_graph": trainer.learner.graphed,
        "steps": steps,
        "steps_per_second": steps / taken,
        "warmup_seconds": warmup,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_memory_gib": torch.cuda.memory_reserved() / 2**30,
        "log_likelihood": metrics["log_likelihood"].item(),
        "ESS": metrics["ESS"].item() if "ESS" in metrics else None,
    }


def operations(name: str, splits: Splits) -> float:
    """Floating-point operations of a step of `daps` per datum, counted on the CPU."""
    trainer = Trainer(settings(name, agent="daps", device="cpu", batch_size=SMALL[name], decoder_norm="group"), splits)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops:
        trainer.train_step()
    return flops.get_total_flops() / SMALL[name]


def product_rate(precision: str, device: str = "cuda", size: int = 8192) -> float:
    """FLOP/s of large matrix products: what a step's operations could take at least."""
    a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken)


def check(name: str, splits: Splits) -> dict[str, Any]:
    """How far a step's numbers on the GPU are from float32 on the CPU, relatively; codes drawn on the CPU."""
    config = settings(name, device="cpu", decoder_norm="group")
    trainer = Trainer(config, splits)
    x = splits.train[: SMALL[name]]
    with torch.no_grad():
        codes = trainer.autoencoder.policy(x).sample((config.samples,)).transpose(0, 1)
    numbers = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        model = trainer.autoencoder.to(device)
        model.zero_grad()
        z, observation, beta = codes.to(device), x.to(device), torch.tensor(config.beta_start, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            log_prob = model.policy(observation).log_prob(z.transpose(0, 1)).t()
            scorer = Scorer(model.decoder, model.prior(), observation, beta)
            reward = scorer(z, log_prob.detach())
            temperature = solve_temperature(reward, config.ess_fraction, beta)
            loss = daps_loss(log_prob, reward, temperature=temperature).loss.mean() + scorer.decoder_loss()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        numbers[device, precision] = [v.detach().cpu() for v in (loss, reward, log_prob, temperature, gradient)]
    trainer.autoencoder.to("cpu")
    exact = numbers["cpu", "float32"]
    return {
        f"{what}_error_{precision}": ((number - reference).norm() / reference.norm()).item()
        for precision in ("float32", "bfloat16")
        for what, number, reference in zip(
            ("loss", "reward", "log_prob", "temperature", "gradient"), numbers["cuda", precision], exact, strict=True
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="*", metavar="CONFIG", help=f"of {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, per way")
    parser.add_argument("--agents", nargs="+", default=["daps"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, help="instead of the published one")
    parser.add_argument("--rows", type=Path, default=ROWS / "gpu.jsonl")
    options = parser.parse_args()
    if unknown := sorted(set(options.configurations) - set(SHAPES)):
        parser.error(f"unknown configuration {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here.")

    def write(row: dict[str, Any]) -> None:
        text = json.dumps({**row, "gpu": torch.cuda.get_device_name(), **environment()})
        with options.rows.open("a") as file:
            file.write(text + "\n")
        print({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}, flush=True)

    for precision in options.precisions:
        write({"precision": precision, "product_rate": product_rate(precision)})
    for name in options.configurations or SHAPES:
        splits = random_splits(name)
        write({"configuration": name, "check": check(name, splits), "operations_per_datum": operations(name, splits)})
        for agent in options.agents:
            for precision, cuda_graph in itertools.product(options.precisions, (False, True)):
                batch = {"batch_size": options.batch_size} if options.batch_size else {}
                row = {"configuration": name, "agent": agent, "precision": precision, "cuda_graph": cuda_graph, **batch}
                try:
                    own = {"precision": precision, "cuda_graph": cuda_graph, **batch}
                    write({**row, **time_steps(name, splits, options.seconds, agent=agent, **own)})
                except Exception as error:  # a row that says why
                    write({**row, "error": f"{type(error).__name__}: {str(error)[:300]}"})


if __name__ == "__main__":
    main()
