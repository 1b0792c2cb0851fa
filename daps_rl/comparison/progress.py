"""How far a comparison is: live bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from daps_rl.comparison.plan import PlannedRun

LINE_EVERY = 30.0  # seconds between lines where there is no terminal
_TAIL = 2**16  # bytes of a log, more than a row


class ComparisonProgress(Progress):
    """Shows which of the runs, by folder, are in work, how far, and the time left; `ended` have ended before."""

    def __init__(self, runs: Mapping[Path, PlannedRun], ended: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
        console, disable, text = Console(stderr=True), not sys.stderr.isatty(), TextColumn("{task.fields[text]}")
        super().__init__(*columns, text, console=console, disable=disable, speed_estimate_period=math.inf)
        self._runs, self._before, self._ended, self._last_line = runs, ended, ended, time.monotonic()
        self._whole = self.add_task("all runs", total=ended + len(runs), text="")
        self._bars = {folder: self.add_task(folder.name, total=1.0, visible=False, text="") for folder in runs}
        for folder, bar in self._bars.items():
            self.update(bar, completed=_state(folder, runs[folder])[0])
        self._look_at_whole()

    def started(self, folder: Path) -> None:
        """A run has started."""
        self.update(self._bars[folder], visible=True, text="starting")
        if self.disable:
            self._say(f"{folder.name} starts")

    def ended(self, folder: Path, reason: str | None) -> None:
        """A run has ended, and failed where there is a reason."""
        self._ended += 1
        self.update(self._bars[folder], visible=False, completed=1.0)
        self._say(f"{folder.name} {'is finished' if reason is None else f'failed: {reason}'}; {self._look_at_whole()}")

    def look(self) -> None:
        """Shows where the runs are."""
        texts = []
        for folder, bar in self._bars.items():
            if self.tasks[bar].visible:
                share, text = _state(folder, self._runs[folder])
                self.update(bar, completed=share, text=text)
                texts.append(f"{folder.name} {share:.0%}, {text}")
        whole = self._look_at_whole()
        if self.disable and texts and time.monotonic() - self._last_line >= LINE_EVERY:
            self._say("; ".join([*texts, whole]))

    def _look_at_whole(self) -> str:
        """Runs that have ended, and the time left if the rest goes on as what was done here went."""
        whole = self.tasks[self._whole]
        self.update(self._whole, completed=self._before + sum(self.tasks[bar].completed for bar in self._bars.values()))
        left, text = whole.time_remaining, f"{self._ended} of {whole.total} runs"
        if left:
            text += f", {left / 60:.0f} min left" if left >= 120 else f", {left:.0f} s left"
        self.update(self._whole, text=text)
        return text

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _state(folder: Path, run: PlannedRun) -> tuple[float, str]:
    """Share of a run that is done, and where it is in words; reads no more than the end of its log."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
            *_, line, _ = file.read().split(b"\n")  # the last piece is empty or torn
        row, config = json.loads(line), run.config
        step, seconds = int(row["step"]), float(row["seconds"])
    except (OSError, LookupError, ValueError, TypeError):  # no row yet, or none that a run wrote
        return 0.0, "starting"
    share = step / config.steps if config.steps is not None else seconds / (60.0 * (config.minutes or 1.0))
    return min(share, 1.0), f"step {step}, {step / max(seconds, 1e-9):.1f} steps/s"
