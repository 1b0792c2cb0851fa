"""A folder of images, with or without folders for classes and splits; decoded when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import MAX_CORRUPT, DataError, MissingDataError
from daps_rl.data.images import stream_splits
from daps_rl.data.picture import SUFFIXES
from daps_rl.data.plain import walk_files
from daps_rl.data.splits import Splits, cut_missing, find_splits

IMAGE_SIZE = 64  # pixels: of folders and of the hub, unless image_size says otherwise


@dataclass(frozen=True)
class FolderImages:
    """A `Source`: image files. Paths are bytes in one array: a million of them cost no worker a copy."""

    root: str  # the folder
    paths: np.ndarray  # relative to it, bytes. [N]

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> str:
        return os.path.join(self.root, self.label(index))

    def label(self, index: int) -> str:
        return os.fsdecode(self.paths[index])

    def identity(self) -> Iterator[str]:
        """Relative path and size of every file; -1 for one that is gone."""
        for index in range(len(self)):
            try:
                size = os.stat(self.file(index)).st_size
            except OSError:
                size = -1
            yield f"{self.label(index)} {size}"

    def __getitem__(self, rows: Tensor) -> FolderImages:
        return FolderImages(self.root, self.paths[rows.numpy()])


def load_image_folder(folder: Path, *, image_size: int = IMAGE_SIZE, max_corrupt: int = MAX_CORRUPT) -> Splits:
    """Splits from a folder of images, as streams.

    Layout: images, or folders of classes with images; and either in folders `train`, `val` (or `validation`, `valid`)
    and `test`. Classes are numbered in the order of their names, and are there only if every training image is in one.
    Hidden files and files of other suffixes than `picture.SUFFIXES` are passed over. Grey if the images of the sample
    are all grey, else RGB.

    Raises:
        MissingDataError: the folder holds no images.
        DataError: it holds too few, classes that training lacks, or too many unreadable files.
    """
    files, labels = find_files(folder, SUFFIXES, "images")
    sources: dict[str, FolderImages] = {}
    for split, names in files.items():
        sources[split] = FolderImages(str(folder), np.array([os.fsencode(path) for path in names]))
    cut_missing(sources, labels, str(folder))
    return stream_splits(str(folder), sources, labels, size=image_size, max_corrupt=max_corrupt)


def find_files(
    folder: Path, suffixes: Sequence[str], what: str
) -> tuple[dict[str, list[str]], dict[str, Tensor | None]]:
    """Returns the paths below a folder of each split's files, and the classes of those in folders of classes.

    Args:
        folder: with files, or folders of classes with files, and either in folders for splits.
        suffixes: of the files, in lower case; others are passed over, hidden ones too.
        what: the files are, for messages: "images".
    Returns:
        paths relative to the folder by split, "train" and others that are there, in the order of their names; labels
        [N] by "train_labels" and so on, None unless every training file is in a folder of a class.
    Raises:
        MissingDataError: a split has no file.
        DataError: files are of classes that training lacks.
    """
    files = {split: _list_files(folder, below, suffixes) for split, below in _split_folders(folder).items()}
    empty = [split for split, names in files.items() if not names]
    if empty:
        raise MissingDataError(
            f"{folder} must hold {what} ({', '.join(suffixes)}) of {', '.join(empty)}, got none there"
        )
    classes = sorted({name for _, name in files["train"] if name is not None})
    labelled = all(name is not None for _, name in files["train"])
    paths, labels = {}, {}
    for split, names in files.items():
        paths[split] = [path for path, _ in names]
        labels[f"{split}_labels"] = _labels(folder, names, classes) if labelled else None
    return paths, labels


def _split_folders(folder: Path) -> dict[str, str]:
    """Where each split lies below the folder; all of it is for training if it has no folder `train`."""
    names = sorted(name for name in os.listdir(folder) if os.path.isdir(folder / name))  # False of a link to itself
    found = find_splits(names, str(folder), "folder")
    return found if "train" in found else {"train": ""}


def _list_files(folder: Path, below: str, suffixes: Sequence[str]) -> list[tuple[str, str | None]]:
    """Path below `folder` and class of each file of a split, in the order of their names."""
    top = os.path.join(folder, below)
    inside = sorted(path[len(top) :].lstrip(os.sep) for path in walk_files(top, suffixes))
    return [(os.path.join(below, path), path.split(os.sep)[0] if os.sep in path else None) for path in inside]


def _labels(folder: Path, names: list[tuple[str, str | None]], classes: list[str]) -> Tensor | None:
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    given = {label for _, label in names}
    if given == {None}:
        return None  # a flat test folder: nobody says which class
    unknown = sorted(str(label) for label in given - set(numbers))
    if unknown:
        raise DataError(
            f"{folder} must have every class in train, got {', '.join(unknown)} elsewhere; "
            "move such files, or add them to train"
        )
    return torch.tensor([numbers[label] for _, label in names])
