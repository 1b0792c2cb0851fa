"""Aggregates of several runs on several problems, as rliable has them: interquartile mean, stratified bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

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
