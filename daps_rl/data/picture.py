"""From an image file of any size and mode to a square of pixels, and from pixels to standardised values."""

from __future__ import annotations

import io
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from daps_rl.data.errors import DataError

# Also what PIL may open: others of its formats start programs (EPS) or are no photographs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
SIXTEEN_BITS = 257  # 65,535 / 255
LEVELS, WHITE = 256, 255  # of an 8-bit pixel

# PIL widens grey of 2 and 4 bits to 8 and cuts colours of 16 to 8, but not the one that is transparent.
KEYS: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: tuple(part >> 8 for part in key),
}

File = str | os.PathLike[str] | bytes  # a path, or the content of a file


@dataclass(frozen=True)
class Picture:
    """How a file becomes pixels: turned as its camera says, shorter side resized, centre cropped.

    Pixels that are transparent show white. A large JPEG is decoded at a fraction of its size, never below twice
    `size`; resizing is bicubic with antialiasing. The first frame of an animation counts.

    Attributes:
        size: height and width of the result, in pixels.
        channels: 3 for RGB, 1 for grey.
    """

    size: int
    channels: int = 3

    def __call__(self, file: File) -> Tensor:
        """One file's pixels, uint8. [C, size, size].

        Raises:
            Exception: of any kind, from PIL, where the file is damaged, missing or no image.
        """
        with open_image(file) as image:
            image.draft(None, (2 * self.size, 2 * self.size))
            flat = _flatten(_upright(image), "RGB" if self.channels == 3 else "L")
            square = ImageOps.fit(flat, (self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.array(square).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels).movedim(-1, 0)


def open_image(file: File) -> Image.Image:
    """The image with its header read and its pixels not yet; a pipe or device, which might block, is not opened."""
    if not isinstance(file, bytes) and not stat.S_ISREG(os.stat(file).st_mode):
        raise DataError("must be a plain file, got a folder, pipe or device")
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
    if "transparency" in image.info and (raw := _raw_mode(image)) in KEYS:
        image.info["transparency"] = KEYS[raw](image.info["transparency"])
    return image


def _raw_mode(image: Image.Image) -> str:
    """How a file holds its pixels, which PIL may widen or cut; empty where they have been read."""
    tile = getattr(image, "tile", None)
    return str(tile[0][3]) if tile else ""


def is_grey(file: File) -> bool:
    """Whether an image is stored without colour; only its header is read."""
    with open_image(file) as image:
        return image.mode in GREY_MODES or _raw_mode(image).startswith("LA")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera says; as it is where what the camera says cannot be read."""
    image.load()  # what is wrong with the pixels themselves is not caught below
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, TypeError, KeyError, SyntaxError, OverflowError, struct.error):
        return image


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """8 bits per channel in that mode, on white."""
    if image.mode.startswith("I"):  # 16 bits: PIL would cut values at 255
        values, transparent = np.asarray(image).clip(0, 65_535), image.info.get("transparency")
        grey = (values // SIXTEEN_BITS).astype(np.uint8)
        image = Image.fromarray(np.where(values == transparent, 255, grey).astype(np.uint8))
    if image.mode == "F":
        raise DataError("pixels must be integers, got floating point, whose white is unknown; convert it to PNG")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


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
    def of(cls, pixels: Tensor, where: str) -> Standard:
        """The exact moments of uint8 pixels of any shape, from how often each of the 256 values occurs.

        Raises:
            DataError: all pixels are the same; `where` starts the message.
        """
        counts = pixels.flatten().bincount(minlength=LEVELS).double()
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
