"""Streams and the order of the data: the same for any worker, any start, any form of index."""

import gc
import multiprocessing
import pickle
import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from data_files import assert_one_line

from daps_rl.data import DataError, DataOrder, Feed, ImageStream, Splits, Stream
from daps_rl.data.errors import CorruptFiles
from daps_rl.data.picture import Standard
from daps_rl.data.stream import SAMPLE, sample_rows


def pixels_of(index):
    """The picture [3, 2, 2] of a number: one grey, different in each corner."""
    return torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2) + index


@dataclass(frozen=True)
class Numbers:
    """A source whose files are their own numbers; those of `bad` are damaged."""

    count: int
    bad: tuple[int, ...] = ()
    delay: float = 0.0

    def __len__(self):
        return self.count

    def file(self, index):
        time.sleep(self.delay * (index % 3))
        return index

    def label(self, index):
        return f"file{index}"

    def identity(self):
        yield f"{self.count} numbers"


@dataclass(frozen=True)
class Decode:
    """Stands in for `Picture`."""

    size: int = 2
    channels: int = 3
    bad: tuple[int, ...] = ()

    def __call__(self, file):
        if file in self.bad:
            raise OSError("truncated\nfile")
        return pixels_of(file)


UNIT = Standard(0.0, 1 / 255)  # values are pixels


def make_stream(count=10, bad=(), limit=100, standard=UNIT, delay=0.0):
    return ImageStream(Numbers(count, delay=delay), Decode(bad=tuple(bad)), CorruptFiles("toy", limit), standard)


def first(iterator, count):
    return torch.stack([next(iterator) for _ in range(count)])


def numbers(batch):
    """Which files a batch shows."""
    return batch[..., 0, 0, 0].round().int().tolist()


# the order


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 10), (3, 7), (12, 4), (1, 5)])
def test_batches_run_across_epochs(count, batch_size):
    order = DataOrder(count, batch_size, seed=3)
    generators = [torch.Generator().manual_seed(3 * 1_000_003 + epoch) for epoch in range(100)]
    everything = torch.cat([torch.randperm(count, generator=generator) for generator in generators])
    for step in range(12):
        assert torch.equal(order.indices(step), everything[step * batch_size : (step + 1) * batch_size])
        assert order.epoch(step) == ((step + 1) * batch_size - 1) // count


def test_every_epoch_has_every_datum_once_and_its_own_order():
    order = DataOrder(10, 4, seed=1)
    drawn = torch.cat([order.indices(step) for step in range(15)]).view(6, 10)
    assert torch.equal(drawn.sort(1).values, torch.arange(10).expand(6, 10))
    assert len({tuple(epoch.tolist()) for epoch in drawn}) == 6
    assert torch.equal(drawn[2], torch.randperm(10, generator=torch.Generator().manual_seed(1_000_003 + 2)))
    assert [order.epoch(step) for step in (-1, 0, 1, 2, 4, 5, 14)] == [-1, 0, 0, 1, 1, 2, 5]


def test_any_step_can_be_asked_for_first():
    forward = DataOrder(10, 4, seed=1)
    expected = [forward.indices(step) for step in range(9)]
    backward = DataOrder(10, 4, seed=1)
    assert all(torch.equal(backward.indices(step), expected[step]) for step in reversed(range(9)))
    assert not torch.equal(DataOrder(10, 4, seed=2).indices(0), expected[0])


@pytest.mark.parametrize(("count", "batch_size", "name"), [(0, 4, "count"), (4, 0, "batch_size")])
def test_empty_orders(count, batch_size, name):
    with pytest.raises(ValueError, match=rf"{name} must be >= 1.*, got 0"):
        DataOrder(count, batch_size, seed=0)


