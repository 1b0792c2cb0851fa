"""Training steps per second on Fashion-MNIST's shape, side by side: the configurations take turns, a few steps each.

    python benchmarks/speed.py --seconds 100

The published MNIST configuration (8 x 256, batch 256, K = 8) and the project's own, the latter with the scores in
float32 and in bfloat16, and beside what it is compared with. Needs no data set: the data are random bits of the right
shape. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from common import write_row

from daps_rl.config import make_config
from daps_rl.data import from_arrays
from daps_rl.training import Trainer

OWN = {"data": "fashion-mnist", "likelihood": "bernoulli"}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "published mnist, daps": {"preset": "mnist", "agent": "daps"},
    "published mnist, daps, policy scored on 3 of 8": {"preset": "mnist", "agent": "daps", "policy_samples": 3},
    "published mnist, daps, CPU kernels": {"preset": "mnist", "agent": "daps", "cpu_kernels": True},
    "published mnist, daps, CPU kernels, policy scored on 3 of 8": {
        "preset": "mnist", "agent": "daps", "cpu_kernels": True, "policy_samples": 3,
    },
    "published mnist, daps-na": {"preset": "mnist", "agent": "daps-na"},
    "own, daps": {**OWN, "agent": "daps"},
    "own, daps, policy scored on all 8": {**OWN, "agent": "daps", "policy_samples": 0},
    "own, daps, CPU kernels": {**OWN, "agent": "daps", "cpu_kernels": True},
    "own, daps-na": {**OWN, "agent": "daps-na"},
    "own, daps-na, scores in float32": {**OWN, "agent": "daps-na", "score_precision": "float32"},
    "own, daps-na, scores in bfloat16": {**OWN, "agent": "daps-na", "score_precision": "bfloat16"},
    "own, daps-na, all to the decoder": {**OWN, "agent": "daps-na", "decoder_samples": 0},
    "own, gumbel-na": {**OWN, "agent": "gumbel-na"},
    "own, fsq": {**OWN, "agent": "fsq"},
    "own, vq": {**OWN, "agent": "vq"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100.0, help="in all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    splits = from_arrays((torch.rand(5000, 1, 28, 28, generator=generator) > 0.5).float())
    trainers = {}
    for name, settings in CONFIGURATIONS.items():
        settings = {"steps": 1_000_000, "device": "cpu", "cpu_kernels": False, **settings}
        preset = settings.pop("preset", None)
        trainers[name] = Trainer(make_config(preset, **settings), splits)
        for _ in range(3):
            trainers[name].train_step()
    times: dict[str, list[float]] = {name: [] for name in trainers}
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        for name, trainer in trainers.items():
            for _ in range(2):
                start = time.perf_counter()
                trainer.train_step()
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        row = {
            "configuration": name,
            "steps": len(taken),
            "steps_per_second": len(taken) / sum(taken),
            "median_ms": 1e3 * statistics.median(taken),
            "fastest_ms": 1e3 * min(taken),
        }
        write_row("speed", row)


if __name__ == "__main__":
    main()
