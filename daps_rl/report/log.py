"""Rows of a run's log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a JSON-lines log, one row per line.

    A last line without its line end that does not parse was being written when the run was killed: it is left out.
    Empty lines are skipped. NaN and Infinity are read as Python's own json module writes them.

    Raises:
        ValueError: any other line is not a JSON object; the message names the file and the line.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n")  # the last piece is empty, unless its line end is missing
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both of this kind
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not valid JSON ({error}); mend or delete it.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} must be a JSON object, got {type(row).__name__}; delete it.")
        rows.append(row)
    return rows
