"""The travelling salesman: one round trip through n cities of the unit square, as short as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.envs.routing import Routing, length_of, places_of
from daps_rl.policies import VisitOnce


class TSP(Routing):
    """Symmetric, Euclidean: cities uniform in the unit square, the same distribution in all splits.

    Observation:
        the cities' coordinates, [n, 2].
    Action:
        the cities in the order of the visit, a permutation; the trip begins anywhere, and returns there.
    Reward:
        minus the length of the round trip; of an order that is no permutation minus 2n, more than any trip is long.
    Optimum:
        Lin-Kernighan-Helsgaun (`python benchmarks/optima.py`), exact at these sizes for all practical purposes.

    Args:
        size: n.
    """

    item_features = 2
    on_device = True

    def __init__(self, size: int = 20) -> None:
        if size < 3:
            raise ValueError(f"a round trip needs at least 3 cities, got {size}.")
        self.name = f"tsp{size}"
        self.num_tokens = self.vocab_size = size
        self.mask = VisitOnce(size, any_start=True)

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, self.num_tokens, 2, generator=generator)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        everywhere = torch.zeros_like(codes).scatter(-1, codes, 1).all(-1)
        return -torch.where(everywhere, length_of(places_of(target, codes)), 2.0 * self.num_tokens)
