"""Splits that a data set lacks, cut from its training data by a fixed seed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError

SPLIT_SEED = 0
HELD_OUT_SHARE = 10  # a split that is not given is one tenth of train
SPELLINGS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def held_out(count: int, missing: Sequence[str], name: str) -> dict[str, Tensor]:
    """Which training data go into each missing split, a tenth of them each, and which stay in train.

    The same for the same count, whatever the global seeds are.

    Args:
        count: training data there are.
        missing: the splits to cut.
        name: of the data set.
    Returns:
        rows of each missing split and of "train", int64.
    Raises:
        DataError: nothing would be left.
    """
    size = max(1, count // HELD_OUT_SHARE)
    if count <= size * len(missing):
        raise DataError(
            f"{name}: train must hold more than {size * len(missing)} data to cut {' and '.join(missing)} from, "
            f"got {count}; add data, or give {' and '.join(missing)}"
        )
    # RandomState: numpy promises that its stream never changes.
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(count))
    rows = {split: order[i * size : (i + 1) * size] for i, split in enumerate(missing)}
    rows["train"] = order[size * len(missing) :]
    return rows


def split_of(name: str) -> str | None:
    """The split that a folder or a hub data set calls by that name; None if it names none."""
    return SPELLINGS.get(name.lower())
