"""Folders of small text files that hold a datum, or a recording, each: found, read, and written as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from daps_rl.data.plain import as_utf8, new_folder, open_plain


def read_text(path: Path, form: str) -> str:
    """Returns the text of a plain file in UTF-8; `form` is what it must be, for one line on what is wrong."""
    with open_plain(path, form) as file:
        return as_utf8(file.read())


def write_folder(path: Path, files: Mapping[str, str]) -> str:
    """Writes texts, by file name, into a new or an empty folder, all or none; returns what was written, in words.

    Raises:
        DataError: something is there already.
    """
    with new_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    suffix = Path(next(iter(files), "")).suffix
    return f"{path}: {len(files)} {suffix} files"
