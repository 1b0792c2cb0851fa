"""Motion and other series: recordings of steps by features, cut into windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.arrays import as_labels, as_tensor
from daps_rl.data.errors import MAX_CORRUPT, CorruptFiles, DataError
from daps_rl.data.folder import find_files
from daps_rl.data.kind import Array, Kind, Measure, write_array
from daps_rl.data.plain import list_files, read_array, walk_files
from daps_rl.data.recordings import Form, read_recording, recording_text
from daps_rl.data.splits import LABELS, SPLITS, Splits, cut_missing
from daps_rl.data.text_files import write_folder
from daps_rl.report import plot_sheet

SUFFIXES = (".bvh", ".csv")
WINDOW, SHORT = 64, 256  # steps: of a window, unless no recording is longer than SHORT
LARGEST = 2**27  # numbers, half a gibibyte
RARE = 1e-6  # the least probability that a step is there, or is not
CONSTANT = 1e-6  # of the mean: a deviation up to here is rounding


@dataclass(frozen=True, kw_only=True)
class Series(Kind):
    """Windows of series, [steps, features], standardised feature by feature.

    Where some are shorter, a last column says which steps are there; the others are 0 and count for nothing.

    Args:
        steps: of a window.
        mean, deviation: of each feature over the training data; 0 is the deviation of one that is constant.
        padded: whether there is the last column.
        suffix: of the files, ".npy", ".csv" or ".bvh".
        names: of the features; () of a `.npy` file.
        head, frame_time: of `.bvh` files: the skeleton, and seconds a step.
    """

    measures: ClassVar[dict[str, Measure]] = {
        "rmse": Measure("error per feature", "", ".4g", -1),
        "r2": Measure("R²", "", ".3f", 1),
        "length": Measure("right lengths", "% of steps", ".1f", 1),
    }
    steps: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    padded: bool
    suffix: str
    names: tuple[str, ...] = ()
    head: str = ""
    frame_time: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"number*{len(self.mean)}@{len(self.mean)}", "yes-no") if self.padded else ()

    @property
    def form(self) -> Form:
        """What the recordings have in common."""
        return Form(self.suffix, self.names, self.head, self.frame_time)

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        there, deviation = self._there(x), torch.tensor(self.deviation, device=x.device)
        wrong = torch.where(there[..., None], decoded - x, 0.0)[..., : len(deviation)]
        error = wrong.square().sum(1) / there.sum(1, keepdim=True)  # [N, D], over the training data's variance
        varies = deviation > 0
        scale = torch.where(varies, deviation, 1.0)
        found = {
            "rmse": (error.sqrt() * scale).mean(-1),
            "r2": 1.0 - (error * varies).sum(-1) / varies.sum().clamp(min=1),
        }
        if self.padded:
            found["length"] = 100.0 * (self._there(decoded) == there).float().mean(-1)
        return found

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        plot_sheet(path, {label: self.unscaled(x) for label, x in rows.items()}, title=title, names=self.names)
        return [path]

    def read(self, path: Path) -> Array:
        if path.suffix.lower() == ".npy":
            return self.windows(split_recordings(read_array(path), str(path)), str(path))
        form, recordings = None if self.suffix == ".npy" else self.form, []
        for file in list_files(path, SUFFIXES if form is None else (form.suffix,), "recordings"):
            recording, form = read_recording(file, form)
            recordings.append(recording)
        return self.windows(recordings, str(path))

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        if self.suffix == ".npy" or path.suffix.lower() == ".npy":
            return write_array(path, map(self.unscaled, parts), count)
        pairs = (pair for x in parts for pair in zip(self.unscaled(x), self._there(x), strict=True))
        texts = (recording_text(steps[there].numpy(), self.form) for steps, there in pairs)
        return write_folder(path, ".bvh" if self.head else ".csv", texts)

    def windows(self, recordings: Sequence[np.ndarray], where: str) -> np.ndarray:
        """Returns windows of recordings [steps, features] as a model takes them, one after another, float32.

        The last one of a recording ends with it, and may overlap the one before.

        Raises:
            DataError: there are other features, or a recording is shorter than a window, and none was in training.
        """
        found = []
        for series in recordings:
            if series.shape[1] != len(self.mean):
                raise DataError(f"{where} must have {len(self.mean)} features, as in training, got {series.shape[1]}")
            if len(series) < self.steps and not self.padded:
                raise DataError(
                    f"{where} must have recordings of {self.steps} steps or more, as in training, got {len(series)}; "
                    "leave it out, or train with shorter ones too"
                )
            scaled = (series - np.array(self.mean)) / np.where(self.deviation, self.deviation, 1.0)
            for start in window_starts(len(series), self.steps):
                window = np.zeros((self.steps, len(self.mean) + self.padded), dtype=np.float32)
                part = scaled[start : start + self.steps]
                window[: len(part)] = np.pad(part, ((0, 0), (0, int(self.padded))), constant_values=1.0)
                found.append(window)
        return np.stack(found)

    def unscaled(self, x: Tensor) -> Tensor:
        """Returns windows in the data's own units, NaN where no step is there. [N, steps, features]."""
        values = x[..., : len(self.mean)] * torch.tensor(self.deviation, device=x.device)
        values = values + torch.tensor(self.mean, device=x.device)
        return torch.where(self._there(x)[..., None], values, torch.nan)

    def _there(self, x: Tensor) -> Tensor:
        """Which steps are there, [N, steps]: of what is decoded the most probable number of them, one at least."""
        steps = torch.arange(x.shape[1], device=x.device)
        if not self.padded:
            return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        gain = x[..., -1].double().logit(RARE).cumsum(-1)  # of n steps rather than none, as log p of all flags
        return steps <= gain.argmax(-1, keepdim=True)


