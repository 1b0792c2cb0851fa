"""What a run shows while it trains: a live bar on a terminal, a line now and then elsewhere; TensorBoard on request."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daps_rl.training import Trainer

SHOWN = (
    ("β-ELBO", "beta_elbo", "{:.1f}"),
    ("ESS", "ESS", "{:.2f}"),
    ("τ", "temperature", "{:.3g}"),
    ("codes", "code_usage", "{:.0%}"),
)
LINE_EVERY = 5.0  # seconds between lines where there is no terminal


class Progress:
    """Shows a run's rows: call it with the trainer and each row, inside its `with` block."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last_line = 0.0
        self._smooth: float | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("step {task.fields[step]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:3.0f}%"),
                TextColumn("{task.fields[rate]:.1f} steps/s"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0, step=0, rate=0.0, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, trainer: Trainer, row: dict[str, Any]) -> None:
        rate = row["step"] / max(row["seconds"], 1e-9)
        text = "  ".join(f"{label} {form.format(row[key])}" for label, key, form in SHOWN if row.get(key) is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.progress, step=row["step"], rate=rate, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY or trainer.progress >= 1.0:
            self._last_line = now
            left = row["seconds"] / max(trainer.progress, 1e-9) - row["seconds"]
            print(
                f"step {row['step']}  {trainer.progress:.0%}  {rate:.1f} steps/s  {text}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


def tensorboard_observer(folder: Path) -> Callable[[Trainer, dict[str, Any]], None]:
    """Writes each row's numbers for TensorBoard.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs the tensorboard package: pip install 'daps-rl[tensorboard]'") from error
    writer = functools.cache(lambda: SummaryWriter(str(folder)))  # made with the first row: it makes the folder

    def observe(trainer: Trainer, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                writer().add_scalar(name, value, row["step"])
        writer().flush()

    return observe
