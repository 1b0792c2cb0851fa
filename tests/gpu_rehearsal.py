"""Runs of everything that may stand on a GPU, on one that is simulated: `python gpu_rehearsal.py` prints JSON.

A process of its own, as PyTorch has to know of the device before the first backward pass. Each case gives numbers on
the CPU and on the device, which agree up to rounding; see test_gpu_rehearsal.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import simulated_gpu
import torch

CPU = torch.device("cpu")
Numbers = dict[str, float]
CASES: dict[str, Callable[[torch.device], Numbers]] = {}


def case(function: Callable[[torch.device], Numbers]) -> Callable[[torch.device], Numbers]:
    """Takes a case up by its name."""
    CASES[function.__name__] = function
    return function


GENERATOR = torch.Generator


def host_generator(device: Any = None) -> torch.Generator:
    """Draws the CPU's numbers, which the device works with too."""
    return GENERATOR()


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Meanwhile runs choose this device."""
    from daps_rl.training import loop

    with contextlib.ExitStack() as stack:
        for module in ("daps_rl.training.loop", "daps_rl.runs.session"):
            stack.enter_context(mock.patch(f"{module}.choose_device", return_value=device))
        stack.enter_context(mock.patch.dict(loop.CHECK_EVERY, {device.type: 2}))
        if device != CPU:
            stack.enter_context(simulated_gpu.SimulatedGPU())
            stack.enter_context(mock.patch("torch.Generator", host_generator))
        torch.manual_seed(0)
        yield


def train(device: torch.device, splits: Any = None, steps: int = 2, **options: Any) -> Numbers:
    """The metrics of the last step, and those of a validation."""
    from conftest import SIZES

    from daps_rl.config import make_config
    from daps_rl.data import from_arrays
    from daps_rl.training import Trainer

    if splits is None:
        generator = torch.Generator().manual_seed(0)
        splits = from_arrays(torch.rand(50, 6, generator=generator), train_labels=torch.arange(50) % 3)
    same = {"cpu_kernels": False, "score_precision": "float32"}  # of what a CPU may do otherwise
    config = make_config(**{**SIZES, "steps": steps, "validate_every": steps, **same, **options})
    trainer = Trainer(config, splits)
    assert {p.device.type for p in trainer.autoencoder.parameters()} <= {device.type}
    rows = list(trainer.run())
    tensors, _ = trainer.state()
    again = Trainer(config, splits)
    again.load_state({name: value.cpu() for name, value in tensors.items()}, trainer.state()[1])
    return {name: value for name, value in rows[-1].items() if isinstance(value, float) and name != "seconds"}


def of_agent(name: str) -> Callable[[torch.device], Numbers]:
    return lambda device: train(device, agent=name)


def of_problem(name: str, agent: str = "daps") -> Callable[[torch.device], Numbers]:
    def run(device: torch.device) -> Numbers:
        from daps_rl.envs import find_problem

        small = {"embed_dim": 8, "num_heads": 2, "num_layers": 1, "samples": 4, "ess_fraction": 0.5, "steps": 2}
        small |= {"likelihood": None, "num_tokens": None, "vocab_size": None, "batch_size": 1, "agent": agent}
        return train(device, find_problem(name).splits(), problem=name, **small)

    return run


def of_options(**options: Any) -> Callable[[torch.device], Numbers]:
    return lambda device: train(device, **options)


@case
def command_line(device: torch.device) -> Numbers:
    """Every command that has a model, one after another."""
    from conftest import TINY

    from daps_rl.cli import main

    found: Numbers = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "data.npy", np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
        run, x = str(folder / "run"), str(folder / "data.npy")
        commands = [
            [
                "train",
                *TINY,
                "--data",
                x,
                "--steps",
                "4",
                "--checkpoint-every",
                "2",
                "--out",
                run,
                "--agent",
                "daps-na",
            ],
            ["evaluate", run, "--search", "sweep:1/2"],
            ["report", run],
            ["encode", run, "--input", x, "--output", str(folder / "codes.npy"), "--search", "beam:2"],
            ["decode", run, "--input", str(folder / "codes.npy"), "--output", str(folder / "decoded.npy")],
            ["fit-prior", run, "--steps", "3"],
            ["sample", run, "-n", "3", "--output", str(folder / "drawn.npy")],
            ["compress", run, "--input", x, "--output", str(folder / "x.daps"), "--coder", "independent"],
            ["compress", run, "--input", x, "--output", str(folder / "x.daps"), "--search", "best-of:3"],
            ["decompress", run, "--input", str(folder / "x.daps"), "--output", str(folder / "back.npy")],
        ]
        for command in commands:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(command)
            if code:
                raise RuntimeError(f"{command[0]} ended with {code}: {err.getvalue()[-2000:]}")
        for file in ("codes", "decoded", "back"):
            found[file] = float(np.load(folder / f"{file}.npy").mean())
    return found


@case
def left_behind(device: torch.device) -> Numbers:
    """A module whose table is no buffer stays where it was made: what the rehearsal is there to find."""

    class Module(torch.nn.Linear):
        table = torch.ones(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.table

    return {"sum": Module(2, 2).to(device)(torch.ones(2, 2, device=device)).sum().item()}


def numbers_of(model: torch.nn.Module) -> Numbers:
    """The norm of each parameter."""
    return {name: value.norm().item() for name, value in model.named_parameters()}


@case
def torchrl(device: torch.device) -> Numbers:
    """Environment, group actor and both losses."""
    from daps_rl.decoders import MLPDecoder
    from daps_rl.envs import EncodingEnv
    from daps_rl.objectives import DAPSLoss, DAPSWeights, DecoderLoss, GroupActor
    from daps_rl.policies import AutoregressivePolicy

    data = torch.rand(20, 6).round()
    env = EncodingEnv(
        data, MLPDecoder(2, 5, (6,)), num_tokens=2, vocab_size=5, batch_size=[4, 8], beta=0.1, device=device
    )
    actor = GroupActor(AutoregressivePolicy((6,), num_tokens=2, vocab_size=5, embed_dim=8, num_heads=2)).to(device)
    loss, decoder_loss = DAPSLoss(actor, temperature_floor=env.beta, policy_samples=3), DecoderLoss(env.decoder)
    optimizer = torch.optim.SGD([*loss.parameters(), *decoder_loss.parameters()], lr=1e-2)
    for weights in (None, DAPSWeights(pooling=0.5)):
        batch = env.rollout(1, actor)
        found = loss(batch if weights is None else weights(batch))
        (found["loss_actor"] + decoder_loss(batch)["loss_decoder"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {**numbers_of(actor), "loss": found["loss_actor"].item()}


@case
def bottleneck(device: torch.device) -> Numbers:
    """A bottleneck between an encoder and a decoder of a user's."""
    from daps_rl.bottleneck import PolicyBottleneck

    part = PolicyBottleneck(32, 16, num_tokens=8, token_price=0.1).to(device)
    z, _, policy_loss = part(torch.randn(4, 8, 32).to(device))
    errors = z.flatten(1).pow(2).mean(1)
    (errors.mean() + policy_loss(-errors)).backward()
    return {name: value.grad.norm().item() for name, value in part.named_parameters() if value.grad is not None}


