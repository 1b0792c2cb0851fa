"""Hub data sets that are read over the network as training goes: no random access, nothing kept."""

from __future__ import annotations

import importlib.util
import itertools
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from daps_rl.data.errors import DataError, one_line
from daps_rl.data.hub import cell_file, undecoded
from daps_rl.data.images import stream_splits
from daps_rl.data.order import EPOCH_STRIDE, check_batch_size
from daps_rl.data.picture import Picture
from daps_rl.data.splits import Splits
from daps_rl.data.stream import SAMPLE, SAMPLE_SEED, Batch, ImageStream, Stream, load_ahead

HELD_OUT = 1000  # images of validation and of test, kept in memory
SHUFFLE_BUFFER = 1000  # images; encoded, so some hundred megabytes at most


class HeldFiles(list[tuple[str, bytes]]):
    """A `Source`: encoded images kept in memory, each with its name, which holds a checksum."""

    def file(self, index: int) -> bytes:
        return self[index][1]

    def label(self, index: int) -> str:
        return self[index][0]

    def identity(self) -> Iterator[str]:
        return (name for name, _ in self)


@dataclass(frozen=True)
class Cells(IterableDataset[Batch]):
    """The training images of a hub data set in batches without end; lives in the worker."""

    part: Any  # what `datasets` streams, with one column of images that are not decoded
    column: str
    where: str  # what messages call the data set
    picture: Picture
    attempts: int  # as many unreadable images in a row end the stream
    batch_size: int = 1
    seed: int = 0
    skipped: int = 0  # images to leave out at the start, undecoded

    def __iter__(self) -> Iterator[Batch]:
        _forget_the_parents_connections()
        corrupt: dict[str, str] = {}
        pictures: list[Tensor] = []
        for picture in self._pictures(corrupt):
            pictures.append(picture)
            if len(pictures) == self.batch_size:
                yield Batch(torch.stack(pictures), dict(corrupt))
                corrupt.clear()
                pictures = []
        yield Batch(None, corrupt)

    def _pictures(self, corrupt: dict[str, str]) -> Iterator[Tensor]:
        """One for each image there is: where one is unreadable, the next that can be read once more."""
        waiting = 0
        for cell in itertools.islice(self._cells(), self.skipped, None):
            name, file = named_file(self.where, cell)
            try:
                picture = self.picture(file)
            except Exception as error:  # PIL's errors share no base class
                corrupt[name] = one_line(error)
                waiting += 1
                if waiting >= self.attempts:
                    return
                continue
            yield from [picture] * (waiting + 1)
            waiting = 0

    def _cells(self) -> Iterator[Mapping[str, Any]]:
        """Every image of every epoch; ends only if an epoch is empty."""
        for epoch in itertools.count():
            order = self.part.shuffle(seed=self.seed * EPOCH_STRIDE + epoch, buffer_size=SHUFFLE_BUFFER)
            batch = None
            for batch in order.iter(batch_size=1):  # not iter(order), which has an order of its own in a worker
                yield batch[self.column][0]
            if batch is None:
                return


class IterableStream(Stream):
    """A stream without random access: `batches` and an estimated mean, no length and no index.

    The order is that of `datasets`: shards shuffled where it can, then a buffer of 1,000 images drawn from at random.
    It is a function of the seed alone, so a resumed run sees what it would have seen; what lies before `start` is
    read again (and not decoded).

    Args:
        cells: what to read.
        sample: images of it, which say how pixels become values, and the mean.
        count: N, or None where nobody knows it.
    """

    def __init__(self, cells: Cells, sample: ImageStream, count: int | None = None) -> None:
        self.cells, self.picture, self.corrupt, self.standard = cells, cells.picture, sample.corrupt, sample.standard
        self.count, self._mean = count, sample.mean()

    def batches(self, batch_size: int, seed: int, start: int = 0, workers: int = 2) -> Iterator[Tensor]:
        """See `Stream.batches`; one worker at most reads."""
        check_batch_size(batch_size, self.count)
        reader = replace(self.cells, seed=seed, batch_size=batch_size, skipped=start * batch_size)
        return self._values(load_ahead(reader, min(workers, 1)))

    def identity(self) -> Iterator[str]:
        """See `Stream.identity`."""
        yield f"{self.cells.where} {self.cells.column} {list(self.shape)} {self.picture}"


def stream_hub(hub_id: str, column: str, found: Mapping[str, Any], *, image_size: int, max_corrupt: int) -> Splits:
    """Splits of an image data set of the hub that is never downloaded as a whole; arguments as for `load_hub`.

    Validation and test are the first 1,000 images of the hub's own, or else the first thousands of its training part,
    which training then leaves out; they stay in memory, encoded. There are no labels. Mean, deviation and colour are
    those of 1,000 images drawn through the shuffle buffer.
    """
    count = _count(found["train"])
    train, held, taken = undecoded(found["train"], column), {}, 0
    for split in ("validation", "test"):
        own = split in found
        part = undecoded(found[split], column) if own else train.skip(taken)
        held[split] = _hold(part.take(HELD_OUT), column, f"{hub_id} {split}")
        taken += 0 if own else HELD_OUT
    rest = train.skip(taken) if taken else train
    sample = _hold(rest.shuffle(seed=SAMPLE_SEED, buffer_size=SHUFFLE_BUFFER).take(SAMPLE), column, hub_id)
    splits = stream_splits(hub_id, {"train": sample, **held}, {}, size=image_size, max_corrupt=max_corrupt)
    assert isinstance(splits.train, ImageStream)  # of the sample
    cells = Cells(rest, column, hub_id, splits.train.picture, max_corrupt + 1)
    return replace(splits, train=IterableStream(cells, splits.train, None if count is None else count - taken))


def named_file(where: str, cell: Mapping[str, Any]) -> tuple[str, bytes]:
    """Content of an image that is not decoded, and a name for it: its path, if there is one, and a checksum."""
    try:
        file = cell_file(cell)
    except Exception as error:  # of any file system that a path may lead to
        return f"{where} {cell} ({one_line(error)})", b""
    return f"{where} {cell['path'] or 'image'} (crc32 {zlib.crc32(file):08x})", file


def _forget_the_parents_connections() -> None:
    """In a forked worker fsspec would wait for a thread that only its parent has (as `datasets` does for iter)."""
    if get_worker_info() is not None and importlib.util.find_spec("fsspec") is not None:
        import fsspec.asyn

        fsspec.asyn.reset_lock()


def _hold(part: Any, column: str, where: str) -> HeldFiles:
    held = HeldFiles(named_file(where, example[column]) for example in part)
    if not held:
        raise DataError(
            f"{where} must hold more images than are held out ({HELD_OUT} each), got none; leave streaming out"
        )
    return held


def _count(part: Any) -> int | None:
    """How many examples the hub says there are."""
    splits = part.info.splits or {}
    return splits[part.split].num_examples if part.split in splits else None
