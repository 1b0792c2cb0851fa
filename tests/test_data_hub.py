"""Image data sets of the hub: a stand-in for `datasets` always, the package itself where it is installed."""

import importlib.util
import io
import itertools
import random
import sys
import types
from dataclasses import dataclass, field, replace

import pytest
import torch
from data_files import assert_one_line
from PIL import Image

from daps_rl.data import DataError, DataOrder, ImageStream, MissingDataError, Stream, endless, load
from daps_rl.data.endless import IterableStream

ID = "someone/pictures"


def encoded(value, suffix="PNG", mode="RGB"):
    """A file whose red tells which it is."""
    file = io.BytesIO()
    Image.new(mode, (9, 6), (value, 0, 0) if mode == "RGB" else value).save(file, suffix)
    return file.getvalue()


def parts(train=30, **others):
    """Rows of each part: files by number, labels that count in threes."""
    counts = {"train": range(train)} | {name: range(*bounds) for name, bounds in others.items()}
    return {
        name: {"photo": [encoded(value) for value in values], "kind": [value % 3 for value in values]}
        for name, values in counts.items()
    }


# the stand-in


@dataclass(frozen=True)
class FakeImage:
    decode: bool = True


class FakeClassLabel:
    pass


@dataclass(frozen=True)
class FakePart:
    """A part of a data set, as far as it is used: map-style and streamed in one."""

    rows: list
    features: dict
    name: str = "train"
    stated: int = 0
    asked: list = field(default_factory=list)

    @property
    def num_rows(self):
        return len(self.rows)

    @property
    def split(self):
        return self.name

    @property
    def info(self):
        count = types.SimpleNamespace(num_examples=self.stated)
        return types.SimpleNamespace(version="1.0", dataset_size=1234, splits={self.name: count})

    def select_columns(self, columns):
        rows = [{name: row[name] for name in columns} for row in self.rows]
        return replace(self, rows=rows, features={name: self.features[name] for name in columns})

    def cast_column(self, column, feature):
        return replace(self, features=self.features | {column: feature})

    def __getitem__(self, index):
        if isinstance(index, slice):
            return {name: [row[name] for row in self.rows[index]] for name in self.features}
        return self._row(self.rows[index])

    def __iter__(self):
        return map(self._row, self.rows)

    def iter(self, batch_size):
        return ({name: [cell] for name, cell in row.items()} for row in self)

    def _row(self, row):
        self.asked.append(1)
        decoded = [name for name, feature in self.features.items() if feature == FakeImage()]
        assert not decoded, "nothing may be decoded by the package"
        return row

    def skip(self, count):
        return replace(self, rows=self.rows[count:])

    def take(self, count):
        return replace(self, rows=self.rows[:count])

    def shuffle(self, seed, buffer_size):
        return replace(self, rows=random.Random(seed).sample(self.rows, len(self.rows)))


def fake_hub(content, extra=()):
    module = types.ModuleType("datasets")
    module.Image, module.ClassLabel = FakeImage, FakeClassLabel
    features = {"photo": FakeImage(), "kind": FakeClassLabel()} | {name: FakeImage() for name in extra}
    hub = {}
    for name, columns in content.items():
        cells = [{"bytes": raw, "path": None} for raw in columns["photo"]]
        rows = [
            {"photo": cell, "kind": kind} | dict.fromkeys(extra, cell)
            for cell, kind in zip(cells, columns["kind"], strict=True)
        ]
        hub[name] = FakePart(rows, features, name, len(rows))
    module.load_dataset = lambda hub_id, streaming=False: hub
    return module


def real_hub(content, extra=()):
    import datasets

    features = {"photo": datasets.Image(), "kind": datasets.ClassLabel(num_classes=3)}
    features |= {name: datasets.Image() for name in extra}

    def part(name, columns):
        rows = {"photo": [{"bytes": raw, "path": None} for raw in columns["photo"]], "kind": columns["kind"]}
        rows |= dict.fromkeys(extra, rows["photo"])
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features), split=name)

    def load_dataset(hub_id, streaming=False):
        found = {name: part(name, columns) for name, columns in content.items()}
        if streaming:
            return {name: data.to_iterable_dataset(num_shards=2) for name, data in found.items()}
        return datasets.DatasetDict(found)

    return load_dataset


needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")


@pytest.fixture(params=["stand-in", pytest.param("package", marks=needs_datasets)])
def use(request, monkeypatch):
    """Gives the hub a content: by a stand-in for the package, or by the package without a network."""

    def set_content(content, **options):
        if request.param == "stand-in":
            monkeypatch.setitem(sys.modules, "datasets", fake_hub(content, **options))
        else:
            monkeypatch.setattr("datasets.load_dataset", real_hub(content, **options))

    return set_content


