"""Orienteering: which of n places to visit on a tour of limited length, so that their prizes are worth most."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.envs.routing import DepotRouting, length_of, places_of
from daps_rl.policies import VisitWithin

LENGTHS = {20: 2.0, 50: 3.0, 100: 4.0}  # by the number of places, as published
ROUNDING = 1e-4  # of a length


class Orienteering(DepotRouting):
    """Depot and places uniform in the unit square; a prize is 0.01 … 1, larger the farther from the depot.

    Observation:
        [n + 1, 3]: coordinates, and the prize; the depot comes first, and has none.
    Action:
        the places in the order of the visit, n tokens; 0 is the depot, which ends a tour and stands behind its end.
    Reward:
        the sum of the prizes; -1 of a tour that is too long or visits a place twice.
    Optimum:
        of `op20` by dynamic programming; else not known.

    Args:
        size: n.
    References:
        Kool et al. (2019), Attention, learn to solve routing problems!: prizes by distance, and their lengths, 2 for 20
        places, 3 for 50, 4 for 100, and those of the nearest of them. Fischetti et al. (1998).
    """

    item_features = 3
    on_device = True

    def __init__(self, size: int = 20) -> None:
        if size < 2:
            raise ValueError(f"a tour needs at least 2 places, got {size}.")
        self.name = f"op{size}"
        self.num_tokens, self.vocab_size = size, size + 1
        self.length = LENGTHS[min(LENGTHS, key=lambda known: abs(known - size))]
        self.mask = VisitWithin(self.length)

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        places = torch.rand(count, self.num_tokens + 1, 2, generator=generator)
        distances = (places - places[:, :1]).norm(dim=-1, keepdim=True)
        prizes = ((distances / distances.amax(1, keepdim=True) * 99.0).floor() + 1.0) / 100.0
        prizes[:, 0] = 0.0
        return torch.cat((places, prizes), dim=-1)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        stops = torch.nn.functional.pad(codes, (1, 0))  # the depot first
        prizes = target[..., 2].expand(*codes.shape[:2], -1)
        counts = torch.zeros_like(prizes).scatter_add(-1, codes, torch.ones_like(codes, dtype=prizes.dtype))
        within = length_of(places_of(target, stops)) <= self.length + ROUNDING
        feasible = within & (counts[..., 1:] <= 1.0).all(-1)
        return torch.where(feasible, prizes.gather(-1, codes).sum(-1), -1.0)
