"""Data above what a decoder makes of their codes."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from daps_rl.report.figures import (
    DPI,
    INK,
    MARGIN,
    TITLE_SIZE,
    WIDTH,
    characters,
    dress,
    limits_around,
    looks,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_LABELS = ("original", "greedy code", "sampled code")
_MAX_DATA = 128  # data in one picture
_MAX_COLUMNS, _MIN_COLUMNS = 16, 8  # of images, before the grid wraps
_MAX_PIXELS = 256  # larger images are averaged down to this edge
_MAX_CELL = 128  # pixels to which a small image is enlarged at most
_GUTTER, _GAP, _BLOCK_GAP = 160, 6, 22  # pixels
_LABEL_SIZE = 9  # points

_MAX_LANES = 4  # features drawn of a multivariate series
_ORIGINAL = {"color": "#b0b0b0", "linewidth": 3.2}  # its line
_LANE_NAME = 12  # characters in a line of it
_LANE_OVERSHOOT = 0.3  # of a lane's height, before a reconstruction is cut off


def plot_reconstructions(
    path: str | os.PathLike[str],
    originals: torch.Tensor,
    greedy: torch.Tensor,
    sampled: torch.Tensor,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str | None = None,
) -> None:
    """Shows data above what the decoder makes of their greedy and of a sampled code: `plot_sheet` of these three.

    Args:
        originals: data. [N, C, H, W], [N, D] or [N, T, D] (T time steps).
        greedy: decoded from each datum's most probable code. Same shape.
        sampled: decoded from one code drawn for each datum. Same shape.
        path, value_range, title: see `plot_sheet`.
    """
    rows = (originals, greedy, sampled)
    plot_sheet(path, dict(zip(ROW_LABELS, rows, strict=True)), value_range=value_range, title=title)


def plot_sheet(
    path: str | os.PathLike[str],
    rows: Mapping[str, torch.Tensor],
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Shows data above one labelled row for each of their reconstructions.

    Images are enlarged by a whole factor, so that every pixel is a square of the same size; beyond 16 columns
    (fewer for large images) the rows continue below. Three channels are RGB; any other number is averaged to grey.
    NaN pixels are painted orange. Other data become one small line plot per datum, with the reconstructions drawn over
    the original, and gaps where they are NaN.

    Args:
        path: PNG file to write; missing folders are made.
        rows: data by label, the originals first, all of one shape. [N, C, H, W]; else [N, D] or [N, T, D] (T time
            steps).
        value_range: values shown as black and as white; values beyond are clipped. Used for images only.
        title: text above the picture.
        names: of the features of [N, T, D], for the lanes of a plot.
    Raises:
        ValueError: a shape differs or fits no kind of data, N is not in 1 … 128, or value_range is not increasing.
    """
    _check_rows(rows, value_range)
    labels, data = list(rows), [part.detach().cpu().float() for part in rows.values()]
    if data[0].ndim == 4:
        figure = _image_figure(labels, [_to_pixels(part, value_range) for part in data], title)
    else:
        parts = [part.reshape(*part.shape[:2], -1).numpy() for part in data]
        figure = _series_figure(labels, parts, data[0].ndim, title, names)
    save(figure, path)


