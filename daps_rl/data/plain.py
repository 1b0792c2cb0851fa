"""Plain files, opened so that nothing can block; arrays of numbers from `.npy` files, whose sizes are checked first."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from daps_rl.data.errors import DataError, MissingDataError, one_line

NPY = "a readable .npy file of plain numbers"
LARGEST_NUMBER = 1e30  # of a number in a file: squares of larger ones are no numbers


def walk_files(top: str | Path, suffixes: Sequence[str]) -> Iterator[str]:
    """Paths of the files of such suffixes below a folder; a link back to a folder above is passed over."""
    seen = set()
    for place, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (f"{place}/{n}" for n in names if n.lower().endswith(tuple(suffixes)) and n[0] != ".")
        seen.add(real)


def list_files(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """Returns the file at a path, or those of such suffixes below a folder, in the order of their names.

    Raises:
        MissingDataError: nothing of the kind is there.
    """
    if not path.is_dir():
        return [path]
    found = sorted(Path(name) for name in walk_files(path, suffixes))
    if not found:
        raise MissingDataError(f"{path} must hold {what} ({', '.join(suffixes)}), got a folder without; check the path")
    return found


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which then stands at the path, whole or not at all.

    Raises:
        DataError: something is there already, but for an empty folder.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{path} must be a new or an empty folder, got one that is not; choose another")
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, path)  # onto an empty folder too
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers of a `.npy` file, as `encode` and `decode` read them.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no plain file, not readable, damaged, or holds anything but real numbers.
    """
    with open_plain(Path(path), NPY) as file:
        return read_npy(file, os.path.getsize(path))


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


def as_utf8(content: bytes) -> str:
    """Returns UTF-8 as text, without a byte order mark; raises a ValueError with the line where it is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"byte {error.object[error.start]:#04x} in line {line}, which is no UTF-8") from error


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """One array of numbers from a file of that many bytes, which its header must account for."""
    read_header(file, size)
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and type of the array in a `.npy` file of that many bytes."""
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"dtype {dtype}")
    stated, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if stated != there:
        raise ValueError(f"a header of {list(shape)} {dtype}, which are {stated} bytes, before {there} bytes")
    return shape, fortran, dtype
