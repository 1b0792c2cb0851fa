"""The capacitated vehicle routing problem: deliveries to n customers, as short a way as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.envs.routing import DepotRouting, length_of, places_of
from daps_rl.policies import DeliverOnce

CAPACITIES = {10: 20, 20: 30, 50: 40, 100: 50}  # by the number of customers, as published
DEMANDS = 9  # 1 … 9


class CVRP(DepotRouting):
    """One vehicle that comes back to load: depot and customers uniform in the unit square, demands of 1 … 9.

    Observation:
        [n + 1, 3]: coordinates, and the demand over the capacity; the depot comes first, and demands nothing.
    Action:
        the stops in their order, 2n - 1 tokens; 0 is the depot, which also stands behind the last customer. The vehicle
        begins at the depot and ends there.
    Reward:
        minus the length of all tours; of stops that are not feasible minus 3n, more than any tours are long.
    Optimum:
        the best that PyVRP finds (`python benchmarks/optima.py`).

    Args:
        size: n.
    References:
        Kool et al. (2019), Attention, learn to solve routing problems!, with their capacities: 30 for 20 customers, 40
        for 50, and those of the nearest of 10, 20, 50 and 100.
    """

    item_features = 3
    on_device = True

    def __init__(self, size: int = 20) -> None:
        if size < 2:
            raise ValueError(f"deliveries need at least 2 customers, got {size}.")
        self.name = f"cvrp{size}"
        self.size, self.num_tokens, self.vocab_size = size, 2 * size - 1, size + 1
        self.capacity = CAPACITIES[min(CAPACITIES, key=lambda known: abs(known - size))]
        self.mask = DeliverOnce(self.capacity, column=2)

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        places = torch.rand(count, self.size + 1, 2, generator=generator)
        demands = torch.randint(1, DEMANDS + 1, (count, self.size + 1, 1), generator=generator) / self.capacity
        demands[:, 0] = 0.0
        return torch.cat((places, demands), dim=-1)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        stops = torch.nn.functional.pad(codes, (1, 0))  # the depot first
        demands = (target[..., 2] * self.capacity).round().expand(*codes.shape[:2], -1)
        carried = demands.gather(-1, stops).cumsum(-1)
        since = torch.where(stops == 0, carried, 0.0).cummax(-1).values  # what was carried when it loaded last
        counts = torch.zeros_like(demands).scatter_add(-1, codes, torch.ones_like(codes, dtype=demands.dtype))
        feasible = (carried - since <= self.capacity).all(-1) & (counts[..., 1:] == 1.0).all(-1)
        return -torch.where(feasible, length_of(places_of(target, stops)), 3.0 * self.size)
