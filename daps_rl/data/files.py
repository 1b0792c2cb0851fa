"""Arrays from files: .npy, .npz or .safetensors. Nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.torch import load_file as read_tensors

from daps_rl.data.arrays import Array, from_arrays
from daps_rl.data.errors import DataError
from daps_rl.data.plain import open_plain, read_npy
from daps_rl.data.series import is_series, load_series_arrays
from daps_rl.data.splits import LABELS, SPLITS, Splits

SUFFIXES = (".npy", ".npz", ".safetensors")


def load_file(path: Path, *, binarize: bool | None = None, window: int | None = None) -> Splits:
    """Splits from a file of arrays; `daps_rl.data.from_arrays` says what becomes of shapes and values.

    Floats [N, steps, features] that do not all lie in [0, 1] are series instead: see `Series`.

    Args:
        path: `.npy` (one array: the training data, cut 80 / 10 / 10), or `.npz` or `.safetensors` with `train` and,
            where there are any, `validation`, `test`, `train_labels`, `validation_labels`, `test_labels`.
        binarize: as in `from_arrays`; series have none.
        window: steps of a datum of series, as in `load`.
    Raises:
        MissingDataError: there is no such file.
        DataError: the file is damaged, holds Python objects, its arrays do not fit, or have windows and are no series.
    """
    suffix = path.suffix.lower()
    arrays: Mapping[str, Array]
    with open_plain(path, f"a readable {suffix} file of plain numbers") as file:
        if suffix == ".safetensors":
            arrays = read_tensors(path)
        elif suffix == ".npy":
            arrays = {"train": read_npy(file, os.path.getsize(path))}
        else:
            with zipfile.ZipFile(file) as archive:
                arrays = {part.filename.removesuffix(".npy"): _member(archive, part) for part in archive.infolist()}
    known = SPLITS + LABELS
    if "train" not in arrays or not set(arrays) <= set(known):
        got = ", ".join(arrays) or "no array"
        raise DataError(
            f"{path} must hold train, and no arrays but {', '.join(known)}, got {got}; rename or remove arrays"
        )
    if binarize is None and is_series(arrays["train"], f"{path}: train"):
        return load_series_arrays(arrays, str(path), window)
    if window is not None:
        raise DataError(
            f"{path} must hold series to take a window, got {list(arrays['train'].shape)}; leave window out"
        )
    return from_arrays(**arrays, name=str(path), binarize=binarize)


def _member(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(part) as file:
        return read_npy(file, part.file_size)
