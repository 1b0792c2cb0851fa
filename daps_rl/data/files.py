"""Arrays from files: .npy, .npz or .safetensors. Nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from safetensors.torch import load_file as read_tensors

from daps_rl.data.arrays import Array, from_arrays
from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.splits import LABELS, SPLITS, Splits

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
    suffix = path.suffix.lower()
    arrays: Mapping[str, Array]
    with open_plain(path, f"a readable {suffix} file of plain numbers") as file:
        if suffix == ".safetensors":
            arrays = read_tensors(path)
        elif suffix == ".npy":
            arrays = {"train": _read_npy(file, os.path.getsize(path))}
        else:
            with zipfile.ZipFile(file) as archive:
                arrays = {part.filename.removesuffix(".npy"): _member(archive, part) for part in archive.infolist()}
    known = SPLITS + LABELS
    if "train" not in arrays or not set(arrays) <= set(known):
        got = ", ".join(arrays) or "no array"
        raise DataError(
            f"{path} must hold train, and no arrays but {', '.join(known)}, got {got}; rename or remove arrays"
        )
    return from_arrays(**arrays, name=str(path), binarize=binarize)


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers of a `.npy` file, as `encode` and `decode` read them.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no plain file, not readable, damaged, or holds anything but real numbers.
    """
    with open_plain(Path(path), "a readable .npy file of plain numbers") as file:
        return _read_npy(file, os.path.getsize(path))


@contextlib.contextmanager
def open_plain(path: Path, form: str) -> Iterator[IO[bytes]]:
    """Opens a file to read, and nothing that could block; `form` is what it must be, for one line on what is wrong.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no plain file, cannot be opened, or reading it raised any other error.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path} must be {form}, got a folder, pipe or device; pass the path of a file")
        with path.open("rb") as file:
            yield file
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingDataError(f"no such file: {path} must be {form}; check the path") from error
    except PermissionError as error:
        raise DataError(f"{path} must be {form}, got: {one_line(error)}; check its permissions") from error
    # Of a damaged file, numpy, zipfile and safetensors raise errors of many kinds.
    except Exception as error:
        raise DataError(f"{path} must be {form}, got: {one_line(error)}; save it again") from error


def _member(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(part) as file:
        return _read_npy(file, part.file_size)


def _read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """One array of numbers from a file of that many bytes, which its header must account for."""
    read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"dtype {dtype}")
    stated, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if stated != there:
        raise ValueError(f"a header of {list(shape)} {dtype}, which are {stated} bytes, before {there} bytes")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)
