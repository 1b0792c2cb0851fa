"""Runs trained side by side, one process each: one that dies takes no other with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

LOOK_EVERY = 0.3  # seconds
ERROR_LOG = "error.txt"
TRAIN = (sys.executable, "-m", "daps_rl", "train", "--resume", "--out")

Child = subprocess.Popen[str]
Output = Future[tuple[str, str]]


def train_folders(
    folders: Sequence[Path],
    *,
    jobs: int,
    threads: int,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[Path], None] = lambda folder: None,
    on_end: Callable[[Path, str | None], None],
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Trains the run in each folder with `daps-rl train --resume`, whose settings and checkpoint lie there.

    Once `stop()` is true nothing more is started, and what runs is asked to save and end (SIGTERM). So it is on any
    error here; a KeyboardInterrupt kills instead. A child whose parent was killed ends by itself, checkpointed: the
    pipe that it writes its progress to is broken.

    Args:
        folders: of the runs, each with its config.json.
        jobs: runs at once.
        threads: of each.
        stop: asked a few times a second.
        on_start: told of each run that starts.
        on_end: told of each run that has ended of itself, and why it failed or None; not of runs that were stopped.
            What a failed run said is kept in its error.txt.
        on_look: called a few times a second.
    """
    waiting, running = deque(folders), dict[Child, tuple[Path, Output]]()
    with ThreadPoolExecutor(jobs) as readers:
        try:
            while running or (waiting and not stop()):
                while waiting and len(running) < jobs and not stop():
                    child = _start(waiting[0], threads)
                    running[child] = waiting.popleft(), readers.submit(child.communicate)
                    on_start(running[child][0])
                for child in [child for child, (_, output) in running.items() if output.done()]:
                    folder, output = running.pop(child)
                    reason = _outcome(folder, child.returncode, output.result()[1])
                    if reason is not None and stop():
                        continue
                    if reason is not None:
                        (folder / ERROR_LOG).write_text(output.result()[1])
                    on_end(folder, reason)
                if stop():
                    _end(running, kill=False)
                on_look()
                wait([output for _, output in running.values()], timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt:
            _end(running, kill=True)
            raise
        finally:
            _end(running, kill=False)


def _start(folder: Path, threads: int) -> Child:
    (folder / ERROR_LOG).unlink(missing_ok=True)  # of an earlier try
    return subprocess.Popen(
        [*TRAIN, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C comes to the parent alone, which asks once
    )


def _end(running: dict[Child, tuple[Path, Output]], *, kill: bool) -> None:
    for child in running:
        child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


def _outcome(folder: Path, code: int, stderr: str) -> str | None:
    """Why a run failed, in one line; None where it has finished."""
    if (folder / "summary.json").exists():
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    if code > 128:
        return f"stopped from outside by {signal.Signals(code - 128).name}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("daps-rl: error: ") if lines else f"ended with exit code {code} without a word"
