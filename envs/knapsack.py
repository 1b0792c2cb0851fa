"""The 0/1 knapsack: which items to take, so that they are worth most and weigh no more than the knapsack holds."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig
from daps_rl.envs.problem import DiscreteProblem
from daps_rl.policies import WithinCapacity

STEPS = 4096  # of a weight: sums of so many are exact in float32


class Knapsack(DiscreteProblem):
    """Values and weights uniform in (0, 1]; the knapsack holds a quarter of the items' number. Items come by density.

    Observation:
        [n, 2]: value and weight of every item, by value over weight, the largest first.
    Action:
        n bits: whether an item is taken.
    Reward:
        the value taken, over n / 4; of more than the knapsack holds minus the weight that is too much.
    Optimum:
        OR-tools' CP-SAT (`python benchmarks/optima.py`), exact.

    Args:
        size: n.
    """

    item_features = 2
    on_device = True
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 2, "num_code_layers": 1, "batch_size": 64, "samples": 8,
        "beta_start": 0.002, "beta_end": 2e-5, "learning_rate": 1e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 50) -> None:
        if size < 2:
            raise ValueError(f"a knapsack problem needs at least 2 items, got {size}.")
        self.name = f"knapsack{size}"
        self.num_tokens, self.vocab_size = size, 2
        self.capacity = size / 4
        self.mask = WithinCapacity(self.capacity, column=1)

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        shape = (count, self.num_tokens)
        values, weights = ((torch.randint(STEPS, shape, generator=generator) + 1) / STEPS for _ in range(2))
        order = (values / weights).argsort(-1, descending=True)
        return torch.stack((values.gather(-1, order), weights.gather(-1, order)), dim=-1)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        value, weight = (target * codes.unsqueeze(-1)).sum(-2).unbind(-1)  # [B, K] each
        excess = weight - self.capacity
        return torch.where(excess > 0.0, -excess, value) / self.capacity

    def make_policy(self, config: ModelConfig) -> nn.Module:
        if config.num_patches not in (0, self.num_tokens):
            raise ValueError(
                f"{self.name} has an item to each token, got num_patches {config.num_patches}; leave it out."
            )
        return super().make_policy(dataclasses.replace(config, num_patches=self.num_tokens))
