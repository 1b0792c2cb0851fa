"""daps_rl.data: every format read back value by value, every way to fail, splits that never move."""

import gzip
import pickle
import struct
import sys
import types
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_rl.data import DataError, MissingDataError, Splits, from_arrays, load
from daps_rl.data import load as load_function
from daps_rl.data.idx import read_idx
from daps_rl.data.mnist import FASHION_MNIST

LOAD_MODULE = sys.modules[load_function.__module__]
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def pixels(count, rows=5, columns=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, rows, columns), dtype=np.uint8)


def write_folder(folder, *, train=24, test=6, suffix="", dotted=False):
    """Four IDX files; returns the four arrays by file name."""
    folder.mkdir(exist_ok=True)
    arrays = dict(
        zip(NAMES, (pixels(train), np.arange(train) % 10, pixels(test, seed=1), np.arange(test) % 7), strict=True)
    )
    for name, array in arrays.items():
        raw = idx_bytes(array)
        spelling = name.replace("-idx", ".idx") if dotted else name
        (folder / (spelling + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)
    return arrays


def floats(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def rows(splits):
    """All data of the three splits, as a sorted list of tuples."""
    return sorted(tuple(row.flatten().tolist()) for name in ("train", "validation", "test") for row in splits[name])


def assert_one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


# Splits


def make_splits(**changes):
    fields = {
        "name": "toy",
        "train": floats(6, 2, 3),
        "validation": floats(3, 2, 3, seed=1),
        "test": floats(4, 2, 3, seed=2),
        "train_labels": torch.arange(6),
        "validation_labels": None,
        "test_labels": None,
        "likelihood": "gaussian",
        "value_range": (-4.0, 4.0),
    }
    return Splits(**(fields | changes))


def test_splits_are_reached_by_attribute_and_by_name():
    splits = make_splits()
    assert splits["train"] is splits.train
    assert splits["train_labels"] is splits.train_labels
    assert splits.observation_shape == (2, 3)
    assert set(dict(splits)) == {"train", "validation", "test", "train_labels"}
    assert "test" in splits
    assert "test_labels" not in splits
    with pytest.raises(FrozenInstanceError):
        splits.train = splits.test
    assert repr(splits) == (
        "Splits('toy', train=[6, 2, 3], validation=[3, 2, 3], test=[4, 2, 3], "
        "likelihood='gaussian', value_range=(-4.0, 4.0))"
    )


@pytest.mark.parametrize("name", ["valid", "test_labels", 0])
def test_splits_name_what_they_have(name):
    with pytest.raises(KeyError, match=r"toy has no .*; it has train, validation, test, train_labels"):
        make_splits()[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": floats(4, 3, 2)}, r"toy: test must hold data of shape \[2, 3\].*got \[3, 2\]"),
        ({"train": floats(6, 2, 3).double()}, "train must be a float32 tensor, got torch.float64"),
        ({"validation": np.zeros((3, 2, 3), np.float32)}, "validation must be a float32 tensor, got ndarray"),
        ({"test": torch.full((4, 2, 3), torch.nan)}, "test must be finite"),
        ({"train": torch.full((6, 2, 3), torch.inf)}, "train must be finite"),
        ({"test": torch.zeros(0, 2, 3)}, r"at least one datum.*got shape \[0, 2, 3\]"),
        ({"train": torch.zeros(6)}, r"must have shape \[N, \.\.\.\]"),
        ({"train_labels": torch.arange(5)}, r"one label for each datum, got torch.int64 \[5\]"),
        ({"train_labels": torch.arange(6).int()}, r"train_labels must be an int64.*got torch.int32 \[6\]"),
        ({"test_labels": [0, 1, 2, 3]}, "test_labels must be an int64 tensor.*got list"),
        ({"likelihood": "normal"}, "bernoulli, gaussian, fixed_gaussian, got 'normal'"),
        ({"value_range": (1.0, 1.0)}, r"low < high, got \(1.0, 1.0\)"),
        ({"value_range": (0.0, float("inf"))}, "value_range must be finite"),
    ],
)
def test_splits_refuse_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        make_splits(**changes)
    assert_one_line(error)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_fingerprint_notices_one_value_of_any_split(split):
    before = make_splits()
    changed = before[split].clone()
    changed[-1, -1, -1] += 1e-6
    assert before.fingerprint() == make_splits().fingerprint()
    assert before.fingerprint() != replace(before, **{split: changed}).fingerprint()


def test_fingerprint_reads_values_not_memory():
    splits = make_splits()
    transposed = splits.train.transpose(1, 2).contiguous().transpose(1, 2)
    assert not transposed.is_contiguous()
    assert replace(splits, train=transposed).fingerprint() == splits.fingerprint()
    flat = {name: splits[name].flatten(1) for name in ("train", "validation", "test")}
    assert replace(splits, **flat).fingerprint() != splits.fingerprint()
    assert len(splits.fingerprint()) == 64


# digits


def test_digits_counts_and_values():
    splits = load("digits")
    assert [list(splits[name].shape) for name in ("train", "validation", "test")] == [
        [1257, 1, 8, 8],
        [180, 1, 8, 8],
        [360, 1, 8, 8],
    ]
    assert splits.likelihood == "fixed_gaussian"
    assert splits.value_range == (0.0, 1.0)
    assert splits.train.min() == 0
    assert splits.train.max() == 1
    assert torch.equal(splits.train * 16, (splits.train * 16).round())


def test_digits_are_all_there_once_with_their_labels():
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    splits = load("digits")
    given = sorted((*row, label) for row, label in zip((images / 16).tolist(), target.tolist(), strict=True))
    held = sorted(
        (*row, label)
        for name in ("train", "validation", "test")
        for row, label in zip(splits[name].flatten(1).tolist(), splits[f"{name}_labels"].tolist(), strict=True)
    )
    assert held == given


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_digits_are_stratified(split):
    splits = load("digits")
    labels = torch.cat([splits[f"{name}_labels"] for name in ("train", "validation", "test")])
    expected = labels.bincount() * len(splits[split]) / len(labels)
    assert (splits[f"{split}_labels"].bincount() - expected).abs().max() <= 1


def test_digits_do_not_depend_on_global_seeds():
    np.random.seed(1)
    torch.manual_seed(1)
    first = load("digits").fingerprint()
    np.random.seed(2)
    torch.manual_seed(2)
    # The constant: numbers measured on one split can be compared with numbers measured on any later version.
    assert load("digits").fingerprint() == first == "c9cf7c33119906de71ad1db0fd356eca94b97d97323776f6952c58017ce00239"


def test_digits_binarised_at_half():
    grey, binary = load("digits"), load("digits", binarize=True)
    assert binary.likelihood == "bernoulli"
    assert (grey.train == 0.5).any()
    assert torch.equal(binary.train, (grey.train >= 0.5).float())


def test_digits_take_no_data_dir(tmp_path):
    with pytest.raises(ValueError, match="digits ships inside scikit-learn and takes no data_dir"):
        load("digits", tmp_path)


# IDX files


@pytest.mark.parametrize(("suffix", "dotted"), [("", False), (".gz", False), ("", True), (".gz", True)])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_folder_value_by_value(tmp_path, name, suffix, dotted):
    arrays = write_folder(tmp_path, train=60, suffix=suffix, dotted=dotted)
    splits = load(name, data_dir=tmp_path, binarize=False)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55, 5, 6)
    assert splits.observation_shape == (1, 5, 4)
    images = torch.cat([splits.train, splits.validation])[:, 0]
    assert torch.equal(images, torch.from_numpy(arrays[NAMES[0]]) / 255)
    assert torch.equal(splits.test[:, 0], torch.from_numpy(arrays[NAMES[2]]) / 255)
    assert torch.cat([splits.train_labels, splits.validation_labels]).tolist() == arrays[NAMES[1]].tolist()
    assert splits.test_labels.tolist() == arrays[NAMES[3]].tolist()
    assert splits.likelihood == "fixed_gaussian"
    assert splits.value_range == (0.0, 1.0)


