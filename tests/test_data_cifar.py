"""CIFAR-10: both official versions, plain and in archives, read back value by value; nothing unpickled unsafely."""

import gzip
import io
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from data_files import assert_one_line, use_hub

from daps_rl.data import DataError, MissingDataError, cifar, load
from daps_rl.data.cifar import read_plain_pickle

COUNT = 20  # images in each of the six files
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cifar, "IMAGES_PER_FILE", COUNT)


def arrays(number):
    """Pixels [N, H, W, 3] and labels [N] of one file."""
    random = np.random.default_rng(number)
    return random.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, COUNT)


def rows(number):
    """Pixels as the official files hold them: planes of red, green, blue. [N, 3072]."""
    return arrays(number)[0].transpose(0, 3, 1, 2).reshape(COUNT, 3072)


def binary_file(number):
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(arrays(number)[1], rows(number), strict=True))


def python2_pickle(number):
    """The opcodes that Python 2 wrote: keys and pixels are its byte strings (protocol 2, numpy.core.multiarray)."""

    def text(content):
        return b"T" + len(content).to_bytes(4, "little") + content

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01M" + COUNT.to_bytes(2, "little") + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89" + text(rows(number).tobytes()) + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in arrays(number)[1]) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


def python3_pickle(number):
    """The same saved again from Python 3, which writes byte strings by way of _codecs.encode."""
    return pickle.dumps({b"data": rows(number), b"labels": arrays(number)[1].tolist()}, protocol=2)


def contents(version):
    make = {"binary": binary_file, "python": python2_pickle, "python3": python3_pickle}[version]
    suffix = ".bin" if version == "binary" else ""
    numbers = {f"data_batch_{number}{suffix}": number for number in range(1, 6)} | {f"test_batch{suffix}": 6}
    return {name: make(number) for name, number in numbers.items()}


def write_plain(folder, version, changes=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in (contents(version) | dict(changes)).items():
        (folder / name).write_bytes(raw)
    return folder


def write_archive(path, version, changes=()):
    inner = BINARY if version == "binary" else PYTHON
    members = contents(version) | {"readme.html": b"x", "batches.meta": b"not read"} | dict(changes)
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("data_batch_1")  # no file, and none of ours
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, raw in members.items():
            member = tarfile.TarInfo(f"{inner}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return path


def write(tmp_path, version, form):
    """Writes one version; returns the data_dir that leads to it."""
    inner = BINARY if version == "binary" else PYTHON
    archive = "cifar-10-binary.tar.gz" if version == "binary" else "cifar-10-python.tar.gz"
    if form.endswith("archive"):
        path = write_archive(tmp_path / archive, version)
    else:
        path = write_plain(tmp_path / inner, version)
    return path if form.startswith("the") else tmp_path


def all_pixels(splits):
    """Train and validation in one, as pixels, with labels; in an order of their own."""
    low, high = splits.value_range
    images = torch.cat([splits.train, splits.validation])
    labels = torch.cat([splits.train_labels, splits.validation_labels])
    pixels = ((images.double() - low) / (high - low) * 255).round().to(torch.uint8)
    return sorted((label, *image) for label, image in zip(labels.tolist(), pixels.flatten(1).tolist(), strict=True))


@pytest.mark.parametrize("form", ["a folder inside", "the folder", "an archive", "the archive"])
@pytest.mark.parametrize("version", ["binary", "python", "python3"])
def test_every_version_value_by_value(tmp_path, version, form):
    splits = load("cifar10", write(tmp_path, version, form))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [90, 10, 20]
    assert splits.observation_shape == (3, 32, 32)
    assert splits.likelihood == "gaussian"
    given = sorted(
        (label, *row)
        for number in range(1, 6)
        for label, row in zip(arrays(number)[1].tolist(), rows(number).tolist(), strict=True)
    )
    assert all_pixels(splits) == given
    pixels, labels = arrays(6)
    assert splits.test_labels.tolist() == labels.tolist()
    low, high = splits.value_range
    unit = (splits.test.double() - low) / (high - low)
    assert torch.allclose(unit, torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255), atol=1e-6)


def test_one_mean_and_one_deviation(tmp_path):
    splits = load("cifar10", write(tmp_path, "binary", "a folder inside"))
    assert splits.train.double().mean() == pytest.approx(0.0, abs=1e-5)
    assert splits.train.double().std(correction=0) == pytest.approx(1.0, abs=1e-5)
    low, high = splits.value_range
    unit = (splits.train.double() - low) / (high - low)
    assert -low / (high - low) == pytest.approx(unit.mean().item(), abs=1e-6)
    assert 1 / (high - low) == pytest.approx(unit.std(correction=0).item(), abs=1e-6)
    assert splits.test.mean().abs() > 1e-4  # with the moments of train, not its own


def test_all_versions_are_the_same_data_in_the_same_splits(tmp_path):
    prints = {load("cifar10", write(tmp_path / v, v, "the folder")).fingerprint() for v in ("binary", "python3")}
    assert len(prints) == 1
    splits = load("cifar10", tmp_path / "binary")
    order = np.random.RandomState(0).permutation(100)
    labels = np.concatenate([arrays(number)[1] for number in range(1, 6)])
    assert splits.validation_labels.tolist() == labels[order[:10]].tolist()  # and so in every later version


def test_the_binary_version_comes_first(tmp_path):
    write_plain(tmp_path / BINARY, "binary")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not read")
    assert len(load("cifar10", tmp_path).train) == 90


# pickles


class Trap:
    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "proof"
    evil = pickle.dumps({b"data": rows(1), b"labels": [0] * COUNT, b"more": Shell(proof)}, protocol=2)
    write_plain(tmp_path / PYTHON, "python", {"data_batch_3": evil})
    with pytest.raises(DataError, match=r"data_batch_3: its pickle must hold plain arrays, got \w+\.system") as error:
        load("cifar10", tmp_path)
    assert "delete the file" in str(error.value)
    assert_one_line(error)
    assert not proof.exists()
    pickle.loads(evil)
    assert proof.exists()  # the trap works


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Trap()),
        pickle.dumps(Trap(), protocol=0),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cdaps_rl.data.cifar\npickle.loads\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tobytes\x93.",
    ],
)
def test_what_a_pickle_may_not_name(raw):
    with pytest.raises(DataError, match="here"):
        read_plain_pickle(raw, "here")
    assert not Trap.sprung