def of_sb3(policy: str) -> Callable[[torch.device], Numbers]:
    def run(device: torch.device) -> Numbers:
        from sb3_envs import encoding_env
        from sb3_models import SMALL, quick_env

        from daps_rl.agents import sb3

        if policy == "MlpPolicy":
            model = sb3.DAPS(policy, quick_env(), seed=0, n_steps=16, batch_size=16, n_epochs=1, device=device)
        else:
            kwargs = dict(SMALL)
            model = sb3.DAPS(getattr(sb3, policy), encoding_env(), seed=0, policy_kwargs=kwargs, device=device)
        decoding = None if policy == "MlpPolicy" else sb3.DecoderCallback()
        model.learn(2 * model.n_steps * model.n_envs, callback=decoding)
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model")
            again = sb3.DAPS.load(f"{folder}/model", device="cpu")
        observation = model.env.reset()
        assert (again.predict(observation)[0] == model.predict(observation, deterministic=False)[0]).shape
        return numbers_of(model.policy)

    return run


def of_data(make: Callable[[], Any]) -> Callable[[torch.device], Numbers]:
    own = {"likelihood": "auto", "embed_dim": 16, "num_patches": None}
    return lambda device: train(device, make(), **own)


def series() -> Any:
    from daps_rl.data.series import load_series_arrays

    return load_series_arrays({"train": np.random.default_rng(0).normal(size=(40, 16, 3)).astype(np.float32)}, "made")


