"""Splits from one file of arrays: .npy, .npz or .safetensors. Nothing is ever unpickled."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file as read_tensors

from daps_rl.data.arrays import Array, from_mapping
from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.splits import Splits

DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, SafetensorError
)  # fmt: skip
SUFFIXES = (".npy", ".npz", ".safetensors")


def load_file(path: Path, *, binarize: bool | None = None) -> Splits:
    """Splits from a file of arrays; `daps_rl.data.from_arrays` says what becomes of shapes and values.

    Args:
        path: `.npy` (one array: the training data, cut 80 / 10 / 10), or `.npz` or `.safetensors` with `train` and,
            where there are any, `validation`, `test`, `train_labels`, `validation_labels`, `test_labels`.
        binarize: as in `from_arrays`.
    Raises:
        MissingDataError: there is no such file.
        DataError: the file is damaged, holds Python objects, or its arrays do not fit.
    """
    if not os.path.exists(path):  # unlike path.exists(), no error where a parent folder is closed
        raise MissingDataError(f"{path} must be a file of arrays, but none can be seen there; check the path")
    try:
        arrays = read_tensors(path) if path.suffix.lower() == ".safetensors" else _read_numpy(path)
    except DAMAGE as error:
        raise DataError(
            f"{path} must be a readable {path.suffix} file of plain numbers, got: {one_line(error)}; save it again"
        ) from error
    return from_mapping(arrays, str(path), binarize=binarize)


def _read_numpy(path: Path) -> Mapping[str, Array]:
    with path.open("rb") as file:
        content = np.load(file, allow_pickle=False)
        return {"train": content} if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
