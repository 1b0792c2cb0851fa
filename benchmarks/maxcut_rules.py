"""What rules without any learning make of maxcut20: the marks that a learned policy of it is to be held to.

    python benchmarks/maxcut_rules.py

The first two decide one vertex after another, in the given order, by what the policy is told (`daps_rl.envs.maxcut`).
Rows hold the mean gap to the best cut on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import write_row
from torch import Tensor

from daps_rl.envs import find_problem
from daps_rl.envs.maxcut import Sides


def one_after_another(weights: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """Sides 0 and 1 of all vertices, [B, n]: 1 where the rule is positive of what is told of a vertex, [B, 2] → [B]."""
    mask, sides = Sides(), []
    state = mask.start(weights, 1)
    for vertex in range(weights.shape[1]):
        if sides:
            state = mask.advance(state, vertex - 1, sides[-1].unsqueeze(1))
        sides.append((rule(mask.features(state, vertex)[:, 0]) > 0.0).long())
    return torch.stack(sides, dim=-1)


def improved(weights: Tensor, sides: Tensor) -> Tensor:
    """Changes the vertex that gains most, as long as one gains."""
    rows, signs = torch.arange(len(sides)), 2.0 * sides - 1.0
    while True:
        gain, vertex = (signs * (weights @ signs.unsqueeze(-1)).squeeze(-1)).max(-1)
        if not (gain > 1e-6).any():
            return (signs > 0.0).long()
        signs[rows, vertex] *= torch.where(gain > 1e-6, -1.0, 1.0)


def main() -> None:
    problem = find_problem("maxcut20")
    weights, best = problem.splits().validation, problem.optimum("validation")
    assert best is not None
    spectral = (torch.linalg.eigh(weights).eigenvectors[..., 0] > 0.0).long()
    found = {
        "away from the decided neighbours": one_after_another(weights, lambda told: -told[:, 0]),
        "by the cut with the mean field of the later ones": one_after_another(weights, lambda told: told[:, 1]),
        "the least eigenvector's signs": spectral,
        "these, improved vertex by vertex": improved(weights, spectral),
    }
    for rule, sides in found.items():
        reward = problem.reward(weights.unsqueeze(1), sides.unsqueeze(1))[:, 0]
        write_row("maxcut_rules", {"rule": rule, "gap": ((best - reward) / best).mean().item()})


if __name__ == "__main__":
    main()