@pytest.mark.parametrize(("count", "most"), [(10, 4096), (5000, 5000)])
def test_a_batch_holds_no_more_than_there_is(count, most):
    assert len(DataOrder(count, most, seed=0).indices(3)) == most
    for wrong in (most + 1, 10**12):
        with pytest.raises(ValueError, match=rf"at most {most} for {count} training data, got {wrong}; pass") as error:
            DataOrder(count, wrong, seed=0)
        assert_one_line(error)
        with pytest.raises(ValueError, match=f"at most {most}"):
            Feed(torch.zeros(count, 2), wrong, 0, device=torch.device("cpu"))


# standardisation


def test_standard_against_float64():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (14, 3, 5), dtype=np.uint8))
    standard = Standard.of(pixels, "toy")
    unit = pixels.double() / 255
    assert standard.mean == pytest.approx(unit.mean().item(), rel=1e-12)
    assert standard.deviation == pytest.approx(unit.std(correction=0).item(), rel=1e-12)
    values = standard(pixels[:7])
    assert values.dtype == torch.float32
    assert torch.allclose(values.double(), (unit[:7] - unit.mean()) / unit.std(correction=0), atol=1e-6)
    low, high = standard.value_range
    assert standard(torch.tensor([0.0, 255.0])).tolist() == pytest.approx([low, high], abs=1e-6)
    floats = torch.tensor([255.0])
    standard(floats)
    assert floats.item() == 255.0


def test_pixels_that_are_all_the_same():
    with pytest.raises(DataError, match="toy must hold pixels that differ, got 7 everywhere"):
        Standard.of(torch.full((3, 2), 7, dtype=torch.uint8), "toy")


# access


def test_a_stream_is_indexed_as_a_tensor_is():
    stream = make_stream()
    tensor = torch.stack([pixels_of(index) for index in range(10)]).float()
    assert stream.shape == tensor.shape
    assert len(stream) == 10
    for index in (
        0,
        -1,
        slice(None),
        slice(2, 9, 3),
        slice(8, 99),
        slice(4, 4),
        torch.tensor([7, 0, 7]),
        [3, 1],
        slice(-2, None),
    ):
        expected = tensor[index]
        assert stream[index].shape == expected.shape
        assert torch.allclose(stream[index], expected, atol=1e-4)
        assert stream[index].dtype == torch.float32
    with pytest.raises(IndexError):
        stream[10]
    assert [part.shape[0] for part in stream.split(4)] == [4, 4, 2]
    assert torch.equal(torch.cat(list(stream.split(3))), stream[:])
    assert torch.equal(torch.stack(list(stream)), stream[:])
    assert torch.allclose(stream.mean(0), tensor.mean(0), atol=1e-4)
    with pytest.raises(DataError, match="over dimension 0"):
        stream.mean(1)


def test_the_moments_are_those_of_a_fixed_sample(monkeypatch):
    stream = make_stream(100, standard=None)
    everything = torch.stack([pixels_of(index) for index in range(100)]).double() / 255
    assert stream.standard.mean == pytest.approx(everything.mean().item())
    assert stream.standard.deviation == pytest.approx(everything.std(correction=0).item())
    assert stream[:].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert torch.allclose(stream.mean(0), stream[:].mean(0), atol=1e-5)
    monkeypatch.setattr("daps_rl.data.stream.SAMPLE", 5)
    rows = sample_rows(100)
    part = make_stream(100, standard=None)
    assert len(rows) == 5
    assert part.standard.mean == pytest.approx(everything[rows].mean().item())
    assert torch.allclose(part.mean(0), part[torch.from_numpy(rows)].mean(0), atol=1e-5)
    np.random.seed(4)
    assert sample_rows(100).tolist() == rows.tolist()
    assert SAMPLE == 1000


# batches


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_from_any_number_of_workers(workers):
    stream, order = make_stream(delay=0.002), DataOrder(10, 4, seed=5)
    batches = stream.batches(4, seed=5, workers=workers)
    for step in range(8):
        rows = order.indices(step)
        assert torch.equal(next(batches), stream[rows])
    resumed = stream.batches(4, seed=5, start=6, workers=workers)
    assert torch.equal(next(resumed), stream[order.indices(6)])


