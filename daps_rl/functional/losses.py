"""Losses: the encoder's weighted maximum likelihood and the decoder's likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from daps_rl.functional.checks import as_float, check_kept, check_matrix, check_pooling, check_same_shape
from daps_rl.functional.weights import (
    KeptSamples,
    centered_weights,
    effective_sample_size,
    target_weights,
    thin_weights,
)


class DAPSTerms(NamedTuple):
    """What `daps_loss` returns: the loss, then detached diagnostics."""

    loss: Tensor  # [B]
    weights: Tensor  # [B, K]
    effective_sample_size: Tensor  # [B], in samples


def weighted_likelihood_loss(log_prob: Tensor, weights: Tensor, *, centered: bool = False) -> Tensor:
    """Weighted maximum likelihood, − Σ_k w_k · log q(z_k|x), per context.

    With `centered`, w_k − 1/K stands in the place of w_k: on-policy the same expected gradient, with a smaller
    variance. Use it for the first update on a batch only: with reuse the loss is unbounded below, and
    `reused_likelihood_loss` takes its place.

    Args:
        log_prob: log q(z|x) of each sampled code under the policy being trained, in nats. [B, K].
        weights: no gradient flows; a code of zero weight does not count, whatever its log_prob. [B, K].
        centered: subtract 1/K from each weight.
    Returns:
        [B].
    Raises:
        ValueError: shapes differ or are not [B, K].
    """
    check_matrix("log_prob", log_prob)
    check_same_shape(log_prob=log_prob, weights=weights)
    weights = weights.detach()
    if centered:
        weights = centered_weights(weights)
    log_prob = as_float(log_prob)
    return -torch.where(weights == 0, 0.0, weights * torch.where(weights == 0, 0.0, log_prob)).sum(-1)


def reused_likelihood_loss(log_prob: Tensor, weights: Tensor, behaviour_log_prob: Tensor) -> Tensor:
    """Weighted maximum likelihood for a further update on the same samples, per context.

    − Σ_k w_k · log q(z_k|x) + 1/K · Σ_k ρ_k with ρ_k = q(z_k|x) / q_b(z_k|x), q_b the policy that drew them: but for a
    constant the generalised KL divergence D(K·w ‖ ρ) / K = 1/K · Σ_k [K·w_k · log(K·w_k / ρ_k) − K·w_k + ρ_k]. Where
    q = q_b its gradient is that of centred weights. Its minimum is at ρ_k = K·w_k, where every sample has the
    probability that the target q_b · exp(R/τ) / Z gives it, so that no ratio needs to be clipped.

    Args:
        log_prob: log q(z|x) of each sampled code under the policy being trained, in nats. [B, K].
        weights: not negative; no gradient flows. [B, K].
        behaviour_log_prob: log q_b(z|x), in nats; no gradient flows. A code of -inf does not count. [B, K].
    Returns:
        [B]; not finite where a ratio is too large for its type (e^88 in float32).
    Raises:
        ValueError: shapes differ or are not [B, K].
    References:
        ours: Drolet et al. (2026) take one step on a batch.
    """
    check_matrix("log_prob", log_prob)
    check_same_shape(log_prob=log_prob, weights=weights, behaviour_log_prob=behaviour_log_prob)
    return weighted_likelihood_loss(log_prob, weights) + _ratio(log_prob, behaviour_log_prob).mean(-1)


def _ratio(log_prob: Tensor, behaviour_log_prob: Tensor) -> Tensor:
    """q(z|x) / q_b(z|x); 0 where the latter is 0, which is where nothing was drawn."""
    behaviour = as_float(behaviour_log_prob).detach()
    drawn = behaviour > -math.inf
    return torch.where(drawn, (torch.where(drawn, as_float(log_prob) - behaviour, 0.0)).exp(), 0.0)


class LikelihoodTerms(NamedTuple):
    """What `thinned_likelihood_loss` returns: the loss, and what was scored for it."""

    loss: Tensor  # [B]
    log_prob: Tensor  # [B, M], of the samples that were scored, with gradient
    kept: KeptSamples | None  # which these are; None for all K

    def mean(self, values: Tensor) -> Tensor:
        """Of the samples scored, [B, M] → the mean over all B·K, estimated without bias. 0-dim."""
        if self.kept is None:
            return values.mean()
        return (values / self.kept.probability).sum() / self.kept.probability.reciprocal().sum()


def thinned_likelihood_loss(
    log_prob_of: Callable[[Tensor | None], Tensor],
    weights: Tensor,
    keep: int = 0,
    *,
    centered: bool = False,
    behaviour_log_prob: Tensor | None = None,
) -> LikelihoodTerms:
    """`weighted_likelihood_loss` of K samples of which M alone are scored: the same in expectation.

    Which M is drawn by `thin_weights`, with torch's global generator.

    Args:
        log_prob_of: log-probabilities, in nats and with gradient, of the samples of each context at some indices
            [B, M] → [B, M], or of all, None → [B, K].
        weights: of either sign, but not negative with `behaviour_log_prob`; no gradient flows. [B, K].
        keep: M; 0 (or K) for all.
        centered: subtract 1/K from each weight, see `weighted_likelihood_loss`.
        behaviour_log_prob: the samples were used before: `reused_likelihood_loss` in the place of centred weights.
            [B, K].
    Raises:
        ValueError: weights is not [B, K], or behaviour_log_prob is not like it; keep is out of range; both centered and
            behaviour_log_prob are given.
    """
    check_matrix("weights", weights)
    check_kept(keep, weights.shape[-1])
    if behaviour_log_prob is not None:
        check_same_shape(weights=weights, behaviour_log_prob=behaviour_log_prob)
        if centered:
            raise ValueError("behaviour_log_prob takes the place of centered=True; pass one of them.")
    if keep in (0, weights.shape[-1]):
        log_prob = log_prob_of(None)
        if behaviour_log_prob is not None:
            loss = reused_likelihood_loss(log_prob, weights, behaviour_log_prob)
        else:
            loss = weighted_likelihood_loss(log_prob, weights, centered=centered)
        return LikelihoodTerms(loss, log_prob, None)
    uniform = torch.rand_like(as_float(weights[:, :1]))
    if behaviour_log_prob is None:
        kept = thin_weights(weights, keep, uniform, centered=centered)
        log_prob = log_prob_of(kept.indices)
        return LikelihoodTerms(weighted_likelihood_loss(log_prob, kept.weights), log_prob, kept)
    # Both of the loss's sums, each term over its chance to be in it, which is large where either term is.
    count = weights.shape[-1]
    kept = thin_weights(weights + 1.0 / count, keep, uniform)
    log_prob = log_prob_of(kept.indices)
    ratio = _ratio(log_prob, behaviour_log_prob.gather(-1, kept.indices))
    likelihood = weighted_likelihood_loss(log_prob, weights.gather(-1, kept.indices) / kept.probability)
    return LikelihoodTerms(likelihood + (ratio / kept.probability).sum(-1) / count, log_prob, kept)


def daps_loss(
    log_prob: Tensor, reward: Tensor, *, temperature: Tensor | float, centered: bool = False, pooling: float = 0.0
) -> DAPSTerms:
    """The encoder's loss of DAPS: weighted maximum likelihood with w = softmax(R / temperature).

    Args:
        log_prob: log q(z|x) of each sampled code under the policy being trained, in nats. [B, K].
        reward: of the same codes, with the log-probability they were drawn with; no gradient flows. [B, K].
        temperature: positive, from a trust region. A number, or 0-dim.
        centered: see `weighted_likelihood_loss`.
        pooling: see `target_weights`; with centred weights.
    Returns:
        DAPSTerms: loss [B]; weights [B, K] and effective_sample_size [B] (in samples), detached.
    Raises:
        ValueError: shapes differ or are not [B, K].
    References:
        Drolet et al. (2026), arXiv 2509.24716, section 3. The paper's baseline is left out: constant within a
        context, it cancels in the softmax.
    """
    check_same_shape(log_prob=log_prob, reward=reward)
    check_pooling(pooling, allowed=centered)
    weights = target_weights(
        reward, temperature, pooling=pooling
    ).detach()  # a temperature may ask for a gradient of its own
    loss = weighted_likelihood_loss(log_prob, weights, centered=centered)
    return DAPSTerms(loss, weights, effective_sample_size(target_weights(reward, temperature).detach()))


def decoder_loss(log_likelihood: Tensor) -> Tensor:
    """The decoder's loss, − (1/K) Σ_k log p(x|z_k): an unweighted mean over the codes that the policy drew.

    Args:
        log_likelihood: log p(x|z), in nats. [B, K].
    Returns:
        [B].
    Raises:
        ValueError: log_likelihood is not [B, K].
    """
    check_matrix("log_likelihood", log_likelihood)
    return -as_float(log_likelihood).mean(-1)
