"""Several processes that train one model, each on its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class World:
    """This process among those that train together. One by itself, by default: then nothing here does anything.

    Attributes:
        rank: of this process, 0 … size - 1; rank 0 alone writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in 0 … size - 1 = {self.size - 1}, got {self.rank}.")

    @property
    def is_first(self) -> bool:
        """Whether this process writes, prints and evaluates."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This process's part of a batch of all; ValueError where it cannot be parted evenly."""
        if batch_size % self.size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {self.size}, got {batch_size}; pass "
                f"--batch-size {batch_size + self.size - batch_size % self.size}."
            )
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, tensor: Tensor) -> Tensor:
        """What all processes have, one below the other, detached. [B, ...] → [size·B, ...]."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; the tensor given stays as it is."""
        if self.size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    def average_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Makes every gradient the mean over the processes, in one exchange; returns the mean of the loss. 0-dim."""
        if self.size == 1:
            return loss.detach()
        gradients = [p.grad for p in parameters if p.grad is not None]
        pieces = [gradient.flatten() for gradient in gradients] + [loss.detach().to(gradients[0]).view(1)]
        flat = torch.cat(pieces)
        dist.all_reduce(flat)
        *means, mean_loss = flat.div_(self.size).split([piece.numel() for piece in pieces])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return mean_loss[0]

    def share_first(self, *modules: nn.Module) -> None:
        """Makes parameters and buffers those of the first process."""
        if self.size > 1:
            for module in modules:
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The first process's seconds, and whether any is to stop: all must take the same decisions."""
        if self.size == 1:
            return seconds, stop
        said = torch.tensor([seconds if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(said)  # on the host: a GPU does not wait
        return said[0].item(), said[1].item() > 0.0

    def from_first(self, function: Callable[[], T]) -> T:
        """What a function returns that the first process calls, in all of them."""
        held: list[Any] = [function() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def of_all(self, value: T) -> list[T]:
        """What each process has, by rank."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held


@contextmanager
def joined(device: str | None = None) -> Iterator[World]:
    """The world that `torchrun` says this process belongs to; a world of one without it.

    Over gloo between CPUs, and NCCL between GPUs, one for each process, which `device="cpu"` leaves alone.

    Raises:
        ValueError: a machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield World()
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        local, gpus = int(os.environ.get("LOCAL_RANK", os.environ["RANK"])), torch.cuda.device_count()
        if "LOCAL_RANK" in os.environ and local >= gpus:
            raise ValueError(
                f"a process needs a GPU of its own, and there are {gpus} here; start as many, or --device cpu."
            )
        torch.cuda.set_device(local % gpus)
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # torchrun's own store still holds the addresses of processes that have died. (Machines count for themselves.)
        store = dist.PrefixStore(f"restart-{os.environ.get(RESTARTS, '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


def was_restarted() -> bool:
    """Whether `torchrun` has started this process again, after one of the world had died."""
    return int(os.environ.get(RESTARTS, "0")) > 0
