"""Splits: what they refuse, how they are compared."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from data_files import assert_one_line, floats

from daps_rl.data import Splits


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


def test_a_title_is_a_name_without_the_folders_above_it():
    titles = [make_splits(name=name).title for name in ("digits", "owner/name", "/a/b/motions")]
    assert titles == ["digits", "owner/name", "motions"]


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
        ({"likelihood": "normal"}, "bernoulli, gaussian, fixed_gaussian, columns, fixed_columns, got 'normal'"),
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
