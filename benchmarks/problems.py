"""Other discrete problems than encoding, at equal evaluations of the reward: docs/other-problems.md and its report.

    python benchmarks/problems.py                  # everything
    python benchmarks/problems.py tsp20            # one of them
    python benchmarks/problems.py tsp20 --steps 5000 --seeds 5
    python benchmarks/problems.py --report         # the tables again, from the rows that are committed

Two runs at a time, one thread each. Learning rates and epochs are those that `benchmarks/tune.py --problem ...` found
best on validation data with seeds of their own; those of `maxcut20` are the recipe's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import blackbox
import numpy as np
import routing
import tune
from common import DOCS, REPORTS, Row, Tables, area, evaluations_to, markdown, read_rows, read_runs
from parts import Part, Report

from daps_rl.comparison.curves import points
from daps_rl.comparison.plan import plan_from_json
from daps_rl.comparison.statistics import bootstrap_interval
from daps_rl.envs import find_problem

AGENTS = "daps,rloo,grpo,ppo,reinforce"


def part(problem: str, steps: int, validate_every: int, *, seeds: int = 3, **own: tuple[Any, ...]) -> Part:
    """At equal steps, which are equal evaluations: every agent has B·K a step.

    Args:
        problem, steps, validate_every, seeds: of the runs.
        own: of each agent its learning rate, its epochs, and more of its options where there are any.
    """

    def settings(agent: str, rate: float, epochs: int, **more: Any) -> str:
        options = [*([f"epochs={epochs}"] if epochs > 1 else []), *(f"{name}={value}" for name, value in more.items())]
        return f"{agent}:learning_rate={rate}" + (f",agent_options={','.join(options)}" if options else "")

    return Part(
        ",".join(own) or AGENTS,
        seeds=seeds,
        steps=steps,
        own=tuple(settings(agent, *value[:2], **dict(value[2:])) for agent, value in own.items()),
        data=("--problem", problem, "--log-every", str(validate_every)),
        reference="daps",
        validate_every=validate_every,
    )


SEARCH = {"daps": (0.008, 2), "rloo": (0.008, 1), "grpo": (0.004, 2), "ppo": (0.004, 2), "reinforce": (0.008, 1)}
"""Tuned on nk20."""
PARTS = {
    "bandit-digits": part(
        "bandit-digits", 300, 10, seeds=8,  # each of them takes seconds
        daps=(0.002, 8, ("pooling", 4.0)), rloo=(0.008, 1), grpo=(0.002, 8), ppo=(0.002, 8), reinforce=(0.008, 1),
    ),
    "reverse8": part(
        "reverse8", 60, 2,
        daps=(0.016, 4), rloo=(0.016, 1), grpo=(0.016, 4), ppo=(0.016, 4), reinforce=(0.016, 1),
    ),
    "nk20": part("nk20", 300, 20, **SEARCH),
    "cut30": part(
        "cut30", 600, 20,
        daps=(0.004, 2), rloo=(0.008, 1), grpo=(0.004, 2), ppo=(0.008, 2), reinforce=(0.008, 1),
    ),
    "knapsack50": part(
        "knapsack50", 30, 10,
        daps=(0.008, 1), rloo=(0.008, 1), grpo=(0.008, 2), ppo=(0.008, 2), reinforce=(0.008, 1),
    ),
    "maxcut20": part(
        "maxcut20", 150, 10,
        daps=(0.002, 1), rloo=(0.002, 1), grpo=(0.002, 2), ppo=(0.002, 2), reinforce=(0.002, 1),
    ),
    "tsp20": part(
        "tsp20", 1500, 100,
        daps=(0.002, 2), rloo=(0.008, 1), grpo=(0.002, 2),
    ),
}  # fmt: skip
ENOUGH = {"bandit-digits": 0.94, "reverse8": 1.95, "nk20": 0.763, "cut30": 1.116, "tsp20": -4.0}
"""The greedy reward that the table of learning curves asks for: 95 % exact answers are at least 1.95, 1 % from the
optimum are 0.763 and 1.116."""


def learning(name: str) -> str:
    """Returns a table of how fast each agent learned, from its validations."""
    enough = ENOUGH[name]
    lines = []
    for label, runs in by_label(f"problem_{name}").items():
        areas = [area(*points(run["curve"], "decoder_evaluations", "log_likelihood")[1:]) for run in runs]
        lines.append([label, mean_text(areas), reached_text(runs, enough)])
    return markdown([name, "area under the curve of the reward", f"evaluations to a greedy reward of {enough}"], lines)


def by_label(name: str) -> dict[str, list[Row]]:
    """Returns the finished runs of each agent."""
    return {
        label: [row for row in read_runs(name) if row["label"] == label]
        for label in plan_from_json(read_rows(name)[0]["plan"]).agents
    }


def reached_text(runs: Sequence[Row], enough: float) -> str:
    """Returns after how many evaluations each seed's greedy reward is enough, and stays so."""
    reached = [evaluations_to(enough, run["curve"]) for run in runs]
    return ", ".join("not reached" if value is None else f"{value:,.0f}" for value in reached)


