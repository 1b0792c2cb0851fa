"""DAPS beside GRPO, DAPO and GSPO as TRL has them, where hardly an answer is right at first (examples/trl_daps.py).

python benchmarks/language_models.py --tasks reverse8 --seeds 0 1 2    # hours on a core; skips what has a row

All agents learn from the same number of completions, with the same model and prompts. `--uses` says how often each
batch is used: with one use, and answers of one length, GRPO, DAPO and GSPO are one and the same update, `grpo`.
Learning rates are to be tried for each agent (`--rates`), and each has a row of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_pool_options, read_rows, run_tasks, write_row

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

NAME = "language_models"
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "daps": ("daps", {}),
    "daps-pooled": ("daps", {"pooling": 4.0}),
    "grpo": ("grpo", {"loss_type": "grpo"}),
    "dapo": ("grpo", {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": (
        "grpo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
}
"""Trainers of the example, and the settings that make each agent; DAPO's and GSPO's are those of their papers."""
KEY = ("task", "agent", "seed", "uses", "learning_rate", "completions")


def run(task: str, agent: str, seed: int, uses: int, learning_rate: float, completions: int) -> None:
    """Trains, and writes a row: rewards of the completions drawn, as means of tenths of the run."""
    from transformers import PrinterCallback
    from trl_daps import COMPLETIONS, PROMPTS, make_trainer  # brings TRL

    trainer, options = AGENTS[agent]
    batches = completions // (PROMPTS * COMPLETIONS)
    with tempfile.TemporaryDirectory() as folder:
        trained = make_trainer(
            trainer, task, steps=batches * uses, seed=seed, out=folder, learning_rate=learning_rate,
            num_iterations=uses, logging_steps=uses, **options,
        )  # fmt: skip
        trained.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trained.train()
        seconds = time.perf_counter() - start
    rows = [row for row in trained.state.log_history if "reward" in row]
    tenth = max(1, len(rows) // 10)
    curves = {
        name: [sum(row[name] for row in rows[i : i + tenth]) / tenth for i in range(0, tenth * 10, tenth)]
        for name in ("reward", "frac_reward_zero_std", "entropy")
    }
    rewards = [row["reward"] for row in rows]
    half = next((i for i in range(len(rows) - tenth) if sum(rewards[i : i + tenth]) >= tenth / 2), None)
    row = dict(zip(KEY, (task, agent, seed, uses, learning_rate, completions), strict=True))
    found = {"last": curves["reward"][-1], "half_at": None if half is None else (half + 1) * PROMPTS * COMPLETIONS}
    write_row(NAME, {**row, **found, "curves": curves, "seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["reverse8"], help="reverse8, reverse10, add2, ...")
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--uses", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--completions", type=int, default=256_000, help="that a run learns from")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        run(*options.one)
        return
    there = {tuple(row[name] for name in KEY) for row in read_rows(NAME)}
    tasks = [
        (task, agent, seed, uses, rate, options.completions)
        for task in options.tasks
        for seed in options.seeds
        for rate in options.rates
        for uses in options.uses
        for agent in options.agents
        if uses > 1 or agent not in ("dapo", "gspo")
    ]
    run_tasks([task for task in tasks if task not in there], options.workers)


if __name__ == "__main__":
    main()
