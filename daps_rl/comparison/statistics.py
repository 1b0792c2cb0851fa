"""Means with their intervals, and paired tests of the differences between agents.

Runs of the same seed share the order of their data and the start of the decoder, and are compared as pairs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

SIGNIFICANT = 0.05
POWER = 0.8
MIN_FOR_INTERVAL = 3  # seeds
FEW_PAIRS = 10
_SAME = 1e-12  # of the values: the rounding of float64


class Difference(NamedTuple):
    """How far an agent's mean lies above the reference's, over the seeds that both have finished."""

    label: str
    pairs: int
    mean: float | None
    low: float | None = None  # of the 95 % confidence interval
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    problem: str | None = None  # why it was not tested


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Bootstrapped 95 % interval of the mean: BCa, or the percentile interval where BCa is undefined.

    Returns:
        low and high; None for fewer than 3 values.
    References:
        Efron (1987), Better bootstrap confidence intervals.
    """
    if len(values) < MIN_FOR_INTERVAL:
        return None
    data = (np.asarray(values, dtype=float),)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that BCa is undefined is seen below
            interval = stats.bootstrap(data, np.mean, method=method, rng=np.random.default_rng(0)).confidence_interval
        if np.isfinite(interval).all():
            break
    return float(interval.low), float(interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: those under 0.05 are significant with a family-wise error of at most 0.05.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1)·p_(j)), over the m p-values in ascending order.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(np.minimum(np.asarray(p_values, dtype=float)[order] * factors, 1.0))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result.tolist()


def paired_differences(values: Mapping[str, Mapping[int, float]], reference: str) -> list[Difference]:
    """Paired t-tests of every agent against the reference, Holm-corrected over the agents.

    Args:
        values: of one metric, by agent and seed.
        reference: the agent that the others are compared with.
    """
    found = [
        _paired_difference(label, of_seed, values[reference]) for label, of_seed in values.items() if label != reference
    ]
    adjusted = iter(holm([difference.p for difference in found if difference.p is not None]))
    return [difference if difference.p is None else difference._replace(p_holm=next(adjusted)) for difference in found]


def _paired_difference(label: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    seeds = sorted(set(ours) & set(theirs))
    a, b = (np.array([values[seed] for seed in seeds], dtype=float) for values in (ours, theirs))
    untested = Difference(label, len(seeds), float((a - b).mean()) if seeds else None)
    if len(seeds) < 2:
        return untested._replace(problem="a test needs at least 2 seeds that both have finished with a value")
    if np.ptp(a - b) <= _SAME * max(np.abs(a).max(), np.abs(b).max()):
        return untested._replace(problem="the difference is the same for every seed, and a t-test needs it to vary")
    result = stats.ttest_rel(a, b)
    interval = result.confidence_interval()
    return untested._replace(low=float(interval.low), high=float(interval.high), p=float(result.pvalue))


def detectable_effect(pairs: int) -> float:
    """The smallest mean difference, in standard deviations of the differences, that a paired t-test mostly finds.

    That is, a two-sided test of `pairs` >= 2 at level `SIGNIFICANT`, with probability `POWER`.
    """
    freedom = pairs - 1
    critical = stats.t.ppf(1.0 - SIGNIFICANT / 2.0, freedom)

    def missing(effect: float) -> float:  # a difference found with the wrong sign is not found
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(pairs))) - POWER

    return optimize.brentq(missing, 0.0, 100.0)


def sentence(difference: Difference, reference: str, metric: str, unit: str) -> str:
    """A difference in plain words."""
    start = f"{metric}: {difference.label} against {reference}"
    unit = f" {unit}" if unit else ""
    if difference.mean is None or difference.p_holm is None:
        known = "" if difference.mean is None else f" ({difference.mean:+.3g}{unit})"
        return f"{start}{known} cannot be tested: {difference.problem}."
    verdict = "significant" if difference.p_holm < SIGNIFICANT else "not significant"
    p = "< 0.0001" if difference.p_holm < 1e-4 else f"{difference.p_holm:.2g}"
    return (
        f"{start}: {difference.mean:+.3g}{unit}, 95 % interval {difference.low:+.3g} to {difference.high:+.3g}, "
        f"{difference.pairs} pairs, p = {p}: {verdict} at {SIGNIFICANT:g}."
    )


def power_warning(differences: Sequence[Difference]) -> str | None:
    """What tests of so few pairs cannot see; None where there are enough of them."""
    pairs = [difference.pairs for difference in differences if difference.p is not None]
    if not pairs or min(pairs) >= FEW_PAIRS:
        return None
    return (
        f"With {min(pairs)} pairs a t-test finds, {POWER:.0%} of the time, only a mean difference of at least "
        f"{detectable_effect(min(pairs)):.1f} standard deviations of the differences, before Holm's correction: "
        '"not significant" does not mean "equal". Add seeds.'
    )
