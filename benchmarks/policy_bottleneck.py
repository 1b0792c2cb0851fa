"""Trains a VQ-VAE on digits with a vector quantiser and with a `PolicyBottleneck` (examples/vqvae_to_daps.py).

python benchmarks/policy_bottleneck.py            # about ten minutes on one core; skips what has a row
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from common import environment, read_rows, write_row

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from vqvae_to_daps import train

RUNS = [
    *({"bottleneck": kind, "steps": 2500, "beta": 2.0, "seed": seed} for kind in ("vq", "daps") for seed in range(3)),
    {"bottleneck": "vq", "steps": 6500, "beta": 2.0, "seed": 0},
    {"bottleneck": "daps", "steps": 2500, "beta": 0.0, "seed": 0},
    {"bottleneck": "daps-autoregressive", "steps": 2500, "beta": 2.0, "seed": 0},
]


def main() -> None:
    torch.set_num_threads(1)
    done = [{name: row[name] for name in RUNS[0]} for row in read_rows("bottleneck")]
    for run in (run for run in RUNS if run not in done):
        found = train(run["bottleneck"], run["steps"], run["seed"], run["beta"])
        write_row("bottleneck", {**run, **found, **environment()})


if __name__ == "__main__":
    main()
