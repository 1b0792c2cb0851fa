"""MaxCut: parting the vertices of a weighted graph in two, so that the edges between weigh most."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from daps_rl.data import Splits
from daps_rl.envs.contexts import random_splits
from daps_rl.envs.problem import DiscreteProblem


class MaxCut(DiscreteProblem):
    """Complete graphs with weights uniform in [-1, 1]: quadratic unconstrained binary optimisation in disguise.

    Observation:
        the symmetric matrix of weights, [n, n], with zeros on the diagonal.
    Action:
        n bits: the side of each vertex.
    Reward:
        the weight of the edges between the sides, over n.
    Optimum:
        all 2^(n-1) cuts, up to n = 22 (`python benchmarks/optima.py`).

    Args:
        size: n.
    """

    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 3, "num_code_layers": 1, "batch_size": 256, "samples": 8,
        "beta_start": 0.01, "beta_end": 1e-4, "learning_rate": 1e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 20) -> None:
        if size < 2:
            raise ValueError(f"a cut needs at least 2 vertices, got {size}.")
        self.name = f"maxcut{size}"
        self.num_tokens, self.vocab_size = size, 2

    def splits(self) -> Splits:
        def draw(count: int, generator: torch.Generator) -> Tensor:
            upper = torch.rand(count, self.num_tokens, self.num_tokens, generator=generator).mul(2.0).sub(1.0).triu(1)
            return upper + upper.transpose(1, 2)

        return random_splits(self.name, draw)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        # The weight between is Σ_i<j w_ij (1 − s_i s_j) / 2 with sides s = ±1.
        side = 2.0 * codes - 1.0  # [B, K, n]
        within = ((side @ target.squeeze(1)) * side).sum(-1)
        return (target.sum((-2, -1)) - within) / (4.0 * self.num_tokens)

    def policy_options(self) -> dict[str, Any]:
        return {"token_sizes": [1] + [2] * (self.num_tokens - 1)}  # the first vertex's side is a matter of names
