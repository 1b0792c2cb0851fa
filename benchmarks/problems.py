"""The comparisons of docs/other-problems.md: other discrete problems than encoding, at equal evaluations of the reward.

    python benchmarks/problems.py                  # everything
    python benchmarks/problems.py tsp20            # one of them
    python benchmarks/problems.py tsp20 --steps 5000 --seeds 5
    python benchmarks/problems.py --report         # the page again, from the rows that are committed

Two runs at a time, one thread each. Learning rates and epochs are those that `benchmarks/tune.py --problem ...` found
best on validation data with seeds of their own; those of `maxcut20` are the recipe's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tune
from common import area
from parts import Page, Part

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
    """How fast each agent learnt, from its validations: a table."""
    first, *rest = (json.loads(line) for line in PAGE.rows_of(name).read_text().splitlines())
    enough = ENOUGH[name]
    lines = [
        f"| {name} | area under the curve of the reward | evaluations to a greedy reward of {enough} |",
        "|---|---|---|",
    ]
    for label in plan_from_json(first["plan"]).agents:
        curves = [row["curve"] for row in rest if row["label"] == label and row["status"] == "finished"]
        areas = [area(*points(curve, "decoder_evaluations", "log_likelihood")[1:]) for curve in curves]
        reached = [evaluations_to(enough, curve) for curve in curves]
        shown = ", ".join("not reached" if value is None else f"{value:,.0f}" for value in reached)
        lines.append(f"| {label} | {mean_text(areas)} | {shown} |")
    return "\n".join(lines)


def evaluations_to(enough: float, curve: Sequence[Mapping[str, Any]]) -> float | None:
    """The first validation from which the greedy reward is enough, and stays so."""
    _, at, values = points(curve, "decoder_evaluations", "reward_greedy")
    short = np.flatnonzero(values < enough)
    first = short[-1] + 1 if len(short) else 0
    return float(at[first]) if first < len(at) else None


def mean_text(values: Sequence[float]) -> str:
    interval = bootstrap_interval(values)
    return f"{np.mean(values):.4f}" + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")


def supervised() -> str:
    """What the labels themselves teach, on the bandit's test split."""
    from sklearn.linear_model import LogisticRegression

    splits = find_problem("bandit-digits").splits()
    assert splits.train_targets is not None
    assert splits.test_targets is not None
    model = LogisticRegression(max_iter=5000).fit(splits.train, splits.train_targets.flatten())
    score = model.score(splits.test, splits.test_targets.flatten())
    return f"A logistic regression on the training split's labels is right on {score:.4f} of the test split."


def after() -> None:
    """The tables that need more than one part's own."""
    tables = [learning(name) for name in ENOUGH if PAGE.rows_of(name).exists()]
    PAGE.put("learning", "\n\n".join([*tables, supervised()]))
    PAGE.put("tuning", tune.table(problems=True))


if __name__ == "__main__":
    PAGE = Page("other-problems", "problem", PARTS)
    PAGE.main(__doc__, after=after)
