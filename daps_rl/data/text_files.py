"""Folders of small text files that hold a datum, or a recording, each: found, read, and written as one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.folder import walk_files
from daps_rl.data.plain import open_plain


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


def read_text(path: Path, form: str) -> str:
    """Returns the text of a plain file in UTF-8; `form` is what it must be, for one line on what is wrong."""
    with open_plain(path, form) as file:
        return file.read().decode("utf-8-sig")


def write_folder(path: Path, files: Mapping[str, str]) -> str:
    """Writes texts, by file name, into a new or an empty folder, all or none; returns what was written, in words.

    Raises:
        DataError: something is there already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} must be a new or an empty folder, got one that is not; choose another")
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, path)  # onto an empty folder too
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    suffix = Path(next(iter(files), "")).suffix
    return f"{path}: {len(files)} {suffix} files"
