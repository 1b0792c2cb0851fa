"""The data of each training step, in an order that is a function of seed and step, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from daps_rl.data.stream import Stream

REPEATED_BATCH = 4096  # data of a batch that is larger than the data set, at most
EPOCH_STRIDE = 1_000_003  # a prime: seeds that are small numbers never share an epoch's order


def check_batch_size(batch_size: int, count: int | None) -> None:
    """Raises ValueError unless a batch has data, and no more than there are (N, or None where nobody knows it).

    Of little data some may be repeated in a batch, so that a usual batch size suits any data.
    """
    most = max(count or 0, REPEATED_BATCH)
    if not 1 <= batch_size <= most:
        known = "an unknown number of" if count is None else count
        raise ValueError(
            f"batch_size must be >= 1 and at most {most} for {known} training data, got {batch_size}; pass 256."
        )


class DataOrder:
    """Which data each training step takes: a new order every epoch; batches run on across epochs.

    Nothing is counted along the way, so a resumed run, or a worker that decodes ahead, asks for any step directly.

    Args:
        count, batch_size: N, data in the split, and B, which may be larger up to 4,096.
        seed: of the run.
        device: where the order is held; it is made on the CPU, alike for every device, once an epoch.
    Raises:
        ValueError: a size is out of range.
    """

    def __init__(self, count: int, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        if count < 1:
            raise ValueError(f"count must be >= 1, got {count}; give at least one datum.")
        check_batch_size(batch_size, count)
        self.count, self.batch_size, self.seed, self.device = count, batch_size, seed, device
        self._held: tuple[int, Tensor] | None = None  # the last epoch asked for, and its order

    def epoch(self, step: int) -> int:
        """The epoch that the last datum of a step belongs to; steps and epochs count from 0."""
        return ((step + 1) * self.batch_size - 1) // self.count

    def indices(self, step: int) -> Tensor:
        """The data of a step, int64. [B]."""
        start, size = step * self.batch_size, self.batch_size
        parts = []
        while size > 0:
            epoch, offset = divmod(start, self.count)
            taken = min(size, self.count - offset)
            parts.append(self._order(epoch)[offset : offset + taken])
            start, size = start + taken, size - taken
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if self._held is None or self._held[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * EPOCH_STRIDE + epoch)
            order = torch.randperm(self.count, generator=generator)
            if torch.device(self.device).type == "cuda":  # so that nothing waits for the copy
                order = order.pin_memory()
            self._held = epoch, order.to(self.device, non_blocking=True)
        return self._held[1]


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
