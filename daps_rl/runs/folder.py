"""A run's folder: settings, a row per log step, checkpoint, summary; one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daps_rl.files import from_json, to_json, write_atomically

LOCK = ".lock"


class RunFolder:
    """Paths and files of a run, in a folder that is made when it is first held."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.metrics = self.path / "config.json", self.path / "metrics.jsonl"
        self.checkpoint, self.summary = self.path / "checkpoint.safetensors", self.path / "summary.json"
        self.model, self.verdicts = self.path / "model", self.path / "verdicts"
        self.searches = self.path / "search.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder, made if it is missing, for this process, and removes what a killed one left half.

        The lock goes with the process, however that ends. Where nothing was put beside it, neither it nor a folder that
        was made for it stays behind.

        Raises:
            ValueError: another process holds it, or the path is no folder.
            OSError: the lock is a link, which is not followed.
        """
        folder, lock = self.path, self.path / LOCK
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; choose another --out.")
        made, ours = not folder.exists(), False
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = os.path.samestat(os.fstat(descriptor), os.stat(lock))  # not if it was removed meanwhile
            if not ours:
                raise ValueError(f"{folder} is in use by another run; wait for it, or choose another --out.")
            for torn in (*folder.glob(".*.tmp"), *self.model.glob(".*.tmp"), *self.verdicts.glob(".*.tmp")):
                torn.unlink()
            yield
        finally:
            if ours and os.listdir(folder) == [LOCK]:
                lock.unlink()
                if made:
                    folder.rmdir()
            os.close(descriptor)

    def check_new(self) -> None:
        """Raises ValueError where a run is in the folder already."""
        if self.config.exists():
            raise ValueError(
                f"{self.path} holds a run already; add --resume to go on with it, or choose another --out."
            )

    def write_json(self, path: Path, values: dict[str, Any]) -> None:
        """Writes a JSON file atomically."""
        write_atomically(path, to_json(values, indent=2).encode() + b"\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Reads a JSON object; ValueError where the file is missing or damaged."""
        if not path.is_file():
            raise ValueError(
                f"{self.path} is no finished or resumable run: "
                f"{f'{path.name} is missing' if self.path.exists() else 'there is no such folder'}; "
                "pass the folder that `daps-rl train` wrote."
            )
        try:
            return from_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); restore a copy, or train anew.") from error

    def append_row(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl."""
        with open(self.metrics, "a") as file:
            file.write(to_json(row) + "\n")

    def cut_rows(self, last_step: int) -> None:
        """Drops rows after `last_step`, and a torn last one: what a killed run wrote after its last checkpoint."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                kept += [line] if from_json(line)["step"] <= last_step else []
        write_atomically(self.metrics, "".join(f"{line}\n" for line in kept).encode())


def new_run_path(root: Path, name: str) -> Path:
    """`root/name`, or `root/name-2`, -3 … where that is taken."""
    path, number = root / name, 2
    while path.exists():
        path, number = root / f"{name}-{number}", number + 1
    return path


def folder_is_writable(path: Path) -> None:
    """Raises PermissionError early, before any training, where a run could not be written."""
    first = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(first, os.W_OK):
        raise PermissionError(f"{path} cannot be written; choose another --out.")
