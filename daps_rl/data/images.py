"""Colour images as splits, in memory and as streams."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from daps_rl.data.errors import CorruptFiles
from daps_rl.data.picture import Picture, Standard, is_grey
from daps_rl.data.splits import Splits
from daps_rl.data.stream import ImageStream, Source, sample_rows


def colour_splits(name: str, pixels: Mapping[str, Tensor], labels: Mapping[str, Any]) -> Splits:
    """Splits of colour images in memory, standardised with the moments of the training split.

    Args:
        name: of the data set.
        pixels: of each split, uint8. [N, C, H, W].
        labels: by "train_labels" and so on, int64. [N].
    """
    standard = Standard.of(pixels["train"], f"{name}: train")
    images: dict[str, Any] = {split: standard(pixels[split]) for split in pixels}
    return Splits(name=name, **images, **labels, likelihood="gaussian", value_range=standard.value_range)


def stream_splits(
    name: str, sources: Mapping[str, Source], labels: Mapping[str, Any], *, size: int, max_corrupt: int
) -> Splits:
    """Splits of images that are decoded when they are needed, standardised with the moments of a training sample.

    Args:
        name: of the data set.
        sources: the files of each split.
        labels: by "train_labels" and so on, int64, or None. [N].
        size, max_corrupt: see `daps_rl.data.load`.
    """
    corrupt = CorruptFiles(name, max_corrupt)
    picture = Picture(size, 1 if all_grey(sources["train"]) else 3)
    train = ImageStream(sources["train"], picture, corrupt)
    return Splits(
        name=name,
        train=train,
        validation=ImageStream(sources["validation"], picture, corrupt, train.standard),
        test=ImageStream(sources["test"], picture, corrupt, train.standard),
        **labels,
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
