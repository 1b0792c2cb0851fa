"""The posterior of a deterministic encoder: all its mass on one code."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from daps_rl.policies.distribution import SampleShape


class PointCodes(Distribution):
    """All mass on one code per datum: batch shape [B], event shape [T]. What quantisers (VQ, FSQ) give.

    It has no density to learn from, and against a prior over codes no ELBO worth the name: `log_prob` raises.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes  # int64 [B, T]
        super().__init__(codes.shape[:-1], codes.shape[-1:], validate_args=False)

    def sample(self, sample_shape: SampleShape = ()) -> Tensor:
        """The code, as often as asked for. [*sample_shape, B, T]."""
        return self.codes.expand(*sample_shape, *self.codes.shape)

    @property
    def mode(self) -> Tensor:
        """The code. [B, T]."""
        return self.codes

    def log_prob(self, value: Tensor) -> Tensor:
        """Raises NotImplementedError: a point mass has no density."""
        raise NotImplementedError("a deterministic encoder has no log-probability; its KL and ELBO are not defined.")

    def entropy(self) -> Tensor:
        """Zero. [B]."""
        return torch.zeros(self.batch_shape, device=self.codes.device)
