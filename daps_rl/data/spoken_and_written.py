"""A spoken digit, a picture of the same digit, and which it is: one code for two senses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.digits import load_digits
from daps_rl.data.parts import Part, Parts, part_splits
from daps_rl.data.splits import SPLITS, Splits
from daps_rl.data.spoken_digits import load_spoken_digits

GIVEN = (("sound",), ("picture",), ("sound", "picture"))
"""What a policy sees of a datum, in turn: every datum stands three times in a split."""


def load_spoken_and_written(data_dir: Path | None = None, seconds: float | None = None) -> Splits:
    """Spoken digits, each with a handwritten picture of the same digit, 8 x 8, and its label; `Parts`.

    A clip of a split gets a picture of the same split, drawn by a fixed seed among those of its digit. The label is
    never shown to a policy.

    Args:
        data_dir, seconds: see `load_spoken_digits`.
    """
    spoken, written = load_spoken_digits(data_dir, seconds), load_digits()
    pictures: Tensor = written["train"]
    kind = Parts(
        parts=(
            Part(name="sound", shape=tuple(spoken.observation_shape), kind=spoken.kind),
            Part(
                name="picture",
                shape=tuple(written.observation_shape),
                mean=round(pictures.mean().item(), 3),
                deviation=round(pictures.std().item(), 3),
                kind=written.kind,
            ),
            Part(name="label", shape=(1,), entries="category:10"),
        )
    )
    data = {}
    for seed, split in enumerate(SPLITS):
        labels = spoken[f"{split}_labels"]
        chosen = written[split][_partners(labels, written[f"{split}_labels"], seed)]
        data[split] = {"sound": spoken[split], "picture": chosen, "label": labels[:, None]}
    return part_splits("spoken-and-written", kind, data, GIVEN)


def _partners(labels: Tensor, of_pictures: Tensor, seed: int) -> Tensor:
    """The number of a picture with each label. [N], [M] → [N]."""
    random = np.random.RandomState(seed)  # numpy promises that its stream never changes
    chosen = np.zeros(len(labels), dtype=np.int64)
    for digit in range(10):
        rows = np.flatnonzero(labels.numpy() == digit)
        chosen[rows] = random.choice(np.flatnonzero(of_pictures.numpy() == digit), len(rows))
    return torch.from_numpy(chosen)
