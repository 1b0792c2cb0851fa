"""A reward in the decoder's place: what is to be learned is a decision, and nobody reconstructs anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

RewardFn = Callable[[Tensor, Tensor], Tensor]


class RewardDistribution(Distribution):
    """What a `RewardDecoder` makes of codes: `log_prob(y)` is the reward of the codes for a context y.

    It is a distribution in form only: nothing integrates to one, and there is neither mean nor sample.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, reward_fn: RewardFn, codes: Tensor, event_shape: torch.Size) -> None:
        self.reward_fn, self.codes = reward_fn, codes
        super().__init__(codes.shape[:-1], event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Raises NotImplementedError: there is none."""
        raise NotImplementedError("a decision reconstructs nothing; this problem has a reward in the decoder's place.")

    @torch.no_grad()
    def log_prob(self, value: Tensor) -> Tensor:
        """The reward; batch shapes of codes and contexts are broadcast. [..., *y] → [...], float32."""
        codes, dims = self.codes, len(self.event_shape)
        batch = value.shape[: value.ndim - dims]
        if len(batch) == 2 and batch[1] == 1 and codes.ndim == 3 and len(codes) == batch[0]:
            return self._reward(value, codes)
        shape = torch.broadcast_shapes(batch, codes.shape[:-1])
        value = value.expand(*shape, *self.event_shape).reshape(-1, 1, *self.event_shape)
        return self._reward(value, codes.expand(*shape, -1).reshape(-1, 1, codes.shape[-1])).view(shape)

    def _reward(self, value: Tensor, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):  # a reward is as exact as its author wrote it
            reward = self.reward_fn(value, codes)
        if reward.shape != codes.shape[:-1]:
            raise ValueError(
                f"a reward must be [B, K] = {tuple(codes.shape[:-1])} for codes [B, K, T], got shape "
                f"{tuple(reward.shape)}; sum over the tokens."
            )
        return reward.float()


class RewardDecoder(nn.Module):
    """Scores codes [..., T] by any function, differentiable or not. It has no weights and reconstructs nothing.

    Args:
        reward_fn: of contexts [B, 1, *y] and codes [B, K, T], gives [B, K].
        num_tokens, vocab_size: T and V.
        target_shape: of one y: an observation, or what the reward knows in its place.
        on_device: the function reads no number of the host that changes and asks none of the device, so that a GPU may
            record a step with it.
    """

    def __init__(
        self,
        reward_fn: RewardFn,
        num_tokens: int,
        vocab_size: int,
        target_shape: tuple[int, ...],
        *,
        on_device: bool = False,
    ) -> None:
        super().__init__()
        self.reward_fn, self.on_device = reward_fn, on_device
        self.num_tokens, self.vocab_size, self.target_shape = num_tokens, vocab_size, torch.Size(target_shape)

    def forward(self, codes: Tensor) -> RewardDistribution:
        if torch.is_floating_point(codes) or codes.shape[-1] != self.num_tokens:
            raise ValueError(
                f"a decision is integers [..., {self.num_tokens}], got {codes.dtype} of shape {tuple(codes.shape)}; "
                "agents that send gradients through a decoder have none here: use daps, or another that learns from "
                "rewards."
            )
        return RewardDistribution(self.reward_fn, codes, self.target_shape)
