"""Standardised pixels: one mean and one deviation for a whole data set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from daps_rl.data.errors import DataError

LEVELS = 256  # of an 8-bit pixel
WHITE = 255


@dataclass(frozen=True)
class Standard:
    """x = (pixel / 255 - mean) / deviation, with the same two numbers for every channel and place.

    So black and white are one value each, the PSNR of x in `value_range` is the PSNR of the pixels, and colours keep
    their proportions.

    Attributes:
        mean, deviation: of pixel / 255 over all training images, channels and places.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, pixels: Iterable[Tensor], where: str) -> Standard:
        """The exact moments of uint8 pixels of any shapes, from how often each of the 256 values occurs.

        Raises:
            DataError: all pixels are the same; `where` starts the message.
        """
        counts = sum((x.flatten().bincount(minlength=LEVELS) for x in pixels), torch.zeros(LEVELS)).double()
        share, level = counts / counts.sum(), torch.arange(LEVELS, dtype=torch.float64) / WHITE
        mean = (share * level).sum()
        deviation = math.sqrt((share * (level - mean).square()).sum().item())
        if deviation == 0.0:
            raise DataError(f"{where} must hold pixels that differ, got {mean.item() * WHITE:g} everywhere; check it")
        return cls(mean.item(), deviation)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels 0 ... 255 of any type, standardised, float32, in memory of their own."""
        return pixels.to(torch.float32, copy=True).div_(WHITE).sub_(self.mean).div_(self.deviation)

    @property
    def value_range(self) -> tuple[float, float]:
        """What black and white become."""
        return (0.0 - self.mean) / self.deviation, (1.0 - self.mean) / self.deviation
