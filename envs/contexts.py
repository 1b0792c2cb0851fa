"""Contexts drawn by a generator: the same ones everywhere.

Splits are drawn apart. Where there are few different contexts (short prompts), some occur in several splits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from daps_rl.data import Splits

TRAIN, HELD_OUT = 100_000, 1_000
SEEDS = {"train": 1, "validation": 2, "test": 3}

Draw = Callable[[int, torch.Generator], Tensor]


def random_splits(name: str, draw: Draw, *, train: int = TRAIN, held_out: int = HELD_OUT) -> Splits:
    """Three splits of one distribution, each from a seed of its own.

    Args:
        name: of the problem.
        draw: contexts [N, *x], of a count and a generator.
        train, held_out: how many of them.
    """
    parts = {
        split: draw(train if split == "train" else held_out, torch.Generator().manual_seed(seed)).float()
        for split, seed in SEEDS.items()
    }
    low, high = (bound.item() for bound in torch.aminmax(parts["train"]))
    return Splits(name=name, **parts, likelihood="gaussian", value_range=(low, max(high, low + 1.0)))
