"""What a code's likelihood is weighed by: self-normalised importance weights, or advantages within its group.

A tensor that is not [B, K], and a number out of the range that is named, raise a ValueError.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from daps_rl.functional.checks import as_float, check_kept, check_matrix, check_pooling

SAMPLES = 8
"""K, codes per context: the method's published default, which stands here alone."""
ESS_FRACTION = 0.33
"""Effective sample size that the temperature is set for, as a fraction of K; published."""
ROUNDING = 8
"""Units in the last place of a context's largest reward: rewards that differ by less differ by rounding alone."""


def rounding_of(reward: Tensor) -> Tensor:
    """What rounding can make of a difference of rewards of this size, in their unit; never 0. [B, K] → [B, 1]."""
    limits = torch.finfo(reward.dtype)
    size = torch.where(reward.isfinite(), reward, 0.0).abs().amax(-1, keepdim=True)
    return (size * (ROUNDING * limits.eps)).clamp_min(limits.tiny)


def shifted_reward(reward: Tensor) -> Tensor:
    """Reward minus the best reward of its context: <= 0, and 0 throughout a context whose rewards are all -inf.

    Weights are invariant to a shift within a context, and this shift keeps rewards of any size finite. Where the finite
    rewards of a context differ by rounding alone they are all 0, so that no weight is made of it. Detached.
    """
    reward = as_float(reward.detach())
    best = reward.amax(dim=-1, keepdim=True)
    shifted = torch.where(best == -math.inf, torch.zeros_like(reward), reward - best)
    equal = (shifted > -rounding_of(reward)) | (shifted == -math.inf)
    return torch.where(equal.all(-1, keepdim=True), torch.where(shifted == -math.inf, shifted, 0.0), shifted)


@torch.no_grad()
def target_weights(
    reward: Tensor, temperature: Tensor | float, *, pooling: float = 0.0, batch: Tensor | None = None
) -> Tensor:
    """Weights of the target policy on the samples: w_k = softmax_k(R_k / temperature).

    The samples come from the behaviour policy q, and the target is q* = q · exp(R / temperature) / Z, so that K·w is
    q*/q with Z estimated by the mean over a context's own K samples. A context whose rewards are all -inf gets uniform
    weights.

    With `pooling` c > 0 the estimate of Z is drawn towards the batch's mean, as if c more samples of an average context
    had been seen: (Σ_k exp(R_k / temperature) + c · mean over the batch) / (K + c). A group that is all equally bad
    then weighs less than 1, where its own mean would say nothing against it, and one that is all good more (at most
    1 + c/K), and one whose rewards are all -inf nothing. It is for rewards that mean the same in all contexts, such as
    0 and 1, and for centred weights.

    Args:
        reward: larger is better; -inf is allowed, NaN and +inf come out as NaN (with pooling in all). [B, K].
        temperature: positive. A number, or 0-dim.
        pooling: c, in samples; not negative.
        batch: rewards of the whole batch where `reward` is a part of it, for the pooling. [N, K].
    Returns:
        [B, K], detached, each row sums to 1 (with pooling, to between 0 and 1 + c/K). float32 (float64 for float64
        input).
    References:
        Drolet et al. (2026), arXiv 2509.24716, section 3. The pooling is ours.
    """
    check_matrix("reward", reward)
    if not isinstance(temperature, Tensor) and not 0.0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be positive and finite, got {temperature}; pass the result of solve_temperature."
        )
    check_pooling(pooling)
    if not pooling:
        return torch.softmax(shifted_reward(reward) / temperature, dim=-1)
    batch = as_float(reward if batch is None else batch).detach().reshape(1, -1)
    best = batch.amax()
    best = torch.where(best == -math.inf, 0.0, best)
    scores, pool = (as_float(reward).detach() - best) / temperature, (batch - best) / temperature
    prior = torch.logsumexp(pool, dim=-1, keepdim=True) - math.log(pool.shape[-1]) + math.log(pooling)
    normaliser = torch.logaddexp(torch.logsumexp(scores, dim=-1, keepdim=True), prior)  # of K + c samples
    weights = (scores - normaliser).exp() * ((reward.shape[-1] + pooling) / reward.shape[-1])
    return torch.where(normaliser == -math.inf, 1.0 / reward.shape[-1], weights)


def leave_one_out_advantage(reward: Tensor) -> Tensor:
    """Reward minus the mean reward of the other K − 1 codes: R_k − (1/(K−1)) Σ_{j≠k} R_j, in nats.

    The baseline does not depend on the code it is subtracted from, so that the policy gradient stays unbiased.

    Args:
        reward: larger is better; no gradient flows. [B, K], K >= 2.
    Returns:
        [B, K], each row sums to 0.
    References:
        Kool et al. (2019), Buy 4 REINFORCE samples, get a baseline for free.
    """
    _check_group(reward)
    equal = (shifted_reward(reward) == 0).all(-1, keepdim=True)  # whose mean may be off by rounding
    reward = as_float(reward.detach())
    k = reward.shape[-1]
    return torch.where(equal, 0.0, (reward - reward.mean(-1, keepdim=True)) * (k / (k - 1)))


def standardized_reward(reward: Tensor) -> Tensor:
    """Reward in units of its group: (R_k − mean) / std, without units. Groups of equal rewards give 0.

    Where the deviation is below what rounding makes of rewards of that size, that stands in for it. A reward of -inf
    stays that beside others, whose mean and deviation are their own.

    Args:
        reward: larger is better; -inf is allowed. No gradient flows. [B, K], K >= 2.
    References:
        Shao et al. (2024), DeepSeekMath (GRPO), section 4.1; arXiv 2604.06159 (TPO).
    """
    _check_group(reward)
    shifted = shifted_reward(reward)  # equal rewards are 0 then, of whatever size they were
    counts, k = shifted != -math.inf, shifted.shape[-1]
    n = counts.sum(-1, keepdim=True).to(shifted)
    mean = torch.where(counts, shifted, 0.0).mean(-1, keepdim=True) * (k / n)
    deviation = torch.where(counts, shifted, mean).std(-1, keepdim=True) * ((k - 1) / (n - 1).clamp_min(1)).sqrt()
    return (shifted - mean) / deviation.maximum(rounding_of(as_float(reward.detach())))


