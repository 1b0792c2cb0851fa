"""Verdicts as terms of the reward: what is judged, and how a term's weight follows from how much it varies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from daps_rl.functional.weights import shifted_reward

EMPHASIS = 2.0  # how far a verdict moves the reward of a group, by the rule, in units of how far the likelihood does


class VerdictTerms(NamedTuple):
    """What is added to the log-likelihood of codes, Σ_j weights_j · scores_j, see `encoding_reward`."""

    scores: Tensor  # [J, ...], of J verdicts, each in its own unit; -inf for what must not be
    weights: Tensor  # [J], positive, in nats per unit


def reconstruction(distribution: Distribution) -> Tensor:
    """The datum that a decoder makes of a code: the mean of p(x|z), or of symbols the most probable ones; detached."""
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    made: Tensor = distribution.mode if isinstance(base, Categorical) else distribution.mean
    return made.detach()


def group_deviations(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums the standard deviations of groups, and counts the groups that differ in more than rounding.

    A group whose values are all alike, or not all finite, counts for nothing: however few groups a verdict can tell
    apart, the sum over the count is how much it varies within one of those.

    Args:
        values: of J quantities, for K codes of each of B contexts; no gradient flows. [J, B, K].
    Returns:
        sums [J], in the unit of the quantity, and counts [J].
    """
    quantities, contexts, samples = values.shape
    shifted = shifted_reward(values.reshape(-1, samples)).view(quantities, contexts, samples)
    deviation = shifted.std(-1, correction=0)  # [J, B]
    differs = deviation.isfinite() & (deviation > 0.0)
    return torch.where(differs, deviation, 0.0).sum(-1), differs.to(deviation.dtype).sum(-1)


def rule_weights(likelihood: Tensor, verdicts: Tensor) -> Tensor:
    """Weights by the rule, w_j = 2 · d(log p(x|z)) / d(v_j): what the user has not given, in nats per unit of v_j.

    So each verdict moves the rewards of a group twice as far as the likelihood does, whatever the units of the two.

    Args:
        likelihood: mean deviation of log p(x|z) within groups, in nats. [1], or 0-dim.
        verdicts: those of J verdicts, each in its own unit. [J].
    Returns:
        [J], positive; next to nothing where a deviation is not known yet (NaN), so that -inf stays -inf.
    References:
        The idea of scaling each reward apart: GDPO, arXiv 2601.05242. The rule is ours.
    """
    return (EMPHASIS * likelihood / verdicts).nan_to_num(torch.finfo(torch.float32).tiny)
