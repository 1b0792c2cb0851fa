"""The data of each training step, on the model's device, from memory or from a stream."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from daps_rl.data.order import DataOrder
from daps_rl.data.stream import Stream


class Feed:
    """The batch of any training step: a function of seed and step alone. Streams are decoded ahead, step after step.

    Args:
        data: the training split, held on the device; or a stream.
        batch_size, seed: B, and the seed of the order.
        device: where batches go.
        workers: processes that decode a stream.
        part: of each batch, that this process trains on; all of it by default.
    """

    def __init__(
        self,
        data: Tensor | Stream,
        batch_size: int,
        seed: int,
        *,
        device: torch.device,
        workers: int = 2,
        part: slice = slice(None),
    ) -> None:
        self.part = part
        self.data = data.to(device) if isinstance(data, Tensor) else data
        self.batch_size, self.seed, self.device, self.workers = batch_size, seed, device, workers
        known = data.shape[0] > 0  # -1: nobody knows
        self.order = DataOrder(data.shape[0], batch_size, seed, device) if known else None
        self._stream: Iterator[Tensor] | None = None
        self._held: tuple[int, Tensor] | None = None  # the last step asked for, and its batch

    def batch(self, step: int) -> Tensor:
        """The data of a step. [B, *x]."""
        if isinstance(self.data, Tensor):
            return self.data[self.indices(step)]
        if self._held is None or self._held[0] != step:
            if self._stream is None or self._held is None or self._held[0] + 1 != step:
                self._stream = self.data.batches(self.batch_size, self.seed, start=step, workers=self.workers)
            self._held = step, next(self._stream)[self.part].to(self.device, non_blocking=True)
        return self._held[1]

    def indices(self, step: int) -> Tensor:
        """The numbers of a step's data, where they are in memory. int64 [B]."""
        assert self.order is not None  # a tensor says how many it holds
        return self.order.indices(step)[self.part]

    def new_epochs(self, step: int) -> int:
        """How many epochs begin within a step's batch, the very first not counted."""
        return 0 if self.order is None or step == 0 else self.order.epoch(step) - self.order.epoch(step - 1)