def window_starts(length: int, steps: int) -> list[int]:
    """Returns where the windows of a recording start: side by side, and the last one at its end."""
    return [*range(0, length - steps, steps), max(0, length - steps)]


def load_series_folder(folder: Path, *, window: int | None = None, max_corrupt: int = MAX_CORRUPT) -> Splits:
    """Splits from a folder of recordings, `.bvh` files if it has any, else `.csv`; laid out as a folder of images.

    A split that is missing is cut by recordings, not by windows. A file that is broken, or that has other columns or
    another rate than the first, is skipped with a warning.

    Args:
        folder: see `read_recording` for its files.
        window: steps of a datum; if None the longest recording where none has over 256 steps, else 64.
        max_corrupt: how many files may be skipped.
    Raises:
        MissingDataError, DataError: there are too few recordings, too many broken ones, or too large ones.
    """
    there = (suffix for suffix in SUFFIXES if any(True for _ in walk_files(folder, (suffix,))))
    suffix = next(there, SUFFIXES[-1])
    files, classes = find_files(folder, (suffix,), "recordings")
    corrupt, form = CorruptFiles(str(folder), max_corrupt), None
    data: dict[str, list[np.ndarray]] = {}
    labels: dict[str, Tensor | None] = {}
    for split, names in files.items():
        data[split], kept = [], []
        for index, name in enumerate(names):
            try:
                recording, form = read_recording(folder / name, form)
            except DataError as error:
                corrupt.note({name: str(error).removeprefix(f"{folder / name} ")})
                continue
            data[split].append(recording)
            kept.append(index)
        corrupt.note({}, exhausted=not kept)
        numbers = classes[f"{split}_labels"]
        labels[f"{split}_labels"] = None if numbers is None else numbers[kept]
    return series_splits(str(folder), data, labels, form or Form(suffix), window)


