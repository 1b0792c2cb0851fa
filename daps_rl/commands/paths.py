"""Paths of the command line: made absolute, new, or refused before any training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def absolute_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with absolute paths among them, so that a run can be evaluated from anywhere."""
    from daps_rl.data.load import NAMES  # brings torch, which --help does without

    resolved = dict(options)
    for name in ("fid_weights", "lpips_weights", "data_dir"):
        if resolved.get(name) is not None:
            resolved[name] = os.path.abspath(resolved[name])
    data = resolved.get("data")
    if resolved.get("data_dir") is None and data is not None and os.path.exists(data) and data not in NAMES:
        resolved["data"] = os.path.abspath(data)
    return resolved


def new_run_path(root: Path, name: str) -> Path:
    """`root/name`, or `root/name-2`, -3 … where that is taken."""
    path, number = root / name, 2
    while path.exists():
        path, number = root / f"{name}-{number}", number + 1
    return path


def folder_is_writable(path: Path) -> None:
    """Raises PermissionError early, before any training, where a run could not be written."""
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written; choose another --out.")
