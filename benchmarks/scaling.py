"""What more of everything costs: codes per context, tokens per code, processes. Ratios within one run.

    python benchmarks/scaling.py                  # all of them: some minutes
    python benchmarks/scaling.py samples tokens   # one or two of them
    python benchmarks/scaling.py samples tokens ranks --cpu-kernels

samples: the published MNIST configuration with K = 2, 8 and 32, a few steps each in turn.
tokens: drawing by the published ImageNet-256 policy with T = 64 to 1024 tokens, 32 data of 8 codes each, beside the
counted floor: its operations over the machine's matrix products, or its bytes over the machine's copies.
parts: the published MNIST configuration with K = 8 and 32, the policy scored 4,096 tokens at a time and all at once,
in turn.
attention: likewise, with attention to few keys as small products and by PyTorch's kernel.
kernels: likewise, with CPU kernels and without.
ranks: the published MNIST configuration in two processes of one thread each, by torchrun and gloo, and in one process
of two threads, in turn.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import write_row
from roofline import ATTENTION, Traffic, fastest, rates
from torch.utils.flop_counter import FlopCounterMode

from daps_rl.config import PUBLISHED_SHAPES, make_config
from daps_rl.data import noise
from daps_rl.kernels import CpuKernels
from daps_rl.policies import AutoregressivePolicy, code_transformer, layers
from daps_rl.policies.code_transformer import CodeTransformer
from daps_rl.report import read_metrics
from daps_rl.training import Trainer

NAME = "scaling"
IDEAS: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "parts": (code_transformer, "CPU_TOKENS", lambda: 2**40),
    "attention": (layers, "FEW_KEYS", lambda: 0),
    "kernels": (CodeTransformer, "backend", CpuKernels),
}
WHAT = ("samples", *IDEAS, "tokens", "ranks")


def samples(rounds: int) -> None:
    """A training step at each K."""
    trainers = {}
    for k in (2, 8, 32):
        fraction = max(0.33, 1.2 / k)  # K = 2 cannot have an ESS of less than one code
        config = make_config("mnist", samples=k, ess_fraction=fraction, steps=10**6, device="cpu", cpu_kernels=False)
        trainers[k] = Trainer(config, noise(1024, PUBLISHED_SHAPES["mnist"], config.likelihood))
        trainers[k].train_step()
    times: dict[int, list[float]] = {k: [] for k in trainers}
    for _ in range(rounds):
        for k, trainer in trainers.items():
            start = time.perf_counter()
            trainer.train_step()
            times[k].append(time.perf_counter() - start)
    medians = {k: statistics.median(taken) for k, taken in times.items()}
    for k, median in medians.items():
        row = {"what": "samples", "K": k, "rounds": rounds, "median_ms": 1e3 * median, "over_K8": median / medians[8]}
        write_row(NAME, {**row, "cpu_kernels": CodeTransformer.backend is not None})


def in_turns(what: str, rounds: int) -> None:
    """A training step with one of `IDEAS` and without it."""
    module, name, make = IDEAS[what]
    usual, without = getattr(module, name), make()
    for k in (8, 32):
        config = make_config("mnist", samples=k, steps=10**6, device="cpu", cpu_kernels=False)
        trainer = Trainer(config, noise(1024, PUBLISHED_SHAPES["mnist"], config.likelihood))
        times: dict[Any, list[float]] = {usual: [], without: []}
        for turn in range(rounds + 1):
            for value, taken in list(times.items())[:: 1 if turn % 2 else -1]:
                setattr(module, name, value)
                start = time.perf_counter()
                trainer.train_step()
                taken += [time.perf_counter() - start] * (turn > 0)
        setattr(module, name, usual)
        for value, taken in times.items():
            row = {"what": what, "K": k, "rounds": rounds, "used": value == usual}
            write_row(NAME, {**row, "median_ms": 1e3 * statistics.median(taken)})


def tokens(rounds: int, threads: int) -> None:
    """Drawing at each T."""
    flop_rate, byte_rate = rates(threads)
    published = make_config("imagenet256", steps=1)
    for t in (64, 256, 1024):
        torch.manual_seed(0)
        policy = AutoregressivePolicy(
            (3, 256, 256), t, published.vocab_size, embed_dim=published.embed_dim, num_heads=published.num_heads,
            num_layers=published.num_layers, num_code_layers=published.num_code_layers,
            aligned_patches=published.aligned_patches,
        )  # fmt: skip
        with torch.no_grad():
            posterior = policy(torch.randn(32, 3, 256, 256))
            taken = fastest(lambda posterior=posterior: posterior.sample((8,)), repeats=rounds)
            posterior.transformer.backend = None  # which would hide what they do
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops, Traffic() as traffic:
                posterior.sample((8,))
        operations = flops.get_total_flops()
        floors = {"matrix_floor_s": operations / flop_rate, "memory_floor_s": traffic.bytes / byte_rate}
        row = {"what": "tokens", "T": t, "B": 32, "K": 8, "seconds": taken, "flops": operations, "bytes": traffic.bytes}
        write_row(
            NAME,
            {**row, **floors, "over_matrix_floor": taken / floors["matrix_floor_s"],
             "over_memory_floor": taken / floors["memory_floor_s"], "cpu_kernels": CodeTransformer.backend is not None},
        )  # fmt: skip


def ranks(rounds: int, steps: int = 80) -> None:
    """One process of two threads and two of one, in turn; seconds are those of the steps after the first ten."""
    alone = [sys.executable]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launch, processes in [(alone, 1), (together, 2)] * rounds:
        with tempfile.TemporaryDirectory() as folder:
            command = [*launch, "-m", "daps_rl", "train", "--data", "fashion-mnist", "--config", "mnist", "--steps"]
            command += [str(steps), "--out", folder + "/run", "--validate-every", "0"]
            command += ["--cpu-kernels"] * (CodeTransformer.backend is not None)
            threads = {"OMP_NUM_THREADS": str(2 // processes)}
            done = subprocess.run(command, env={**os.environ, **threads}, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            lines = read_metrics(Path(folder, "run", "metrics.jsonl"))
        first, last = lines[0], lines[-1]
        rate = (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
        row: dict[str, Any] = {"what": "ranks", "processes": processes, "threads_each": 2 // processes}
        row |= {"steps": last["step"], "steps_per_second": rate, "cpu_kernels": CodeTransformer.backend is not None}
        write_row(NAME, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(WHAT)} (default: all)")
    parser.add_argument("--rounds", type=int, help="repetitions; each has a number of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-kernels", action="store_true", help="for samples, tokens and ranks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    CodeTransformer.backend = CpuKernels() if options.cpu_kernels else None
    if unknown := sorted(set(options.what) - set(WHAT)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(WHAT)}")
    what = options.what or WHAT
    if "samples" in what:
        samples(options.rounds or 12)
    for idea in IDEAS:
        if idea in what:
            in_turns(idea, options.rounds or 12)
    if "tokens" in what:
        tokens(options.rounds or 2, options.threads)
    if "ranks" in what:
        ranks(options.rounds or 3)


if __name__ == "__main__":
    main()
