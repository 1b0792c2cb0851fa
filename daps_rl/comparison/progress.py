"""How far a comparison is: live bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from daps_rl.comparison.plan import PlannedRun

LINE_EVERY = 30.0  # seconds between lines where there is no terminal
LOOK_EVERY = 1.0  # seconds
_TAIL = 2**16  # bytes of a log, more than a row


class ComparisonProgress:
    """Shows which of the runs, by folder, are in work, how far, and the time left; `ended` have ended before."""

    def __init__(self, runs: Mapping[Path, PlannedRun], ended: int) -> None:
        self._runs, self._ended, self._total = runs, ended, ended + len(runs)
        self._shares = {folder: _state(folder, run)[0] for folder, run in runs.items()}
        self._done_before = sum(self._shares.values())
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
        console, terminal = Console(stderr=True), sys.stderr.isatty()
        self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=console, disable=not terminal)
        self._all_runs = self._bar.add_task("all runs", total=1.0, text="")
        self._tasks: dict[Path, TaskID] = {}  # of the runs in work
        self._start = self._last_line = self._last_look = time.monotonic()

    def __enter__(self) -> ComparisonProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def started(self, folder: Path) -> None:
        """A run has started."""
        self._tasks[folder] = self._bar.add_task(folder.name, total=1.0, text="starting")
        if self._bar.disable:
            self._say(f"{folder.name} starts")

    def ended(self, folder: Path, reason: str | None) -> None:
        """A run has ended, and failed where there is a reason."""
        self._ended += 1
        self._shares[folder] = 1.0
        self._bar.remove_task(self._tasks.pop(folder))
        self._say(f"{folder.name} {'is finished' if reason is None else f'failed: {reason}'}; {self._all()}")

    def look(self) -> None:
        """Shows where the runs are."""
        now = time.monotonic()
        if now - self._last_look < LOOK_EVERY:
            return
        self._last_look = now
        texts = {}
        for folder, task in self._tasks.items():
            self._shares[folder], texts[folder] = _state(folder, self._runs[folder])
            self._bar.update(task, completed=self._shares[folder], text=texts[folder])
        share = (self._total - len(self._runs) + sum(self._shares.values())) / self._total
        self._bar.update(self._all_runs, completed=share, text=self._all())
        if self._bar.disable and texts and now - self._last_line >= LINE_EVERY:
            parts = [f"{folder.name} {self._shares[folder]:.0%}, {text}" for folder, text in texts.items()]
            self._say("; ".join([*parts, self._all()]))

    def _all(self) -> str:
        """Runs that have ended, and the time left if the rest goes on as what was done here went."""
        counts = f"{self._ended} of {self._total} runs"
        done = sum(self._shares.values()) - self._done_before
        if self._ended == self._total or done < 0.01:
            return counts
        seconds = (time.monotonic() - self._start) * (len(self._runs) - sum(self._shares.values())) / done
        return f"{counts}, {seconds / 60:.0f} min left" if seconds >= 120 else f"{counts}, {seconds:.0f} s left"

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _state(folder: Path, run: PlannedRun) -> tuple[float, str]:
    """Share of a run that is done, and where it is in words."""
    row = _last_row(folder / "metrics.jsonl")
    if row is None:
        return 0.0, "starting"
    step, seconds, config = row["step"], row["seconds"], run.config
    share = step / config.steps if config.steps is not None else seconds / (60.0 * (config.minutes or 1.0))
    return min(share, 1.0), f"step {step}, {step / max(seconds, 1e-9):.1f} steps/s"


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a log, without reading all of it."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - _TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # the last piece is empty or torn
    return json.loads(lines[-1]) if lines else None
