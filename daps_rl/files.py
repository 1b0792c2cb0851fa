"""Files that are whole at every moment: written beside their place, flushed to disk, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file so that a kill or a full disk at any moment leaves the previous one whole.

    Args:
        path: of the file; its folder exists.
        content: of the file.
    Raises:
        OSError: the disk is full, or the folder cannot be written; no temporary file is left behind.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
