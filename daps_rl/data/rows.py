"""Data of files that are read as they are sliced: what stands for an array that memory need not hold."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from daps_rl.data.plain import NPY, open_plain, read_array, read_header

AT_ONCE = 500  # data that are read, encoded, decoded or written
Array = np.ndarray | Tensor


class Rows(Protocol):
    """An array, or what stands for one: so many data, and any that follow one another. [N, *x]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Array: ...


@dataclass(frozen=True)
class Files:
    """Files of a datum each, and what reads some of them. [N, *x]."""

    paths: Sequence[Path]
    read: Callable[[Sequence[Path]], Array]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice) -> Array:
        return self.read(self.paths[rows])


@dataclass(frozen=True)
class ArrayFile:
    """A `.npy` file whose numbers stand there datum after datum from a place on. [N, *x]."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    place: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        entries = math.prod(self.shape[1:])
        with open_plain(self.path, NPY) as file:
            file.seek(self.place + start * entries * self.dtype.itemsize)
            numbers = np.fromfile(file, self.dtype, (stop - start) * entries)
            return numbers.reshape(stop - start, *self.shape[1:])

    @cached_property
    def binary(self) -> bool:
        """Whether all numbers are 0 or 1."""
        return all(bool(((part == 0) | (part == 1)).all()) for part in parts_of(self))


def open_array(path: Path) -> Rows:
    """Returns the array of a `.npy` file; it is read now only where its data do not follow one another, or are none.

    Raises:
        DataError: see `read_array`.
    """
    with open_plain(path, NPY) as file:
        shape, fortran, dtype = read_header(file, os.path.getsize(path))
        place = file.tell()
    in_order = not fortran and len(shape) > 1 and 0 not in shape
    return ArrayFile(path, shape, dtype, place) if in_order else read_array(path)


def parts_of(rows: Rows) -> Iterator[Array]:
    """Yields all data, some at a time; of none an empty part. [n, *x]."""
    for start in range(0, max(1, len(rows)), AT_ONCE):
        yield rows[start : start + AT_ONCE]
