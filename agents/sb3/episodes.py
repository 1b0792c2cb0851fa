"""Which steps of a rollout belong to which episode, where environments that play at once end at different times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Episodes(NamedTuple):
    """The episodes of a rollout of L steps in N environments: E of them, N for each time that all began at once."""

    rows: np.ndarray  # [n], places among the L·N steps: those of the first episode, of the second, ...; int64
    lengths: np.ndarray  # [E], steps of each, all at least 1; int64
    step: np.ndarray  # [L, 1], steps since all environments began; int64

    def total(self, values: np.ndarray) -> np.ndarray:
        """Adds up a quantity of the steps over each episode. [L, N] → float64 [E]."""
        begins = self.lengths.cumsum() - self.lengths
        return np.add.reduceat(values.ravel()[self.rows].astype(np.float64), begins)


def find_episodes(starts: np.ndarray) -> Episodes:
    """Finds the episodes that began when all environments did, in the order of these times, then of environments.

    What an environment does between its own end and the time when all begin anew belongs to none.

    Args:
        starts: whether an episode begins with a step; True in the first row. bool [L, N].
    """
    begins = starts.all(1)
    play, first = begins.cumsum() - 1, np.flatnonzero(begins)  # [L], which time it is; [plays], its first step
    episode = starts.cumsum(0)  # [L, N], counted by environment
    step, env = np.nonzero(episode == episode[first][play])
    order = np.lexsort((step, env, play[step]))
    step, env = step[order], env[order]
    lengths = np.bincount(play[step] * starts.shape[1] + env)
    return Episodes(step * starts.shape[1] + env, lengths, (np.arange(len(starts)) - first[play])[:, None])
