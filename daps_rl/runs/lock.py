"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, made if it is missing, for this process; the lock goes with the process, however that ends.

    Where nothing was put beside the lock, neither it nor a folder that was made for it stays behind.

    Raises:
        ValueError: another process holds it, or the path is no folder.
        OSError: the lock is a link, which is not followed.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another --out.")
    made, ours = not folder.exists(), False
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))  # not if it was removed meanwhile
        except (BlockingIOError, FileNotFoundError):
            pass
        if not ours:
            raise ValueError(f"{folder} is in use by another run; wait for it, or choose another --out.")
        yield
    finally:
        if ours and os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
            if made:
                folder.rmdir()
        os.close(descriptor)
