"""Splits that a data set lacks, cut from its training data by a fixed seed."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.splits import SPLITS

SPLIT_SEED = 0
HELD_OUT_SHARE = 10  # a split that is not given is one tenth of train
SPELLINGS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def cut_missing(data: dict[str, Any], labels: dict[str, Tensor | None], name: str) -> None:
    """Adds each split that is missing: a tenth of train, labels along. The same rows for the same count.

    Args:
        data: by split; `data["train"][rows]` gives what a tensor of row numbers picks.
        labels: by "train_labels" and so on.
        name: of the data set.
    Raises:
        DataError: nothing would be left of train.
    """
    missing = [split for split in SPLITS if split not in data]
    if not missing:
        return
    train, train_labels = data["train"], labels.get("train_labels")
    size = max(1, len(train) // HELD_OUT_SHARE)
    left = len(train) - size * len(missing)
    if left <= 0:
        raise DataError(
            f"{name}: train must hold more than {size * len(missing)} data to cut {' and '.join(missing)} from, "
            f"got {len(train)}; add data, or give {' and '.join(missing)}"
        )
    # RandomState: numpy promises that its stream never changes.
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(train)))
    for split, rows in zip([*missing, "train"], order.split([size] * len(missing) + [left]), strict=True):
        data[split] = train[rows]
        labels[f"{split}_labels"] = None if train_labels is None else train_labels[rows]


def find_splits(names: Iterable[str], where: str, kind: str) -> dict[str, str]:
    """Which of these names, of folders or of a hub data set's parts, stands for which split; others stand for none."""
    found: dict[str, str] = {}
    for name in names:
        split = SPELLINGS.get(name.lower())
        if split in found:
            got = f"{found[split]} and {name}"
            raise DataError(f"{where} must have one {kind} for {split}, got {got}; join them, or leave one out")
        if split is not None:
            found[split] = name
    return found
