"""Data sets of texts: a file, a folder of files, or a column of a hub data set, cut into windows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import MAX_CORRUPT, CorruptFiles, DataError
from daps_rl.data.folder import find_files
from daps_rl.data.hub import hub_splits, open_hub, read_hub_texts
from daps_rl.data.plain import open_plain
from daps_rl.data.splits import SPLITS, Splits
from daps_rl.data.text import END, MOST_BYTES, UNKNOWN, Text, as_text, cut

SUFFIXES = (".txt",)
WINDOW = 16  # symbols
MOST_CHARACTERS = 1024  # kinds of characters; rarer ones are unknown
BLOCKS = 100  # of a text, where it is long enough


def load_text_file(path: Path, *, window: int = WINDOW, symbols: str = "characters") -> Splits:
    """Splits of a text, see `text_splits`.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be used, or an option makes no sense.
    """
    return text_splits(str(path), {"train": [_read(path)]}, {}, window=window, symbols=symbols)


def load_text_folder(
    folder: Path, *, window: int = WINDOW, symbols: str = "characters", max_corrupt: int = MAX_CORRUPT
) -> Splits:
    """Splits of the texts below a folder, see `text_splits`; folders of classes and splits as `find_files` has them.

    A file that is empty, or no UTF-8 where that is needed, is skipped, up to `max_corrupt`.

    Raises:
        MissingDataError: the folder holds no texts.
        DataError: too many files cannot be used, or an option makes no sense.
    """
    files, labels = find_files(folder, SUFFIXES, "texts")
    corrupt, texts = CorruptFiles(str(folder), max_corrupt), {}
    for split, names in files.items():
        kept: list[tuple[int, bytes]] = []
        for index, name in enumerate(names):
            try:
                content = _read(folder / name)
                if symbols != "bytes":
                    as_text(content, name)
            except DataError as error:
                told = str(error).removeprefix(f"{folder / name} ").removeprefix(f"{name} ")
                corrupt.note({name: told}, exhausted=not kept and index == len(names) - 1)
            else:
                kept.append((index, content))
        texts[split] = [content for _, content in kept]
        if (classes := labels[f"{split}_labels"]) is not None:
            labels[f"{split}_labels"] = classes[[index for index, _ in kept]]
    return text_splits(str(folder), texts, labels, window=window, symbols=symbols)


def load_hub_texts(
    hub_id: str,
    *,
    text_column: str,
    hub_config: str | None = None,
    window: int = WINDOW,
    symbols: str = "characters",
) -> Splits:
    """Splits of a column of texts of a hub data set, see `text_splits`; its column of classes gives labels.

    Raises:
        HubError: there is no package for the hub, or no answer from it.
        DataError: there is no such column, it holds no texts, or an option makes no sense.
    """
    found = hub_splits(hub_id, open_hub(hub_id, name=hub_config))
    texts, labels = read_hub_texts(hub_id, found, text_column)
    return text_splits(hub_id, texts, labels, window=window, symbols=symbols)


def text_splits(
    name: str,
    texts: Mapping[str, Sequence[bytes]],
    labels: Mapping[str, Tensor | None],
    *,
    window: int = WINDOW,
    symbols: str = "characters",
) -> Splits:
    """Returns splits of windows that do not overlap, each text's last one filled up, with the text's label each.

    A split that is not given is a tenth of train: its windows, in the order of the texts, are cut into 100 blocks (10
    where there are few), every ninth of ten of which is for validation and every tenth for test. So no window has its
    neighbours in another split, but for those at the blocks' ends, and the splits are alike.

    The vocabulary of characters is that of train, at most its 1,024 most frequent ones; others become one unknown
    symbol, which is said.

    Args:
        name: of the data set.
        texts: by split, "train" at least; UTF-8 unless symbols are bytes.
        labels: int64 by "train_labels" and so on, one a text, or None.
        window, symbols: see `daps_rl.data.load`.
    Raises:
        DataError: there are no texts, too few, or too much of them, or an option makes no sense.
    """
    size = sum(map(len, (text for split in texts.values() for text in split)))
    if not 0 < size <= MOST_BYTES:
        raise DataError(
            f"{name} must hold text of at most {MOST_BYTES / 2**20:.0f} MiB, got {size} bytes; give other texts, or a "
            "part of them"
        )
    kind = _kind(window, symbols)
    cells: dict[str, np.ndarray] = {}
    classes: dict[str, Any] = {}
    for split, given in texts.items():
        places = [name] if len(given) == 1 else [f"{name}: {split} text {index}" for index in range(len(given))]
        parts = [cut(kind.units(text, place), window) for text, place in zip(given, places, strict=True)]
        cells[split] = np.concatenate([np.empty((0, window), np.int32), *parts])
        label = labels.get(f"{split}_labels")
        if label is not None:
            classes[f"{split}_labels"] = label.repeat_interleave(torch.tensor([len(part) for part in parts]))
    _cut_blocks(name, cells, classes)
    if kind.symbols == "characters":
        kind = Text(window=window, vocabulary=_vocabulary(cells["train"]))
    data = {split: kind.numbers(part) for split, part in cells.items()}
    if kind.symbols == "characters":
        _say_unknown(name, kind, cells, data)
    tensors: dict[str, Any] = {split: torch.from_numpy(part).float().unsqueeze(-1) for split, part in data.items()}
    return Splits(name=name, **tensors, **classes, likelihood="columns", kind=kind)


def _kind(window: int, symbols: str) -> Text:
    """The kind of the texts, that of characters with a vocabulary still to come."""
    if symbols == "bytes":
        return Text(window=window, symbols=symbols)
    if symbols == "characters":
        return Text(window=window, vocabulary=" ")
    if not os.path.isfile(symbols):
        raise DataError(
            f"symbols must be characters, bytes or the path of a file of the tokenizers library, got {symbols!r}; "
            "check the path"
        )
    try:
        return Text(window=window, symbols="tokens", vocabulary=as_text(_read(Path(symbols)), symbols))
    except DataError as error:
        raise DataError(f"symbols, {symbols}: {error}") from error


def _read(path: Path) -> bytes:
    with open_plain(path, "a text file") as file:
        content = file.read(MOST_BYTES + 1)
    if not content:
        raise DataError(f"{path} must hold text, got an empty file; write something into it, or remove it")
    return content


def _cut_blocks(name: str, cells: dict[str, np.ndarray], labels: dict[str, Tensor]) -> None:
    """Adds each split that is missing, see `text_splits`; labels along."""
    train, train_labels = cells["train"], labels.get("train_labels")
    places = {split: place for split, place in (("validation", 8), ("test", 9)) if split not in cells}
    if not places:
        return
    blocks = BLOCKS if len(train) >= 10 * BLOCKS else 10
    if len(train) < blocks:
        raise DataError(
            f"{name} must hold {blocks} windows of text or more, to cut {' and '.join(places)} from, got {len(train)} "
            f"of {train.shape[1]} symbols; give more text, or a smaller window"
        )
    block = np.arange(len(train)) * blocks // len(train) % 10
    chosen = {split: block == place for split, place in places.items()}
    for split, rows in {**chosen, "train": ~np.isin(block, list(places.values()))}.items():
        cells[split] = train[rows]
        if train_labels is not None:
            labels[f"{split}_labels"] = train_labels[torch.from_numpy(rows)]


def _vocabulary(cells: np.ndarray) -> str:
    """The characters of the training split in order, without the rarest where there are more than 1,024."""
    points, counts = np.unique(cells[cells != END], return_counts=True)
    kept = np.sort(points[np.argsort(-counts, kind="stable")[:MOST_CHARACTERS]])
    return "".join(chr(point) for point in kept if chr(point) != UNKNOWN)


def _say_unknown(name: str, kind: Text, cells: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]) -> None:
    unknown = [cells[split][data[split] == len(kind.vocabulary)] for split in SPLITS]
    points, count = np.unique(np.concatenate(unknown)), sum(map(len, unknown))
    if count:
        shown = ", ".join(repr(chr(point)) for point in points[:5]) + ", ..." * (len(points) > 5)
        warnings.warn(
            f"{name}: {count} characters are rare or not in train, and read as one unknown symbol: {shown}",
            stacklevel=4,
        )
