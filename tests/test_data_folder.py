"""Folders of images: layouts, modes, sizes, damage; nothing decoded before it is needed."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import assert_one_line, write_folder
from PIL import Image

from daps_rl.data import DataError, ImageStream, MissingDataError, load
from daps_rl.data.folder import FolderImages
from daps_rl.data.picture import Picture, _flatten, is_grey


def shade(value, size=(8, 8), mode="RGB"):
    """An image of one colour; red tells which it is."""
    return Image.new(mode, size, (value, 0, 0) if mode == "RGB" else value)


def write_images(folder, values, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        shade(value).save(folder / f"{value:03}{suffix}")


def reds(splits, name, stream=None):
    """The red value of each image of a split."""
    low, high = splits.value_range
    values = (splits[name][:] if stream is None else stream)[:, 0, 0, 0].double()
    return ((values - low) / (high - low) * 255).round().int().tolist()


# layouts


def test_a_flat_folder_is_cut_by_a_fixed_seed(tmp_path):
    write_images(tmp_path / "data", range(50))
    splits = load(tmp_path / "data", image_size=4)
    assert [list(splits[name].shape) for name in ("train", "validation", "test")] == [
        [40, 3, 4, 4],
        [5, 3, 4, 4],
        [5, 3, 4, 4],
    ]
    assert all(isinstance(splits[name], ImageStream) for name in ("train", "validation", "test"))
    # The same rows as arrays of that length are cut by, in this and every later version.
    assert reds(splits, "validation") == [28, 11, 10, 41, 2]
    assert sorted(reds(splits, "train") + reds(splits, "validation") + reds(splits, "test")) == list(range(50))
    assert splits.train_labels is None
    assert splits.likelihood == "gaussian"
    assert splits.name == str(tmp_path / "data")
    assert load("data", tmp_path, image_size=4).fingerprint() == splits.fingerprint()


def test_classes_are_numbered_by_name(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        write_images(tmp_path / name, range(label * 10, label * 10 + 10))
    write_images(tmp_path / "cat" / "wild", [30])
    splits = load(tmp_path, image_size=4)
    for name in ("train", "validation", "test"):
        assert splits[f"{name}_labels"].tolist() == [min(value // 10, 2) for value in reds(splits, name)]


@pytest.mark.parametrize("validation", ["val", "validation", "valid", "VAL"])
def test_folders_of_splits(tmp_path, validation):
    for split, start in (("train", 0), (validation, 100), ("test", 200)):
        write_images(tmp_path / split / "b", [start, start + 1])
        write_images(tmp_path / split / "a", [start + 2])
    write_images(tmp_path / "notes", [250])  # not among the splits
    splits = load(tmp_path, image_size=4)
    assert reds(splits, "train") == [2, 0, 1]
    assert reds(splits, "validation") == [102, 100, 101]
    assert reds(splits, "test") == [202, 200, 201]
    assert splits.train_labels.tolist() == splits.test_labels.tolist() == [0, 1, 1]


def test_only_what_is_missing_is_cut(tmp_path):
    write_images(tmp_path / "train" / "a", range(20))
    write_images(tmp_path / "val", range(100, 103))
    splits = load(tmp_path, image_size=4)
    assert reds(splits, "validation") == [100, 101, 102]
    assert (len(splits.train), len(splits.test)) == (18, 2)
    assert splits.train_labels.tolist() == [0] * 18
    assert splits.validation_labels is None  # flat


def test_a_class_that_training_lacks(tmp_path):
    write_images(tmp_path / "train" / "a", range(3))
    write_images(tmp_path / "test" / "b", range(3))
    with pytest.raises(DataError, match="every class in train, got b elsewhere") as error:
        load(tmp_path)
    assert_one_line(error)


def test_folders_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"train-images-idx3-ubyte.* or with images.* but has none"):
        load(tmp_path / "empty")
    write_images(tmp_path / "half" / "train", range(3))
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(MissingDataError, match=r"half must hold images \(\.bmp, .*\) of test, got none there"):
        load(tmp_path / "half")
    write_images(tmp_path / "double" / "val", [1])
    write_images(tmp_path / "double" / "valid", [1])
    with pytest.raises(DataError, match="one folder for validation, got val and valid; join them"):
        load(tmp_path / "double")
    write_images(tmp_path / "few", range(2))
    with pytest.raises(DataError, match="more than 2 data to cut validation and test from, got 2"):
        load(tmp_path / "few")


def test_idx_files_come_before_images(tmp_path):
    write_folder(tmp_path)
    write_images(tmp_path, range(3))
    assert load(tmp_path).observation_shape == (1, 5, 4)


def test_what_is_passed_over(tmp_path):
    write_images(tmp_path / "a", range(9))
    (tmp_path / "a" / "._000.png").write_bytes(b"a Mac's shadow file")
    (tmp_path / "a" / "notes.txt").write_text("x")
    write_images(tmp_path / ".cache", [200])
    shade(9).save(tmp_path / "a" / "009.PNG")
    os.symlink(tmp_path, tmp_path / "a" / "up")  # a link in a circle
    splits = load(tmp_path, image_size=4)
    assert sum(len(splits[name]) for name in ("train", "validation", "test")) == 10


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_links_and_pipes_spoil_no_folder(tmp_path):
    write_images(tmp_path / "train", range(40))
    (tmp_path / "itself").symlink_to("itself")
    for name in ("one", "two", "three"):  # 3^40 ways to walk in circles
        (tmp_path / name).symlink_to(".")
    (tmp_path / "train" / "999.png").symlink_to("999.png")
    os.mkfifo(tmp_path / "train" / "998.png")
    splits = load(tmp_path, image_size=4)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [34, 4, 4]
    for name in ("train", "validation", "test"):
        splits[name][:]
    assert splits.unreadable_files() == ["train/998.png", "train/999.png"]
    (tmp_path / "none").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "none" / name).symlink_to(".")
    with pytest.raises(MissingDataError, match=r"or with images.* but has none"):
        load(tmp_path / "none")


# pixels


def test_the_centre_at_the_size_asked_for(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 90)  # the square in the middle
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide", "tall"):
        pixels = Picture(20)(str(tmp_path / f"{name}.png"))
        assert (pixels == torch.tensor([10, 200, 90]).view(3, 1, 1)).all()
        assert Picture(7)(str(tmp_path / f"{name}.png")).shape == (3, 7, 7)
        assert Picture(50)(str(tmp_path / f"{name}.png")).shape == (3, 50, 50)


def test_resizing_does_not_alias(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    pixels = Picture(8)(str(tmp_path / "stripes.png")).float()
    assert (pixels - 127.5).abs().max() < 8  # every pixel is the mean of black and white


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 255)), (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 20, 30)),
        (Image.fromarray(np.full((4, 4), 77 * 257, np.uint16)), (77, 77, 77)),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 255)), (0, 0, 0)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_every_mode(tmp_path, image, expected):
    path = tmp_path / ("a.tif" if image.mode == "CMYK" else "a.png")
    image.save(path)
    for file in (str(path), path.read_bytes()):
        pixels = Picture(3)(file)
        assert pixels.dtype == torch.uint8
        assert pixels.movedim(0, -1).unique(dim=0).view(-1, 3).unique(dim=0).tolist() == [list(expected)]
    if len(set(expected)) == 1:
        assert Picture(3, channels=1)(str(path)).unique().tolist() == [expected[0]]


def test_the_cameras_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 0, 0), (0, 0, 8, 4))  # the upper half
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    assert Picture(8)(str(tmp_path / "a.png"))[0, :, 0].tolist() == [0] * 4 + [255] * 4


@pytest.mark.parametrize(
    "entry", [(0x0112, 4, 2, 8), (0x9286, 7, 2**31 - 1, 30), (0x0112, 2, 4, 9999), (0x8769, 13, 1, 1)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_words_of_the_camera_leave_the_pixels_as_they_are(entry):
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + turned + struct.pack("<HHII", *entry) + b"\0\0\0\0"
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (100, 100, 100)).save(file, "JPEG", exif=exif)
    assert Picture(8)(file.getvalue()).unique().tolist() == [100]


@pytest.mark.parametrize(("value", "key", "expected"), [(40_000, 40_000, 255), (40_000, 40_001, 155), (0, 0, 255)])
def test_sixteen_bits_may_be_transparent(value, key, expected):
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    image.info["transparency"] = key
    assert _flatten(image, "L").getcolors() == [(16, expected)]


def png(bits, colour, row, *chunks):
    """A PNG of 4 x 4 pixels of so many bits: PIL writes only some of the kinds that it reads."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = (b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0))
    pixels = (b"IDAT", zlib.compress((b"\0" + row) * 4))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (header, *chunks, pixels, (b"IEND", b"")))


GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
KEY = struct.pack(">3H", 1, 2, 3)
PLTE = (b"PLTE", bytes([50, 60, 70, 9, 9, 9]))


@pytest.mark.parametrize(
    ("file", "left", "right"),
    [
        (png(1, GREY, b"\xc0", (b"tRNS", b"\0\0")), (255,), (255,)),
        (png(2, GREY, b"\xa5", (b"tRNS", b"\0\x01")), (170,), (255,)),
        (png(4, GREY, b"\x33\x77", (b"tRNS", b"\0\x07")), (51,), (255,)),
        (png(8, GREY, bytes([50, 50, 7, 7]), (b"tRNS", b"\0\x07")), (50,), (255,)),
        (png(16, GREY, struct.pack(">4H", 25700, 25700, 7, 7), (b"tRNS", b"\0\x07")), (100,), (255,)),
        (png(16, GREY_ALPHA, struct.pack(">8H", *[25700, 65535] * 2, *[25700, 0] * 2)), (100,), (255,)),
        (png(8, COLOUR, bytes([50, 60, 70] * 2 + [1, 2, 3] * 2), (b"tRNS", KEY)), (50, 60, 70), (255,) * 3),
        (
            png(16, COLOUR, struct.pack(">12H", *[12850, 15420, 17990] * 2, *[1, 2, 3] * 2), (b"tRNS", KEY)),
            (50, 60, 70),
            (255,) * 3,
        ),
        (png(16, COLOUR_ALPHA, struct.pack(">16H", *[12850, 0, 0, 65535] * 2, *[0] * 8)), (50, 0, 0), (255,) * 3),
        (png(8, PALETTE, bytes([0, 0, 1, 1]), PLTE, (b"tRNS", b"\xff\0")), (50, 60, 70), (255,) * 3),
        (png(2, PALETTE, b"\x05", PLTE, (b"tRNS", b"\xff\0")), (50, 60, 70), (255,) * 3),
    ],
    ids=range(11),
)
def test_transparent_pixels_of_every_kind_of_png_are_white(file, left, right):
    assert is_grey(file) == (len(left) == 1)
    pixels = Picture(4, channels=len(left))(file)
    assert pixels[:, 0, 0].tolist() == list(left)
    assert pixels[:, 3, 3].tolist() == list(right)


