"""Losses: the encoder's weighted maximum likelihood and the decoder's likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from daps_rl.functional.checks import as_float, check_matrix, check_pooling, check_same_shape
from daps_rl.functional.weights import KeptSamples, effective_sample_size, target_weights


class DAPSTerms(NamedTuple):
    """What `daps_loss` returns: the loss, then detached diagnostics."""

    loss: Tensor  # [B]
    weights: Tensor  # [B, K]
    effective_sample_size: Tensor  # [B], in samples


def weighted_likelihood_loss(
    log_prob: Tensor,
    weights: Tensor,
    behaviour_log_prob: Tensor | None = None,
    kept: KeptSamples | None = None,
    *,
    centered: bool = False,
) -> Tensor:
    """Weighted maximum likelihood, − Σ_k w_k · log q(z_k|x), per context: the likelihood step of every update.

    With `centered`, (1/K) Σ_k (ρ_k − 1) is added, ρ_k = q(z_k|x) / q_b(z_k|x) with q_b the policy that drew the codes.
    On first use, where q = q_b, that adds nothing to the value, and its gradient makes the weights w_k − 1/K: the same
    expected gradient with a smaller variance. On later uses it keeps the loss bounded: but for a constant the loss is
    the generalised KL divergence (1/K) Σ_k [K·w_k · log(K·w_k / ρ_k) − K·w_k + ρ_k], least where ρ_k = K·w_k, the ratio
    that the target q_b · exp(R/τ) / Z gives, so that no ratio needs to be clipped.

    Args:
        log_prob: log q(z|x) of each code under the policy being trained, in nats, with gradient. [B, K], or [B, M] of
            those kept.
        weights: of either sign, but not negative with `centered`; no gradient flows, and a code of zero weight does not
            count in the likelihood, whatever its log_prob. [B, K].
        behaviour_log_prob: log q_b(z|x), in nats, of all codes; no gradient flows. A code of -inf does not count. None
            on first use: log_prob itself. [B, K].
        kept: which codes log_prob is of, from `keep_samples`; their terms stand for all. None for all K.
        centered: see above.
    Returns:
        [B]; not finite where a ratio is too large for its type (e^88 in float32).
    References:
        Drolet et al. (2026), arXiv 2509.24716, section 3. The ratios, and the choice of some codes, are ours.
    """
    check_matrix("log_prob", log_prob)
    count = weights.shape[-1]
    if behaviour_log_prob is not None:
        check_same_shape(weights=weights, behaviour_log_prob=behaviour_log_prob)
    weights, log_prob = weights.detach(), as_float(log_prob)
    behaviour = log_prob.detach() if behaviour_log_prob is None else as_float(behaviour_log_prob).detach()
    if kept is None:
        check_same_shape(log_prob=log_prob, weights=weights)
    else:
        check_same_shape(log_prob=log_prob, kept=kept.indices)
        weights = weights.gather(-1, kept.indices) / kept.probability
        behaviour = behaviour if behaviour_log_prob is None else behaviour.gather(-1, kept.indices)
    loss = -torch.where(weights == 0, 0.0, weights * torch.where(weights == 0, 0.0, log_prob)).sum(-1)
    if not centered:
        return loss
    drawn = behaviour > -math.inf
    excess = torch.where(drawn, torch.expm1(torch.where(drawn, log_prob - behaviour, 0.0)), 0.0)  # ρ − 1
    return loss + (excess if kept is None else excess / kept.probability).sum(-1) / count


def daps_loss(
    log_prob: Tensor, reward: Tensor, *, temperature: Tensor | float, centered: bool = False, pooling: float = 0.0
) -> DAPSTerms:
    """The encoder's loss of DAPS on codes just drawn: weighted maximum likelihood with w = softmax(R / temperature).

    Args:
        log_prob: log q(z|x) of each sampled code under the policy that drew it and is trained, in nats. [B, K].
        reward: of the same codes; no gradient flows. [B, K].
        temperature: positive, from a trust region. A number, or 0-dim.
        centered, pooling: see `weighted_likelihood_loss` and `target_weights`; a pooling goes with centred weights.
    References:
        Drolet et al. (2026), arXiv 2509.24716, section 3. The paper's baseline is left out: constant within a
        context, it cancels in the softmax.
    """
    check_same_shape(log_prob=log_prob, reward=reward)
    check_pooling(pooling, allowed=centered)
    weights = target_weights(reward, temperature, pooling=pooling)
    loss = weighted_likelihood_loss(log_prob, weights, centered=centered)
    return DAPSTerms(loss, weights, effective_sample_size(target_weights(reward, temperature)))  # which pooling leaves


def decoder_loss(log_likelihood: Tensor) -> Tensor:
    """The decoder's loss, − (1/K) Σ_k log p(x|z_k), in nats: unweighted over the codes drawn. [B, K] → [B]."""
    check_matrix("log_likelihood", log_likelihood)
    return -as_float(log_likelihood).mean(-1)
