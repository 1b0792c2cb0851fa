"""What rules without any learning make of maxcut20: the marks that a learnt policy of it is to be held to.

    python benchmarks/maxcut_rules.py

All but the last two decide one vertex after another, in the given order, as a policy does. Rows hold the mean gap to
the best cut on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import write_row
from torch import Tensor

from daps_rl.envs import find_problem

Rule = Callable[[Tensor, Tensor, int], Tensor]
ITERATIONS = 20


def one_after_another(weights: Tensor, rule: Rule) -> Tensor:
    """Sides ±1 of all vertices, [B, n], each by the sign of what the rule says of it, given those before (0: open)."""
    sides = torch.zeros(weights.shape[:2])
    for vertex in range(weights.shape[1]):
        sides[:, vertex] = torch.where(rule(weights, sides, vertex) >= 0.0, 1.0, -1.0)
    return sides


def pulled(weights: Tensor, sides: Tensor) -> Tensor:
    """What each vertex's edges to the decided ones weigh, to side 1 less to side -1. [B, n]."""
    return (weights @ sides.unsqueeze(-1)).squeeze(-1)


def away_from_its_neighbours(weights: Tensor, sides: Tensor, vertex: int) -> Tensor:
    return -pulled(weights, sides)[:, vertex]


def and_one_step_ahead(weights: Tensor, sides: Tensor, vertex: int) -> Tensor:
    """What `Sides` tells the policy: and each later neighbour then on its better side."""
    pull, edges = pulled(weights, sides), weights[:, vertex, vertex + 1 :]
    later = pull[:, vertex + 1 :]
    return ((later + edges).abs() - (later - edges).abs()).sum(-1) / 2.0 - pull[:, vertex]


def mean_field(weights: Tensor, sides: Tensor, vertex: int) -> Tensor:
    """The later vertices at the means that they have of one another, by iteration."""
    decided, means = torch.arange(weights.shape[1]) < vertex, sides
    for _ in range(ITERATIONS if vertex else 0):
        means = torch.where(decided, sides, (means + torch.tanh(-pulled(weights, means))) / 2.0)
    return means[:, vertex]


def improved(weights: Tensor, sides: Tensor) -> Tensor:
    """Changes the vertex that gains most, as long as one gains."""
    rows = torch.arange(len(sides))
    while True:
        gain, vertex = (sides * pulled(weights, sides)).max(-1)
        if not (gain > 1e-6).any():
            return sides
        sides = sides.clone()
        sides[rows, vertex] *= torch.where(gain > 1e-6, -1.0, 1.0)


def main() -> None:
    problem = find_problem("maxcut20")
    weights, best = problem.splits().validation, problem.optimum("validation")
    assert best is not None
    spectral = torch.linalg.eigh(weights).eigenvectors[..., 0].sign()
    found = {
        "away from the decided neighbours": one_after_another(weights, away_from_its_neighbours),
        "and one step ahead": one_after_another(weights, and_one_step_ahead),
        "mean field of the later ones": one_after_another(weights, mean_field),
        "the least eigenvector's signs": spectral,
        "these, improved vertex by vertex": improved(weights, spectral),
    }
    for rule, sides in found.items():
        reward = problem.reward(weights.unsqueeze(1), (sides > 0).long().unsqueeze(1))[:, 0]
        gap = ((best - reward) / best).mean().item()
        write_row("maxcut_rules", {"rule": rule, "gap": gap})


if __name__ == "__main__":
    main()
