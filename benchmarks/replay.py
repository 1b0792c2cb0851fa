"""SB3's DAPS that learns from its last rollouts together, each around the policy that drew it; not in the package."""

from __future__ import annotations

import torch

from daps_rl.agents.sb3 import DAPS
from daps_rl.agents.sb3.rollouts import Batch, Groups, WholeBatch

ROLLOUTS = 4


class Replay(DAPS):
    """Keeps the last `ROLLOUTS` rollouts. For policies of SB3's own and array observations, on a CPU."""

    kept: tuple[Batch, ...] = ()

    @property
    def _form(self) -> Groups | WholeBatch:
        return _WholeBatch() if self.samples_per_context is None else _Groups(self.samples_per_context)


class _WholeBatch(WholeBatch):
    def batch(self, algorithm: Replay) -> Batch:  # type: ignore[override]  # its own algorithm's
        return _joined(algorithm, super().batch(algorithm), of_scores=1)


class _Groups(Groups):
    def batch(self, algorithm: Replay) -> Batch:  # type: ignore[override]  # its own algorithm's
        new = super().batch(algorithm)
        ones = torch.ones(new.log_prob.numel(), dtype=torch.int64)  # actions of each, where an episode is one
        return _joined(algorithm, new._replace(lengths=ones if new.lengths is None else new.lengths), of_scores=0)


def _joined(algorithm: Replay, new: Batch, of_scores: int) -> Batch:
    """The batch of the last rollouts: scores and log-probabilities stay those of their time."""
    algorithm.kept = (*algorithm.kept, new)[-ROLLOUTS:]
    observations, actions, log_prob, score, returns, lengths = zip(*algorithm.kept, strict=True)
    return Batch(
        *(torch.cat(part) for part in (observations, actions, log_prob)),
        torch.cat(score, of_scores),
        torch.cat(returns),
        None if new.lengths is None else torch.cat(lengths),
    )
