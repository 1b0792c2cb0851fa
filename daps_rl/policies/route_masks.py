"""Rules for routes from a depot, item 0 of the context: what a vehicle can still load, how far it still gets."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.policies.masks import CodeMask

Route = tuple[Tensor, Tensor, Tensor]
Tour = tuple[Tensor, Tensor, Tensor, Tensor]


class DeliverOnce(CodeMask):
    """Codes that are the stops of a vehicle: every customer once, and between them the depot, token 0, to load anew.

    A customer may come next whose demand is on board, the depot after any customer. Behind the last customer the depot
    alone stands, with probability 1: codes of n customers have 2n - 1 tokens, as many as any needs. The state is
    (demands [B, 1, V], what was visited [B, K, V], the load that is left [B, K]); the policy sees the load, over the
    capacity.

    Args:
        capacity: of the vehicle, a whole number.
        column: of the items' features that has their demands, over the capacity; rounded to whole numbers here, so that
            sums are exact.
    """

    on_device = True
    num_features = 1

    def __init__(self, capacity: int, column: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}; it is what a vehicle carries.")
        self.capacity, self.column = capacity, column

    def start(self, observation: Tensor, samples: int) -> Route:
        demands = (observation[..., self.column] * self.capacity).round().unsqueeze(1)
        visited = demands.new_zeros((len(demands), samples, demands.shape[-1]), dtype=torch.bool)
        return demands, visited, demands.new_full((len(demands), samples), float(self.capacity))

    def allowed(self, state: Route, position: int) -> Tensor:
        demands, visited, left = state
        customers = ~visited[..., 1:] & (demands[..., 1:] <= left.unsqueeze(-1))
        depot = (left < self.capacity) | visited[..., 1:].all(-1)
        return torch.cat((depot.unsqueeze(-1), customers), dim=-1)

    def advance(self, state: Route, position: int, token: Tensor) -> Route:
        demands, visited, left = state
        load = left - demands.expand(*token.shape, -1).gather(-1, token.unsqueeze(-1))[..., 0]
        return demands, visited.scatter(-1, token.unsqueeze(-1), True), torch.where(token == 0, self.capacity, load)

    def features(self, state: Route, position: int) -> Tensor:
        return state[2].unsqueeze(-1) / self.capacity


class VisitWithin(CodeMask):
    """Codes that are places on a tour from the depot, token 0, and back, which is not longer than it may be.

    A place may come next from where the way home is still possible; each comes once at most, and behind the depot
    nothing but the depot, with probability 1. The state is (distances [B, 1, V, V], what was visited [B, K, V], the
    length that is left [B, K], where the tour is [B, K]); the policy sees the length, over all of it.

    Args:
        length: of a tour, at most. Coordinates are the first two of an item's features.
    """

    on_device = True
    num_features = 1

    def __init__(self, length: float) -> None:
        if not length > 0.0:
            raise ValueError(f"length must be > 0, got {length}; it is how long a tour may be.")
        self.length = length

    def start(self, observation: Tensor, samples: int) -> Tour:
        places = observation[..., :2]
        distances = (places.unsqueeze(1) - places.unsqueeze(2)).norm(dim=-1).unsqueeze(1)
        visited = places.new_zeros((len(places), samples, places.shape[1]), dtype=torch.bool)
        left = places.new_full((len(places), samples), self.length)
        return distances, visited, left, torch.zeros_like(left, dtype=torch.int64)

    def allowed(self, state: Tour, position: int) -> Tensor:
        distances, visited, left, _ = state
        reached = self._from_here(state) + distances[..., 0] <= left.unsqueeze(-1)
        places = reached & ~visited & ~visited[..., :1]
        return torch.cat((torch.ones_like(places[..., :1]), places[..., 1:]), dim=-1)

    def advance(self, state: Tour, position: int, token: Tensor) -> Tour:
        distances, visited, left, _ = state
        step = self._from_here(state).gather(-1, token.unsqueeze(-1))
        return distances, visited.scatter(-1, token.unsqueeze(-1), True), left - step[..., 0], token

    def features(self, state: Tour, position: int) -> Tensor:
        return state[2].unsqueeze(-1) / self.length

    def _from_here(self, state: Tour) -> Tensor:
        """Distances of all places from where the tour is. [B, K, V]."""
        return state[0].take_along_dim(state[3][..., None, None], 2)[:, :, 0]
