"""Advantages within a group: how much better a code is than the others drawn for the same context."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.functional.checks import as_float, check_matrix
from daps_rl.functional.weights import rounding_of, shifted_reward


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

    Where the deviation is below what rounding makes of rewards of that size, that stands in for it.

    Args:
        reward: larger is better; no gradient flows. [B, K], K >= 2.
    References:
        Shao et al. (2024), DeepSeekMath (GRPO), section 4.1; arXiv 2604.06159 (TPO).
    """
    _check_group(reward)
    shifted = shifted_reward(reward)  # equal rewards are 0 then, of whatever size they were
    centered = shifted - shifted.mean(-1, keepdim=True)
    return centered / shifted.std(-1, keepdim=True).maximum(rounding_of(as_float(reward.detach())))


def _check_group(reward: Tensor) -> None:
    check_matrix("reward", reward)
    if reward.shape[-1] < 2:
        raise ValueError("reward must hold at least two codes per context, [B, K] with K >= 2; raise samples.")
