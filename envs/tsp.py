"""The travelling salesman: one round trip through n cities of the unit square, as short as possible."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from daps_rl.envs.problem import DiscreteProblem
from daps_rl.policies import VisitOnce


class TSP(DiscreteProblem):
    """Symmetric, Euclidean: cities uniform in the unit square, the same distribution in all splits.

    Observation:
        the cities' coordinates, [n, 2].
    Action:
        the cities in the order of the visit, a permutation; the trip begins at city 0, and returns there.
    Reward:
        minus the length of the round trip; of an order that is no permutation minus 2n, more than any trip is long.
    Optimum:
        Lin-Kernighan-Helsgaun (`python benchmarks/optima.py`), exact at these sizes for all practical purposes.

    Args:
        size: n.
    """

    item_features = 2
    on_device = True
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 3, "num_code_layers": 1, "aligned_patches": False, "batch_size": 64,
        "samples": 8, "beta_start": 0.01, "beta_end": 1e-4, "learning_rate": 1e-3, "minutes": 10.0,
    }  # fmt: skip

    def __init__(self, size: int = 20) -> None:
        if size < 3:
            raise ValueError(f"a round trip needs at least 3 cities, got {size}.")
        self.name = f"tsp{size}"
        self.num_tokens = self.vocab_size = size
        self.mask = VisitOnce(size, first=0)

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, self.num_tokens, 2, generator=generator)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        where = target.take_along_dim(codes.unsqueeze(-1), 2)  # [B, K, n, 2]
        length = (where - where.roll(-1, 2)).norm(dim=-1).sum(-1)  # [B, K]
        everywhere = torch.zeros_like(codes).scatter(-1, codes, 1).all(-1)
        return -torch.where(everywhere, length, 2.0 * self.num_tokens)

    def policy_options(self) -> dict[str, Any]:
        return {"pointer": True}
