"""Priors p(z): modules that give, called without arguments, a distribution of event shape [T] and no batch shape.

Learned ones give p(z|y), called with labels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from daps_rl.policies.factorized import UniformCodes, UniformPrior
from daps_rl.priors.learned import AutoregressivePrior, IndependentPrior, LearnedPrior
from daps_rl.priors.mixture import MixtureCodes

__all__ = [
    "AutoregressivePrior",
    "IndependentPrior",
    "LearnedPrior",
    "MixtureCodes",
    "NormalPrior",
    "UniformCodes",
    "UniformPrior",
]


class NormalPrior(nn.Module):
    """Standard normal prior of continuous latents [T, E]: called without arguments, gives the distribution."""

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self._zeros = nn.Buffer(torch.zeros(num_tokens, embed_dim), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self._zeros, torch.ones_like(self._zeros), validate_args=False), 2)
