"""Drawing programs: agents that learn to redraw digits with pen strokes, at equal renders and equal networks.

    python benchmarks/strokes.py --tune              # four learning rates each, a seed of its own, validation data
    python benchmarks/strokes.py                     # three seeds of every agent, at the best of them
    python benchmarks/strokes.py --minutes 10 --agents daps-na --seeds 0     # by the clock instead

Two runs at a time, one thread each; what has a row is not run again. A logistic regression fitted on the original
training digits reads the drawn test digits.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import add_pool_options, read_rows, run_tasks, write_row

AGENTS = ("daps-na", "rloo", "ppo", "reinforce")  # with the factorised networks of daps-na
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
TUNING_SEED, TUNING_STEPS = 100, 800
STEPS = 3000
BASE: dict[str, Any] = {
    "data": "digits", "decoder": "strokes", "num_tokens": 21, "policy": "factorized", "num_layers": 2,
    "mlp_ratio": 6.0, "validate_every": 200,
}  # fmt: skip


def best_rate(agent: str) -> float:
    """The best on validation data, or the middle of those tried where there is no row."""
    tried = [row for row in read_rows("strokes") if row["agent"] == agent and row["seed"] == TUNING_SEED]
    return max(tried, key=lambda row: row["validation"]["beta_elbo"])["learning_rate"] if tried else RATES[1]


def measure(task: dict[str, Any]) -> None:
    """One run, in a process of its own; writes its row."""
    from sklearn.linear_model import LogisticRegression

    from daps_rl.config import make_config
    from daps_rl.data import load
    from daps_rl.runs.session import evaluate_splits
    from daps_rl.training import Trainer

    torch.set_num_threads(1)
    row: dict[str, Any] = dict(task)
    try:
        splits = load("digits")
        trainer = Trainer(make_config(**BASE, **task), splits)
        curve = [
            [r["step"], r["decoder_evaluations"], r["seconds"], r["validation_log_likelihood"]]
            for r in trainer.run()
            if "validation_log_likelihood" in r
        ]
        model = trainer.autoencoder.eval()
        reader = LogisticRegression(max_iter=2000).fit(splits.train.flatten(1), splits.train_labels)
        drawn = model.decode(model.encode(splits.test, deterministic=True))
        row |= {
            "steps": trainer.step,
            "seconds": trainer.seconds,
            "renders": trainer.decoder_evaluations,
            "read_originals": float(reader.score(splits.test.flatten(1), splits.test_labels)),
            "read_drawings": float(reader.score(drawn.flatten(1), splits.test_labels)),
            "curve": curve,
            **evaluate_splits(model, splits, trainer.config.beta_end),
        }
    except Exception as error:  # a row that says why
        row["error"] = f"{type(error).__name__}: {error}"
    write_row("strokes", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--tune", action="store_true")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        return measure(options.one)
    tasks: list[dict[str, Any]]
    if options.tune:
        shared = {"seed": TUNING_SEED, "steps": TUNING_STEPS}
        tasks = [{"agent": agent, "learning_rate": rate, **shared} for agent in options.agents for rate in RATES]
    else:
        length = {"steps": options.steps} if options.minutes is None else {"minutes": options.minutes}
        tasks = [
            {"agent": agent, "learning_rate": best_rate(agent), "seed": seed, **length}
            for seed in options.seeds
            for agent in options.agents
        ]
    tasks = [task for task in tasks if not any(task.items() <= row.items() for row in read_rows("strokes"))]
    return run_tasks(tasks, options.workers)


if __name__ == "__main__":
    main()
