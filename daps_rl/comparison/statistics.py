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
    low: float | None  # of the 95 % confidence interval
    high: float | None
    p: float | None
    p_holm: float | None
    problem: str | None  # why it was not tested


def bootstrap_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Bootstrapped confidence interval of the mean: BCa, or the percentile interval where BCa is undefined.

    Args:
        values: one for each seed.
        confidence: of the interval.
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
            interval = stats.bootstrap(
                data, np.mean, confidence_level=confidence, method=method, rng=np.random.default_rng(0)
            ).confidence_interval
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
    Returns:
        one difference for each other agent, in their order.
    """
    found = [
        _paired_difference(label, of_seed, values[reference]) for label, of_seed in values.items() if label != reference
    ]
    adjusted = iter(holm([difference.p for difference in found if difference.p is not None]))
    return [difference if difference.p is None else difference._replace(p_holm=next(adjusted)) for difference in found]


def _paired_difference(label: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    seeds = sorted(set(ours) & set(theirs))
    a, b = (np.array([values[seed] for seed in seeds], dtype=float) for values in (ours, theirs))
    untested = Difference(label, len(seeds), float((a - b).mean()) if seeds else None, None, None, None, None, None)
    if len(seeds) < 2:
        return untested._replace(problem="a test needs at least 2 seeds that both have finished with a value")
    if np.ptp(a - b) <= _SAME * max(np.abs(a).max(), np.abs(b).max()):
        return untested._replace(problem="the difference is the same for every seed, and a t-test needs it to vary")
    result = stats.ttest_rel(a, b)
    interval = result.confidence_interval()
    return untested._replace(low=float(interval.low), high=float(interval.high), p=float(result.pvalue))


def detectable_effect(pairs: int, *, alpha: float = SIGNIFICANT, power: float = POWER) -> float:
    """The smallest mean difference that a paired t-test finds with that probability.

    Args:
        pairs: n, at least 2.
        alpha: level of the two-sided test.
        power: probability that the test is significant.
    Returns:
        the difference, in standard deviations of the differences.
    """
    freedom = pairs - 1
    critical = stats.t.ppf(1.0 - alpha / 2.0, freedom)

    def missing(effect: float) -> float:  # a difference found with the wrong sign is not found
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(pairs))) - power

    enough = 0.1
    while missing(enough) < 0.0:
        enough *= 2.0
    return optimize.brentq(missing, enough / 2.0, enough)


def sentence(difference: Difference, reference: str, metric: str, unit: str) -> str:
    """A difference in plain words."""
    start = f"{metric}: {difference.label} against {reference}"
    unit = f" {unit}" if unit else ""
    if difference.mean is None or difference.p_holm is None:
        known = "" if difference.mean is None else f" ({difference.mean:+.3g}{unit})"
        return f"{start}{known} cannot be tested: {difference.problem}."
    verdict = "significant" if difference.p_holm < SIGNIFICANT else "not significant"
    return (
        f"{start}: {difference.mean:+.3g}{unit}, 95 % interval {difference.low:+.3g} to {difference.high:+.3g}, "
        f"{difference.pairs} pairs, p = {_p_text(difference.p_holm)}: {verdict} at {SIGNIFICANT:g}."
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


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
