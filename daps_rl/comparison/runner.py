"""Commands run side by side, one process each: one that dies takes no other with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

LOOK_EVERY = 0.3  # seconds
TRAIN = (sys.executable, "-m", "daps_rl", "train", "--trust", "--resume", "--out")  # what the person compares
"""A child whose parent was killed ends by itself, checkpointed: the pipe that it writes its progress to is broken."""

Task = TypeVar("Task")
Child = subprocess.Popen[str]
Output = Future[tuple[str, str]]


def run_commands(
    commands: Mapping[Task, Sequence[str]],
    *,
    jobs: int,
    threads: int,
    stdout: int | None = subprocess.DEVNULL,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[Task], None] = lambda task: None,
    on_end: Callable[[Task, int, str], None],
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Runs commands side by side, a process each.

    Once `stop()` is true nothing more is started, and what runs is asked to end (SIGTERM). So it is on any error
    here; a KeyboardInterrupt kills instead.

    Args:
        commands: by task, in the order in which they start.
        jobs, threads: commands at once, and threads of each.
        stdout: where the children write what they print; None is where this process does.
        stop, on_look: called a few times a second.
        on_start: told of each command that is about to start.
        on_end: told of each command that has ended, its exit code and what it wrote to stderr.
    """
    waiting, running = deque(commands), dict[Child, tuple[Task, Output]]()
    with ThreadPoolExecutor(jobs) as readers:
        try:
            while running or (waiting and not stop()):
                while waiting and len(running) < jobs and not stop():
                    task = waiting.popleft()
                    on_start(task)
                    child = _start(commands[task], threads, stdout)
                    running[child] = task, readers.submit(child.communicate)
                for child in [child for child, (_, output) in running.items() if output.done()]:
                    task, output = running.pop(child)
                    on_end(task, child.returncode, output.result()[1])
                if stop():
                    _end(running, kill=False)
                on_look()
                wait([output for _, output in running.values()], timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt:
            _end(running, kill=True)
            raise
        finally:
            _end(running, kill=False)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes at once; the person's own OMP_NUM_THREADS comes first."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdigit() and int(chosen) > 0 else max(cores() // jobs, 1)


def _start(command: Sequence[str], threads: int, stdout: int | None) -> Child:
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C comes to the parent alone, which asks once
    )


def _end(running: Iterable[Child], *, kill: bool) -> None:
    for child in running:
        child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


def outcome(folder: Path, code: int, stderr: str) -> str | None:
    """Why a run failed, in one line; None where it has finished."""
    if (folder / "summary.json").exists():
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    if code > 128:
        return f"stopped from outside by {signal.Signals(code - 128).name}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("daps-rl: error: ") if lines else f"ended with exit code {code} without a word"