def text() -> Any:
    from daps_rl.data.corpus import text_splits

    return text_splits("made", {"train": [b"in the beginning was the word " * 40]}, {}, window=16)


def table() -> Any:
    import pandas

    from daps_rl.data.table import table_splits

    random = np.random.default_rng(0)
    columns = {"a": random.normal(size=60), "b": random.choice(["x", "y", "z"], 60), "c": random.random(60) > 0.5}
    columns["a"][::7] = np.nan
    return table_splits(pandas.DataFrame(columns), quiet=True)


def parts() -> Any:
    from test_data_parts import KIND, some

    from daps_rl.data.parts import part_splits

    return part_splits(
        "pairs", KIND, dict.fromkeys(("train", "validation", "test"), some(20)), (("sound",), ("label",))
    )


def cases() -> dict[str, Callable[[torch.device], Numbers]]:
    """All cases by name."""
    from daps_rl.agents import AGENTS, SEARCHES
    from daps_rl.data import load
    from daps_rl.envs import PROBLEMS

    found = dict(CASES)
    for agent in AGENTS:
        found[f"agent {agent}"] = of_agent(agent)
    for problem in sorted({*PROBLEMS, "maxcut8", "knapsack8"} - {"tsp50", "maxcut20", "knapsack50"}):
        found[f"problem {problem}"] = of_problem(problem)
    for search in SEARCHES:
        found[f"search {search}"] = of_problem("nk20", search)
    for policy in ("AutoregressivePolicy", "FactorizedPolicy", "MlpPolicy"):
        found[f"SB3 {policy}"] = of_sb3(policy)
    for make in (series, text, table, parts):
        found[f"data {make.__name__}"] = of_data(make)
    for prior in ("independent", "autoregressive"):
        found[f"prior {prior}"] = of_options(prior=prior, rate_weight=0.5)
    found["target"] = of_options(agent="daps-na", prior="independent", target_bits=3.0)
    found["token price"] = of_options(token_price=0.5)
    found["beta auto"] = of_options(beta="auto")
    found["microbatch"] = of_options(microbatch=3)
    found["verdict"] = of_options(reward=("classifier",))
    strokes = {"decoder": "strokes", "num_tokens": 7, "agent": "daps-na", "vocab_size": 16, "decoder_embed_dim": None}
    found["strokes"] = lambda device: train(device, load("digits"), **strokes)
    return found


def main() -> None:
    simulated_gpu.register()
    all_cases = cases()
    names = sys.argv[1:] or list(all_cases)
    for name in names:
        start = time.process_time()
        result: dict[str, Any] = {}
        for where in ("cpu", "gpu"):
            try:
                device = CPU if where == "cpu" else torch.device(simulated_gpu.NAME, 0)
                with on(device):
                    result[where] = all_cases[name](device)
            except Exception:
                result["error"] = f"{where}: {traceback.format_exc()[-3000:]}"
        print(json.dumps({"case": name, **result, "seconds": time.process_time() - start}), flush=True)


if __name__ == "__main__":
    main()
