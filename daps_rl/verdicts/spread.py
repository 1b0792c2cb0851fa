"""A slow verdict, spread over processes or machines by any executor of `concurrent.futures`' kind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Spread:
    """Splits a batch into chunks and has an executor judge them: of processes, Dask, Ray or mpi4py.

    The verdict travels with every chunk, so it must be small and picklable. What fails is tried again, up to `retries`
    times a batch in all; what is not there after `timeout` counts as failed, and no wait is longer.

    Args:
        verdict: judges a chunk.
        executor: `ProcessPoolExecutor(4)`, Dask's `client.get_executor()`, `MPIPoolExecutor()`; or a function that
            makes one, which is asked for another when the first has broken, as a pool does when a worker dies.
        chunks: of a batch, of about the same size.
        retries: chunks that may be tried again, for each batch.
        timeout: seconds that the chunks of a batch may take, each time they are tried.
    Attributes:
        retried: chunks that were tried again so far.
    """

    def __init__(
        self,
        verdict: Callable[[Any, Any], Any],
        executor: Executor | Callable[[], Executor],
        chunks: int = 4,
        *,
        retries: int = 0,
        timeout: float = 300.0,
    ) -> None:
        if chunks < 1 or retries < 0 or not timeout > 0.0:
            raise ValueError(
                f"Spread needs chunks >= 1, retries >= 0 and timeout > 0, got {chunks}, {retries} and {timeout}."
            )
        self.verdict, self.chunks, self.retries, self.timeout = verdict, chunks, retries, timeout
        made = hasattr(executor, "submit") and not isinstance(executor, type)  # a class makes executors
        self.make: Any = None if made else executor
        self.executor: Any = executor if made else None
        self.truth = getattr(verdict, "truth", "data")
        self.retried, self._tries = 0, 0

    def __call__(self, truth: Tensor, decoded: Tensor) -> np.ndarray:
        """[M], float32. RuntimeError where chunks have failed more often than `retries` allows."""
        chunks = min(self.chunks, len(decoded))
        parts = list(zip(truth.tensor_split(chunks), decoded.tensor_split(chunks), strict=True))
        done: dict[int, np.ndarray] = {}
        left = self.retries
        while missing := [i for i in range(chunks) if i not in done]:
            found, error = self._try({i: parts[i] for i in missing})
            done |= found
            failed = len(missing) - len(found)
            if error is None:
                continue
            if self.make is not None:
                self.close()
            if failed > left:
                raise RuntimeError(
                    f"{failed} of {chunks} chunks failed and {left} more may be tried again; the last said "
                    f"{type(error).__name__}: {error}"
                ) from error
            left, self.retried = left - failed, self.retried + failed
        return np.concatenate([done[i] for i in range(chunks)])

    def _try(self, parts: dict[int, tuple[Tensor, Tensor]]) -> tuple[dict[int, np.ndarray], Exception | None]:
        """What came back of these chunks in time, and why the last of the others did not."""
        done, error, futures = dict[int, np.ndarray](), None, dict[int, Future]()
        until = time.monotonic() + self.timeout
        self._tries += 1
        try:
            if self.executor is None and self.make is not None:
                self.executor = self.make()
            for i, part in parts.items():
                arrays = (np.ascontiguousarray(tensor.numpy()) for tensor in part)
                futures[i] = self.executor.submit(judge, os.getpid(), self._tries, self.verdict, *arrays)
        except Exception as refused:  # a pool that has broken takes nothing more
            error = refused
        for i, future in futures.items():
            try:
                done[i] = np.asarray(future.result(max(until - time.monotonic(), 0.0)), np.float32)
            except Exception as failed:  # the verdict's own, a dead worker's, or that time is over
                future.cancel()
                error = failed
        return done, error

    def close(self) -> None:
        """Lets go of an executor that was made here, and ends its processes; the next batch makes another."""
        executor, self.executor = self.executor, None
        if executor is None:
            return
        # A worker that hangs would be waited for when Python ends. (Python 3.14 has kill_workers.)
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


def judge(
    parent: int, number: int, verdict: Callable[[Any, Any], Any], truth: np.ndarray, decoded: np.ndarray
) -> np.ndarray:
    """A chunk's scores, in the worker. The threads of a process do not survive a fork: there, torch takes one.

    No two tries have the same `number`: Dask would take the failure of the one for that of the other.
    """
    if os.getpid() != parent:
        torch.set_num_threads(1)
    scores = torch.as_tensor(verdict(torch.from_numpy(truth), torch.from_numpy(decoded)))
    return scores.detach().cpu().numpy()
