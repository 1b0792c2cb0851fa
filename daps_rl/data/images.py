"""Grey images with a known brightest value, as splits."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.splits import Splits


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