def images_in_a_line(width: int) -> int:
    """How many images of that width, in pixels, stand side by side before a sheet wraps."""
    return min(max((WIDTH - _GUTTER - MARGIN) // (width + _GAP), _MIN_COLUMNS), _MAX_COLUMNS)


def _check_rows(rows: Mapping[str, torch.Tensor], value_range: tuple[float, float]) -> None:
    originals, *others = rows.items()
    shape = tuple(originals[1].shape)
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise ValueError(
            f"{originals[0]} must be [N, C, H, W], [N, D] or [N, T, D], none of them 0, got {list(shape)}; reshape it."
        )
    for name, part in others:
        if part.shape != shape:
            raise ValueError(
                f"{name} must have the shape of {originals[0]}, {list(shape)}, got {list(part.shape)}; "
                "pass one reconstruction per datum."
            )
    if shape[0] > _MAX_DATA:
        raise ValueError(f"{originals[0]} must hold at most {_MAX_DATA} data, got {shape[0]}; pass the first 16.")
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range must be finite and increasing, got {value_range}; pass (0, 1) or the data's own."
        )


def _to_pixels(images: torch.Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """Turns [N, C, H, W] into uint8 RGB [N, H, W, 3], no edge longer than 256 pixels."""
    low, high = value_range
    height, width = images.shape[2:]
    shrink = _MAX_PIXELS / max(height, width)
    if shrink < 1:
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        images = torch.nn.functional.interpolate(images, size=size, mode="area")
    broken = images.isnan().any(dim=1)  # [N, H, W]
    unit = ((images.clamp(low, high) - low) / (high - low)).nan_to_num(0.0)
    if unit.shape[1] != 3:
        unit = unit.mean(dim=1, keepdim=True)
    pixels = (unit * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
    pixels[broken] = torch.tensor([230, 159, 0], dtype=torch.uint8)
    return pixels.numpy()


def _image_figure(labels: list[str], rows: list[np.ndarray], title: str | None) -> Figure:
    """Sets rows of images, uint8 [N, H, W, 3] each, pixel for pixel, wrapping into blocks of all rows."""
    columns, blocks, scale = _image_grid(*rows[0].shape[:3])
    cell_height, cell_width = (edge * scale + _GAP for edge in rows[0].shape[1:3])
    zoom = max(1.0, columns * cell_width / (WIDTH - _GUTTER - MARGIN))  # a wide picture gets larger letters
    longest = max(len(line) for label in labels for line in label.split("\n"))
    gutter = round(max(_GUTTER, 24 + 0.56 * _LABEL_SIZE * DPI / 72 * longest) * zoom)
    title_size = TITLE_SIZE * zoom
    width = gutter + columns * cell_width + MARGIN
    if title:
        width = max(width, min(round(len(title) * 0.62 * title_size * DPI / 72) + 2 * MARGIN, WIDTH))
    lines = textwrap.wrap(title or "", characters(width - 2 * MARGIN, title_size))
    top = MARGIN + (round(len(lines) * 1.3 * title_size * DPI / 72) + 8 if lines else 0)
    height = top + blocks * (len(rows) * cell_height + _BLOCK_GAP) - _BLOCK_GAP + MARGIN

    figure = new_figure(width, height, None)
    words: dict[str, Any] = {"color": INK, "parse_math": False}
    if lines:
        at = (MARGIN / width, 1 - MARGIN / height)
        figure.text(*at, "\n".join(lines), va="top", fontsize=title_size, **words)
    words |= {"ha": "right", "va": "center", "fontsize": _LABEL_SIZE * zoom}
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for block, (line, label) in itertools.product(range(blocks), enumerate(labels)):
        y = top + block * (len(rows) * cell_height + _BLOCK_GAP) + line * cell_height
        figure.text((gutter - 12 * zoom) / width, 1 - (y + (cell_height - _GAP) / 2) / height, label, **words)
        for column, image in enumerate(rows[line][block * columns : (block + 1) * columns]):
            _paint(canvas, image, scale, y, gutter + column * cell_width)
    figure.figimage(canvas, origin="upper")
    return figure


def _image_grid(number: int, height: int, width: int) -> tuple[int, int, int]:
    """Returns columns, blocks of rows, and the whole factor that enlarges the images."""
    blocks = math.ceil(number / images_in_a_line(width))
    columns = math.ceil(number / blocks)
    scale = min(round(((WIDTH - _GUTTER - MARGIN) / columns - _GAP) / width), _MAX_CELL // max(height, width))
    return columns, blocks, max(scale, 1)


def _paint(canvas: np.ndarray, image: np.ndarray, scale: int, top: int, left: int) -> None:
    """Puts an enlarged image onto the canvas, inside a hairline: white images end somewhere."""
    bottom, right = top + image.shape[0] * scale, left + image.shape[1] * scale
    canvas[top - 1 : bottom + 1, left - 1 : right + 1] = 200
    canvas[top:bottom, left:right] = image.repeat(scale, axis=0).repeat(scale, axis=1)


def _series_figure(
    labels: Sequence[str], parts: list[np.ndarray], original_ndim: int, title: str | None, names: Sequence[str]
) -> Figure:
    """Draws [N, T, D] arrays as small multiples; of several features the most varied, one lane each."""
    number, steps, features = parts[0].shape
    there = np.ma.masked_invalid(parts[0])
    finite = there.filled(there.mean(axis=(0, 1)).filled(0.0))
    chosen = np.sort(np.argsort(-finite.var(axis=(0, 1)), kind="stable")[:_MAX_LANES])
    columns = min(4, number)
    lines = math.ceil(number / columns)
    figure = new_figure(WIDTH, 130 + (340 if lines == 1 else 210) * lines, title)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    if features > 1:
        parts = _to_lanes([part[..., chosen] for part in parts], finite[..., chosen])
        lanes = [names[feature] if names else f"feature {feature}" for feature in chosen[::-1]]
        panels[0, 0].set_yticks(np.arange(len(chosen)) + 0.5, [textwrap.fill(name, _LANE_NAME) for name in lanes])
        panels[0, 0].set_ylim(-0.2, len(chosen) + 0.2)
    else:
        panels[0, 0].set_ylim(*limits_around(float(finite.min()), float(finite.max()), margin=0.3))
    for axes in panels.flat[number:]:
        axes.set_visible(False)
    for index, axes in enumerate(panels.flat[:number]):
        for part, look in zip(parts, itertools.chain([_ORIGINAL], itertools.cycle(looks())), strict=False):
            look = {"linewidth": 1.2, **look}
            axes.plot(np.arange(steps), part[index], marker="o" if steps == 1 else "", markersize=4, **look)
        last = index >= number - columns
        dress(axes, xlabel=("dimension" if original_ndim == 2 else "time step") if last else "")
        axes.xaxis.set_tick_params(labelbottom=last)
    words: dict[str, Any] = {"fontsize": 9, "labelcolor": INK, "frameon": False, "ncols": min(len(labels), 4)}
    handles = panels[0, 0].lines[:: len(chosen)]
    texts = [label.replace("\n", " ") for label in labels]
    figure.legend(handles, texts, loc="outside lower center", **words)
    return figure


def _to_lanes(parts: list[np.ndarray], finite: np.ndarray) -> list[np.ndarray]:
    """Scales each feature by the originals' range and stacks the features, the first on top. [N, T, D] each."""
    low, high = finite.min(axis=(0, 1)), finite.max(axis=(0, 1))  # [D]
    scale = np.where(high > low, high - low, 1.0)
    floor = np.arange(len(low))[::-1]
    unit = [0.1 + 0.8 * (part - low) / scale for part in parts]
    return [floor + np.clip(part, -_LANE_OVERSHOOT, 1 + _LANE_OVERSHOOT) for part in unit]
