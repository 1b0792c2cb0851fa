"""MaxCut: parting the vertices of a weighted graph in two, so that the edges between weigh most."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from daps_rl.envs.problem import Constant, DiscreteProblem
from daps_rl.envs.search import Search
from daps_rl.functional.checks import in_full_precision
from daps_rl.policies import CodeMask

# Of those that were tried, the mean fields whose sides cut nearly best: 2.5 down to 0.3 in few iterations.
TEMPERATURES = tuple(2.5 - 2.2 * i / 15 for i in range(16))
DAMPING = 0.2


class Sides(CodeMask):
    """Any side for any vertex; tells the policy what the next one's side does to the cut.

    The observation is the matrix of weights, [B, n, n]. Told are the next vertex's pull, which is the weight of its
    edges to the vertices on side 1 less that to side 0, and how much more is cut with it on side 1 than on side 0 if
    the vertices that are undecided then follow their mean field.

    The mean field, once for either side: every undecided vertex has a mean side in -1 … 1, made of the others' means by
    damped iteration, of cuts with probability ∝ exp(cut / temperature) with the decided vertices as they are, while the
    temperature falls through `TEMPERATURES`. It begins at the means of the side that the last decision took.

    The state is (weights [B, 1, n, n], the pull of all vertices [B, K, n], the undecided vertices' means with the next
    one on side 0 and 1 [B, K, 2, n-t-1], what is cut then [B, K, 2], but for what is the same for both).
    """

    num_features = 2

    def start(self, observation: Tensor, samples: int) -> tuple[Tensor, ...]:
        pull = observation.new_zeros(len(observation), 1, observation.shape[-1])
        weights, *of_codes = self._look_ahead(observation.unsqueeze(1), pull, pull[..., 1:], 0)
        return weights, *(value.expand(-1, samples, *value.shape[2:]) for value in of_codes)  # all begin alike

    def allowed(self, state: tuple[Tensor, ...], position: int) -> Tensor:
        _, pull, _, _ = state
        return torch.ones((*pull.shape[:2], 2), dtype=torch.bool, device=pull.device)

    def advance(self, state: tuple[Tensor, ...], position: int, token: Tensor) -> tuple[Tensor, ...]:
        weights, pull, means, _ = state
        pull = pull + (2 * token - 1).unsqueeze(-1) * weights[..., position]
        taken = torch.where(token[..., None].bool(), means[:, :, 1], means[:, :, 0])
        return self._look_ahead(weights, pull, taken[..., 1:], position + 1)

    def features(self, state: tuple[Tensor, ...], position: int) -> Tensor:
        _, pull, _, cut = state
        return torch.stack((pull[..., position], cut[..., 1] - cut[..., 0]), dim=-1)

    def _look_ahead(self, weights: Tensor, pull: Tensor, means: Tensor, position: int) -> tuple[Tensor, ...]:
        """The state before a position, of the means [B, K, n-t-1] of the vertices after it so far."""
        later = slice(position + 1, None)
        among = weights[:, 0, later, later]
        sides = 2 * torch.arange(2, device=weights.device, dtype=weights.dtype)[:, None] - 1
        given = pull[..., None, later] + sides * weights[..., position, None, later]  # [B, K, 2, n-t-1]
        means = means.unsqueeze(2).expand_as(given)

        def field(means: Tensor) -> Tensor:
            return given + in_full_precision(torch.matmul, means.flatten(1, 2), among).view(given.shape)

        for temperature in TEMPERATURES:
            means = torch.lerp(torch.tanh(field(means) / (-2.0 * temperature)), means, DAMPING)
        cut = -(means * (field(means) + given)).sum(-1) / 4.0 - sides[:, 0] * pull[..., position, None] / 2.0
        return weights, pull, means, cut


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
        "beta_start": 0.04, "beta_end": 0.01, "learning_rate": 2e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 20) -> None:
        if size < 2:
            raise ValueError(f"a cut needs at least 2 vertices, got {size}.")
        self.name = f"maxcut{size}"
        self.num_tokens, self.vocab_size = size, 2

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        weights = torch.rand(count, self.num_tokens, self.num_tokens, generator=generator)
        upper = weights.mul(2.0).sub(1.0).triu(1)
        return upper + upper.transpose(1, 2)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        # The weight between is Σ_i<j w_ij (1 − s_i s_j) / 2 with sides s = ±1.
        side = 2.0 * codes - 1.0  # [B, K, n]
        within = ((side @ target.squeeze(1)) * side).sum(-1)
        return (target.sum((-2, -1)) - within) / (4.0 * self.num_tokens)

    def policy_options(self) -> dict[str, Any]:
        return {"token_sizes": first_fixed(self.num_tokens), "mask": Sides()}


class OneCut(Search):
    """`MaxCut` of one graph, always the same: a search without a context.

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
        self.weights = Constant(self.graphs.contexts(1, torch.Generator().manual_seed(seed))[0])

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        return self.graphs.reward(self.weights.on(codes.device), codes)

    def policy_options(self) -> dict[str, Any]:
        return {"token_sizes": first_fixed(self.num_tokens)}


def first_fixed(size: int) -> list[int]:
    """How many sides each vertex may take: the first one's is a matter of names."""
    return [1] + [2] * (size - 1)
