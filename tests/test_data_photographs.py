"""Photographs: patches that never move, splits that share no photograph."""

import sys

import numpy as np
import pytest
import torch
from data_files import assert_one_line

from daps_rl.data import DataError, MissingDataError, load, photographs

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def splits():
    return load("photographs")


def test_counts_and_values(splits):
    assert [list(splits[name].shape) for name in ("train", "validation", "test")] == [
        [20_000, 3, 32, 32],
        [1_000, 3, 32, 32],
        [2_000, 3, 32, 32],
    ]
    assert splits.likelihood == "gaussian"
    assert splits.train.double().mean().item() == pytest.approx(0.0, abs=1e-5)
    assert splits.train.double().std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    low, high = splits.value_range
    pixels = (splits.test.double() - low) / (high - low) * 255
    assert (pixels - pixels.round()).abs().max() < 1e-3
    assert pixels.min() >= -1e-3
    assert pixels.max() <= 255.001
    assert set(dict(splits)) == {"train", "validation", "test"}


def test_patches_differ_and_are_in_colour(splits):
    for name in ("train", "validation", "test"):
        x = splits[name]
        assert len(torch.unique(x.flatten(1)[:, ::64], dim=0)) > 0.99 * len(x)
        assert (x[:, 0] - x[:, 2]).abs().mean() > 0.1
    # Neighbouring pixels agree far better than pixels of other patches: these are pictures.
    near = (splits.train[:, :, 1:] - splits.train[:, :, :-1]).square().mean()
    assert near < 0.3 * (splits.train[1:] - splits.train[:-1]).square().mean()


def small(monkeypatch):
    monkeypatch.setattr(photographs, "PATCHES", {"train": 40, "validation": 10, "test": 20})


def test_the_same_every_time(monkeypatch):
    small(monkeypatch)
    np.random.seed(1)
    before = load("photographs").fingerprint()
    np.random.seed(2)
    assert load("photographs").fingerprint() == before


def test_no_photograph_is_in_two_splits():
    names = [name for names in photographs.PHOTOGRAPHS.values() for name in names]
    assert len(set(names)) == len(names) == 7
    for name in names:
        assert photographs._photograph(name).mode == "RGB"


def test_a_crop_at_full_scale_is_the_photographs_own_pixels(monkeypatch):
    monkeypatch.setattr(photographs, "LARGEST", 1)
    monkeypatch.setattr(photographs, "PATCHES", {"validation": 5})
    cat = photographs._photograph("chelsea")
    whole = np.asarray(cat)
    windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (16, 16))
    for patch in photographs._cut("validation", [cat], 16):
        found = np.argwhere((windows == patch[0].numpy()).all((2, 3)))
        assert len(found) >= 1
        top, left = found[0]
        assert np.array_equal(patch.movedim(0, -1).numpy(), whole[top : top + 16, left : left + 16])


@pytest.mark.parametrize("size", [5, 64])
def test_other_sizes(monkeypatch, size):
    small(monkeypatch)
    assert load("photographs", image_size=size).observation_shape == (3, size, size)


def test_patches_larger_than_a_photograph(monkeypatch):
    small(monkeypatch)
    with pytest.raises(DataError, match="image_size of photographs must be at most 427, got 500"):
        load("photographs", image_size=500)


def test_scikit_image_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDataError, match=r"pip install daps-rl\[images\]") as error:
        load("photographs")
    assert_one_line(error)
