"""Data of files, read as they are sliced, and written part by part: the very same as in one piece."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daps_rl.data import DataError
from daps_rl.data import rows as rows_file
from daps_rl.data.handwriting import Handwriting
from daps_rl.data.images import Images
from daps_rl.data.kind import Kind, write_array
from daps_rl.data.pixels import Arrays
from daps_rl.data.rows import ArrayFile, open_array, parts_of
from daps_rl.data.series import Series

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seven_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_file, "AT_ONCE", 7)


@pytest.mark.parametrize(
    "array",
    [
        RNG.random((30, 3, 4), dtype=np.float32),
        RNG.normal(size=(15, 2)).astype(">f8"),
        RNG.integers(0, 255, (14, 2, 2, 3), dtype=np.uint8),
        RNG.random((9, 5)) < 0.5,
    ],
)
def test_slices_of_a_file_are_those_of_its_array(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    file = open_array(tmp_path / "a.npy")
    assert isinstance(file, ArrayFile)
    assert len(file) == len(array)
    for rows in (slice(None), slice(2, 5), slice(8, 100), slice(0, 1), slice(5, 5)):
        assert file[rows].dtype == array.dtype
        np.testing.assert_array_equal(file[rows], array[rows])
    assert [len(part) for part in parts_of(file)] == [7] * (len(array) // 7) + [len(array) % 7] * (len(array) % 7 > 0)
    np.testing.assert_array_equal(np.concatenate([*parts_of(file)]), array)


def test_the_most_that_is_read_at_once_is_a_part(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((100, 2), np.float32))
    read, real = [], np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *given: read.append(given[2]) or real(*given))
    for _ in parts_of(open_array(tmp_path / "a.npy")):
        pass
    assert max(read) == 14
    assert sum(read) == 200


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros(4), np.zeros((0, 3)), np.asfortranarray(RNG.random((9, 4)))])
def test_arrays_without_data_or_in_another_order_are_read_as_they_are(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = open_array(tmp_path / "a.npy")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, array)


def test_a_file_that_becomes_shorter_meanwhile_is_named(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((30, 5)))
    file = open_array(path)
    path.write_bytes(path.read_bytes()[:-8])
    assert file[:29].shape == (29, 5)
    with pytest.raises(
        DataError, match=r"a\.npy must be a readable \.npy file of plain numbers, got: .*; save it again"
    ):
        file[:]


def test_zeros_and_ones_are_those_of_the_whole_file(tmp_path):
    for last, binary in ((1, True), (2, False)):
        np.save(tmp_path / "a.npy", np.array([[0, 1]] * 20 + [[0, last]], np.uint8))
        assert open_array(tmp_path / "a.npy").binary is binary


def saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_parts_make_the_file_that_numpy_makes(tmp_path, dtype):
    array = torch.arange(2 * 30).view(10, 2, 3).to(dtype)
    assert write_array(tmp_path / "a", array.split(4), 10) == f"{tmp_path / 'a.npy'}: {array.numpy().dtype} [10, 2, 3]"
    assert (tmp_path / "a.npy").read_bytes() == saved(array.numpy())
    write_array(tmp_path / "a.npy", [array.mT], 10)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array.mT)


def test_an_error_while_parts_are_made_leaves_the_file_before(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"before")

    def parts():
        yield torch.zeros(4, 2)
        raise ValueError("the second part cannot be made")

    with pytest.raises(ValueError, match="second part"):
        write_array(path, parts(), 8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]
    assert path.read_bytes() == b"before"


def images(folder: Path) -> None:
    folder.mkdir()
    for number in range(16):
        Image.fromarray(RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")


@pytest.mark.parametrize("name", ["folder", "values.npy"])
def test_images_are_read_and_written_in_parts_as_in_one_piece(tmp_path, name):
    kind = Images(size=6, channels=3, mean=0.4, deviation=0.3)
    images(tmp_path / "given")
    rows = kind.rows(tmp_path / "given")
    whole = kind.read(tmp_path / "given")
    assert len(rows) == 16
    assert whole.shape == (16, 3, 6, 6)
    assert torch.equal(torch.cat([*parts_of(rows)]), whole)
    values = kind.prepare(whole)
    for place, parts in ((tmp_path / "a", [values]), (tmp_path / "b", values.split(5))):
        place.mkdir()
        assert kind.write_parts(place / name, parts, 16).startswith(str(place / name))
    ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / x).rglob("*.*") if p.is_file()} for x in "ab")
    assert ours == theirs
    again = kind.read(tmp_path / "b" / name)
    assert torch.equal(again, whole) if name == "folder" else np.array_equal(again, values)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (Handwriting(steps=8), (8, 3)),
        (Series(steps=5, mean=(1.0, 2.0), deviation=(2.0, 3.0), padded=False, suffix=".csv"), (5, 2)),
    ],
)
@pytest.mark.parametrize("name", ["folder", "values.npy"])
def test_folders_of_texts_are_written_in_parts_as_in_one_piece(tmp_path, kind, shape, name):
    data = torch.from_numpy(RNG.random((10, *shape), dtype=np.float32))
    written = {}
    for way in ("a", "b"):
        (tmp_path / way).mkdir()
        path = tmp_path / way / name
        said = kind.write(path, data) if way == "a" else kind.write_parts(path, data.split(4), 10)
        files = [path] if path.is_file() else sorted(path.iterdir())
        written[way] = said.replace(f"{tmp_path / way}", ""), [(file.name, file.read_bytes()) for file in files]
    assert written["a"] == written["b"]
    assert len(written["a"][1]) == (10 if name == "folder" else 1)


class Plain(Kind):
    """Has neither of each pair."""


class Whole(Kind):
    """Reads and writes in one piece, as a kind of one's own may."""

    def read(self, path):
        return np.load(path)

    def write(self, path, data):
        np.save(path, data.numpy())
        return f"{len(data)} data"


def test_a_kind_has_one_of_each_pair(tmp_path):
    data = RNG.random((9, 2), dtype=np.float32)
    assert Whole().write_parts(tmp_path / "a.npy", torch.from_numpy(data).split(2), 9) == "9 data"
    assert np.array_equal(Whole().rows(tmp_path / "a.npy")[3:5], data[3:5])
    assert np.array_equal(Arrays().read(tmp_path / "a.npy"), data)
    for unknown in (Plain().read, Plain().rows, lambda path: Plain().write(path, torch.from_numpy(data))):
        with pytest.raises(NotImplementedError):
            unknown(tmp_path / "a.npy")
