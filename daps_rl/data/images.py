"""Images as splits: grey ones in memory, colour ones in memory, and streams."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.corrupt import CorruptFiles
from daps_rl.data.picture import Picture, is_grey
from daps_rl.data.splits import SPLITS, Splits
from daps_rl.data.standard import Standard
from daps_rl.data.stream import ImageStream, Source, sample_rows


def image_splits(
    name: str,
    pixels: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    maximum: int,
    binarize: bool,
) -> Splits:
    """Splits of grey images: pixels / maximum, or 1 where a pixel is at least maximum / 2 and 0 elsewhere.

    Args:
        name: of the data set.
        pixels: of each split, values 0 ... maximum. [N, H, W].
        labels: of each split. [N].
        maximum: value of a white pixel.
        binarize: 0 and 1 (likelihood "bernoulli"), or grey values in [0, 1] ("fixed_gaussian").
    """
    images = {split: _unit_images(pixels[split], maximum, binarize) for split in pixels}
    classes = {split: torch.from_numpy(labels[split].astype(np.int64)) for split in labels}
    return Splits(
        name=name,
        train=images["train"],
        validation=images["validation"],
        test=images["test"],
        train_labels=classes["train"],
        validation_labels=classes["validation"],
        test_labels=classes["test"],
        likelihood="bernoulli" if binarize else "fixed_gaussian",
        value_range=(0.0, 1.0),
    )


def _unit_images(pixels: np.ndarray, maximum: int, binarize: bool) -> Tensor:
    raw = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # [N, H, W]
    values = (raw >= maximum / 2).float() if binarize else raw.float() / maximum
    return values.unsqueeze(1)  # [N, 1, H, W]


def colour_splits(name: str, pixels: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> Splits:
    """Splits of colour images in memory, standardised with the moments of the training split.

    Args:
        name: of the data set.
        pixels: of each split, uint8. [N, C, H, W].
        labels: of each split, int64, or None. [N].
    Raises:
        DataError: all training pixels are the same.
    """
    standard = Standard.of([pixels["train"]], f"{name}: train")
    return Splits(
        name=name,
        train=standard(pixels["train"]),
        validation=standard(pixels["validation"]),
        test=standard(pixels["test"]),
        **{f"{split}_labels": None if labels is None else labels[split] for split in SPLITS},
        likelihood="gaussian",
        value_range=standard.value_range,
    )


def stream_splits(
    name: str,
    sources: Mapping[str, Source],
    labels: Mapping[str, Tensor | None],
    *,
    size: int,
    max_corrupt: int,
) -> Splits:
    """Splits of images that are decoded when they are needed, standardised with the moments of a training sample.

    Args:
        name: of the data set.
        sources: the files of each split.
        labels: of each split, int64, or None. [N].
        size: height and width that every image is brought to, in pixels.
        max_corrupt: how many unreadable files may be skipped.
    Raises:
        DataError: too many files are unreadable, or the sample is all one value.
    """
    corrupt = CorruptFiles(name, max_corrupt)
    picture = Picture(size, 1 if all_grey(sources["train"]) else 3)
    train = ImageStream(sources["train"], picture, corrupt)
    return Splits(
        name=name,
        train=train,
        validation=ImageStream(sources["validation"], picture, corrupt, train.standard),
        test=ImageStream(sources["test"], picture, corrupt, train.standard),
        **{f"{split}_labels": labels[split] for split in SPLITS},
        likelihood="gaussian",
        value_range=train.standard.value_range,
    )


def all_grey(source: Source) -> bool:
    """Whether every readable image of the sample is stored without colour."""
    grey = False
    for index in sample_rows(len(source)).tolist():
        try:
            grey = is_grey(source.file(index))
        except Exception:  # of any kind, from PIL; the stream names such files when it comes to them
            continue
        if not grey:
            return False
    return grey