def load_series_arrays(arrays: Mapping[str, Any], name: str, window: int | None = None) -> Splits:
    """Splits from arrays [N, steps, features] by split, and labels [N] by "train_labels" and so on, of a file.

    Raises:
        DataError: labels are no integers or of another count, or as `split_recordings` and `series_splits`.
    """
    data = {split: split_recordings(arrays[split], f"{name}: {split}") for split in SPLITS if split in arrays}
    labels: dict[str, Tensor | None] = {}
    for key in set(LABELS) & set(arrays):
        classes, count = as_labels(arrays[key], f"{name}: {key}"), len(data.get(key.removesuffix("_labels"), ()))
        if len(classes) != count:
            raise DataError(f"{name}: {key} must be one for each of the {count} series, got {len(classes)}")
        labels[key] = classes
    return series_splits(name, data, labels, Form(".npy"), window)


def is_series(array: Any, where: str) -> bool:
    """Whether an array of a file is series, [N, steps, features], and no grey images: floats, not all in [0, 1]."""
    values = as_tensor(array, where)
    return values.ndim == 3 and values.is_floating_point() and not bool(((values >= 0) & (values <= 1)).all())


def split_recordings(array: Any, where: str) -> list[np.ndarray]:
    """Returns the recordings of an array [N, steps, features]; steps at the end that are NaN throughout are not there.

    Raises:
        DataError: the array has other axes, or values that are not finite among those that are there.
    """
    values = as_tensor(array, where).float().numpy()
    if values.ndim != 3 or not values.size:
        raise DataError(f"{where} must have shape [N, steps, features], got {list(values.shape)}; give one series each")
    there = np.logical_not(np.isnan(values).all(-1))
    lengths = values.shape[1] - np.argmax(there[:, ::-1], axis=1)
    recordings = [series[:length] for series, length in zip(values, lengths, strict=True)]
    wrong = [i for i, series in enumerate(recordings) if not np.isfinite(series).all()]
    if wrong:
        raise DataError(
            f"{where} must be finite, but for steps at the end of a series that are all NaN, got others in series "
            f"{wrong[0]}; remove or replace such values"
        )
    return recordings


def series_splits(
    name: str,
    data: Mapping[str, Sequence[np.ndarray]],
    labels: dict[str, Tensor | None],
    form: Form,
    window: int | None = None,
) -> Splits:
    """Splits from recordings [steps, features] by split; windows have the label of their recording.

    Raises:
        DataError: there are too few recordings, or too large ones, or the window makes no sense.
    """
    if window is not None and (type(window) is not int or window < 1):
        raise DataError(f"window must be a whole number of steps >= 1, got {window!r}; leave it out for the default")
    rows: dict[str, Any] = {split: torch.arange(len(series)) for split, series in data.items()}
    cut_missing(rows, labels, name)
    parts = {split: [data.get(split, data["train"])[row] for row in rows[split]] for split in SPLITS}
    lengths = [len(series) for split in parts.values() for series in split]
    steps = window or (max(lengths) if max(lengths) <= SHORT else WINDOW)
    size = sum(len(window_starts(length, steps)) for length in lengths) * steps * parts["train"][0].shape[1]
    if size > LARGEST:
        raise DataError(
            f"{name} must hold at most {LARGEST:,} numbers in windows of {steps}, got {size:,}; leave recordings or "
            "features out, or take a smaller window"
        )
    train = np.concatenate(parts["train"]).astype(np.float64)
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation <= CONSTANT * np.abs(mean)] = 0.0
    kind = Series(
        steps=steps, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()), padded=min(lengths) < steps,
        **form._asdict(),
    )  # fmt: skip
    found: dict[str, Any] = {}
    for split, recordings in parts.items():
        found[split] = torch.from_numpy(kind.windows(recordings, f"{name}: {split}"))
        numbers = labels.get(f"{split}_labels")
        if numbers is not None:
            counts = torch.tensor([len(window_starts(len(series), steps)) for series in recordings])
            found[f"{split}_labels"] = numbers.repeat_interleave(counts)
    likelihood = "fixed_columns" if kind.padded else "fixed_gaussian"  # a learned variance overfits a few recordings
    return Splits(name=name, **found, likelihood=likelihood, kind=kind)
