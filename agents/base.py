"""The interface of every agent: a policy over codes that learns from rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

Score = Callable[[Tensor, Tensor], Tensor]
"""(codes [B, K, T], their log-probability [B, K]) → rewards [B, K], in nats; one evaluation of the decoder."""


class AgentLoss(NamedTuple):
    """One gradient step's loss, then what was drawn for it, detached."""

    loss: Tensor  # 0-dim
    codes: Tensor  # [B, K, T]
    metrics: dict[str, Tensor]  # 0-dim each: ESS (fraction of K), temperature and entropy (nats)


class Agent(nn.Module):
    """A learner. The training loop calls `losses` once per batch and takes a gradient step for each loss it yields.

    Args:
        policy: maps observations [B, *x] to a distribution over codes, batch shape [B], event shape [T].
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        """Draws codes, asks for their rewards, and yields the losses to descend, one gradient step each.

        Args:
            observation: a batch of data. [B, *x].
            score: gives the reward of codes; call it once.
            floor: β as it is now, the floor of a temperature. 0-dim.
        """
        raise NotImplementedError
