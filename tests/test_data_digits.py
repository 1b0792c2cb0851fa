"""Digits: every image once, splits that never move."""

import numpy as np
import pytest
import torch

from daps_rl.data import load


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
    with pytest.raises(ValueError, match="digits ships inside Python packages, so it takes no data_dir"):
        load("digits", tmp_path)