def summary() -> str:
    """Returns how far each agent's greedy decisions are from the best, a line per problem; in brackets best of 16."""
    lines = []
    for name in PARTS:
        found = by_label(f"problem_{name}")
        cells = [gap_text([run["test"] for run in found.get(agent, [])]) for agent in AGENTS.split(",")]
        lines.append([f"`{name}`", *cells, f"{next(iter(found.values()))[0]['decoder_evaluations']:,}"])
    return markdown(["problem", *(f"`{agent}`" for agent in AGENTS.split(",")), "evaluations"], lines)


def gap_text(test: Sequence[Row]) -> str:
    """Returns the mean gaps of greedy decisions and, in brackets, of the best of 16."""
    if not test:
        return "not run"
    greedy, best = (statistics.fmean(of[name] for of in test) for name in ("gap_greedy", "gap_best"))
    return f"{greedy:.2%} ({best:.2%})"


def earlier() -> str:
    """Returns the trials that the settings above come from or that show what other settings do, and rules to beat."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in read_rows("gpu_tuning"):
        settings = {**row["settings"], **row["settings"].get("agent_options", {})}
        del settings["steps"]
        settings.pop("agent_options", None)
        said = ", ".join(f"{name} {value}" for name, value in settings.items())
        unfinished = f"stopped at a reward of {row['curve'][-1]['greedy']:.4f}"
        gap = f"{row['gap_greedy']:.2%}" if "gap_greedy" in row else unfinished
        groups.setdefault((row["problem"], row["agent"], said, str(row["steps"])), []).append(gap)
    for name in ("problem_cut30_300_steps", "problem_reverse8_high_rates"):
        for label, runs in by_label(name).items():
            config = runs[0]["config"]
            said = f"learning_rate {config['learning_rate']}, {name.split('_', 2)[2].replace('_', ' ')}"
            gaps = [f"{run['test']['gap_greedy']:.2%}" for run in runs]
            groups[config["problem"], label, said, str(runs[0]["steps"])] = gaps
    rules = {row["rule"]: row["gap"] for row in read_rows("maxcut_rules")}
    groups |= {("maxcut20", "no agent", rule, ""): [f"{gap:.2%}"] for rule, gap in rules.items()}
    lines = [[*key, ", ".join(gaps)] for key, gaps in sorted(groups.items())]
    return markdown(["problem", "agent", "settings", "steps", "greedy gap, per seed"], lines)


def mean_text(values: Sequence[float]) -> str:
    """Returns the mean with its bootstrapped interval."""
    interval = bootstrap_interval(values)
    return f"{np.mean(values):.4f}" + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")


def supervised() -> str:
    """Returns what the labels themselves teach, on the bandit's test split."""
    from sklearn.linear_model import LogisticRegression

    splits = find_problem("bandit-digits").splits()
    assert splits.train_targets is not None
    assert splits.test_targets is not None
    model = LogisticRegression(max_iter=5000).fit(splits.train, splits.train_targets.flatten())
    score = model.score(splits.test, splits.test_targets.flatten())
    return f"A logistic regression on the training split's labels is right on {score:.4f} of the test split."


def more() -> Tables:
    """Returns the tables that need more than one part's rows."""
    learned = [learning(name) for name in ENOUGH if REPORT.rows_of(name).exists()]
    return {
        DOCS / "other-problems.md": {
            "summary": summary(),
            "blackbox": blackbox.table(),
            "blackbox-ablation": blackbox.ablation(),
            "routing": routing.table(),
        },
        REPORTS / "other-problems.md": {
            "learning": "\n\n".join([*learned, supervised()]),
            "earlier": earlier(),
            "routing": routing.speed_table(),
            "tuning": tune.table(problems=True),
        },
    }


REPORT = Report("other-problems", "problem", PARTS, more)

if __name__ == "__main__":
    REPORT.main(__doc__)
