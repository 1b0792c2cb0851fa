"""All agents on the same problem: digits, the same networks, data, code and β; at equal time and at equal evaluations.

    python benchmarks/agents.py tune                 # learning rates, on the validation split, by seeds of their own
    python benchmarks/agents.py minutes              # one minute of training each, five seeds

What they reach at equal decoder evaluations is read off the validation curves of the same runs. Runs two at a time, one
thread each, and skips what has a row already. A failed run is a row that says why. Each
agent has the learning rate that is best by the tuning rows. A logistic regression fitted on the original training
digits reads the test split's reconstructions.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import add_pool_options, read_rows, run_tasks, write_row

AGENTS = (
    "daps", "daps-na", "daps-fixed", "tpo", "rloo", "grpo", "ppo", "a2c", "reinforce", "reinforce-no-critic",
    "sb3:daps", "sb3:ppo", "sb3:a2c",
)  # fmt: skip
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SEEDS, TUNING_SEEDS = (0, 1, 2, 3, 4), (100, 101)
BUDGETS: dict[str, dict[str, Any]] = {
    "tune": {"steps": 300, "validate_every": 0},
    "minutes": {"minutes": 1.0, "validate_every": 50},  # not on the clock
}


def tuned() -> dict[str, float]:
    """Each agent's learning rate of the best mean validation β-ELBO over the tuning seeds."""
    scores: dict[str, dict[float, list[float]]] = {}
    for row in read_rows("agents_tune"):
        if "error" not in row:
            scores.setdefault(row["agent"], {}).setdefault(row["learning_rate"], []).append(
                row["validation"]["beta_elbo"]
            )
    return {
        agent: max(rates, key=lambda rate, rates=rates: sum(rates[rate]) / len(rates[rate]))
        for agent, rates in scores.items()
    }


def measure(mode: str, agent: str, seed: int, learning_rate: float) -> None:
    """One run, in a process of its own; writes its row."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from daps_rl.config import make_config
    from daps_rl.data import load
    from daps_rl.runs.session import evaluate_splits
    from daps_rl.training import Trainer

    torch.set_num_threads(1)
    row: dict[str, Any] = {"mode": mode, "agent": agent, "seed": seed, "learning_rate": learning_rate}
    try:
        splits = load("digits")
        assert splits.train_labels is not None
        assert splits.test_labels is not None
        config = make_config(agent=agent, seed=seed, learning_rate=learning_rate, device="cpu", **BUDGETS[mode])
        trainer = Trainer(config, splits)
        columns = ("step", "seconds", "beta_elbo", "validation_beta_elbo")
        curve = [tuple(entry.get(column) for column in columns) for entry in trainer.run()]
        model = trainer.autoencoder.eval()
        metrics = evaluate_splits(model, splits, config.beta_end)
        if mode == "tune":
            del metrics["test"]  # never looked at while tuning
        else:
            reader = LogisticRegression(max_iter=2000)
            reader.fit(splits.train.flatten(1).numpy(), splits.train_labels.numpy())
            torch.manual_seed(0)
            images = model.decode(model.encode(splits.test))
            row["read"] = float(reader.score(images.flatten(1).numpy(), splits.test_labels.numpy()))
        row |= {
            "steps": trainer.step,
            "seconds": trainer.seconds,
            "decoder_evaluations": trainer.decoder_evaluations,
            "skipped_steps": int(trainer.optimizer.skipped),
            **metrics,
            "token_vectors": config.token_vectors,
            "decoder_samples": config.decoder_samples,
            "curve": [
                point for i, point in enumerate(curve) if i % max(1, len(curve) // 50) == 0 or point[3] is not None
            ],
        }
    except Exception as error:  # a row that says why
        row["error"] = f"{type(error).__name__}: {error}"
    write_row(f"agents_{mode}", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=sorted(BUDGETS))
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--seeds", type=int, nargs="+")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        return measure(options.mode, *options.one)
    tuning = options.mode == "tune"
    seeds = options.seeds or (TUNING_SEEDS if tuning else SEEDS)
    best = {} if tuning else tuned()
    done = {(row["agent"], row["seed"], row["learning_rate"]) for row in read_rows(f"agents_{options.mode}")}
    tasks = [
        (agent, seed, rate)
        for seed in seeds
        for agent in options.agents
        for rate in (LEARNING_RATES if tuning else (best[agent],))
        if (agent, seed, rate) not in done
    ]
    return run_tasks(tasks, options.workers, options.mode)


if __name__ == "__main__":
    main()
