"""Learning rates that are a share of the one that Stable-Baselines3 gives all parameters before it trains."""

from __future__ import annotations

from torch.optim import Optimizer


def share_rates(optimizer: Optimizer) -> None:
    """Lets each step take a parameter group's "share" of its learning rate, all of it where the group has none."""
    optimizer.register_step_pre_hook(lambda optimizer, *_: _scale(optimizer, 1))
    optimizer.register_step_post_hook(lambda optimizer, *_: _scale(optimizer, -1))


def _scale(optimizer: Optimizer, power: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= group.get("share", 1.0) ** power
