"""Images that are decoded when they are needed: what stands in for a tensor that memory cannot hold."""

from __future__ import annotations

import itertools
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from daps_rl.data.errors import CorruptFiles, DataError, one_line
from daps_rl.data.order import DataOrder
from daps_rl.data.picture import File, Picture, Standard

SAMPLE = 1000  # images, at most, that mean and deviation are estimated from
SAMPLE_SEED = 0
READ_AT_ONCE = 64
# TorchRL makes "spawn" the default: seconds to start, and a user's script without a __main__ guard would run again.
# Workers touch neither CUDA nor more than one thread, so a fork is safe where the platform's own libraries are.
START_METHOD = "fork" if sys.platform == "linux" else None


class Source(Protocol):
    """Numbered image files, wherever they lie. Copied to worker processes, so it pickles."""

    def __len__(self) -> int: ...

    def file(self, index: int) -> File:
        """Path or content of one file; nothing is decoded."""

    def label(self, index: int) -> str:
        """What a message calls that file."""

    def identity(self) -> Iterator[str]:
        """Names and sizes: what changes when the files do."""


class Stream(ABC):
    """Images, decoded when they are needed, float32 and standardised. [N, C, H, W].

    Attributes:
        picture: how a file becomes pixels.
        standard: how pixels become values.
        corrupt: the unreadable files met so far.
        count: N, or None where nobody knows it.
    """

    picture: Picture
    standard: Standard
    corrupt: CorruptFiles
    count: int | None
    _mean: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]; N is -1 where nobody knows it."""
        count = -1 if self.count is None else self.count
        return torch.Size([count, self.picture.channels, self.picture.size, self.picture.size])

    @abstractmethod
    def batches(self, batch_size: int, seed: int, start: int = 0, workers: int = 2) -> Iterator[Tensor]:
        """The batches of training steps `start`, `start` + 1, ... without end, decoded ahead of time. [B, C, H, W].

        The same for any number of workers. torch's global generators are left alone. Closing the iterator, or losing
        it, ends the workers.

        Args:
            batch_size: B.
            seed: of the order.
            start: the first step.
            workers: processes that decode; 0 decodes in this one, when a batch is asked for.
        Raises:
            DataError: too many files are unreadable.
        """

    def mean(self, dim: int = 0) -> Tensor:
        """The mean image, estimated from at most 1,000. [C, H, W]."""
        if dim != 0:
            raise DataError(f"the mean of a stream is over dimension 0, the data, got {dim}; take a tensor of it first")
        assert self._mean is not None  # each kind of stream knows it, or finds it first
        return self._mean.clone()

    @abstractmethod
    def identity(self) -> Iterator[str]:
        """What a fingerprint is made of: names and sizes of the files, and what is done to them; no pixels."""

    def _values(self, loader: Iterator[Batch]) -> Iterator[Tensor]:
        try:
            for batch in loader:
                yield self.standard(self._accept(batch))
        finally:
            del loader  # ends the workers now, not when a traceback that shows this frame is forgotten

    def _accept(self, batch: Batch) -> Tensor:
        self.corrupt.note(batch.corrupt, exhausted=batch.pixels is None)
        assert batch.pixels is not None  # note raised
        return batch.pixels


class ImageStream(Stream):
    """A stream of numbered files: any of them can be had at any time.

    Where a file is unreadable, the next one that is readable stands in its place (the first after the last), so that
    the number of data, their order and a resumed run stay as they are.

    Args:
        source: the files.
        picture, corrupt: see `Stream`.
        standard: how pixels become values; None takes the moments of a fixed random sample of this stream.
    Raises:
        DataError: too many files are unreadable, or the sample is all one value.
    """

    def __init__(
        self, source: Source, picture: Picture, corrupt: CorruptFiles, standard: Standard | None = None
    ) -> None:
        self.source, self.picture, self.corrupt, self.count = source, picture, corrupt, len(source)
        self._reader = _Reader(source, picture, corrupt.limit + 1)
        if standard is None:
            sample = self._sample()
            standard = Standard.of(sample, corrupt.where)
            self._mean = standard(_mean_pixels(sample))
        self.standard = standard

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """One image for an int, [C, H, W]; for a slice or a LongTensor as many as it has, [n, C, H, W]."""
        rows = torch.arange(len(self))[index]
        pixels = self._read(rows.reshape(-1))
        return self.standard(pixels).reshape(*rows.shape, *self.shape[1:])

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in order, at most `size` at a time. [n, C, H, W]."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def batches(self, batch_size: int, seed: int, start: int = 0, workers: int = 2) -> Iterator[Tensor]:
        """See `Stream.batches`; the order is that of `DataOrder`."""
        steps = map(DataOrder(len(self), batch_size, seed).indices, itertools.count(start))
        return self._values(load_ahead(self._reader, workers, steps))

    def mean(self, dim: int = 0) -> Tensor:
        """See `Stream.mean`."""
        if self._mean is None:
            self._mean = self.standard(_mean_pixels(self._sample()))
        return super().mean(dim)

    def identity(self) -> Iterator[str]:
        """See `Stream.identity`."""
        yield f"{list(self.shape)} {self.picture}"
        yield from self.source.identity()

    def _sample(self) -> Tensor:
        """A fixed random subset, uint8. [n, C, H, W]."""
        return self._read(torch.from_numpy(sample_rows(len(self))))

    def _read(self, rows: Tensor) -> Tensor:
        parts = [self._accept(self._reader[part]) for part in rows.split(READ_AT_ONCE) if len(part)]
        return torch.cat(parts) if parts else torch.empty(0, *self.shape[1:], dtype=torch.uint8)


class Batch(NamedTuple):
    """Decoded images, and the unreadable files met: what a worker sends."""

    pixels: Tensor | None  # [B, C, H, W], uint8; None if nothing readable was near
    corrupt: dict[str, str]


@dataclass(frozen=True)
class _Reader(Dataset[Batch]):
    """Decodes the files of given numbers; lives in the workers."""

    source: Source
    picture: Picture
    attempts: int

    def __getitem__(self, rows: Tensor) -> Batch:
        corrupt: dict[str, str] = {}
        pictures = []
        for row in rows.tolist():
            picture = self._readable(row, corrupt)
            if picture is None:
                return Batch(None, corrupt)
            pictures.append(picture)
        return Batch(torch.stack(pictures), corrupt)

    def _readable(self, row: int, corrupt: dict[str, str]) -> Tensor | None:
        """The image of that number, or of the next that can be read; None after `attempts` in a row."""
        for index in range(row, row + min(self.attempts, len(self.source))):
            index %= len(self.source)
            name = self.source.label(index)
            if name not in corrupt:
                try:
                    return self.picture(self.source.file(index))
                # PIL's readers raise errors of many kinds, which share no base class.
                except Exception as error:
                    corrupt[name] = one_line(error)
        return None


def load_ahead(dataset: Dataset[Batch], workers: int, steps: Iterator[Tensor] | None = None) -> Iterator[Batch]:
    """torch's DataLoader over batches that the data set makes itself."""
    if workers < 0:
        raise ValueError(f"workers must be >= 0, got {workers}; 0 decodes in this process.")
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),  # else the loader draws from the global one, and a resumed run differs
        )
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the run saves a checkpoint, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sample_rows(count: int) -> np.ndarray:
    """Numbers of a fixed random subset, at most 1,000, in order."""
    return np.sort(np.random.RandomState(SAMPLE_SEED).permutation(count)[:SAMPLE])


def _mean_pixels(pixels: Tensor) -> Tensor:
    """Mean over the first dimension, in double precision, without a double of the whole. [N, ...] → [...]."""
    return torch.from_numpy(pixels.numpy().mean(0, dtype=np.float64))
