"""A run and who watches it: a bar on a terminal, a line now and then elsewhere, TensorBoard; Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daps_rl.device import crowded

if TYPE_CHECKING:
    from daps_rl.runs.session import Observer
    from daps_rl.training import Trainer

SHOWN = {"beta_elbo": "β-ELBO {:.1f}", "ESS": "ESS {:.2f}", "temperature": "τ {:.3g}", "code_usage": "codes {:.0%}"}
LINE_EVERY = 5.0  # seconds between lines where there is no terminal


@contextlib.contextmanager
def progress() -> Iterator[Observer]:
    """Gives what shows a run's rows, and beside the first of them why it may be slow."""
    advice = list(filter(None, [crowded()]))  # before this run's own threads count as load
    if not sys.stderr.isatty():
        yield _lines(advice)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    before, after = TextColumn("step {task.fields[step]}"), TextColumn("{task.percentage:3.0f}%  {task.fields[text]}")
    console = Console(stderr=True)
    with Progress(before, BarColumn(bar_width=None), after, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=1.0, step=0, text="")

        def show(trainer: Trainer, row: dict[str, Any]) -> None:
            bar.update(task, completed=trainer.progress, step=row["step"], text=_text(row))
            while advice:
                console.print(advice.pop(), soft_wrap=True)

        yield show


@contextlib.contextmanager
def shares() -> Iterator[Callable[[float, float], None]]:
    """Gives what shows a share that is done, 0 … 1, beside a rate in bits."""
    last = 0.0

    def show(done: float, bits: float) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY or done >= 1.0:
            last = time.monotonic()
            print(f"{done:4.0%}  {bits:.2f} bits a code on validation data", file=sys.stderr, flush=True)

    yield show


def _lines(advice: list[str]) -> Observer:
    last = 0.0

    def show(trainer: Trainer, row: dict[str, Any]) -> None:
        nonlocal last
        now, done = time.monotonic(), trainer.progress
        if now - last >= LINE_EVERY or done >= 1.0:
            last, left = now, row["seconds"] / max(done, 1e-9) - row["seconds"]
            print(f"step {row['step']}  {done:.0%}  {_text(row)}  {left:.0f} s left", file=sys.stderr, flush=True)
        while advice:
            print(advice.pop(), file=sys.stderr, flush=True)

    return show


def _text(row: dict[str, Any]) -> str:
    return f"{row['step'] / max(row['seconds'], 1e-9):.1f} steps/s  {in_words(row, SHOWN)}"


def in_words(values: Mapping[str, Any], forms: Mapping[str, str]) -> str:
    """Those of the values that are there and have a form, in it."""
    return "  ".join(form.format(values[key]) for key, form in forms.items() if values.get(key) is not None)


def tensorboard_observer(folder: Path) -> Observer:
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


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    signal: int | None = None
    _interrupts = False

    def __call__(self) -> bool:
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Turns Ctrl-C and SIGTERM into a request; a second Ctrl-C interrupts at once."""

        def handle(number: int, frame: object) -> None:
            again, self.signal = self.signal is not None, number
            if self._interrupts or (again and number == signal.SIGINT):
                raise KeyboardInterrupt

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Meanwhile a request interrupts at once: what is under way is saved, or can be done again."""
        self._interrupts = True
        try:
            if self.signal is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupts = False
