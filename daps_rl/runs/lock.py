"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
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
        ValueError: another process holds it, the path is no folder, or its lock is a link.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another --out.")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _open(folder / LOCK)
    try:
        _hold(folder, descriptor)
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                if made:
                    folder.rmdir()
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{path} is a link; remove it, or choose another --out.") from None


def _hold(folder: Path, descriptor: int) -> None:
    held = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))  # removed by the one before us
    except (BlockingIOError, FileNotFoundError):
        pass
    if held:
        raise ValueError(f"{folder} is in use by another run; wait for it, or choose another --out.")
