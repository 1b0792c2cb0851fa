"""Arrays that take a while to make, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daps_rl.files import write_atomically


def cache_folder() -> Path:
    """Returns where they are kept: `$XDG_CACHE_HOME/daps-rl`, or ~/.cache/daps-rl."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "daps-rl"


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays that are kept under a name; what is not there, or is damaged, is made and kept if it can be.

    Args:
        name: of all that the arrays depend on.
        make: gives the arrays.
    """
    path = cache_folder() / f"{name}.npz"
    damaged = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # there is a checksum
    with contextlib.suppress(*damaged), np.load(path, allow_pickle=False) as file:
        return dict(file)
    arrays = make()
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    return arrays
