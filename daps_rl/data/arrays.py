"""Splits from arrays or tensors of one's own, and from noise."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.rows import Array as Array
from daps_rl.data.rows import ArrayFile
from daps_rl.data.splits import SPLITS, Splits, check_values, cut_missing

CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity
WHITE = 255
USUAL = (0.05, 5.0)  # largest deviation of an entry over the data, for a Gaussian whose variance is learned


def from_arrays(
    train: Array,
    validation: Array | None = None,
    test: Array | None = None,
    *,
    train_labels: Array | None = None,
    validation_labels: Array | None = None,
    test_labels: Array | None = None,
    name: str = "arrays",
    binarize: bool | None = None,
) -> Splits:
    """Splits from arrays or tensors.

    Shapes: [N, H, W] becomes [N, 1, H, W]; uint8 [N, H, W, C] with 1, 3 or 4 channels becomes [N, C, H, W], unless
    it is already in that order; any other shape stays.

    Values: those that are all 0 or 1 stay ("bernoulli"). Other uint8 is divided by 255 ("fixed_gaussian"). Other
    floats stay ("gaussian"; the value range is that of train). The splits are judged together. Tensors that need no
    change are held, not copied.

    Args:
        train: bool, uint8, floating, or integer with values 0 and 1. [N, ...].
        validation, test: like train. One that is None is cut from train: a tenth of it, drawn by a permutation with
            a fixed seed, so 80 / 10 / 10 if both are.
        train_labels, validation_labels, test_labels: class numbers of the given splits. [N].
        name: what messages and reports call the data set.
        binarize: None leaves values as above. True makes values in [0, 1] 0 or 1, cut at 0.5 (uint8 above 127).
            False gives 0 and 1 the likelihood "fixed_gaussian".
    Raises:
        DataError: an array has the wrong type, shape or values.
    """
    given = zip(SPLITS, (train, validation, test), (train_labels, validation_labels, test_labels), strict=True)
    data: dict[str, Tensor] = {}
    labels: dict[str, Any] = {}
    for split, array, classes in given:
        if array is not None:
            data[split] = _as_data(array, f"{name}: {split}").cpu()
        if classes is not None:
            labels[f"{split}_labels"] = as_labels(classes, f"{name}: {split}_labels").cpu()
            if array is None:
                raise DataError(f"{name}: {split}_labels must come with {split}, got labels alone; give {split} too")
    if "train_labels" in labels and len(labels["train_labels"]) != len(data["train"]):
        raise DataError(
            f"{name}: train_labels must be one for each of the {len(data['train'])} data, "
            f"got {len(labels['train_labels'])}; give as many labels as data"
        )
    cut_missing(data, labels, name)
    given_shape = tuple(data["train"].shape[1:])
    data, likelihood = _scale({split: _channels_first(x) for split, x in data.items()}, name, binarize)
    value_range = (0.0, 1.0)
    if likelihood == "gaussian":
        low, high = torch.aminmax(data["train"])
        value_range = (low.item(), high.item())
        _warn_of_scale(data["train"], name)
    return Splits(name=name, **data, **labels, likelihood=likelihood, value_range=value_range, given_shape=given_shape)


def as_observations(
    x: Array, shape: Sequence[int], where: str = "x", *, pixels: bool = True, whole: ArrayFile | None = None
) -> Tensor:
    """Data as a model takes them, float32 [N, *shape], by the rules by which `from_arrays` made what it learned from.

    So uint8 that is not all 0 and 1 is divided by 255, and an axis of channels is added, or moved to the front.

    Args:
        x: numbers of any type. [N, *shape], [N, H, W] or uint8 [N, H, W, C].
        shape: of an observation of the model.
        where: what messages call the data.
        pixels: whether uint8 that is not all 0 and 1 is taken.
        whole: the file that x is a part of, whose values are judged together.
    Raises:
        DataError: x has the wrong type, shape or values.
    """
    data = _as_data(x, where)
    scaled = data.dtype == torch.uint8 and not (_is_binary(data) if whole is None else whole.binary)
    if scaled and not pixels:
        raise DataError(f"{where} must be floats, standardised as in training, got pixels (uint8); convert them so")
    if data.shape[1:] != torch.Size(shape):
        data = _channels_first(data)
    if data.shape[1:] != torch.Size(shape):
        needed, got = ", ".join(map(str, shape)), shape_of(x, whole)
        raise DataError(f"{where} must have shape [N, {needed}] as the model's data, got {got}; give data of one kind")
    return data.float() / (WHITE if scaled else 1)


def shape_of(x: Array, whole: ArrayFile | None) -> list[int]:
    """Returns the shape of an array, or of the file that it is a part of."""
    return list(x.shape) if whole is None else [len(whole), *x.shape[1:]]


def as_codes(codes: Array, num_tokens: int, vocab_size: int, where: str = "codes") -> Tensor:
    """The same codes as int64 [..., T] with every token in 0 … V-1, whatever decoder is to read them.

    Raises:
        DataError: codes are no integers, or have another shape or range.
    """
    tensor, last = as_tensor(codes, where), tuple(codes.shape[-1:])
    needed = f"{where} must be integers [..., {num_tokens}] in 0 … {vocab_size - 1}"
    if tensor.is_floating_point() or tensor.dtype == torch.bool or last != (num_tokens,):
        raise DataError(f"{needed}, got {codes.dtype} of shape {list(codes.shape)}; pass what encode gives")
    tensor = tensor.long()  # V may be no number of a smaller type
    if tensor.numel() and not 0 <= tensor.min() <= tensor.max() < vocab_size:
        raise DataError(f"{needed}, got values {tensor.min()} … {tensor.max()}; pass what encode gives")
    return tensor


def as_tensor(array: Array, where: str) -> Tensor:
    """The same numbers as a tensor without a gradient; floats as float32, integers other than uint8 as int64."""
    if isinstance(array, Tensor):
        tensor = array.detach()
    else:
        values = np.asarray(array)
        if values.dtype.kind not in "biuf":
            raise DataError(f"{where} must hold numbers, got dtype {values.dtype}; convert it to float32 or uint8")
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            values = values.astype(np.int64)
        elif values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # an overflow is infinite, which check_values reports
                values = values.astype(np.float32, copy=False)
        tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    if tensor.dtype in (torch.bool, torch.uint8):
        return tensor
    if tensor.is_complex():
        raise DataError(f"{where} must hold real numbers, got {tensor.dtype}; split it into real channels")
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)


def _as_data(array: Array, where: str) -> Tensor:
    data = as_tensor(array, where)
    check_values(where, data)
    if data.dtype == torch.int64 and not _is_binary(data):
        raise DataError(
            f"{where} must be uint8, floating, or 0 and 1, got other integers; "
            "convert pixels of 0 to 255 to uint8, and values that are to stay as they are to float32"
        )
    return data


def as_labels(array: Array, where: str) -> Tensor:
    """Returns class numbers, int64 [N]; DataError for anything else."""
    labels = as_tensor(array, where)
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"{where} must be integers of shape [N], got {labels.dtype} of shape {list(labels.shape)}; "
            "give one class number for each datum"
        )
    return labels.to(torch.int64)


def _channels_first(data: Tensor) -> Tensor:
    if data.ndim == 3:
        return data.unsqueeze(1)  # [N, 1, H, W]
    if data.ndim != 4 or data.dtype != torch.uint8 or data.shape[-1] not in CHANNELS:
        return data
    _, rows, columns, _ = data.shape
    if rows in CHANNELS and rows != columns:  # [N, C, H, W] of images that are 1, 3 or 4 wide
        return data
    return data.movedim(-1, 1).contiguous()  # [N, C, H, W]


def _is_binary(data: Tensor) -> bool:
    return data.dtype == torch.bool or bool(((data == 0) | (data == 1)).all())


def _scale(data: dict[str, Tensor], name: str, binarize: bool | None) -> tuple[dict[str, Tensor], str]:
    """Float32 values by the rule of `from_arrays`, and the likelihood that suits them."""
    dtypes = {split: x.dtype for split, x in data.items()}
    if len(set(dtypes.values())) > 1:
        got = ", ".join(f"{split} {dtype}" for split, dtype in dtypes.items())
        raise DataError(f"{name}: the splits must be of one type, got {got}; convert them to that of train")
    binary = all(_is_binary(x) for x in data.values())
    pixels = not binary and dtypes["train"] == torch.uint8
    values = {split: x.float() / WHITE if pixels else x.float() for split, x in data.items()}
    if binarize and not binary:
        if not all(x.min() >= 0 and x.max() <= 1 for x in values.values()):
            raise DataError(
                f"{name}: values must lie in [0, 1] to be binarised, got others; scale them, or pass binarize=False"
            )
        return {split: (x >= 0.5).float() for split, x in values.items()}, "bernoulli"
    if all(_is_binary(x) for x in values.values()) and binarize is not False:
        return values, "bernoulli"
    return values, "fixed_gaussian" if binary or pixels else "gaussian"


def _warn_of_scale(train: Tensor, name: str) -> None:
    """Warns where no entry of the data is anywhere near the unit scale of a learned variance."""
    deviation, (low, high) = train.std(0, correction=0).max().item(), torch.aminmax(train)
    if not USUAL[0] <= deviation <= USUAL[1]:
        warnings.warn(
            f"{name}: train has values of {low:.4g} … {high:.4g} with a deviation of {deviation:.4g}, and a learned "
            "variance suits one near 1; standardise them, (x - mean) / deviation, or set min_variance and max_variance",
            stacklevel=3,
        )


def noise(count: int, shape: tuple[int, ...], likelihood: str, *, seed: int = 0) -> Splits:
    """Fair bits for a Bernoulli likelihood, uniform greys for one of fixed variance, else standard normal values.

    Args:
        count: N, data in each of the three splits, which are one.
        shape: of a datum.
        likelihood: see `Splits`.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    if likelihood == "gaussian":
        data = torch.randn(count, *shape, generator=generator)
    else:
        data = torch.rand(count, *shape, generator=generator)
        data = data.round() if likelihood == "bernoulli" else data
    return Splits(
        name="noise",
        train=data,
        validation=data,
        test=data,
        likelihood=likelihood,
        value_range=(data.min().item(), data.max().item()),
    )
