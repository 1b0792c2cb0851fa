"""A policy over codes as a TorchRL actor that draws groups."""

from __future__ import annotations

from typing import ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.envs.utils import ExplorationType, exploration_type

from daps_rl.objectives.weights import read
from daps_rl.policies.distribution import Drawn, SampleShape, draw


class GroupDistribution(Distribution):
    """K codes per context as one distribution of batch shape [B, K, ...] and event shape [T].

    The base distribution has batch shape [B·...] and holds each encoded context once. `sample_dim` is the dimension of
    K in batch_shape.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, base: Distribution, batch_shape: torch.Size, sample_dim: int = 1) -> None:
        self.base, self.sample_dim = base, sample_dim
        self.samples = batch_shape[sample_dim]  # K
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    def _group(self, value: Tensor) -> Tensor:
        """[K, B·..., (T)] → [B, K, ..., (T)]."""
        contexts = [*self.batch_shape[: self.sample_dim], *self.batch_shape[self.sample_dim + 1 :]]
        return value.reshape(self.samples, *contexts, *value.shape[2:]).movedim(0, self.sample_dim)

    def sample(self, sample_shape: SampleShape = ()) -> Tensor:
        """Draws one code for each member of each group. [B, K, ..., T]."""
        if len(sample_shape):
            raise ValueError("a group has K codes already; sample it with an empty sample_shape.")
        return self._group(self.base.sample((self.samples,)))

    def draw(self) -> Drawn:
        """Draws codes [B, K, ..., T], and gives their log-probability [B, K, ...] in nats; without gradient."""
        return Drawn(*map(self._group, draw(self.base, (self.samples,))))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats. [B, K, ..., T] → [B, K, ...]."""
        return self._group(self.base.log_prob(value.movedim(self.sample_dim, 0).flatten(1, -2)))

    def entropy(self) -> Tensor:
        """Entropy of each member, in nats. [B, K, ...]."""
        return self._group(self.base.entropy().expand(self.samples, -1))

    @property
    def mode(self) -> Tensor:
        """Greedy codes, the same K times. [B, K, ..., T]."""
        return self._group(self.base.mode.expand(self.samples, -1, -1))

    @property
    def deterministic_sample(self) -> Tensor:
        """TorchRL's name for the mode."""
        return self.mode


class GroupActor(TensorDictModuleBase):
    """Encodes `observation[:, 0]` once and draws a group of K codes for it.

    Reads `observation` [B, K, ..., *x], whose K entries of a context are the same datum; writes `action`
    [B, K, ..., T] and `action_log_prob` [B, K, ...]. Under deterministic exploration it writes the greedy code.

    Args:
        policy: maps observations [B, *x] to a distribution of batch shape [B] and event shape [T].
        sample_dim: the dimension of the K codes of a context, counted from the front, as in `DAPSLoss`; 2 for the
            batches [W, B, K] of a `ParallelEnv`. When called, a batch without it, or whose entries along it are not one
            datum, raises a ValueError.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        in_key: str = "observation",
        action_key: str = "action",
        log_prob_key: str = "action_log_prob",
        sample_dim: int = 1,
    ) -> None:
        super().__init__()
        if sample_dim < 1:
            raise ValueError(f"sample_dim counts from the front, behind the contexts, and is >= 1; got {sample_dim}.")
        self.sample_dim, self.policy = sample_dim, policy
        self.in_keys, self.out_keys = [in_key], [action_key, log_prob_key]
        self.dist_sample_keys, self.log_prob_keys = [action_key], [log_prob_key]  # where TorchRL's losses look

    def get_dist(self, tensordict: TensorDictBase) -> GroupDistribution:
        """The policy at the batch's observations, as a distribution of the tensordict's batch size [B, K, ...]."""
        batch, dim = tensordict.batch_size, self.sample_dim
        if len(batch) <= dim:
            raise ValueError(
                f"a GroupActor needs a tensordict of batch size [B, K, ...], got {list(batch)}; "
                f"unsqueeze a group dimension, tensordict.unsqueeze({dim})."
            )
        observation = read(tensordict, self.in_keys[0], "name the key with GroupActor(in_key=...)")
        first = observation.select(dim, 0)  # [B, ..., *x]
        same_memory = observation.stride(dim) == 0 or batch[dim] == 1
        if not (same_memory or torch.compiler.is_compiling() or torch.equal(first, observation.select(dim, -1))):
            raise ValueError(
                f"the K entries of a context, along dimension {dim} of a batch {list(batch)}, must be one datum, and "
                "they differ; pass sample_dim=2 for a ParallelEnv's [W, B, K], or cat_results=0 to a collector."
            )
        return GroupDistribution(self.policy(first.flatten(0, len(batch) - 2)), batch, dim)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draws codes, without gradient."""
        action_key, log_prob_key = self.out_keys
        with torch.no_grad():
            distribution = self.get_dist(tensordict)
            if exploration_type() in (ExplorationType.MODE, ExplorationType.MEAN, ExplorationType.DETERMINISTIC):
                action = distribution.mode
                log_prob = distribution.log_prob(action)
            else:
                action, log_prob = distribution.draw()
        return tensordict.set(action_key, action).set(log_prob_key, log_prob)
