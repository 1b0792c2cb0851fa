"""Data sets of the Hugging Face hub, of images or of texts, through its `datasets` package."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.images import stream_splits
from daps_rl.data.splits import Splits, cut_missing, find_splits


class HubError(MissingDataError):
    """There is no package for the hub, or no answer from it."""


def open_hub(hub_id: str, **options: Any) -> Any:
    """What `datasets.load_dataset` gives for that name; HubError without the package, or an answer."""
    try:
        import datasets
    except ImportError as error:
        raise HubError(f"no package to reach the hub with ({one_line(error)})") from error
    try:
        return datasets.load_dataset(hub_id, **{key: value for key, value in options.items() if value})
    # The hub's client passes on errors of several HTTP libraries, which share no base class.
    except Exception as error:
        raise HubError(f"no answer from the hub for {hub_id} ({one_line(error)})") from error


def read_hub_arrays(name: str, hub_id: str, column: str, channels: int, files: str) -> dict[str, np.ndarray]:
    """All training and test images of a small data set, in `column`, and its labels, in "label".

    Args:
        name, hub_id: what messages and the hub call the data set.
        column, channels: of the images.
        files: what `data_dir` may be instead, for a message.
    Returns:
        train and test: uint8 [N, H, W], or [N, H, W, 3] of 3 channels; train_labels and test_labels: int64 [N].
    """
    try:
        hub = open_hub(hub_id)
    except HubError as error:
        raise MissingDataError(
            f"{name} needs its official files or the hub, got {error}; use --data-dir (data_dir=) with {files}, or "
            "`pip install daps-rl[datasets]` and a connection"
        ) from error.__cause__
    arrays = {}
    for split in ("train", "test"):
        frames = [np.asarray(image) for image in hub[split][column]]
        kinds = sorted({f"{frame.dtype} {list(frame.shape)}" for frame in frames})
        fits = len(kinds) == 1 and frames[0].dtype == np.uint8 and frames[0].shape[2:] == (channels,) * (channels > 1)
        if not fits or frames[0].ndim < 2:
            needed = "[H, W]" if channels == 1 else f"[H, W, {channels}]"
            raise DataError(
                f"{name}: images of {hub_id} must be uint8 {needed}, all of one size, "
                f"got {', '.join(kinds[:3]) or 'none'}; pass --data-dir with the official files"
            )
        arrays[split] = np.stack(frames)
        arrays[f"{split}_labels"] = np.asarray(list(hub[split]["label"]), dtype=np.int64)
    return arrays


@dataclass(frozen=True)
class HubImages:
    """A `Source`: images of an Arrow data set, decoded by us and not by it."""

    dataset: Any  # with one column, of images that are not decoded
    column: str
    where: str  # what messages call the data set
    rows: np.ndarray  # which of its rows. [N]

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, index: int) -> bytes:
        return cell_file(self.dataset[int(self.rows[index])][self.column])

    def label(self, index: int) -> str:
        return f"{self.where}[{self.rows[index]}]"

    def __getitem__(self, rows: Tensor) -> HubImages:
        return replace(self, rows=self.rows[rows.numpy()])

    def identity(self) -> Iterator[str]:
        """Name, number of rows, version and size, and a checksum of the rows that are taken."""
        info = self.dataset.info
        yield f"{self.where} {self.column} {self.dataset.num_rows} {info.version} {info.dataset_size}"
        yield f"{len(self)} {zlib.crc32(self.rows.astype(np.int64).tobytes())}"


def download_hub(hub_id: str, column: str, found: Mapping[str, Any], *, image_size: int, max_corrupt: int) -> Splits:
    """Splits of an image data set of the hub, as streams; the files are in the hub client's cache.

    Args:
        hub_id: its name there, "owner/name".
        column, found: of the images, and its splits.
        image_size, max_corrupt: see `daps_rl.data.load`.
    """
    sources, labels = {}, {}
    for split, part in found.items():
        sources[split] = HubImages(undecoded(part, column), column, f"{hub_id} {split}", np.arange(part.num_rows))
        labels[f"{split}_labels"] = _labels(part)
    cut_missing(sources, labels, hub_id)
    return stream_splits(hub_id, sources, labels, size=image_size, max_corrupt=max_corrupt)


def hub_splits(hub_id: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a hub data set that are train, validation and test; the only part is train, whatever its name."""
    if len(hub) == 1:
        return {"train": next(iter(hub.values()))}
    found = find_splits(hub, hub_id, "part")
    if "train" not in found:
        raise DataError(f"{hub_id} must have a part train, got {', '.join(hub)}; use another data set")
    return {split: hub[name] for split, name in found.items()}


def find_image_column(hub_id: str, features: Mapping[str, Any] | None, given: str | None) -> str:
    """The column of images: the one that is named, else the only one of that type."""
    import datasets

    columns = [name for name, feature in (features or {}).items() if isinstance(feature, datasets.Image)]
    if given is None and len(columns) == 1:
        return columns[0]
    if given in columns:
        return str(given)
    held = f"columns of images are {', '.join(columns)}" if columns else f"its columns are {', '.join(features or {})}"
    asked = "no image_column" if given is None else f"image_column {given!r}"
    raise DataError(f"{hub_id} needs the name of a column of images, got {asked}; {held}")


def read_hub_texts(
    hub_id: str, found: Mapping[str, Any], column: str
) -> tuple[dict[str, list[bytes]], dict[str, Tensor | None]]:
    """Returns the texts of a column by split, as UTF-8, and their classes by "train_labels" and so on.

    Raises:
        DataError: a split has no such column, or it holds anything but texts.
    """
    texts, labels = {}, {}
    for split, part in found.items():
        if column not in part.features:
            raise DataError(f"{hub_id} must have text_column {column!r}, got columns {', '.join(part.features)}")
        cells = part.select_columns([column])[:][column]
        other = next((cell for cell in cells if not isinstance(cell, str)), None)
        if other is not None:
            raise DataError(f"{hub_id}: column {column} must hold texts, got a {type(other).__name__}; name another")
        texts[split], labels[f"{split}_labels"] = [cell.encode() for cell in cells], _labels(part)
    return texts, labels


def undecoded(part: Any, column: str) -> Any:
    """A part with that column alone, whose cells are the files' content or path."""
    import datasets

    return part.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def cell_file(cell: Mapping[str, Any]) -> bytes:
    """The content of an image that is not decoded; a path may lead into an archive or to the hub."""
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return bytes(file.read())


def _labels(part: Any) -> Tensor | None:
    """The column of classes, if there is exactly one and every row has a class. [N]."""
    import datasets

    columns = [name for name, feature in part.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(columns) != 1:
        return None
    values = part.select_columns(columns)[:][columns[0]]
    if any(value is None or value < 0 for value in values):  # -1: hidden, as in many test splits
        return None
    return torch.tensor(values, dtype=torch.int64)
