"""What `render` shows: the original beside its reconstruction."""

from __future__ import annotations

import math

import numpy as np

MIN_HEIGHT = 128  # pixels of a frame: small images are magnified to about this
GREY = 128


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(height, width, channels) of data that can be shown, else None.

    [H, W], [1 or 3, H, W], [H, W, 1 or 3], or a flat square of pixels.
    """
    if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
        return math.isqrt(shape[0]), math.isqrt(shape[0]), 1
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2]
    return None


def side_by_side(left: np.ndarray, right: np.ndarray, low: float, high: float) -> np.ndarray:
    """Two images of a shape that `image_shape` knows next to each other, magnified. [*x] each → [H, W, 3], uint8.

    `low` and `high` are black and white; values beyond are clipped.
    """
    pixels = [_to_pixels(image, low, high) for image in (left, right)]
    zoom = max(1, -(-MIN_HEIGHT // pixels[0].shape[0]))
    left, right = (image.repeat(zoom, 0).repeat(zoom, 1) for image in pixels)
    gap = np.full((left.shape[0], max(2, zoom // 2), 3), GREY, np.uint8)
    return np.concatenate((left, gap, right), axis=1)


def _to_pixels(image: np.ndarray, low: float, high: float) -> np.ndarray:
    shape = image_shape(image.shape)
    assert shape is not None  # the environment has looked
    height, width, channels = shape
    channels_first = image.ndim == 3 and image.shape[0] == channels
    image = np.moveaxis(image, 0, -1) if channels_first else image.reshape(height, width, channels)
    image = np.clip((image - low) / (high - low), 0.0, 1.0)
    return np.broadcast_to(np.rint(255.0 * image).astype(np.uint8), (height, width, 3))
