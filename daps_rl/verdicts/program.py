"""An external program as the verdict: a codec, a simulator, a model in another language."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor


class Program:
    """Runs a command once per batch: `COMMAND batch.npz scores.npy`, in a temporary folder that is then removed.

    batch.npz holds the arrays `truth` and `decoded`. The program writes M numbers to scores.npy, or prints them, one a
    line. It is killed with its children when the time is over. It does not get the terminal's input.

    Args:
        command: the program and its first arguments, as a list, or as one would type it.
        timeout: seconds that a batch may take.
        truth: "data", or "labels" of them.
    """

    def __init__(self, command: str | Sequence[str], timeout: float = 60.0, *, truth: str = "data") -> None:
        self.command = shlex.split(command) if isinstance(command, str) else list(command)
        if not self.command or not timeout > 0.0:
            raise ValueError(f"Program needs a command and timeout > 0, got {command!r} and {timeout}.")
        self.timeout, self.truth = timeout, truth

    def __call__(self, truth: Tensor, decoded: Tensor) -> np.ndarray:
        """[M], float32. RuntimeError where the program fails, takes too long, or gives another count of numbers."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.savez(folder / "batch.npz", truth=truth.numpy(), decoded=decoded.numpy())
            self._run(folder)
            written = folder / "scores.npy"
            try:
                scores = np.load(written) if written.exists() else np.loadtxt(folder / "stdout", ndmin=1)
            except (ValueError, OSError, EOFError) as error:
                raise RuntimeError(f"{self.command[0]} gave something else than numbers ({error})") from error
            if scores.shape != (len(decoded),):
                raise RuntimeError(
                    f"{self.command[0]} must give {len(decoded)} numbers, got an array of shape {list(scores.shape)}"
                )
            return scores.astype(np.float32)

    def _run(self, folder: Path) -> None:
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            child = subprocess.Popen(
                [*self.command, str(folder / "batch.npz"), str(folder / "scores.npy")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # a group of its own, which can be killed as one
            )
            try:
                code = child.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{self.command[0]} took more than {self.timeout:g} s; raise timeout") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if code != 0:
            said = (folder / "stderr").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{self.command[0]} ended with exit code {code}: {said[-1] if said else 'no word'}")