def test_idx_images_are_binary_above_127_by_default(tmp_path):
    write_folder(tmp_path)
    edge = np.array([0, 1, 127, 128, 254, 255], dtype=np.uint8).reshape(6, 1, 1) * np.ones((1, 5, 4), np.uint8)
    (tmp_path / NAMES[2]).write_bytes(idx_bytes(edge))
    splits = load("fashion-mnist", tmp_path)
    assert splits.likelihood == "bernoulli"
    assert splits.test[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    by_path = load(tmp_path)
    assert by_path.fingerprint() == splits.fingerprint()
    assert by_path.name == str(tmp_path)


def test_idx_folder_below_data_dir(tmp_path):
    write_folder(tmp_path / "mine")
    assert load("mine", data_dir=tmp_path).fingerprint() == load(tmp_path / "mine").fingerprint()
    with pytest.raises(DataError, match="a path must be relative to be looked for in data_dir"):
        load(tmp_path / "mine", data_dir=tmp_path)


def test_a_plain_file_comes_before_a_gzipped_one(tmp_path):
    write_folder(tmp_path)
    (tmp_path / (NAMES[0] + ".gz")).write_bytes(b"not gzip")
    assert len(load("mnist", tmp_path).train) == 22


def damage_magic(raw):
    return b"\x00\x00\x0d" + raw[3:]


def damage_dims(raw):
    return raw[:3] + b"\x02" + raw[4:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_magic, r"must start with the IDX magic 00000803 .*got 00000d03"),
        (damage_dims, r"must start with the IDX magic 00000803 .*got 00000802"),
        (lambda raw: b"", "got an empty file"),
        (lambda raw: raw[:3], "got 000008;"),
        (lambda raw: raw[:9], "must have an IDX header of 16 bytes, got 9"),
        (lambda raw: raw[:-1], r"\[24, 5, 4\] is 480, got 479"),
        (lambda raw: raw + b"\x00", r"\[24, 5, 4\] is 480, got 481"),
        (lambda raw: raw[:4] + bytes(4) + raw[8:16], r"at least one value.*\[0, 5, 4\] is 0, got 0"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "is 79228162458924105385300197375, got 480"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files(tmp_path, change, message, suffix):
    arrays = write_folder(tmp_path, suffix=suffix)
    raw = change(idx_bytes(arrays[NAMES[0]]))
    (tmp_path / (NAMES[0] + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)
    with pytest.raises(DataError, match=message) as error:
        load("mnist", tmp_path)
    assert str(tmp_path / NAMES[0]) in str(error.value)
    assert_one_line(error)


@pytest.mark.parametrize("change", [lambda raw: b"plainly not gzip", lambda raw: raw[:-9], lambda raw: raw[:40] + raw])
def test_corrupt_gzip(tmp_path, change):
    arrays = write_folder(tmp_path, suffix=".gz")
    path = tmp_path / (NAMES[0] + ".gz")
    path.write_bytes(change(gzip.compress(idx_bytes(arrays[NAMES[0]]))))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz must be a gzip file.*fetch the file again"
    ) as error:
        load("mnist", tmp_path)
    assert_one_line(error)


def test_unreadable_idx_file(tmp_path, monkeypatch):
    write_folder(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod would not stop root
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte must be readable.*check its permissions"):
        load("mnist", tmp_path)


def test_idx_files_that_do_not_fit_each_other(tmp_path):
    write_folder(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(idx_bytes(np.arange(23)))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte must hold one label for each of the 24.*got 23"):
        load("mnist", tmp_path)
    write_folder(tmp_path)
    (tmp_path / NAMES[2]).write_bytes(idx_bytes(pixels(6, rows=4)))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte must hold.*\[5, 4\].*got \[4, 4\]"):
        load("mnist", tmp_path)
    write_folder(tmp_path, train=1)
    with pytest.raises(DataError, match="two images or more, got 1"):
        load("mnist", tmp_path)


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_idx_round_trip(tmp_path_factory, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(path, len(shape)), array)


# where named data are looked for


def use_system_folder(monkeypatch, folder):
    """Stand in for the folder of Debian's package."""
    monkeypatch.setitem(LOAD_MODULE.SOURCES, "fashion-mnist", replace(FASHION_MNIST, system_dir=folder))


class FakeHub(types.ModuleType):
    """The `datasets` package, as far as it is used."""

    def __init__(self, content):
        super().__init__("datasets")
        self.content = content
        self.asked = []

    def load_dataset(self, hub_id):
        self.asked.append(hub_id)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


class PictureLike:
    """What PIL's images are to numpy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def hub_content(wrap=lambda array: array):
    return {
        "train": {"image": [wrap(image) for image in pixels(24)], "label": list(range(24))},
        "test": {"image": [wrap(image) for image in pixels(6, seed=1)], "label": list(range(6))},
    }


def use_hub(monkeypatch, content):
    hub = FakeHub(content)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub


def test_system_folder_comes_before_the_hub(tmp_path, monkeypatch):
    write_folder(tmp_path / "system")
    use_system_folder(monkeypatch, tmp_path / "system")
    hub = use_hub(monkeypatch, hub_content())
    assert len(load("fashion-mnist").train) == 22
    assert not hub.asked


def test_an_incomplete_system_folder_is_left_for_the_hub(tmp_path, monkeypatch):
    write_folder(tmp_path / "system")
    (tmp_path / "system" / NAMES[3]).unlink()
    use_system_folder(monkeypatch, tmp_path / "system")
    hub = use_hub(monkeypatch, hub_content())
    load("fashion-mnist")
    assert hub.asked == ["zalando-datasets/fashion_mnist"]


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_data_dir_is_never_passed_over(tmp_path, monkeypatch, name):
    write_folder(tmp_path / "system")
    use_system_folder(monkeypatch, tmp_path / "system")
    hub = use_hub(monkeypatch, hub_content())
    given = tmp_path / "given"
    with pytest.raises(MissingDataError, match="is not a folder") as error:
        load(name, data_dir=given)
    assert str(given) in str(error.value)
    write_folder(given)
    (given / NAMES[0]).unlink()
    (given / NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {NAMES[0]}, {NAMES[3]}; put the files there") as error:
        load(name, data_dir=given)
    assert str(given) in str(error.value)
    assert isinstance(error.value, ValueError)
    assert_one_line(error)
    assert not hub.asked


@pytest.mark.parametrize("wrap", [lambda array: array, PictureLike], ids=["arrays", "pictures"])
@pytest.mark.parametrize(
    ("name", "hub_id"), [("fashion-mnist", "zalando-datasets/fashion_mnist"), ("mnist", "ylecun/mnist")]
)
def test_hub_gives_the_same_as_files(tmp_path, monkeypatch, name, hub_id, wrap):
    write_folder(tmp_path / "files")
    use_system_folder(monkeypatch, tmp_path / "none")
    hub = use_hub(monkeypatch, hub_content(wrap))
    splits = load(name)
    assert hub.asked == [hub_id]
    assert splits.fingerprint() == load(name, tmp_path / "files").fingerprint()
    assert splits.train_labels.tolist() == list(range(22))
    assert splits.validation_labels.tolist() == [22, 23]
    assert splits.test_labels.tolist() == list(range(6))
    assert load(name, binarize=False).likelihood == "fixed_gaussian"


def test_no_datasets_package_names_the_three_ways(tmp_path, monkeypatch):
    use_system_folder(monkeypatch, tmp_path / "none")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError, match="no package to reach the hub with") as error:
        load("fashion-mnist")
    for remedy in ("--data-dir", "apt-get install dataset-fashion-mnist", "pip install daps-rl[datasets]"):
        assert remedy in str(error.value)
    assert_one_line(error)
    with pytest.raises(FileNotFoundError, match="--data-dir") as error:
        load("mnist")
    assert "apt-get" not in str(error.value)


@pytest.mark.parametrize(
    "failure", [ConnectionError("no route\nto host"), RuntimeError("offline"), OSError("HTTP 503")]
)
def test_unreachable_hub_names_the_three_ways(tmp_path, monkeypatch, failure):
    use_system_folder(monkeypatch, tmp_path / "none")
    use_hub(monkeypatch, failure)
    with pytest.raises(MissingDataError, match="no answer from the hub for zalando-datasets/fashion_mnist") as error:
        load("fashion-mnist")
    assert "apt-get install dataset-fashion-mnist" in str(error.value)
    assert error.value.__cause__ is failure
    assert_one_line(error)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((5, 4))] * 3, r"got float64 \[5, 4\]"),
        ([np.zeros((5, 4, 3), np.uint8)] * 3, r"got uint8 \[5, 4, 3\]"),
        ([np.zeros((5, 4), np.uint8), np.zeros((4, 4), np.uint8)], r"got uint8 \[4, 4\], uint8 \[5, 4\]"),
        ([], "got none"),
    ],
)
def test_hub_images_that_do_not_fit(monkeypatch, images, message):
    content = hub_content()
    content["train"] = {"image": images, "label": list(range(len(images)))}
    use_hub(monkeypatch, content)
    with pytest.raises(DataError, match=message):
        load("mnist")


@pytest.mark.skipif(
    not all((FASHION_MNIST.system_dir / f"{name}.gz").exists() for name in NAMES),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_real_fashion_mnist():
    splits = load("fashion-mnist")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55_000, 5_000, 10_000)
    assert splits.observation_shape == (1, 28, 28)
    assert splits.likelihood == "bernoulli"
    assert set(splits.train.unique().tolist()) == {0.0, 1.0}
    labels = torch.cat([splits.train_labels, splits.validation_labels])
    assert labels.bincount().tolist() == [6000] * 10
    assert splits.test_labels.bincount().tolist() == [1000] * 10
    assert splits.train_labels[:5].tolist() == [9, 0, 0, 3, 0]  # the published order: the first is an ankle boot


# arrays


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_taken_as_they_are(kind, dtype):
    given = (np.arange(60).reshape(20, 3) - 7).astype(dtype)
    splits = from_arrays(kind(given), kind(given[:2] + 100), kind(given[2:5]))
    assert torch.equal(splits.train, torch.from_numpy(given).float())
    assert splits.train.dtype == torch.float32
    assert splits.likelihood == "gaussian"
    assert splits.value_range == (-7.0, 52.0)
    assert splits.validation[0].tolist() == [93, 94, 95]
    assert splits.train_labels is None


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
def test_zeros_and_ones_are_bernoulli(kind, dtype):
    given = (np.arange(60).reshape(20, 3) % 7 == 0).astype(dtype)
    splits = from_arrays(kind(given), kind(given[:2]), kind(given[:2]))
    assert splits.likelihood == "bernoulli"
    assert splits.value_range == (0.0, 1.0)
    assert torch.equal(splits.train, torch.from_numpy(given).float())
    assert from_arrays(kind(given), binarize=False).likelihood == "fixed_gaussian"


def test_uint8_is_scaled_by_255():
    given = np.arange(256, dtype=np.uint8).reshape(64, 4)
    splits = from_arrays(given, given[:1], given[1:2])
    assert splits.likelihood == "fixed_gaussian"
    assert splits.value_range == (0.0, 1.0)
    assert torch.equal(splits.train, torch.arange(256).reshape(64, 4) / 255)
    # The test split alone is 0 and 1; it is scaled as the others are.
    assert from_arrays(given, test=given[:1] // 3).test.max() == pytest.approx(1 / 255)
    assert from_arrays((given > 99).astype(np.uint8) * 255).likelihood == "bernoulli"


def test_binarize_cuts_at_half():
    given = np.arange(256, dtype=np.uint8).reshape(64, 4)
    splits = from_arrays(given, given, given, binarize=True)
    assert splits.likelihood == "bernoulli"
    assert torch.equal(splits.train, torch.from_numpy(given > 127).float())
    unit = torch.tensor([[0.0, 0.4999], [0.5, 1.0]])
    assert from_arrays(unit, unit, unit, binarize=True).train.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(DataError, match=r"values must lie in \[0, 1\] to be binarised"):
        from_arrays(unit * 2, unit, unit, binarize=True)


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        (np.uint8, (12, 5, 6), (1, 5, 6)),
        (np.float32, (12, 5, 6), (1, 5, 6)),
        (np.uint8, (12, 5, 6, 1), (1, 5, 6)),
        (np.uint8, (12, 5, 6, 3), (3, 5, 6)),
        (np.uint8, (12, 5, 6, 4), (4, 5, 6)),
        (np.uint8, (12, 4, 4, 3), (3, 4, 4)),
        (np.uint8, (12, 5, 6, 2), (5, 6, 2)),
        (np.uint8, (12, 3, 5, 6), (3, 5, 6)),
        (np.uint8, (12, 1, 4, 4), (1, 4, 4)),
        (np.float32, (12, 5, 6, 3), (5, 6, 3)),
        (np.float32, (12, 5), (5,)),
        (np.uint8, (12, 5), (5,)),
        (np.float32, (12, 2, 3, 5, 6), (2, 3, 5, 6)),
    ],
)
def test_shapes(dtype, shape, expected):
    given = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    splits = from_arrays(given, given[:2], given[2:3])
    assert tuple(splits.observation_shape) == expected
    assert len(splits.train) == 12


def test_channels_keep_their_pixels():
    given = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
    splits = from_arrays(given, given, given)
    assert torch.equal(splits.train[7, 2, 4, 1], torch.tensor(given[7, 4, 1, 2]) / 255)
    assert splits.train.is_contiguous()


def test_missing_splits_are_cut_from_train():
    given = np.arange(50.0).reshape(50, 1) + 0.5
    splits = from_arrays(given, train_labels=np.arange(50))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 5, 5)
    assert rows(splits) == [(i + 0.5,) for i in range(50)]
    for name in ("train", "validation", "test"):
        assert torch.equal(splits[f"{name}_labels"] + 0.5, splits[name][:, 0])
    np.random.seed(3)
    torch.manual_seed(3)
    assert from_arrays(given).fingerprint() == splits.fingerprint()
    # The constant: the same file gives the same splits in every later version.
    assert splits.validation[:, 0].tolist() == [28.5, 11.5, 10.5, 41.5, 2.5]


def test_only_what_is_missing_is_cut():
    given = floats(50, 3)
    splits = from_arrays(given, test=given[:7], train_labels=np.arange(50), test_labels=np.arange(7))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45, 5, 7)
    assert torch.equal(splits.test, given[:7])
    assert splits.test_labels.tolist() == list(range(7))
    assert torch.equal(splits.validation, given[splits.validation_labels])
    assert torch.equal(splits.train, given[splits.train_labels])
    assert from_arrays(given, given[:2], given[:3]).train_labels is None


def test_arrays_in_odd_memory():
    given = np.random.default_rng(0).normal(size=(20, 6))
    expected = from_arrays(given).fingerprint()
    assert from_arrays(given.astype(">f8")).fingerprint() == expected
    assert from_arrays(given[::-1][::-1]).fingerprint() == expected
    frozen = given.astype(np.float32)
    frozen.flags.writeable = False
    from_arrays(frozen, frozen, frozen).train.zero_()
    assert from_arrays(frozen).fingerprint() == expected
    assert from_arrays(torch.tensor(given, requires_grad=True)).train.requires_grad is False


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": np.array([["a", "b"]] * 9)}, "toy: train must hold numbers, got dtype <U1"),
        ({"train": np.array([[None]] * 9)}, "toy: train must hold numbers, got dtype object"),
        ({"train": torch.zeros(9, 2, dtype=torch.complex64)}, "must hold real numbers, got torch.complex64"),
        ({"train": np.arange(18).reshape(9, 2)}, "train must be uint8, floating, or 0 and 1, got other integers"),
        ({"train": np.zeros(9)}, r"train must have shape \[N, \.\.\.\].*got shape \[9\]"),
        ({"train": np.zeros((0, 2))}, r"at least one datum.*got shape \[0, 2\]"),
        ({"train": np.zeros((9, 0))}, r"at least one value, got shape \[9, 0\]"),
        ({"train": np.full((9, 2), np.nan)}, "train must be finite in float32"),
        ({"train": np.full((9, 2), 1e300)}, "train must be finite in float32"),
        ({"train": np.full((9, 2), 3.0)}, r"low < high, got \(3.0, 3.0\)"),
        ({"train": floats(2, 2)}, "train must hold more than 2 data to cut validation and test from, got 2"),
        ({"train": floats(9, 2), "test": floats(3, 4)}, r"test must hold data of shape \[2\] as train does, got \[4\]"),
        ({"train": floats(9, 2), "test": np.zeros((3, 2), np.uint8)}, "must be of one type, got train torch.float32"),
        ({"train": floats(9, 2), "train_labels": np.arange(8)}, "one for each of the 9 data, got 8"),
        ({"train": floats(9, 2), "train_labels": np.zeros((9, 1), int)}, r"integers of shape \[N\].*\[9, 1\]"),
        ({"train": floats(9, 2), "train_labels": np.zeros(9)}, r"train_labels must be integers.*float32"),
        ({"train": floats(9, 2), "test_labels": np.arange(9)}, "test_labels must come with test"),
        ({"train": floats(9, 2), "test": floats(3, 2), "test_labels": np.arange(2)}, r"got torch.int64 \[2\]"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message):
    with pytest.raises(DataError, match=message) as error:
        from_arrays(**arrays, name="toy")
    assert_one_line(error)


def test_inputs_are_not_mutated():
    given = pixels(20).astype(np.float32) / 255
    before = given.copy()
    from_arrays(given, binarize=True)
    assert np.array_equal(given, before)


# files of arrays


def write_arrays(path, **arrays):
    from safetensors.numpy import save_file

    if path.suffix == ".npy":
        np.save(path, arrays["train"])
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        save_file(arrays, path)


def test_npy(tmp_path):
    given = np.random.default_rng(0).normal(size=(30, 4))
    np.save(tmp_path / "a.npy", given)
    splits = load(tmp_path / "a.npy")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 3, 3)
    assert splits.name == str(tmp_path / "a.npy")
    assert splits.likelihood == "gaussian"
    assert splits.fingerprint() == from_arrays(given).fingerprint()
    assert load("a.npy", data_dir=str(tmp_path)).fingerprint() == splits.fingerprint()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_npz_and_safetensors(tmp_path, suffix):
    arrays = {
        "train": pixels(30),
        "validation": pixels(4, seed=1),
        "test": pixels(5, seed=2),
        "train_labels": np.arange(30),
        "test_labels": np.arange(5),
    }
    path = tmp_path / f"a{suffix}"
    write_arrays(path, **arrays)
    splits = load(str(path))
    for name in ("train", "validation", "test"):
        assert torch.equal(splits[name][:, 0], torch.from_numpy(arrays[name]) / 255)
    assert splits.train_labels.tolist() == list(range(30))
    assert splits.test_labels.tolist() == list(range(5))
    assert splits.validation_labels is None
    assert splits.likelihood == "fixed_gaussian"
    assert load(path, binarize=True).likelihood == "bernoulli"


def test_safetensors_in_half_precision(tmp_path):
    from safetensors.torch import save_file

    given = floats(20, 3).bfloat16()
    save_file({"train": given}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").fingerprint() == from_arrays(given.float()).fingerprint()


def test_arrays_under_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pixels(9))
    with pytest.raises(DataError, match=r"a\.npz must hold train, and no arrays but train, validation.*got x_train"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", train=pixels(9), val=pixels(9))
    with pytest.raises(DataError, match="got train, val; rename or remove arrays"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz")
    with pytest.raises(DataError, match="got no array"):
        load(tmp_path / "a.npz")


class Trap:
    """Sets a mark when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path, suffix):
    trapped = np.array([Trap()], dtype=object)
    objects, pickled = tmp_path / f"objects{suffix}", tmp_path / f"pickle{suffix}"
    np.save(objects, trapped) if suffix == ".npy" else np.savez(objects, train=trapped)
    pickled.write_bytes(pickle.dumps(trapped))
    for path in (objects, pickled):
        with pytest.raises(DataError, match=f"{path.name} must be a readable {suffix} file of plain numbers") as error:
            load(path)
        assert_one_line(error)
    assert not Trap.sprung
    pickle.loads(pickled.read_bytes())
    assert Trap.sprung  # the trap works
    Trap.sprung = False


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.5])
def test_truncated_files_of_arrays(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    write_arrays(path, train=np.random.default_rng(0).normal(size=(30, 40)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"a{suffix} must be a readable {suffix} file.*save it again") as error:
        load(path)
    assert_one_line(error)


def test_npz_with_a_flipped_byte(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, train=np.random.default_rng(0).normal(size=(30, 40)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.npz must be a readable \.npz file"):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_missing_and_unreadable_files_of_arrays(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"none{suffix} must be a file of arrays"):
        load(tmp_path / f"none{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(MissingDataError, match=f"folder{suffix} must be a folder with train-images"):
        load(folder)


def test_refused_npy(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((9, 2)))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop root
    with pytest.raises(DataError, match=r"a\.npy must be a readable .npy file.*Permission denied"):
        load(path)


# unknown names


@pytest.mark.parametrize("given", ["cifar10", "someone/some-data", "", "data.csv", 3, None])
def test_unknown_data(given):
    with pytest.raises(ValueError, match="data must be one of digits, fashion-mnist, mnist, a folder") as error:
        load(given)
    assert repr(given) in str(error.value)
    assert ".npy, .npz, .safetensors" in str(error.value)
    assert_one_line(error)


def test_a_path_object_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="got 'digits'"):
        load(Path("digits"))
    write_folder(tmp_path / "digits")
    assert load(Path("digits")).observation_shape == load("./digits").observation_shape == (1, 5, 4)
    assert load("digits").observation_shape == (1, 8, 8)