def reds(splits, x):
    low, high = splits.value_range
    return ((x[:, 0, 0, 0].double() - low) / (high - low) * 255).round().int().tolist()


# downloaded


def test_parts_columns_and_labels_are_found(use):
    use(parts(30, validation=(100, 106), test=(200, 204)))
    splits = load(ID, image_size=4)
    assert splits.name == ID
    assert [list(splits[name].shape) for name in ("train", "validation", "test")] == [
        [30, 3, 4, 4],
        [6, 3, 4, 4],
        [4, 3, 4, 4],
    ]
    assert isinstance(splits.train, ImageStream)
    assert reds(splits, splits.train[:]) == list(range(30))
    assert reds(splits, splits.validation[:]) == list(range(100, 106))
    assert reds(splits, splits.test[torch.tensor([3, 1])]) == [203, 201]
    assert splits.train_labels.tolist() == [value % 3 for value in range(30)]
    assert splits.likelihood == "gaussian"
    assert splits.train[:].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert load(ID).observation_shape == (3, 64, 64)


def test_missing_parts_are_cut_by_a_fixed_seed(use):
    use(parts(50))
    splits = load(ID, image_size=4)
    assert reds(splits, splits.validation[:]) == [28, 11, 10, 41, 2]  # as arrays and folders of that length
    assert splits.validation_labels.tolist() == [value % 3 for value in (28, 11, 10, 41, 2)]
    values = [reds(splits, splits[name][:]) for name in ("train", "validation", "test")]
    assert sorted(itertools.chain(*values)) == list(range(50))


def test_the_only_part_is_for_training(use):
    use({"everything": parts(20)["train"]})
    assert len(load(ID, image_size=4).train) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(use, workers):
    use(parts(20))
    train = load(ID, image_size=4).train
    expected = train.batches(7, seed=1, workers=0)
    batches = train.batches(7, seed=1, workers=workers)
    for _ in range(5):
        assert torch.equal(next(batches), next(expected))


def test_hidden_classes_are_no_labels(use):
    content = parts(20, validation=(0, 4), test=(0, 4))
    content["test"]["kind"] = [-1] * 4
    use(content)
    splits = load(ID, image_size=4)
    assert splits.test_labels is None
    assert splits.validation_labels.tolist() == [0, 1, 2, 0]


def test_the_column_is_named_where_there_are_several(use):
    use(parts(20), extra=("mask",))
    with pytest.raises(DataError, match=r"needs the name of a column of images, got no image_column; .* photo, mask"):
        load(ID)
    with pytest.raises(DataError, match="got image_column 'kind'; columns of images are photo, mask"):
        load(ID, image_column="kind")
    assert len(load(ID, image_column="mask", image_size=4).train) == 16


def test_parts_that_are_no_splits(use):
    use({"left": parts(9)["train"], "right": parts(9)["train"]})
    with pytest.raises(DataError, match="someone/pictures must have a part train, got left, right") as error:
        load(ID)
    assert_one_line(error)
    use(parts(9, val=(0, 3), valid=(0, 3)))
    with pytest.raises(DataError, match="one part for validation, got val and valid"):
        load(ID)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_corrupt_images(use):
    content = parts(20, validation=(0, 3), test=(0, 3))
    content["train"]["photo"][4] = b"no image"
    use(content)
    with pytest.warns(UserWarning, match=r"skipped someone/pictures train\[4\], which cannot be read"):
        splits = load(ID, image_size=4)
    assert reds(splits, splits.train[3:7]) == [3, 5, 5, 6]
    with pytest.raises(DataError, match="at most 0 unreadable files"):
        load(ID, max_corrupt=0)


@pytest.mark.parametrize("streaming", [False, True])
def test_one_configuration_of_several(use, monkeypatch, streaming):
    use(parts(20, validation=(0, 3), test=(0, 3)))
    datasets = importlib.import_module("datasets")  # the stand-in or the package
    real, asked = datasets.load_dataset, []

    def load_dataset(hub_id, name=None, **more):
        asked.append(name)
        return real(hub_id, **more)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load(ID, image_size=4, hub_config="small", streaming=streaming)
    load(ID, image_size=4, streaming=streaming)
    assert asked == ["small", None]


def test_fingerprint(use):
    use(parts(20))
    before = load(ID).fingerprint()
    assert load(ID).fingerprint() == before
    assert load(ID, image_size=32).fingerprint() != before
    use(parts(21))
    assert load(ID).fingerprint() != before


def test_grey(use):
    content = parts(20)
    content["train"]["photo"] = [encoded(value, mode="L") for value in range(20)]
    use(content)
    assert load(ID).observation_shape == (1, 64, 64)


# streamed


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(endless, "HELD_OUT", 5)
    monkeypatch.setattr(endless, "SHUFFLE_BUFFER", 4)