@pytest.mark.parametrize("suffix", ["PNG", "GIF", "WEBP"])
def test_the_first_picture_of_an_animation_counts(suffix):
    file, frames = io.BytesIO(), [Image.new("RGB", (4, 4), (value, value, value)) for value in (200, 10)]
    frames[0].save(file, suffix, save_all=True, append_images=frames[1:])
    assert (Picture(4)(file.getvalue()).int() - 200).abs().max() <= 2


def test_a_large_jpeg_is_the_same_picture(tmp_path):
    gradient = np.linspace(0, 255, 1024, dtype=np.uint8)
    across = np.tile(gradient, (1024, 1))
    image = Image.fromarray(np.stack([across, across.T, np.full_like(across, 9)], -1))
    image.save(tmp_path / "a.jpg", quality=95)
    pixels = Picture(32)(str(tmp_path / "a.jpg")).float()
    exact = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BICUBIC))).movedim(-1, 0)
    assert (pixels - exact).abs().max() <= 4


def test_grey_only_if_all_are_grey(tmp_path):
    write_images(tmp_path / "mixed", range(5))
    for place in ("mixed", "grey"):
        (tmp_path / place).mkdir(exist_ok=True)
        for value in range(20):
            shade(value, mode="L").save(tmp_path / place / f"grey{value}.png")
    assert load(tmp_path / "grey").observation_shape == (1, 64, 64)
    assert load(tmp_path / "mixed").observation_shape == (3, 64, 64)


