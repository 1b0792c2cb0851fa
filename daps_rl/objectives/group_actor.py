"""A policy over codes as a TorchRL actor that draws groups."""

from __future__ import annotations

from typing import ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.envs.utils import ExplorationType, exploration_type

from daps_rl.policies.checks import SampleShape


class GroupDistribution(Distribution):
    """K codes per context as one distribution of batch shape [B, K, ...] and event shape [T].

    The base distribution has batch shape [B·...] and holds each encoded context once.

    Args:
        base: distribution over codes, batch shape [B·...].
        batch_shape: [B, K, ...].
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, base: Distribution, batch_shape: torch.Size) -> None:
        self.base = base
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    def _ungroup(self, value: Tensor) -> Tensor:
        """[B, K, ..., T] → [K, B·..., T]."""
        return value.movedim(1, 0).flatten(1, -2)

    def _group(self, value: Tensor) -> Tensor:
        """[K, B·..., (T)] → [B, K, ..., (T)]."""
        b, k, *rest = self.batch_shape
        return value.reshape(k, b, *rest, *value.shape[2:]).movedim(0, 1)

    def _check_sample_shape(self, sample_shape: SampleShape) -> None:
        if len(sample_shape):
            raise ValueError("a group has K codes already; sample it with an empty sample_shape.")

    def sample(self, sample_shape: SampleShape = ()) -> Tensor:
        """Draws one code for each member of each group. [B, K, ..., T]."""
        self._check_sample_shape(sample_shape)
        return self._group(self.base.sample((self.batch_shape[1],)))

    def sample_with_log_prob(self, sample_shape: SampleShape = ()) -> tuple[Tensor, Tensor]:
        """Draws codes [B, K, ..., T], and gives their log-probability [B, K, ...] in nats; without gradient.

        One pass where the base distribution scores a code while it draws it, two where it does not.
        """
        if hasattr(self.base, "sample_with_log_prob"):
            self._check_sample_shape(sample_shape)
            action, log_prob = self.base.sample_with_log_prob((self.batch_shape[1],))
            return self._group(action), self._group(log_prob)
        with torch.no_grad():
            action = self.sample(sample_shape)
            return action, self.log_prob(action)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats. [B, K, ..., T] → [B, K, ...]."""
        return self._group(self.base.log_prob(self._ungroup(value)))

    def entropy(self) -> Tensor:
        """Entropy of each member, in nats. [B, K, ...]."""
        return self._group(self.base.entropy().expand(self.batch_shape[1], -1))

    @property
    def mode(self) -> Tensor:
        """Greedy codes, the same K times. [B, K, ..., T]."""
        return self._group(self.base.mode.expand(self.batch_shape[1], -1, -1))

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
        in_key, action_key, log_prob_key: keys of the tensordict.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        in_key: str = "observation",
        action_key: str = "action",
        log_prob_key: str = "action_log_prob",
    ) -> None:
        super().__init__()
        self.policy = policy
        self.in_keys, self.out_keys = [in_key], [action_key, log_prob_key]
        self.dist_sample_keys, self.log_prob_keys = [action_key], [log_prob_key]  # where TorchRL's losses look

    def get_dist(self, tensordict: TensorDictBase) -> GroupDistribution:
        """The policy at the batch's observations, as a distribution of the tensordict's batch size [B, K, ...]."""
        batch = tensordict.batch_size
        if len(batch) < 2:
            raise ValueError(
                f"a GroupActor needs a tensordict of batch size [B, K, ...], got {list(batch)}; "
                "unsqueeze a group dimension, tensordict.unsqueeze(1)."
            )
        observation = tensordict.get(self.in_keys[0])[:, 0]  # [B, ..., *x]
        return GroupDistribution(self.policy(observation.flatten(0, len(batch) - 2)), batch)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draws codes, without gradient."""
        action_key, log_prob_key = self.out_keys
        with torch.no_grad():
            distribution = self.get_dist(tensordict)
            if exploration_type() in (ExplorationType.MODE, ExplorationType.MEAN, ExplorationType.DETERMINISTIC):
                action = distribution.mode
                log_prob = distribution.log_prob(action)
            else:
                action, log_prob = distribution.sample_with_log_prob()
        return tensordict.set(action_key, action).set(log_prob_key, log_prob)
