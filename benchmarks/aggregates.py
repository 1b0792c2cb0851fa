"""Aggregates of several runs on several problems, as rliable has them: interquartile mean, stratified bootstrap."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np
from common import markdown, read_rows
from scipy import stats

PROBLEMS, AGENTS, SEEDS = ("CartPole-v1", "Acrobot-v1"), ("daps", "daps episodes", "ppo zoo"), range(10)

RESAMPLES = 10_000

Statistic = Callable[[np.ndarray], np.ndarray]
"""Of scores [..., runs]: one number for each row."""


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of all runs. [..., runs] → [...]."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def stratified_interval(
    scores: Sequence[Sequence[float]], statistic: Statistic = interquartile_mean
) -> tuple[float, float]:
    """Returns the bootstrapped 95 % interval (percentiles) of a statistic, runs being drawn anew within each problem.

    Args:
        scores: of the runs on each problem.
        statistic: of the runs of all problems together.
    References:
        Agarwal et al. (2021), Deep reinforcement learning at the edge of the statistical precipice; package rliable.
    """
    generator = np.random.default_rng(0)
    drawn = [generator.choice(np.asarray(runs, float), (RESAMPLES, len(runs))) for runs in scores]
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=1)), (2.5, 97.5))
    return float(low), float(high)


def table() -> str:
    """Agents of control.py on two problems; the last lines are of both, a random agent being 0 and the threshold 1."""
    rows = {(row["problem"], row["agent"], row["seed"]): row for row in read_rows("control")}
    lines, scaled = [], {agent: ([], []) for agent in AGENTS}
    for problem in PROBLEMS:
        random = statistics.fmean(row["return"] for key, row in rows.items() if key[:2] == (problem, "random"))
        for agent in AGENTS:
            own = [rows[problem, agent, seed] for seed in SEEDS]
            values = [row["return"] for row in own], [statistics.fmean(row["returns"]) for row in own]
            for kind, runs in zip(scaled[agent], values, strict=True):
                kind.append([(value - random) / (own[0]["threshold"] - random) for value in runs])
            reached = f"{sum(row['reached'] for row in own)} of {len(own)}"
            middle = [f"{value:.1f}" for value in (statistics.fmean(values[0]), statistics.median(values[0]))]
            lines.append([problem, agent, *middle, reached, *(_aggregate([kind], 1) for kind in values)])
    for agent in AGENTS:
        lines.append(["both, 0 to 1", agent, "", "", "", *(_aggregate(kind, 3) for kind in scaled[agent])])
    header = ["problem", "agent", "mean at the end", "median", "reach the threshold"]
    return markdown([*header, "IQM at the end", "IQM over the run"], lines)


def _aggregate(scores: list[list[float]], digits: int) -> str:
    low, high = stratified_interval(scores)
    middle = interquartile_mean(np.concatenate(scores))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