def test_standardised_with_one_mean_and_one_deviation(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    for split, count in (("train", 30), ("val", 4), ("test", 4)):
        (tmp_path / split).mkdir(exist_ok=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / split / f"{number}.bmp")
    splits = load(tmp_path, image_size=6)
    x = splits.train[:].double()
    assert x.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    low, high = splits.value_range
    first = np.asarray(Image.open(tmp_path / "test" / "0.bmp")).transpose(2, 0, 1) / 255
    assert torch.allclose((splits.test[0].double() - low) / (high - low), torch.from_numpy(first), atol=1e-6)


def test_other_formats_are_not_opened(tmp_path):
    shade(9).save(tmp_path / "a.png", format="PCX")
    assert Image.open(tmp_path / "a.png").format == "PCX"  # what PIL would do of itself
    with pytest.raises(OSError, match="cannot identify"):
        Picture(4)(str(tmp_path / "a.png"))


# streaming


def test_nothing_is_decoded_before_it_is_needed(tmp_path, monkeypatch):
    write_images(tmp_path, range(40))
    decoded = []

    def note(self, file):
        decoded.append(os.path.basename(file))
        return torch.full((3, 2, 2), len(decoded), dtype=torch.uint8)

    monkeypatch.setattr("daps_rl.data.stream.SAMPLE", 5)
    monkeypatch.setattr(Picture, "__call__", note)
    splits = load(tmp_path, image_size=2)
    splits.fingerprint()
    assert len(decoded) == 5
    batches = splits.train.batches(4, seed=0, workers=0)
    assert len(decoded) == 5
    next(batches)
    splits.test[1:3]
    assert len(decoded) == 11


def test_workers_and_resume_give_the_same_batches(tmp_path):
    write_images(tmp_path, range(30))
    train = load(tmp_path, image_size=4).train
    here, there = train.batches(7, seed=2, workers=0), train.batches(7, seed=2, workers=2)
    expected = [next(here) for _ in range(6)]
    assert all(torch.equal(next(there), batch) for batch in expected)
    assert torch.equal(next(train.batches(7, seed=2, start=5, workers=1)), expected[5])


def test_the_fingerprint_is_of_names_sizes_and_settings(tmp_path):
    write_images(tmp_path / "a", range(12))
    before = load(tmp_path / "a").fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint() == before
    assert load(tmp_path / "a", image_size=32).fingerprint() != before
    shade(3, size=(99, 99)).save(tmp_path / "a" / "003.png")
    after = load(tmp_path / "a").fingerprint()
    assert after != before
    (tmp_path / "a" / "003.png").rename(tmp_path / "a" / "003b.png")
    assert load(tmp_path / "a").fingerprint() != after


def test_names_that_are_no_utf8(tmp_path):
    write_images(tmp_path, range(9))
    odd = os.fsencode(tmp_path) + b"/odd\xff.png"
    shutil.copy(tmp_path / "001.png", odd)
    splits = load(tmp_path, image_size=4)
    assert len(splits.fingerprint()) == 64
    assert len(reds(splits, "train")) == 8
    assert FolderImages(str(tmp_path), np.array([b"odd\xff.png"])).label(0) == "odd\udcff.png"


# damage


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_corrupt_files_are_named_and_skipped(tmp_path):
    write_images(tmp_path / "train", range(9))
    write_images(tmp_path / "val", range(3))
    write_images(tmp_path / "test", range(3))
    whole = (tmp_path / "train" / "002.png").read_bytes()
    (tmp_path / "train" / "002.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "005.png").write_bytes(b"")
    (tmp_path / "test" / "001.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # not opened as EPS
    with pytest.warns(UserWarning, match=r"skipped train.002\.png, which cannot be read") as warned:
        splits = load(tmp_path, image_size=4)
    assert sum("skipped" in str(warning.message) for warning in warned) == 2
    assert reds(splits, "train") == [0, 1, 3, 3, 4, 6, 6, 7, 8]
    with pytest.warns(UserWarning, match=r"skipped test.001\.png"):
        assert reds(splits, "test") == [0, 2, 2]
    assert [Path(name).name for name in splits.unreadable_files()] == ["001.png", "002.png", "005.png"]
    (tmp_path / "train" / "007.png").unlink()
    with pytest.warns(UserWarning, match=r"skipped train.007\.png.*No such file"):
        assert reds(splits, "train") == [0, 1, 3, 3, 4, 6, 6, 8, 8]


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_too_many_corrupt_files(tmp_path):
    write_images(tmp_path, range(20))
    for value in (3, 4, 5):
        (tmp_path / f"{value:03}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"at most 2 unreadable files \(max_corrupt\)") as error:
        load(tmp_path, max_corrupt=2)
    assert all(f"{value:03}.png" in str(error.value) for value in (3, 4, 5))
    assert_one_line(error)
    load(tmp_path, max_corrupt=3)
