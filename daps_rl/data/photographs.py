"""Colour patches of the photographs that scikit-learn and scikit-image ship: nothing to download."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.images import colour_splits
from daps_rl.data.splits import Splits

# Whole photographs are held out, so that no test pixel was ever seen in training. Training has the widest range: a
# person, buildings, machines, a night sky; the test has two that are unlike those, a still life and a plant. Left out:
# what is no photograph of things as the eye sees them (microscope, eye, telescope, charts, logos), grey ones, and the
# right half of the stereo pair, which shows what the left half shows.
PHOTOGRAPHS = {
    "train": ("astronaut", "china.jpg", "stereo_motorcycle", "rocket"),
    "validation": ("chelsea",),
    "test": ("coffee", "flower.jpg"),
}
PATCHES = {"train": 20_000, "validation": 1_000, "test": 2_000}
SEEDS = {"train": 0, "validation": 1, "test": 2}
LARGEST = 8  # a crop is at most this many times the patch
IMAGE_SIZE = 32


def load_photographs(image_size: int = IMAGE_SIZE) -> Splits:
    """20,000 patches for training, 1,000 for validation, 2,000 for the test; [3, image_size, image_size], standardised.

    A patch is a square cut at a random place of a random photograph, its side log-uniform between `image_size` and
    eight times that (or the photograph's shorter side), resized with antialiasing. Patches overlap; splits do not share
    a photograph. The same on every machine with the same versions of Pillow and the photographs.

    Raises:
        MissingDataError: scikit-image is not installed.
        DataError: the patches would be larger than a photograph.
    """
    pixels = {
        split: _cut(split, [_photograph(name) for name in names], image_size) for split, names in PHOTOGRAPHS.items()
    }
    return colour_splits("photographs", pixels, {})


def _photograph(name: str) -> Image.Image:
    """A photograph of scikit-learn (names with a dot) or scikit-image."""
    if "." in name:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(name))
    try:
        from skimage import data

        pixels = getattr(data, name)()
    except (ImportError, OSError) as error:
        raise MissingDataError(
            f"photographs needs those that ship inside scikit-image, got: {one_line(error)}; "
            "`pip install daps-rl[images]`"
        ) from error
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels)  # a stereo pair comes with its depth


def _cut(split: str, photographs: Sequence[Image.Image], size: int) -> Tensor:
    """The patches of a split, in random order, uint8. [N, 3, size, size]."""
    shortest = min(min(photograph.size) for photograph in photographs)
    if size > shortest:
        raise DataError(f"image_size of photographs must be at most {shortest}, got {size}; pass a smaller one")
    random = np.random.RandomState(SEEDS[split])  # numpy promises that its stream never changes
    patches = np.empty((PATCHES[split], size, size, 3), np.uint8)
    for row in range(len(patches)):
        photograph = photographs[random.randint(len(photographs))]
        largest = min(LARGEST * size, *photograph.size)
        side = round(math.exp(random.uniform(math.log(size), math.log(largest))))
        left, top = (random.randint(extent - side + 1) for extent in photograph.size)
        box = (left, top, left + side, top + side)
        patches[row] = np.asarray(photograph.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return torch.from_numpy(patches).movedim(-1, 1).contiguous()
