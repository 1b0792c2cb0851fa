"""IDX files and the hub: read back value by value, every way to fail."""

import gzip
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NAMES, assert_one_line, idx_bytes, pixels, use_hub, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data import load as load_function
from daps_rl.data.mnist import FASHION_MNIST, load_image_source, read_idx

LOAD_MODULE = sys.modules[load_function.__module__]


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
        (lambda raw: raw[:3], "got 000008 and 3 bytes;"),
        (lambda raw: raw[:9], r"a header of 16 bytes, got 00000803 and 9 bytes"),
        (lambda raw: raw[:-1], r"\[24, 5, 4\] is 480, got 479"),
        (lambda raw: raw + b"\x00", r"\[24, 5, 4\] is 480, got more"),
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


def test_a_header_that_states_gigabytes_takes_no_memory(tmp_path):
    write_folder(tmp_path)
    header = bytes([0, 0, 8, 3]) + np.array([2**31, 1, 1], ">u4").tobytes()
    (tmp_path / NAMES[0]).unlink()
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(gzip.compress(header + bytes(2**26)))  # 64 MiB of zeros in 64 KiB
    tracemalloc.start()
    with pytest.raises(DataError, match=r"is 2147483648, got 67108864"):
        load("mnist", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


@pytest.mark.parametrize("change", [lambda raw: b"plainly not gzip", lambda raw: raw[:-9], lambda raw: raw[:40] + raw])
def test_corrupt_gzip(tmp_path, change):
    arrays = write_folder(tmp_path, suffix=".gz")
    path = tmp_path / (NAMES[0] + ".gz")
    path.write_bytes(change(gzip.compress(idx_bytes(arrays[NAMES[0]]))))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz must be a gzip file, got: .*; save it again"
    ) as error:
        load("mnist", tmp_path)
    assert_one_line(error)


def test_unreadable_idx_file(tmp_path, monkeypatch):
    write_folder(tmp_path)

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop root
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte must be a readable file.*Permission denied"):
        load("mnist", tmp_path)


def test_idx_files_that_do_not_fit_each_other(tmp_path):
    write_folder(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(idx_bytes(np.arange(23)))
    with pytest.raises(
        DataError,
        match=r"mnist: validation_labels must .* shape \[2\].*got torch.int64 \[1\]",
    ):
        load("mnist", tmp_path)
    write_folder(tmp_path)
    (tmp_path / NAMES[2]).write_bytes(idx_bytes(pixels(6, rows=4)))
    with pytest.raises(DataError, match=r"mnist: test must hold data of shape \[1, 5, 4\].*, got \[1, 4, 4\]"):
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
    source = replace(FASHION_MNIST, system_dir=folder)
    monkeypatch.setitem(LOAD_MODULE.NAMED, "fashion-mnist", partial(load_image_source, source))


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
