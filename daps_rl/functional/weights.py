"""Self-normalised importance weights of sampled codes, and how concentrated they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from daps_rl.functional.checks import as_float, check_matrix


def shifted_reward(reward: Tensor) -> Tensor:
    """Reward minus the best reward of its context: <= 0, and 0 throughout a context whose rewards are all -inf.

    Weights are invariant to a shift within a context, and this shift keeps rewards of any size finite.

    Args:
        reward: larger is better. [B, K].
    Returns:
        [B, K], float32 (float64 for float64 input), detached.
    """
    reward = as_float(reward.detach())
    best = reward.amax(dim=-1, keepdim=True)
    return torch.where(best == -math.inf, torch.zeros_like(reward), reward - best)


def target_weights(reward: Tensor, temperature: Tensor | float) -> Tensor:
    """Weights of the target policy on the samples: w_k = softmax_k(R_k / temperature).

    The samples come from the behaviour policy q, and the target is q* ∝ q · exp(R / temperature), so
    that w is q*/q, normalised over the samples. A context whose rewards are all -inf gets uniform weights.

    Args:
        reward: larger is better; -inf is allowed, NaN comes out as NaN. [B, K].
        temperature: positive. A number, or 0-dim.
    Returns:
        [B, K], each row sums to 1. float32 (float64 for float64 input). No gradient reaches the reward (one does reach
        a temperature that asks for it).
    Raises:
        ValueError: reward is not [B, K], or a temperature given as a number is not positive.
    References:
        Drolet et al. (2026), arXiv 2509.24716, section 3.
    """
    check_matrix("reward", reward)
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; pass the result of solve_temperature.")
    return torch.softmax(shifted_reward(reward) / temperature, dim=-1)


def effective_sample_size(weights: Tensor) -> Tensor:
    """Kish's effective sample size (Σ_k w_k)² / Σ_k w_k², in samples: 1 (one weight has it all) … K (uniform).

    Args:
        weights: non-negative; need not be normalised. [B, K].
    Returns:
        [B], in samples.
    Raises:
        ValueError: weights is not [B, K].
    References:
        Kish (1965), Survey Sampling.
    """
    check_matrix("weights", weights)
    weights = as_float(weights)
    return weights.sum(-1).square() / weights.square().sum(-1)


def weights_kl(weights: Tensor) -> Tensor:
    """KL(q* ‖ q) as the samples tell it: Σ_k w_k log(K w_k), in nats, 0 (uniform) … log K.

    Args:
        weights: each row sums to 1. [B, K].
    Returns:
        [B], in nats.
    Raises:
        ValueError: weights is not [B, K].
    """
    check_matrix("weights", weights)
    weights = as_float(weights)
    return torch.special.xlogy(weights, weights * weights.shape[-1]).sum(-1)
