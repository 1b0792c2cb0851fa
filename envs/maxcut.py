"""MaxCut: parting the vertices of a weighted graph in two, so that the edges between weigh most."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from daps_rl.data import Splits
from daps_rl.envs.contexts import random_splits
from daps_rl.envs.problem import Constant, DiscreteProblem
from daps_rl.envs.search import Search
from daps_rl.functional.checks import in_full_precision
from daps_rl.policies import CodeMask

ITERATIONS, TEMPERATURE = 16, 0.6  # of the mean field: of few that were tried, those whose signs cut best


class Sides(CodeMask):
    """Any side for any vertex; tells the policy what the next one's side does to the cut, and what it may do later.

    The observation is the matrix of weights, [B, n, n]. The state is (it [B, 1, n, n], the weight of every vertex's
    edges to the vertices on side 1 less that to side 0, its pull [B, K, n], the mean sides -1 … 1 of those that are
    undecided [B, K, n - t]). Told are the next vertex's pull; twice how much more its later neighbours would add to the
    cut, each on its better side, with it on side 1 than on side 0; and the log-odds of side 1 in the mean field.

    The mean field is that of cuts with probability ∝ exp(cut / TEMPERATURE), with the decided vertices as they are:
    each mean is what the others' means make of it, by damped iteration from the means before the last decision.
    """

    num_features = 3

    def start(self, observation: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        weights = observation.unsqueeze(1)
        pull = observation.new_zeros(len(observation), samples, observation.shape[-1])
        return weights, pull, pull

    def allowed(self, state: tuple[Tensor, Tensor, Tensor], position: int) -> Tensor:
        _, pull, _ = state
        return torch.ones((*pull.shape[:2], 2), dtype=torch.bool, device=pull.device)

    def of(self, observation: Tensor, codes: Tensor) -> Tensor:
        return torch.ones((*codes.shape, 2), dtype=torch.bool, device=codes.device)

    def advance(
        self, state: tuple[Tensor, Tensor, Tensor], position: int, token: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, pull, means = state
        pull = pull + (2.0 * token - 1.0).unsqueeze(-1) * weights[..., position]
        later, means = slice(position + 1, None), means[..., 1:]
        for _ in range(ITERATIONS):
            field = pull[..., later] + in_full_precision(torch.matmul, means, weights[:, 0, later, later])
            means = (means + torch.tanh(-field / (2.0 * TEMPERATURE))) / 2.0
        return weights, pull, means

    def features(self, state: tuple[Tensor, Tensor, Tensor], position: int) -> Tensor:
        weights, pull, means = state
        later, edges = pull[..., position + 1 :], weights[:, :, position, position + 1 :]
        ahead = ((later + edges).abs() - (later - edges).abs()).sum(-1)
        field = pull[..., position] + (edges * means[..., 1:]).sum(-1)
        return torch.stack((pull[..., position], ahead, -field / TEMPERATURE), dim=-1)


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

    on_device = True
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 3, "num_code_layers": 1, "batch_size": 64, "samples": 8,
        "beta_start": 0.04, "beta_end": 0.022, "learning_rate": 2e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 20) -> None:
        if size < 2:
            raise ValueError(f"a cut needs at least 2 vertices, got {size}.")
        self.name = f"maxcut{size}"
        self.num_tokens, self.vocab_size = size, 2

    def splits(self) -> Splits:
        return random_splits(self.name, lambda count, generator: random_weights(count, self.num_tokens, generator))

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        # The weight between is Σ_i<j w_ij (1 − s_i s_j) / 2 with sides s = ±1.
        side = 2.0 * codes - 1.0  # [B, K, n]
        within = ((side @ target.squeeze(1)) * side).sum(-1)
        return (target.sum((-2, -1)) - within) / (4.0 * self.num_tokens)

    def policy_options(self) -> dict[str, Any]:
        return {"token_sizes": self.token_sizes(), "mask": Sides()}

    def token_sizes(self) -> list[int]:
        """The first vertex's side is a matter of names."""
        return [1] + [2] * (self.num_tokens - 1)


class OneCut(Search):
    """MaxCut of one graph, always the same: a search without a context.

    Action:
        n bits: the side of each vertex.
    Reward:
        the weight of the edges between the sides, over n; weights are uniform in [-1, 1].
    Optimum:
        all 2^(n-1) cuts, up to n = 32 (`python benchmarks/optima.py`).

    Args:
        size: n.
        seed: of the weights.
    Raises:
        ValueError: n is not in 2 … 32.
    """

    on_device = True

    def __init__(self, size: int = 30, *, seed: int = 0) -> None:
        if not 2 <= size <= 32:
            raise ValueError(f"size must lie in 2 … 32, got {size}; of larger graphs no best cut can be looked up.")
        self.graphs = MaxCut(size)
        self.name = f"cut{size}" + (f"-seed{seed}" if seed else "")  # optima go by name
        self.num_tokens, self.vocab_size = size, 2
        self.weights = Constant(random_weights(1, size, torch.Generator().manual_seed(seed))[0])

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        return self.graphs.reward(self.weights.on(codes.device), codes)

    def policy_options(self) -> dict[str, Any]:
        return {"token_sizes": self.graphs.token_sizes()}


def random_weights(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Symmetric matrices, uniform in [-1, 1], with zeros on the diagonal. [count, size, size]."""
    upper = torch.rand(count, size, size, generator=generator).mul(2.0).sub(1.0).triu(1)
    return upper + upper.transpose(1, 2)
