"""Arrays: shapes, values, missing splits."""

import numpy as np
import pytest
import torch
from data_files import assert_one_line, floats, pixels, rows

from daps_rl.data import DataError, from_arrays


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
