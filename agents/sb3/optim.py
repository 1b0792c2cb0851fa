"""A learning rate that is a share of the one that Stable-Baselines3 gives all parameters before it trains."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer


def share_rate(optimizer: Optimizer, parameters: Iterable[Tensor], share: float) -> None:
    """Makes some parameters of an optimiser's only group a group of their own, whose steps take a share of the rate."""
    own = {id(parameter) for parameter in parameters}
    (group,) = optimizer.param_groups
    held = group["params"]
    group["params"] = [parameter for parameter in held if id(parameter) not in own]
    chosen = [parameter for parameter in held if id(parameter) in own]
    optimizer.add_param_group({**group, "params": chosen, "share": share})
    optimizer.register_step_pre_hook(lambda optimizer, *_: _scale(optimizer, 1))
    optimizer.register_step_post_hook(lambda optimizer, *_: _scale(optimizer, -1))


def _scale(optimizer: Optimizer, power: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= group.get("share", 1.0) ** power