def test_workers_end_with_the_iterator():
    batches = make_stream().batches(4, seed=0, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    gc.collect()
    assert not multiprocessing.active_children()


def test_batches_leave_the_global_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 1):
        next(make_stream().batches(4, seed=0, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"), [({"workers": -1}, "workers must be >= 0"), ({"batch_size": 0}, "batch_size")]
)
def test_impossible_batches(options, message):
    with pytest.raises(ValueError, match=message):
        make_stream().batches(**{"batch_size": 4, "seed": 0} | options)


def test_streams_pickle():
    stream = make_stream()
    assert torch.equal(pickle.loads(pickle.dumps(stream))[:], stream[:])


# unreadable files


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_readable_file_stands_in(workers):
    stream = make_stream(bad=(3, 4, 9))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        batches = first(stream.batches(10, seed=0, workers=workers), 3)
    expected = [f"toy: skipped {name}, which cannot be read (truncated file)" for name in ("file3", "file4", "file9")]
    assert sorted(str(warning.message) for warning in warned) == expected  # each once
    assert numbers(stream[:]) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    for step, batch in enumerate(batches):
        expected = stream[DataOrder(10, 10, seed=0).indices(step)]
        assert torch.equal(batch, expected)


@pytest.mark.filterwarnings("ignore:toy. skipped")
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_files_are_listed(workers):
    make_stream(bad=(1, 5), limit=2)[:]
    stream = make_stream(bad=(1, 5, 6), limit=2)
    with pytest.raises(DataError, match=r"at most 2 unreadable files .*got 3: file1, file5, file6; mend or remove"):
        stream[:]
    batches = make_stream(bad=(1, 5, 6), limit=2).batches(10, seed=0, workers=workers)
    with pytest.raises(DataError, match="got 3: ") as error:
        next(batches)
    assert not multiprocessing.active_children()  # though the traceback is held here
    assert all(name in str(error.value) for name in ("file1", "file5", "file6"))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:toy. skipped")
def test_nothing_readable_at_all():
    with pytest.raises(DataError, match="readable ones beside them, got 4: file0, file1, file2, file3"):
        make_stream(4, bad=range(4))[:2]
    with pytest.raises(DataError, match="got 1: file0"):
        make_stream(4, bad=(0,), limit=0)[0]


# splits of streams


def stream_splits(**changes):
    stream = make_stream()
    fields = {"name": "toy", "train": stream, "validation": make_stream(4), "test": torch.zeros(3, 3, 2, 2)}
    fields |= {"likelihood": "gaussian", "value_range": (0.0, 255.0), "train_labels": torch.arange(10)}
    return Splits(**fields | changes)


def test_splits_hold_streams():
    splits = stream_splits()
    assert isinstance(splits.train, Stream)
    assert splits.observation_shape == (3, 2, 2)
    assert set(dict(splits)) == {"train", "validation", "test", "train_labels"}
    assert "train=[10, 3, 2, 2], validation=[4, 3, 2, 2], test=[3, 3, 2, 2]" in repr(splits)
    with pytest.raises(DataError, match=r"test must hold data of shape \[3, 2, 2\]"):
        stream_splits(test=torch.zeros(3, 3, 2, 1))
    with pytest.raises(DataError, match=r"int64 tensor of shape \[10\]"):
        stream_splits(train_labels=torch.arange(9))


def test_fingerprint_of_streams_is_of_names_not_of_pixels():
    before = stream_splits().fingerprint()
    assert stream_splits().fingerprint() == before
    assert stream_splits(train=make_stream(standard=Standard(0.5, 0.5))).fingerprint() == before
    assert stream_splits(train=make_stream(11), train_labels=None).fingerprint() != before
    assert stream_splits(validation=make_stream(5)).fingerprint() != before
    assert stream_splits(test=torch.ones(3, 3, 2, 2)).fingerprint() != before
    larger = replace(stream_splits().train.picture, bad=(1,))
    changed = ImageStream(Numbers(10), larger, CorruptFiles("toy"), UNIT)
    assert stream_splits(train=changed).fingerprint() != before
