"""Handwriting: paths and their points by hand, the package's characters, files read and written, the command line."""

from __future__ import annotations

import importlib.metadata
import json

import numpy as np
import pytest
import torch
from conftest import TINY
from data_files import assert_one_line

from daps_rl.cli import main
from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data.handwriting import Handwriting, parse_path, read_drawing, resample, split_strokes

KIND = Handwriting(steps=8)


def svg(path, *strokes, view="0 0 100 100"):
    paths = "".join(f'<path id="kvg:{i}" d="{stroke}"/>' for i, stroke in enumerate(strokes))
    path.write_text(f'<svg viewBox="{view}"><g>{paths}</g></svg>')
    return path


@pytest.fixture
def characters(monkeypatch, tmp_path):
    """Every 29th drawing of the package, and all of one character."""
    try:
        package = importlib.metadata.distribution("kanjivg")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs kanjivg")
    files = [path for path in package.files if path.suffix == ".svg"]
    assert len(files) == 11662
    part = sorted({*files[::29], *(path for path in files if path.name.startswith("04e3b"))})
    monkeypatch.setattr(type(package), "files", part)  # of whichever importlib_metadata finds it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load("handwriting")


def test_a_path_becomes_cubic_curves():
    absolute, second = parse_path("M1,2C3,4 5,6 7,8S1,1 2,0L4.5-1 M1e1,.5")
    assert absolute.tolist() == [
        [1 + 2j] * 4,
        [1 + 2j, 3 + 4j, 5 + 6j, 7 + 8j],
        [7 + 8j, 9 + 10j, 1 + 1j, 2 + 0j],  # the handle of the curve before, mirrored
        [2 + 0j, 2 + 0j, 4.5 - 1j, 4.5 - 1j],
    ]
    assert second.tolist() == [[10 + 0.5j] * 4]
    (relative,) = parse_path("m1,2c2,2 4,4 6,6s-6-7-5-8l2.5-1")
    np.testing.assert_allclose(relative, absolute)
    assert parse_path("M0,0S1,1 2,2")[0][1].tolist() == [0, 0, 1 + 1j, 2 + 2j]  # no handle before


def test_points_are_at_equal_distances_and_keep_the_ends():
    long, short = parse_path("M0,0L30,0M0,10L0,20")
    points, first = resample([long, short], 7)
    assert first.tolist() == [True, False, False, True, False, False, False]
    np.testing.assert_allclose(points, [0, 15, 30, 10j, 40j / 3, 50j / 3, 20j], atol=1e-6)
    quarter = 0.5522847498  # of a circle, as SVG programs draw it
    (arc,) = parse_path(f"M1,0C1,{quarter} {quarter},1 0,1")
    points, _ = resample([arc], 10)
    np.testing.assert_allclose(np.angle(points), np.linspace(0, np.pi / 2, 10), atol=2e-3)


def test_a_dot_is_a_stroke():
    points, first = resample(parse_path("M5,6M7,8"), 6)
    np.testing.assert_allclose(points, [5 + 6j] * 3 + [7 + 8j] * 3, atol=1e-6)
    assert first.tolist() == [True, False, False, True, False, False]


def test_a_drawing_fills_its_box(tmp_path):
    path = svg(tmp_path / "a.svg", "M10,0L30,0", "M20,20L20,40", view="10 -20 20 40")
    drawing = read_drawing(path, 4)
    assert drawing.dtype == np.float32
    # 20 wide and 40 high: the longer side is from -1 to 1
    np.testing.assert_allclose(drawing, [[-0.5, 0, 0], [0.5, 0, 1], [0, 1, 0], [0, 2, 1]], atol=1e-6)
    assert [len(stroke) for stroke in split_strokes(drawing)] == [2, 2]


def test_metrics_by_hand():
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 1]]])
    decoded = torch.tensor([[[0.3, 0.4, 0.1], [1, 0, 0.9], [0, 0, 0.8], [0, 0.5, 0.6]]])
    found = KIND.metrics(decoded, x)
    assert found["distance"].item() == pytest.approx(50 * (0.5 + 0.5) / 4)  # a box is 2 wide
    assert found["pen"].item() == pytest.approx(75.0)


def test_characters_of_the_package(characters):
    assert [len(characters[split]) for split in ("train", "validation", "test")] == [328, 34, 43]
    assert characters.observation_shape == (64, 3)
    assert characters.likelihood == "fixed_columns"
    assert characters.train[..., :2].abs().max() < 1.1
    package = importlib.metadata.distribution("kanjivg")
    six_strokes = read_drawing(package.locate_file("kanji/0304e.svg"), 64)  # the first from (30.5, 30.5)
    assert np.flatnonzero(six_strokes[:, 2] == 0).tolist() == [0, 10, 21, 32, 42, 53]
    np.testing.assert_allclose(six_strokes[0], [30.5 / 54.5 - 1, 30.5 / 54.5 - 1, 0], atol=1e-6)


def test_one_character_is_in_one_split(characters):
    import zlib

    package = importlib.metadata.distribution("kanjivg")
    variants = [path for path in package.files if path.name.startswith("04e3b")]
    assert len(variants) > 1
    split = {0: "test", 1: "validation"}.get(zlib.crc32(b"04e3b") % 10, "train")
    for path in variants:
        drawing = torch.from_numpy(read_drawing(package.locate_file(path), 64))
        assert (characters[split] == drawing).all(dim=(1, 2)).any()


