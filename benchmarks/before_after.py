"""Compares two checkouts of the project: the time of a training step, in turns, and how well `daps` learns.

    python benchmarks/before_after.py speed OTHER/.venv/bin/python      # about four minutes on an idle machine
    python benchmarks/before_after.py learning OTHER/.venv/bin/python   # five seeds each, side by side, about five

OTHER is a checkout with the package installed in a virtual environment of its own. Rows: before_after.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

OWN = {"data": "fashion-mnist", "likelihood": "bernoulli"}
SPEED: dict[str, dict[str, Any]] = {
    "published mnist, daps": {"preset": "mnist", "agent": "daps", "cpu_kernels": False},
    "published mnist, daps, CPU kernels": {"preset": "mnist", "agent": "daps", "cpu_kernels": True},
    "published mnist, daps-na": {"preset": "mnist", "agent": "daps-na"},
    **{
        f"own, {agent}": {**OWN, "agent": agent}
        for agent in ("daps", "daps-na", "rloo", "ppo", "gumbel-na", "fsq", "vq", "sb3:daps")
    },
}
SEEDS = 5


def speed_worker() -> None:
    """Takes two steps of the configuration named on each line of the input, and prints seconds per step."""
    import torch

    from daps_rl.config import make_config
    from daps_rl.data import from_arrays
    from daps_rl.training import Trainer

    generator = torch.Generator().manual_seed(0)
    splits = from_arrays((torch.rand(5000, 1, 28, 28, generator=generator) > 0.5).float())
    trainers = {}
    for name, settings in SPEED.items():
        options = {"steps": 1_000_000, "device": "cpu", **settings}
        trainers[name] = Trainer(make_config(options.pop("preset", None), **options), splits)
        for _ in range(3):
            trainers[name].train_step()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(2):
            trainers[line.strip()].train_step()
        print((time.perf_counter() - start) / 2, flush=True)


def learning_worker() -> None:
    """Trains `daps` on digits for 500 steps, and prints the β-ELBO (nats) on the validation split, a line a seed."""
    import torch

    from daps_rl.config import make_config
    from daps_rl.data import load
    from daps_rl.evaluation import evaluate
    from daps_rl.training import Trainer

    torch.set_num_threads(1)
    splits = load("digits")
    for seed in range(SEEDS):
        config = make_config(
            data="digits", steps=500, seed=seed, score_precision="float32", device="cpu", validate_every=0
        )
        trainer = Trainer(config, splits)
        list(trainer.run())
        found = evaluate(
            trainer.autoencoder, splits.validation, beta=config.beta_end, kind=splits.kind,
            importance_data=0, enumerable=0,
        )  # fmt: skip
        print(found.metrics["beta_elbo"], flush=True)


def start(python: str, what: str) -> subprocess.Popen[str]:
    """The worker of one checkout."""
    command = [python, __file__, f"{what}-worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "learning", "speed-worker", "learning-worker"))
    parser.add_argument("other", nargs="?", help="Python of the checkout of before")
    parser.add_argument("--seconds", type=float, default=180.0, help="of the turns")
    options = parser.parse_args()
    if options.what.endswith("worker"):
        (speed_worker if options.what == "speed-worker" else learning_worker)()
        return
    from common import environment, write_row  # of this checkout: workers have their own

    workers = {}
    for side, python in (("before", options.other), ("after", sys.executable)):
        workers[side] = start(python, options.what)
        if options.what == "speed":  # one is ready before the other begins: threads of both would wait for each other
            workers[side].stdout.readline()
    if options.what == "learning":
        for seed in range(SEEDS):
            found = {f"{name}_beta_elbo": float(worker.stdout.readline()) for name, worker in workers.items()}
            write_row("before_after", {"what": "learning", "seed": seed, **found, **environment()})
        return
    times: dict[str, dict[str, list[float]]] = {name: {"before": [], "after": []} for name in SPEED}
    end, turn = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        for name in SPEED:
            for side in ("before", "after") if turn % 2 else ("after", "before"):
                print(name, file=workers[side].stdin, flush=True)
                times[name][side].append(float(workers[side].stdout.readline()))
        turn += 1
    for name, taken in times.items():
        medians = {f"{side}_ms": 1e3 * statistics.median(values) for side, values in taken.items()}
        row = {"what": "speed", "configuration": name, "rounds": turn, **medians, **environment()}
        write_row("before_after", {**row, "ratio": medians["after_ms"] / medians["before_ms"]})
    for worker in workers.values():
        worker.kill()


if __name__ == "__main__":
    main()
