"""Training steps per second on the published MNIST configuration (8 x 256, batch 256, K = 8), and for DAPS-NA.

    python benchmarks/speed.py --seconds 30

Needs no data set: the data are random bits of the right shape. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import write_row

from daps_rl.config import make_config
from daps_rl.data import from_arrays
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="per configuration")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    splits = from_arrays((torch.rand(5000, 1, 28, 28, generator=generator) > 0.5).float())
    for agent in ("daps", "daps-na"):
        trainer = Trainer(make_config("mnist", agent=agent, steps=1_000_000), splits)
        for _ in range(3):
            trainer.train_step()
        times = []
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            trainer.train_step()
            times.append(time.perf_counter() - start)
        write_row(
            "speed",
            {
                "configuration": "published mnist",
                "agent": agent,
                "steps": len(times),
                "steps_per_second": len(times) / sum(times),
                "median_ms": 1e3 * statistics.median(times),
                "fastest_ms": 1e3 * min(times),
            },
        )


if __name__ == "__main__":
    main()
