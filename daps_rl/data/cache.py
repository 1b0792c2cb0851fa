"""Arrays that take a while to make, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from daps_rl.data.errors import DataError, one_line
from daps_rl.files import write_atomically

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Returns where they are kept: `$XDG_CACHE_HOME/daps-rl`, or ~/.cache/daps-rl."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "daps-rl"


def cached_arrays(
    name: str, make: Callable[[], Arrays], folder: Path | None = None, *, fit: Callable[[Arrays], bool] = bool
) -> Arrays:
    """Returns the arrays that are kept under a name; what is not there, or is damaged, is made and kept.

    Args:
        name: of all that the arrays depend on.
        make: gives the arrays.
        folder: where they are kept; if None the user's cache folder, where that can be written.
        fit: whether arrays that are found are what is meant; others are made anew.
    Raises:
        DataError: the folder that is given cannot be written.
    """
    path = (cache_folder() if folder is None else folder) / f"{name}.npz"
    # There is a checksum; of a damaged file numpy and zipfile raise errors of many kinds.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
        if fit(arrays):
            return arrays
    with _told(path, folder is not None):
        path.parent.mkdir(parents=True, exist_ok=True)  # before what may take minutes
    arrays = make()
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with _told(path, folder is not None):
        write_atomically(path, content.getvalue())
    return arrays


@contextlib.contextmanager
def _told(path: Path, matters: bool) -> Iterator[None]:
    """Raises a DataError where a file cannot be written and that matters; else goes on without it."""
    try:
        yield
    except OSError as error:
        if matters:
            raise DataError(
                f"{path} cannot be written ({one_line(error)}); pass data_dir, a folder that can"
            ) from error
