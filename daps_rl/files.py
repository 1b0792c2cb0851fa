"""Files that are whole at every moment: written beside their place, flushed to disk, then renamed into it; JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file whole or not at all, see `new_file`."""
    with new_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Gives a file to fill, so that a kill or a full disk at any moment leaves the previous one whole at the path.

    Its folder exists. A kill may leave `.NAME.*.tmp` beside it, which `RunFolder.locked` removes.

    Raises:
        OSError: the disk is full, or the folder cannot be written; it names the file, and no temporary one is left.
    """
    path, temporary = Path(path), None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def finite(value: Any) -> Any:
    """Returns the value with None in place of each number in it that is not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns the value as JSON, with null for numbers that are not finite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> dict[str, Any]:
    """Returns the JSON object that a text holds.

    Raises:
        ValueError: it holds none, is nested too deep, or has a number that is not finite, which we never write.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        values = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values
