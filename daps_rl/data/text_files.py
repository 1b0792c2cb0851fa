"""Folders of small text files that hold a datum, or a recording, each: found, read, and written as one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from daps_rl.data.plain import as_utf8, new_folder, open_plain


def read_text(path: Path, form: str) -> str:
    """Returns the text of a plain file in UTF-8; `form` is what it must be, for one line on what is wrong."""
    with open_plain(path, form) as file:
        return as_utf8(file.read())


def write_folder(path: Path, suffix: str, texts: Iterable[str]) -> str:
    """Writes texts as numbered files into a new or an empty folder, all or none; returns what was written, in words.

    Raises:
        DataError: something is there already.
    """
    count = 0
    with new_folder(path) as folder:
        for count, text in enumerate(texts, 1):
            (folder / f"{count - 1:05}{suffix}").write_text(text, encoding="utf-8")
    return f"{path}: {count} {suffix} files"