def test_pickled_bytes_have_one_encoding():
    raw = b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00abX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(DataError, match="here must be a whole pickle, got: 'rot13' is not a text encoding"):
        read_plain_pickle(raw, "here")
    assert read_plain_pickle(raw.replace(b"\x05\x00\x00\x00rot13", b"\x06\x00\x00\x00latin1"), "here") == b"ab"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dictionary with data and labels"),
        ({b"data": rows(1)}, "must hold a dictionary with data and labels"),
        ({b"data": rows(1)[:7], b"labels": [0] * COUNT}, r"data must be uint8 \[20, 3072\], got uint8 \[7, 3072\]"),
        ({b"data": rows(1).astype(float), b"labels": [0] * COUNT}, r"got float64 \[20, 3072\]"),
        ({b"data": [1], b"labels": [0] * COUNT}, "got list"),
        ({b"data": rows(1), b"labels": [0] * 3}, "must have 20 labels of 0 to 9, got 3"),
        ({b"data": rows(1), b"labels": [10] * COUNT}, "must have 20 labels of 0 to 9"),
        ({b"data": rows(1), b"labels": [0, -(10**30)] * (COUNT // 2)}, "must have 20 labels of 0 to 9"),
        ({b"data": rows(1), b"labels": [True] * COUNT}, "labels must be a list of whole numbers"),
        ({b"data": rows(1), b"labels": rows(1)}, "labels must be a list of whole numbers"),
    ],
)
def test_pickles_of_other_things(tmp_path, content, message):
    raw = pickle.dumps(content, protocol=2)
    raw += b"\x00" * max(0, COUNT * 3072 - len(raw))  # long enough to be looked at
    write_plain(tmp_path / PYTHON, "python", {"data_batch_2": raw})
    with pytest.raises(DataError, match=message) as error:
        load("cifar10", tmp_path)
    assert "data_batch_2" in str(error.value)
    assert_one_line(error)


# damage


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("change", ["short", "long", "huge", "empty"])
def test_files_of_a_wrong_size(tmp_path, version, form, change):
    name = "data_batch_4" + (".bin" if version == "binary" else "")
    raw = contents(version)[name]
    wrong = {"short": raw[: len(raw) // 2], "long": raw + b"\x00", "huge": raw + bytes(4_100_000), "empty": b""}[change]
    if form == "folder":
        place = write_plain(tmp_path / "cifar", version, {name: wrong})
    else:
        place = write_archive(tmp_path / "cifar.tar.gz", version, {name: wrong})
    if version == "python" and change == "long":
        assert len(load("cifar10", place).train) == 90  # a pickle says itself where it ends
        return
    with pytest.raises(DataError, match=rf"{name} must have .* bytes, got {len(wrong)}; fetch the file again") as error:
        load("cifar10", place)
    assert str(place) in str(error.value)
    assert_one_line(error)


def test_a_pickle_that_breaks_off(tmp_path):
    raw = contents("python")["data_batch_1"]
    write_plain(tmp_path / PYTHON, "python", {"data_batch_1": raw[:-20]})
    with pytest.raises(DataError, match=r"data_batch_1 must be a whole pickle, got: .*; fetch the file again"):
        load("cifar10", tmp_path)


def test_labels_of_an_eleventh_class(tmp_path):
    raw = bytearray(contents("binary")["test_batch.bin"])
    raw[3073] = 10
    write_plain(tmp_path / BINARY, "binary", {"test_batch.bin": bytes(raw)})
    with pytest.raises(DataError, match=r"test_batch\.bin must have 20 labels of 0 to 9"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "no gzip", "no tar", "empty"])
def test_damaged_archives(tmp_path, damage):
    path = write_archive(tmp_path / "cifar-10-binary.tar.gz", "binary")
    raw = path.read_bytes()
    changed = {
        "cut": raw[: len(raw) // 2],
        "no gzip": b"plainly not",
        "no tar": gzip.compress(b"x" * 9999),
        "empty": b"",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(
        DataError, match=r"cifar-10-binary\.tar\.gz must (be a whole tar archive|hold data_batch)"
    ) as error:
        load("cifar10", tmp_path)
    assert "fetch it again" in str(error.value)
    assert_one_line(error)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"none must be or hold one of cifar-10-batches-bin, .* neither a folder"
    ):
        load("cifar10", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-python\.tar\.gz, but it holds none; put the files there"):
        load("cifar10", tmp_path)
    folder = write_plain(tmp_path / BINARY, "binary")
    (folder / "data_batch_2.bin").unlink()
    (folder / "test_batch.bin").unlink()
    with pytest.raises(MissingDataError, match=r"but lacks data_batch_2, test_batch; fetch it again") as error:
        load("cifar10", tmp_path)
    assert_one_line(error)


def test_nothing_is_extracted(tmp_path):
    path = write_archive(tmp_path / "cifar-10-binary.tar.gz", "binary", {"../../escaped": b"x"})
    before = sorted(tmp_path.parent.rglob("*"))
    load("cifar10", path)
    assert sorted(tmp_path.parent.rglob("*")) == before


# the hub


def test_the_hub_gives_the_same_as_files(tmp_path, monkeypatch):
    train = [arrays(number) for number in range(1, 6)]
    content = {
        "train": {"img": [x for images, _ in train for x in images], "label": [y for _, ys in train for y in ys]},
        "test": dict(zip(("img", "label"), map(list, arrays(6)), strict=True)),
    }
    hub = use_hub(monkeypatch, content)
    splits = load("cifar10")
    assert hub.asked == ["uoft-cs/cifar10"]
    assert splits.fingerprint() == load("cifar10", write_plain(tmp_path / BINARY, "binary")).fingerprint()
    assert hub.asked == ["uoft-cs/cifar10"]  # data_dir is never passed over
    content["train"]["img"] = [x[..., 0] for x in content["train"]["img"]]
    with pytest.raises(DataError, match=r"must be uint8 \[H, W, 3\], all of one size, got uint8 \[32, 32\]"):
        load("cifar10")


def test_no_hub_names_the_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDataError, match="cifar10 needs its official files or the hub, got no package") as error:
        load("cifar10")
    for remedy in ("--data-dir", "cifar-10-binary.tar.gz", "pip install daps-rl[datasets]"):
        assert remedy in str(error.value)
    assert_one_line(error)