def _check_group(reward: Tensor) -> None:
    check_matrix("reward", reward)
    if reward.shape[-1] < 2:
        raise ValueError("reward must hold at least two codes per context, [B, K] with K >= 2; raise samples.")


def one_sample_groups(weights: Tensor) -> Tensor:
    """Turns the weights of a batch that is one group, [1, N], into those of N groups of one sample, [N, 1].

    N·w is the ratio q*/q of each sample, 1 on average: a part of the batch then stands for its share of it.
    """
    return weights.transpose(0, 1) * weights.shape[-1]


def effective_sample_size(weights: Tensor) -> Tensor:
    """Kish's effective sample size (Σ_k w_k)² / Σ_k w_k², in samples: 1 (one weight has it all) … K (uniform).

    Args:
        weights: not negative; need not be normalised. [B, K].
    Returns:
        [B], in samples; K where all weights are 0, as of other equal ones.
    References:
        Kish (1965), Survey Sampling.
    """
    check_matrix("weights", weights)
    weights = as_float(weights)
    squares = weights.square().sum(-1)
    return torch.where(squares == 0, weights.shape[-1], weights.sum(-1).square() / squares)


def weights_kl(weights: Tensor) -> Tensor:
    """KL(q* ‖ q) as the samples tell it, by weights that sum to 1: Σ_k w_k log(K w_k), 0 … log K nats. [B, K] → [B]."""
    check_matrix("weights", weights)
    weights = as_float(weights)
    return torch.special.xlogy(weights, weights * weights.shape[-1]).sum(-1)


class KeptSamples(NamedTuple):
    """Some of the K samples of each context, that stand for all of them."""

    indices: Tensor  # [B, M], int64
    probability: Tensor  # [B, M], with which each was kept


def keep_samples(
    weights: Tensor, keep: int, *, centered: bool = False, generator: torch.Generator | None = None
) -> KeptSamples | None:
    """Chooses M of the K samples for the policy to be scored on, by `threshold_sample` of what their terms can weigh.

    A term of the loss counts by |w_k|, or with centred weights by |w_k − ρ_k/K|, where the ratio ρ_k is 1 at first and
    moves as the policy does: max(|w_k − 1/K|, 1/2K) stands for it.

    Args:
        weights: of either sign; not negative with `centered`. [B, K].
        keep: M, 1 … K; 0 (or K) for all.
        centered: the loss has centred weights, see `weighted_likelihood_loss`.
        generator: of the draw; torch's global one if None.
    Returns:
        KeptSamples, or None where all are kept.
    """
    check_matrix("weights", weights)
    samples = weights.shape[-1]
    check_kept(keep, samples)
    if keep in (0, samples):
        return None
    size = as_float(weights.detach())
    size = (size - 1.0 / samples).abs().clamp(min=0.5 / samples) if centered else size.abs()
    uniform = torch.rand(len(size), 1, dtype=size.dtype, device=size.device, generator=generator)
    return threshold_sample(size, keep, uniform)


def threshold_sample(size: Tensor, keep: int, uniform: Tensor) -> KeptSamples:
    """Keeps M of K samples, each with probability min(1, size / c), where c is such that M are kept.

    With every kept term divided by its probability, sums over samples stay the same in expectation, and of all schemes
    that keep M samples without bias this one changes terms of such sizes least (expected squared change). Drawn by
    systematic sampling.

    Args:
        size: not negative. [B, K].
        keep: M, 1 … K.
        uniform: in [0, 1), one number per context. [B, 1].
    References:
        Fearnhead, Clifford (2003), On-line inference for hidden Markov models via particle filters.
    """
    check_matrix("size", size)
    samples = size.shape[-1]
    if not 1 <= keep <= samples:
        raise ValueError(f"keep must lie in 1 … K = {samples}, got {keep}; K keeps all samples.")
    if uniform.shape != (len(size), 1):
        raise ValueError(f"uniform must be one number per context, [{len(size)}, 1], got {tuple(uniform.shape)}.")
    # A size of zero counts as a very small one, so that M are kept whatever the sizes are.
    size = size.clamp(min=1e-30).maximum(1e-6 * size.amax(-1, keepdim=True))
    ordered = size.sort(-1, descending=True).values
    rest = ordered.flip(-1).cumsum(-1).flip(-1)[..., :keep]  # of the i-th largest and all below, i < M
    places = torch.arange(keep, 0, -1, device=size.device)  # M - i: left for them
    # c is the first rest/places that the largest of the rest does not exceed; then this is the least of them all.
    threshold = (rest / places).amin(-1, keepdim=True)
    probability = (size / threshold).clamp(max=1.0)
    cumulative = probability.cumsum(-1)
    cumulative = cumulative * (keep / cumulative[..., -1:])
    points = uniform + torch.arange(keep, device=size.device)
    index = torch.searchsorted(cumulative, points, right=True).clamp(max=samples - 1)
    return KeptSamples(index, probability.gather(-1, index))


def mean_of_kept(values: Tensor, kept: KeptSamples | None) -> Tensor:
    """Estimates the mean over all B·K samples from the values of those kept, [B, M]; None is all of them. 0-dim."""
    if kept is None:
        return values.mean()
    return (values / kept.probability).sum() / kept.probability.reciprocal().sum()
