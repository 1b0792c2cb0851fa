"""The one form in which every data set reaches the training loop, and the splits that it lacks."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.columns import Columns
from daps_rl.data.errors import DataError
from daps_rl.data.pixels import Arrays
from daps_rl.data.stream import ImageStream, Stream

SPLITS = ("train", "validation", "test")
LABELS = tuple(f"{split}_labels" for split in SPLITS)
TARGETS = tuple(f"{split}_targets" for split in SPLITS)
LIKELIHOODS = ("bernoulli", "gaussian", "fixed_gaussian", "columns", "fixed_columns")
SPLIT_SEED = 0
MEAN_AT_ONCE = 2**23  # features
HELD_OUT_SHARE = 10  # a split that is not given is one tenth of train
SPELLINGS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Splits:
    """A data set: three splits, labels where there are any, and what the values are like.

    `splits["train"]` is `splits.train`, and `dict(splits)` holds every tensor there is. Two data sets are compared
    by `fingerprint()`, not by `==`.

    Args:
        name: what messages and reports call the data set.
        train, validation, test: float32, finite, as the model takes them. [N, ...], images [N, C, H, W]. Tensors, or
            streams where memory may not hold them all.
        train_labels, validation_labels, test_labels: int64 classes, or None. [N].
        train_targets, validation_targets, test_targets: what is scored in the datum's place, where the one who scores
            knows more than the policy sees; or None. [N, ...].
        likelihood: which of `LIKELIHOODS` suits the values: "bernoulli" for 0 and 1, "fixed_gaussian" for grey values
            in [0, 1], "gaussian" (a learned variance) for any other real values, "columns" or "fixed_columns" for those
            of a kind that has `columns`.
        value_range: lowest and highest value, the peak of PSNR.
        given_shape: of a datum as it was given, before an axis was added or moved; None if it is unknown.
        kind: how data are measured, shown, read and written; if None `Arrays`, of the value range and given shape.
    Raises:
        DataError: a tensor, its labels, the likelihood or the range does not fit the above.
    """

    name: str
    train: Tensor | Stream
    validation: Tensor | ImageStream
    test: Tensor | ImageStream
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    test_labels: Tensor | None = None
    train_targets: Tensor | None = None
    validation_targets: Tensor | None = None
    test_targets: Tensor | None = None
    likelihood: str
    value_range: tuple[float, float] = (0.0, 1.0)
    given_shape: Any = None  # tuple[int, ...] | None, which mypy would expect of **tensors too
    kind: Any = None  # a Kind, once constructed

    def __post_init__(self) -> None:
        if self.kind is None:
            given = None if self.given_shape is None else tuple(self.given_shape)
            object.__setattr__(self, "kind", Arrays(value_range=self.value_range, given_shape=given))
        for split in SPLITS:
            self._check_split(split)
        if self.likelihood not in LIKELIHOODS:
            known = ", ".join(LIKELIHOODS)
            raise DataError(f"{self.name}: likelihood must be one of {known}, got {self.likelihood!r}; choose one")
        if bool(self.kind.columns) is not self.likelihood.endswith("columns"):
            raise DataError(
                f"{self.name}: likelihood must be columns or fixed_columns for a kind with columns, and for no other, "
                f"got {self.likelihood!r}; choose another"
            )

    def _check_split(self, split: str) -> None:
        data: Tensor | Stream = getattr(self, split)
        labels: Tensor | None = getattr(self, f"{split}_labels")
        where = f"{self.name}: {split}"
        if not isinstance(data, Stream if split == "train" else ImageStream):
            if not isinstance(data, Tensor) or data.dtype != torch.float32:
                got = str(data.dtype) if isinstance(data, Tensor) else type(data).__name__
                raise DataError(
                    f"{where} must be a float32 tensor, got {got}; convert it, or use daps_rl.data.from_arrays"
                )
            check_values(where, data)
            if self.kind.columns:
                Columns(self.kind.columns).check(data, where)
        if data.shape[1:] != self.train.shape[1:]:
            raise DataError(
                f"{where} must hold data of shape {list(self.train.shape[1:])} as train does, "
                f"got {list(data.shape[1:])}; give all splits one shape"
            )
        targets = self.targets(split)
        if targets is not None and (isinstance(self.train, Stream) or targets.shape[:1] != data.shape[:1]):
            raise DataError(
                f"{where}_targets must be one for each of {data.shape[0]} data in memory, got shape "
                f"{list(targets.shape)}; give as many, or None"
            )
        if (targets is None) != (self.train_targets is None):
            raise DataError(f"{self.name}: all splits must have targets or none, got some; give {where}_targets")
        if labels is None:
            return
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != data.shape[:1]:
            got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise DataError(
                f"{where}_labels must be an int64 tensor of shape [{data.shape[0]}], one label for each datum, "
                f"got {got}; give one class number for each, or None"
            )

    @property
    def title(self) -> str:
        """What pictures call the data set: its name, of a whole path the last part."""
        return Path(self.name).name if Path(self.name).is_absolute() else self.name

    @property
    def observation_shape(self) -> torch.Size:
        """Shape of one datum, without the leading N."""
        return self.train.shape[1:]

    def mean(self) -> Tensor:
        """Mean of what is scored in training, where a decoder starts; of columns, of what `Columns` makes of them."""
        if isinstance(self.train, Stream) or not self.kind.columns:
            return self.train.mean(0)
        scored, columns = self.train if self.train_targets is None else self.train_targets, Columns(self.kind.columns)
        features = scored[0].numel() // columns.width * columns.features
        parts = scored.split(max(1, MEAN_AT_ONCE // features))
        sums = [columns(x).sum(0, dtype=torch.float64) for x in parts]
        return torch.stack(sums).sum(0).div(len(scored)).float()

    def targets(self, split: str) -> Tensor | None:
        """What is scored instead of a split's data, or None. [N, ...]."""
        targets: Tensor | None = getattr(self, f"{split}_targets")
        return targets

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors there are: the three splits, then the labels and targets of those that have them."""
        return tuple(name for name in SPLITS + LABELS + TARGETS if getattr(self, name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"{self.name} has no {name!r}; it has {', '.join(self.keys())}")
        return getattr(self, name)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split}={list(self[split].shape)}" for split in SPLITS)
        return f"Splits({self.name!r}, {counts}, likelihood={self.likelihood!r}, value_range={self.value_range})"

    def unreadable_files(self) -> list[str]:
        """Names of the files that were skipped so far, of data that are decoded as they are needed."""
        streams = (self[split] for split in SPLITS)
        return sorted({name for stream in streams if isinstance(stream, Stream) for name in stream.corrupt.found})

    def fingerprint(self) -> str:
        """SHA-256 of shape, dtype and bytes of the three splits: a resumed run notices data that changed.

        Of a stream: names and sizes of its files and what is done to them, as reading every file would take too long.
        Labels are left out: verdicts alone ask for them.
        """
        digest = hashlib.sha256()
        for split in SPLITS:
            if isinstance(self[split], Stream):
                digest.update(f"{split} stream;".encode())
                for item in self[split].identity():
                    digest.update(f"{item}\n".encode(errors="surrogateescape"))
                continue
            data = self[split].detach().cpu().contiguous()
            digest.update(f"{split} {list(data.shape)} {data.dtype};".encode())
            digest.update(data.numpy().data)
            targets = self.targets(split)
            if targets is not None:
                digest.update(f"{split} targets;".encode())
                digest.update(targets.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


def check_values(where: str, data: Tensor) -> None:
    """Refuses data that are not [N, ...], that are empty, or that hold NaN or infinity."""
    if data.ndim < 2 or data.numel() == 0:
        raise DataError(
            f"{where} must have shape [N, ...] with at least one datum of at least one value, "
            f"got shape {list(data.shape)}; give one row for each datum"
        )
    low, high = torch.aminmax(data)  # both are NaN where any value is
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise DataError(f"{where} must be finite in float32, got NaN or infinity; remove or replace such values")


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
