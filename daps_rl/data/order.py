"""The order in which training sees the data: a function of seed and step, and of nothing else."""

import torch
from torch import Tensor

EPOCH_STRIDE = 1_000_003  # a prime: seeds that are small numbers never share an epoch's order


class DataOrder:
    """Which data each training step takes: a new order every epoch; batches run on across epochs.

    Nothing is counted along the way, so a resumed run, or a worker that decodes ahead, asks for any step directly.

    Args:
        count, batch_size: N, data in the split, and B, which may be larger.
        seed: of the run.
        device: where the order is held; it is made on the CPU, alike for every device, once an epoch.
    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, count: int, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        for name, size in (("count", count), ("batch_size", batch_size)):
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}; give at least one datum per split and batch.")
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
