"""Splits from arrays or tensors of one's own, and from noise."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.splits import LABELS, SPLITS, Splits, check_values, cut_missing

Array = np.ndarray | Tensor

CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity
WHITE = 255


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
    given = (train, validation, test, train_labels, validation_labels, test_labels)
    arrays = dict(zip(SPLITS + LABELS, given, strict=True))
    return from_mapping({key: array for key, array in arrays.items() if array is not None}, name, binarize=binarize)


def from_mapping(arrays: Mapping[str, Array], name: str, *, binarize: bool | None = None) -> Splits:
    """`from_arrays` for arrays held under the names of its arguments, as a file holds them.

    Raises:
        DataError: train is missing, a name is unknown, or an array does not fit.
    """
    _check_names(arrays, name)
    data = {split: _as_data(arrays[split], f"{name}: {split}") for split in SPLITS if split in arrays}
    labels: dict[str, Any] = {key: _as_labels(arrays[key], f"{name}: {key}") for key in LABELS if key in arrays}
    if "train_labels" in labels and len(labels["train_labels"]) != len(data["train"]):
        raise DataError(
            f"{name}: train_labels must be one for each of the {len(data['train'])} data, "
            f"got {len(labels['train_labels'])}; give as many labels as data"
        )
    cut_missing(data, labels, name)
    data, likelihood = _scale({split: _channels_first(x) for split, x in data.items()}, name, binarize)
    value_range = (0.0, 1.0)
    if likelihood == "gaussian":
        low, high = torch.aminmax(data["train"])
        value_range = (low.item(), high.item())
    return Splits(name=name, **data, **labels, likelihood=likelihood, value_range=value_range)


def _check_names(arrays: Mapping[str, Array], name: str) -> None:
    known = ", ".join(SPLITS + LABELS)
    unknown = [key for key in arrays if key not in SPLITS + LABELS]
    if "train" not in arrays or unknown:
        got = ", ".join(arrays) or "no array"
        raise DataError(f"{name} must hold train, and no arrays but {known}, got {got}; rename or remove arrays")
    for split, key in zip(SPLITS, LABELS, strict=True):
        if key in arrays and split not in arrays:
            raise DataError(f"{name}: {key} must come with {split}, got the labels alone; give {split} as well")


def _as_tensor(array: Array, where: str) -> Tensor:
    """The same numbers as a tensor; floats as float32, integers other than uint8 as int64."""
    if isinstance(array, Tensor):
        tensor = array.detach().cpu()
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
    data = _as_tensor(array, where)
    check_values(where, data)
    if data.dtype == torch.int64 and not _is_binary(data):
        raise DataError(
            f"{where} must be uint8, floating, or 0 and 1, got other integers; "
            "convert pixels of 0 to 255 to uint8, and values that are to stay as they are to float32"
        )
    return data


def _as_labels(array: Array, where: str) -> Tensor:
    labels = _as_tensor(array, where)
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
