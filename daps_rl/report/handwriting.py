"""Characters as pen strokes: side by side, and being written."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daps_rl.files import write_atomically
from daps_rl.report.figures import FAINT, INK, MARGIN, TITLE_SIZE, VERMILION, WIDTH, characters, new_figure, save

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw as Pen

Strokes = Sequence[np.ndarray]
"""Of one character, [n, 2] each: x to the right and y down, in [-1, 1] across the box."""

_COLUMNS = 8
_CELL, _GUTTER, _TOP, _BLOCK_GAP = 126, 160, 52, 20  # pixels
_LINE, _LABEL_SIZE = 28, 9  # of a title, pixels; of labels, points
_SMALL, _SHARP = 84, 3  # pixels of a character in motion, and how much finer it is drawn
_FRAMES, _FRAME_TIME, _REST = 64, 60, 2500  # of the motion; milliseconds


def plot_handwriting(path: Path, rows: Mapping[str, Sequence[Strokes]], title: str | None = None) -> None:
    """Draws characters above labelled rows of what became of them, as a PNG.

    Args:
        path: PNG file to write; missing folders are made.
        rows: characters by label, the originals first, as many of each.
        title: text above the picture.
    """
    from matplotlib.collections import LineCollection

    number = len(next(iter(rows.values())))
    blocks = math.ceil(number / _COLUMNS)
    height = blocks * (len(rows) * _CELL + _BLOCK_GAP) + MARGIN
    top = _TOP + _LINE * (len(textwrap.wrap(title or "", characters(WIDTH - 2 * MARGIN, TITLE_SIZE))) - 1)
    figure = new_figure(WIDTH, height + top, title)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, height / (height + top)))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    lines, frames = [], []
    for line, (label, drawn) in enumerate(rows.items()):
        shown = "\n".join(textwrap.fill(part, characters(_GUTTER - 14, _LABEL_SIZE)) for part in label.split("\n"))
        for index, strokes in enumerate(drawn):
            block, column = divmod(index, _COLUMNS)
            top = (block * len(rows) + line) * _CELL + block * _BLOCK_GAP
            middle = np.array([_GUTTER + (column + 0.5) * _CELL, top + _CELL / 2])
            lines += [middle + 0.46 * _CELL * stroke for stroke in strokes]
            frames.append(middle + 0.48 * _CELL * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]))
            if column == 0:
                words: dict[str, Any] = {
                    "ha": "right",
                    "va": "center",
                    "fontsize": _LABEL_SIZE,
                    "color": INK,
                    "parse_math": False,
                }
                axes.text(_GUTTER - 14, middle[1], shown, **words)
    axes.add_collection(LineCollection(frames, colors=FAINT, linewidths=0.6))
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=1.5, capstyle="round", joinstyle="round"))
    save(figure, path)


def animate_handwriting(path: Path, rows: Mapping[str, Sequence[Strokes]]) -> None:
    """Draws rows of characters as they are written, all at once, as an animated GIF; the pen is a red dot.

    Args:
        path: GIF file to write.
        rows: characters by label, the originals first, as many of each, all of as many points.
    """
    from PIL import Image

    steps = sum(map(len, next(iter(rows.values()))[0]))
    frames = [_frame(rows, part * steps // _FRAMES) for part in range(1, _FRAMES + 1)]
    palette = frames[_FRAMES // 2].quantize(64)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    content = io.BytesIO()
    times = [_FRAME_TIME] * (_FRAMES - 1) + [_REST]
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    write_atomically(path, content.getvalue())


def _frame(rows: Mapping[str, Sequence[Strokes]], steps: int) -> Picture:
    """Draws the first points of every character."""
    from PIL import Image, ImageDraw, ImageFont

    columns, cell = len(next(iter(rows.values()))), _SMALL * _SHARP
    gutter = cell + cell // 3
    size = (gutter + columns * cell, len(rows) * cell)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for line, (label, drawn) in enumerate(rows.items()):
        at = (gutter - 12 * _SHARP, (line + 0.5) * cell)
        pen.text(at, label, INK, ImageFont.load_default(12 * _SHARP), anchor="rm")
        for column, strokes in enumerate(drawn):
            middle = np.array([gutter + (column + 0.5) * cell, (line + 0.5) * cell])
            tip = _write(pen, [middle + 0.44 * cell * stroke for stroke in strokes], steps)
            if steps < sum(map(len, strokes)):
                pen.circle(tip, 3 * _SHARP, VERMILION)
    return picture.resize((size[0] // _SHARP, size[1] // _SHARP), Image.Resampling.LANCZOS)


def _write(pen: Pen, strokes: Strokes, steps: int) -> tuple[float, float]:
    """Draws the first points of strokes in pixels, and returns where the pen is."""
    tip = (0.0, 0.0)
    for stroke, before in zip(strokes, itertools.accumulate(map(len, strokes), initial=0), strict=False):
        points = [tuple(point) for point in stroke[: max(0, steps - before)].tolist()]
        if len(points) > 1:
            pen.line(points, INK, 2 * _SHARP, joint="curve")
        tip = points[-1] if points else tip
    return tip