def test_streaming_holds_out_the_first(use, small):
    use(parts(30))
    splits = load(ID, streaming=True, image_size=4)
    assert isinstance(splits.train, Stream)
    assert list(splits.train.shape) == [-1 if splits.train.count is None else 20, 3, 4, 4]
    assert reds(splits, splits.validation[:]) == [0, 1, 2, 3, 4]
    assert reds(splits, splits.test[:]) == [5, 6, 7, 8, 9]
    epoch = reds(splits, next(splits.train.batches(20, seed=0, workers=0)))
    assert sorted(epoch) == list(range(10, 30))
    assert epoch != sorted(epoch)
    assert splits.train_labels is None
    with pytest.raises(TypeError):
        len(splits.train)
    assert len(splits.fingerprint()) == 64


def test_streaming_with_parts_of_its_own(use, small):
    use(parts(20, validation=(100, 109), test=(200, 203)))
    splits = load(ID, streaming=True, image_size=4)
    assert reds(splits, splits.validation[:]) == list(range(100, 105))  # the first of them
    assert reds(splits, splits.test[:]) == list(range(200, 203))
    assert sorted(reds(splits, next(splits.train.batches(20, seed=0, workers=0)))) == list(range(20))
    x = next(splits.train.batches(20, seed=0, workers=0))
    assert x.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert torch.allclose(splits.train.mean(0), x.mean(0), atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_resumes_where_it_was(use, small, workers):
    use(parts(30))
    train = load(ID, streaming=True, image_size=4).train
    batches = train.batches(8, seed=3, workers=0)
    expected = [next(batches) for _ in range(7)]  # two epochs and more
    for start in (0, 2, 5):
        resumed = train.batches(8, seed=3, start=start, workers=workers)
        assert torch.equal(next(resumed), expected[start])
        assert torch.equal(next(resumed), expected[start + 1])
    assert not torch.equal(next(train.batches(8, seed=4, workers=0)), expected[0])


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_streaming_past_corrupt_images(use, small):
    content = parts(30)
    for value in (12, 13, 20):
        content["train"]["photo"][value] = b"no image %d" % value
    use(content)
    splits = load(ID, streaming=True, image_size=4)
    batches = splits.train.batches(5, seed=0, workers=0)
    drawn = [next(batches) for _ in range(8)]
    assert not {12, 13, 20} & set(reds(splits, torch.cat(drawn)))
    assert len(splits.train.corrupt.found) == 3
    for start in range(7):
        assert torch.equal(next(splits.train.batches(5, seed=0, start=start, workers=0)), drawn[start])
    with pytest.raises(DataError, match="at most 2 unreadable files"):
        next(load(ID, streaming=True, max_corrupt=2).train.batches(40, seed=0, workers=0))


def test_streaming_too_few(use, small):
    use(parts(10))
    with pytest.raises(DataError, match=r"more images than are held out \(5 each\), got none; leave streaming out"):
        load(ID, streaming=True)
    use(parts(30))
    train = load(ID, streaming=True, image_size=4).train
    assert isinstance(train, IterableStream)
    for wrong in (0, 10**12):
        with pytest.raises(ValueError, match=f"batch_size must be >= 1 and at most .*, got {wrong}"):
            train.batches(wrong, seed=0)


# real loaders


@needs_datasets
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_datasets_own_loaders(tmp_path, monkeypatch, small, kind, streaming):
    import datasets

    for name, values in (("ant", range(0, 20)), ("bee", range(100, 120))):
        (tmp_path / "train" / name).mkdir(parents=True)
        for value in values:
            (tmp_path / "train" / name / f"{value:03}.png").write_bytes(encoded(value))
    real, cache = datasets.load_dataset, str(tmp_path / "cache")
    options = {"data_dir": str(tmp_path / "train")}
    if kind == "parquet":
        data = real("imagefolder", **options, cache_dir=cache, split="train")
        data.to_parquet(tmp_path / "data.parquet")
        options = {"data_files": str(tmp_path / "data.parquet")}
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, **more: real(kind, **options, cache_dir=cache, **more))
    splits = load(ID, image_size=4, streaming=streaming)
    if streaming:
        drawn = reds(splits, next(splits.train.batches(30, seed=0, workers=1)))
        assert sorted(drawn) == [*range(10, 20), *range(100, 120)]
    else:
        values = reds(splits, splits.train[:])
        assert splits.train_labels.tolist() == [int(value >= 100) for value in values]
        assert len(values) == 32
        assert torch.equal(
            next(splits.train.batches(5, seed=0, workers=2)), splits.train[DataOrder(32, 5, 0).indices(0)]
        )


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for streaming in (False, True):
        with pytest.raises(MissingDataError, match="no package to reach the hub with"):
            load(ID, streaming=streaming)
