"""One gradient step, or none."""

from __future__ import annotations

import torch
from torch import Tensor


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float | None) -> bool:
    """Descends a loss, and leaves everything as it was where the loss or a gradient is not finite.

    Args:
        optimizer: of the parameters.
        loss: 0-dim.
        max_grad_norm: gradients are clipped to this norm; None for no bound.
    Returns:
        whether the step was taken.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    good = bool(norm.isfinite() & loss.detach().isfinite())
    if good:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return good
