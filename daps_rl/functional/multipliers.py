"""Weights of the reward that set themselves: λ from what a run is to reach, β from the temperature of its batches."""

from __future__ import annotations

import torch
from torch import Tensor

FORGETTING = 0.1  # β, as a share of the temperature
MEMORY = 0.9  # of the moving mean of log β, a batch


def dual_step(log_weight: Tensor, violation: Tensor, step: Tensor | float) -> Tensor:
    """Dual ascent on the logarithm of a multiplier, log λ + step · min(max(violation, −1), 1).

    A weight grows by a share of itself while its constraint is violated, and falls while there is room: it stays
    positive, and its scale does not matter to how fast it finds its value.

    Args:
        log_weight: log λ. Any shape.
        violation: > 0 where the constraint is violated, without a unit; NaN, of what could not be measured, moves
            nothing. The same shape.
        step: how far log λ moves at most, >= 0.
    References:
        Rezende & Viola (2018), Taming VAEs, algorithm 1; without a bound there.
    """
    return log_weight + step * violation.clamp(-1.0, 1.0).nan_to_num(0.0)


def follow_temperature(beta: Tensor, temperature: Tensor) -> Tensor:
    """β as a tenth of the temperature τ of the trust region: the geometric moving mean of τ/10 over about ten batches.

    The target of a batch is q · exp(R / τ), and R holds − β·log(q / p): so it is q^(1 − β/τ) · p^(β/τ) · exp(log p(x|z)
    / τ), and β/τ is the share of what the policy knows that a step forgets. As a share it has no unit: the same
    number serves likelihoods of all sizes, and as the codes of a datum come to differ less, τ and β fall together.

    Args:
        beta: its value so far, positive, in nats per nat. 0-dim.
        temperature: of the batch, in nats; where it is not finite, or 0, β stays as it is. 0-dim.
    """
    following = beta**MEMORY * (FORGETTING * temperature) ** (1.0 - MEMORY)
    return torch.where(following.isfinite() & (following > 0.0), following, beta)
