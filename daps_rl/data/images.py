"""Colour images: their kind, and splits of them, in memory and as streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from daps_rl.data.errors import CorruptFiles, DataError, one_line
from daps_rl.data.kind import Array
from daps_rl.data.picture import SUFFIXES, WHITE, Picture, Standard, is_grey
from daps_rl.data.pixels import Arrays
from daps_rl.data.plain import list_files, new_folder
from daps_rl.data.rows import Files, Rows
from daps_rl.data.splits import Splits
from daps_rl.data.stream import ImageStream, Source, sample_rows


@dataclass(frozen=True, kw_only=True)
class Images(Arrays):
    """Photographs, standardised by one mean and deviation: image files, or `.npy` files of pixels or values.

    Args:
        size, channels: of an image, as `Picture` makes it.
        mean, deviation: of pixel / 255, see `Standard`.
    """

    size: int
    channels: int
    mean: float
    deviation: float

    @classmethod
    def of(cls, standard: Standard, size: int, channels: int) -> Images:
        """Returns the kind of images that are standardised so."""
        mean, deviation, value_range = standard.mean, standard.deviation, standard.value_range
        return cls(size=size, channels=channels, mean=mean, deviation=deviation, value_range=value_range)

    def rows(self, path: Path) -> Rows:
        if path.suffix.lower() == ".npy":
            return super().rows(path)
        return Files(list_files(path, SUFFIXES, "images"), self._read_files)

    def _read_files(self, files: Sequence[Path]) -> Tensor:
        """Pixels of image files, uint8 [N, C, H, W]."""
        picture, pixels = Picture(self.size, self.channels), []
        for file in files:
            try:
                pixels.append(picture(str(file)))
            except Exception as error:  # of many kinds, from PIL
                raise DataError(f"{file} must be a readable image, got: {one_line(error)}; mend it") from error
        return torch.stack(pixels)

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        """Writes a new folder of PNGs, one for each datum, or a `.npy` file of values where the path ends so."""
        if path.suffix.lower() == ".npy":
            return super().write_parts(path, parts, count)
        with new_folder(path) as folder:
            for number, x in enumerate(itertools.chain.from_iterable(parts)):
                values = (x * self.deviation + self.mean).mul(WHITE).round().clamp(0, WHITE).byte().movedim(0, -1)
                pixels = values.squeeze(-1) if self.channels == 1 else values
                Image.fromarray(pixels.numpy()).save(folder / f"{number:05}.png")
        return f"{path}: {count} PNG files"

    def prepare(self, x: Any) -> Array:
        """Standardises pixels, uint8 [N, C, H, W] or [N, H, W, C]; values stay."""
        pixels = torch.as_tensor(x)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            return x
        first = pixels if pixels.shape[1] == self.channels else pixels.movedim(-1, 1)
        return Standard(self.mean, self.deviation)(first)


def colour_splits(name: str, pixels: Mapping[str, Tensor], labels: Mapping[str, Any]) -> Splits:
    """Splits of colour images in memory, standardised with the moments of the training split.

    Args:
        name: of the data set.
        pixels: of each split, uint8. [N, C, H, W].
        labels: by "train_labels" and so on, int64. [N].
    """
    standard = Standard.of(pixels["train"], f"{name}: train")
    images: dict[str, Any] = {split: standard(pixels[split]) for split in pixels}
    kind = Images.of(standard, pixels["train"].shape[-1], pixels["train"].shape[1])
    return Splits(name=name, **images, **labels, likelihood="gaussian", value_range=standard.value_range, kind=kind)


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
        kind=Images.of(train.standard, picture.size, picture.channels),
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