def test_the_points_are_kept(characters, tmp_path, monkeypatch):
    (kept,) = (tmp_path / "cache" / "daps-rl").iterdir()
    assert kept.name.startswith("handwriting-1-")
    whole = kept.read_bytes()
    with monkeypatch.context() as without:
        without.setattr("daps_rl.data.handwriting.read_drawing", None)  # nothing is read again
        assert load("handwriting").fingerprint() == characters.fingerprint()
    for damaged in (whole[:1000], whole[:5000] + bytes(100) + whole[5100:], b""):
        kept.write_bytes(damaged)
        assert load("handwriting").fingerprint() == characters.fingerprint()
        assert kept.read_bytes() == whole
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file: nothing can be kept
    assert load("handwriting").fingerprint() == characters.fingerprint()


def test_written_and_read_again(tmp_path):
    files = [
        svg(tmp_path / "a.svg", "M0,0L100,0", "M0,100L60,20"),
        svg(tmp_path / "b.svg", "M10,20L30,40L50,60"),
    ]
    drawings = np.stack([read_drawing(path, 8) for path in files])
    decoded = torch.from_numpy(drawings * [1, 1, 0.4] + [0, 0, 0.3]).float()  # the pen is a probability there
    assert KIND.write(tmp_path / "folder", decoded) == f"{tmp_path / 'folder'}: 2 .svg files"
    np.testing.assert_allclose(KIND.read(tmp_path / "folder"), drawings, atol=1e-5)
    np.testing.assert_allclose(KIND.read(tmp_path / "folder" / "00001.svg"), drawings[1:], atol=1e-5)
    assert KIND.write(tmp_path / "c.npy", decoded) == f"{tmp_path / 'c.npy'}: float32 [2, 8, 3]"
    np.testing.assert_allclose(KIND.read(tmp_path / "c.npy"), drawings, atol=1e-6)
    with pytest.raises(DataError, match="folder must be a new or an empty folder"):
        KIND.write(tmp_path / "folder", decoded)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("M0,0A1,1 0 0 0 1,1", "a path must be of M, L, C and S with their points, got A1,1 0 0 0 1,1"),
        ("M0,0C1,1 2,2", "got C1,1 2,2"),
        ("M0,0L1", "got L1"),
        ("M0,0L1e400,1", "got L1e400,1"),
        ("L1,1", "a path must begin with M, got 'L1,1'"),
        ("M0,0M1,1M2,2M3,3M4,4", r"it must have 1 … 4 strokes for 8 points \(window\), got 5"),
    ],
)
def test_a_path_that_is_not_understood(tmp_path, path, reason):
    with pytest.raises(DataError, match=reason) as error:
        KIND.read(svg(tmp_path / "a.svg", path))
    assert_one_line(error)
    assert "a.svg must be an .svg file of pen strokes" in str(error.value)


def test_files_that_are_no_drawings(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    with pytest.raises(
        DataError, match=r"a\.svg must be an \.svg file of pen strokes: it must have 1 … 4 strokes.*got 0"
    ):
        KIND.read(tmp_path / "a.svg")
    with pytest.raises(DataError, match="its viewBox must have a width and a height, got 100 and 0"):
        KIND.read(svg(tmp_path / "a.svg", "M0,0L1,1", view="0 0 100 0"))
    with pytest.raises(DataError, match=r"could not convert string to float: '1\.2\.3'"):
        KIND.read(svg(tmp_path / "a.svg", "M0,0L1,1", view="0 0 1.2.3 4"))
    (tmp_path / "a.svg").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.svg must be a readable \.svg file, got:"):
        KIND.read(tmp_path / "a.svg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"empty must hold drawings \(.svg\), got a folder without"):
        KIND.read(tmp_path / "empty")
    with pytest.raises(MissingDataError, match="no such file"):
        KIND.read(tmp_path / "b.svg")


def test_without_the_package(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(MissingDataError, match=r"needs kanjivg; install it by pip install 'daps-rl\[handwriting\]'"):
        load("handwriting")


def test_too_few_points_for_the_strokes(characters):
    with pytest.raises(DataError, match=r"it must have 1 … 20 strokes for 40 points \(window\)"):
        load("handwriting", window=40)
    for window in (2000, 64.5):
        with pytest.raises(DataError, match=f"window of handwriting must lie in 2 … 1,024 points, got {window}"):
            load("handwriting", window=window)


def test_the_command(characters, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--data", "handwriting", "--out", str(run), *TINY, "--steps", "4"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["test"]["distance"] < 60
    assert 50 < summary["test"]["pen"] <= 100
    assert {"reconstructions.png", "handwriting.gif"} <= {path.name for path in run.iterdir()}
    svg(tmp_path / "a.svg", "M10,20L30,40L50,60", "M20,20L90,90")
    codes = str(tmp_path / "codes.npy")
    assert main(["encode", str(run), "--input", str(tmp_path / "a.svg"), "--output", codes]) == 0
    assert np.load(codes).shape == (1, 3)
    capsys.readouterr()
    assert main(["decode", str(run), "--input", codes, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}: 1 .svg files\n"
    assert 1 <= (tmp_path / "out" / "00000.svg").read_text().count("<path") <= 32


def test_the_motion_ends_in_the_whole_drawing(tmp_path):
    from PIL import Image

    rows = {"original": torch.tensor([[[-0.8, -0.8, 0], [0.8, -0.8, 1], [-0.8, 0.8, 0], [0.8, 0.8, 1]]])}
    written = Handwriting(steps=4).draw(tmp_path / "a.png", rows, "title")
    assert [path.name for path in written] == ["a.png", "handwriting.gif"]
    with Image.open(written[1]) as moving:
        ink = []
        for frame in range(moving.n_frames):
            moving.seek(frame)
            ink.append((np.array(moving.convert("L"))[:, 112:] < 128).sum())
    assert ink[-1] > 1.9 * ink[len(ink) * 3 // 8] > 0  # two strokes of one length, one before
