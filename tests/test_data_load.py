"""load: names, paths, and options that a data set cannot use."""

import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import assert_one_line, use_hub, write_folder
from PIL import Image

from daps_rl.data import DataError, MissingDataError, load


@pytest.mark.parametrize("given", ["", "a/b/c", "../data", "data set", 3, None, Path("someone/some-data")])
def test_unknown_data(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = "data must be one of digits, fashion-mnist, mnist, cifar10, photographs, .*a folder"
    with pytest.raises(ValueError, match=known) as error:
        load(given)
    assert repr(str(given) if isinstance(given, Path) else given) in str(error.value)
    assert ".npy, .npz, .safetensors" in str(error.value)
    assert_one_line(error)


@pytest.mark.parametrize("given", ["someone/some-data", "data.xyz", "mnits"])
def test_other_names_are_looked_for_on_the_hub(monkeypatch, given):
    hub = use_hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(MissingDataError, match=f"got '{given}', which is no path, and no answer from the hub") as error:
        load(given)
    assert hub.asked == [given]
    assert_one_line(error)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDataError, match="no package to reach the hub with") as error:
        load(given)
    assert "pip install daps-rl[datasets]" in str(error.value)
    assert_one_line(error)


def test_a_mistyped_name_is_answered_by_what_it_may_have_meant(monkeypatch):
    use_hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(MissingDataError, match=r"\(did you mean mnist\?\)$"):
        load("mnits")


def test_data_dir_keeps_the_hub_out(tmp_path, monkeypatch):
    hub = use_hub(monkeypatch, {})
    with pytest.raises(DataError, match="got 'someone/some-data'; pass one"):
        load("someone/some-data", tmp_path)
    assert not hub.asked


def test_a_path_object_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="got 'digits'"):
        load(Path("digits"))
    write_folder(tmp_path / "digits")
    assert load(Path("digits")).observation_shape == load("./digits").observation_shape == (1, 5, 4)
    assert load("digits").observation_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"image_size": 16}, "digits has images of one size, .* it takes no image_size, got '16'; leave"),
        ("cifar10", {"binarize": False}, "cifar10 has colours or greys that are standardised, so it takes no binarize"),
        ("cifar10", {"max_corrupt": 3}, "cifar10 must be whole, so it takes no max_corrupt, got '3'"),
        ("mnist", {"streaming": True}, "mnist is no data set of the hub, so it takes no streaming"),
        ("photographs", {"data_dir": "here"}, "photographs ships inside Python packages, so it takes no data_dir"),
        ("photographs", {"image_column": "image"}, "photographs has no columns, so it takes no image_column"),
        (
            "photographs",
            {"image_size": 0},
            "positive whole number of pixels, got 0; pass 32 for photographs",
        ),
        ("someone/some-data", {"binarize": True}, "someone/some-data has colours .* it takes no binarize"),
        ("idx", {"image_size": 32}, "the folder .*idx of IDX files has images of one size"),
        ("a.npy", {"image_size": 32}, r"the file .*a\.npy has images of one size"),
        ("images", {"binarize": True}, "the folder .*images of images has colours or greys that are standardised"),
        ("images", {"image_size": 2.5}, r"positive whole number of pixels, got 2\.5; pass 32 for photographs, 64"),
        ("images", {"max_corrupt": -1}, "max_corrupt must be >= 0, got -1"),
    ],
)
def test_options_that_a_data_set_cannot_use(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "idx")
    np.save(tmp_path / "a.npy", np.zeros((9, 2)))
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(ValueError, match=message) as error:
        load(name, **options)
    assert_one_line(error)


@pytest.mark.parametrize(("name", "made"), [("array", "ndarray"), ("NAMES", "tuple")])
def test_a_function_of_ones_own_returns_splits(tmp_path, monkeypatch, name, made):
    text = "import numpy as np\nNAMES = ('a',)\ndef array():\n    return np.zeros((9, 2))\n"
    (tmp_path / "made_here.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=f"'made_here:{name}' must be a function that .* got a {made}; see") as error:
        load(f"made_here:{name}")
    assert_one_line(error)
