"""Rows of a table above what a decoder makes of their codes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from daps_rl.report.figures import FAINT, GREY, INK, MARGIN, VERMILION, WIDTH, characters, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE, GAP, GUTTER = 26, 12, 150  # pixels: of a line, between rows of data, beside them
SIZE, SMALLEST = 7.5, 5.0  # points
INSET = 4  # pixels between the edge of a cell and its text
STYLE: dict[str, Any] = {"fontsize": SIZE, "va": "center", "parse_math": False, "color": INK}
BOLD = 0.082  # bold characters fit into a pixel
NARROWEST, WIDEST = 5, 18  # characters


class Cell(NamedTuple):
    """What stands in a cell, and how wrong it is: 0 for right, 1 for a wrong value."""

    text: str
    error: float


def plot_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, Mapping[str, Sequence[Cell]]],
    *,
    note: str = "",
    title: str | None = None,
) -> None:
    """Shows rows of a table, each above its reconstructions; cells that are wrong are filled, by how wrong they are.

    Args:
        path: of the picture, a PNG.
        columns: by name and by label ("original", "greedy code") the cells of as many rows.
        note: what is said beneath.
        title: above.
    """
    labels = list(next(iter(columns.values())))
    count = len(next(iter(next(iter(columns.values())).values())))
    widths = _widths(columns)
    headings, size = _headings(widths)
    top = LINE * max(map(len, headings.values())) + GAP
    group = LINE * len(labels) + GAP
    height = top + group * count + LINE
    figure = new_figure(WIDTH, height + (60 if title else 0), title)
    axes = figure.add_subplot(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    for row in range(count):
        tops = [top + row * group + line * LINE for line in range(len(labels))]
        for label, y in zip(labels, tops, strict=True):
            axes.text(MARGIN, y + LINE / 2, _cut(" ".join(label.split()), GUTTER), **{**STYLE, "color": GREY})
        axes.plot([MARGIN, WIDTH - MARGIN], [tops[-1] + LINE + GAP / 2] * 2, color=FAINT, linewidth=0.6)
        left = float(GUTTER + MARGIN)
        for name, column in columns.items():
            for label, y in zip(labels, tops, strict=True):
                _draw_cell(axes, column[label][row], left, y, widths[name])
            left += widths[name]
    left = float(GUTTER + MARGIN)
    for name, lines in headings.items():
        for i, text in enumerate(lines):
            axes.text(left + INSET, LINE * (i + 0.5), text, fontweight="bold", **{**STYLE, "fontsize": size})
        left += widths[name]
    axes.text(MARGIN, height - LINE / 2, note, **{**STYLE, "color": GREY})
    save(figure, path)


def _draw_cell(axes: Axes, cell: Cell, left: float, top: float, width: float) -> None:
    right, bottom = left + width - 2, top + LINE
    filled = axes.fill([left, right, right, left], [top, top, bottom, bottom])[0]
    filled.set(color=VERMILION, alpha=0.75 * cell.error, linewidth=0)
    axes.text(left + INSET, top + LINE / 2, _cut(cell.text, width) or "–", **STYLE)


def _cut(text: str, width: float) -> str:
    """As much of a text as fits into a width in pixels."""
    room = characters(width, SIZE)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _widths(columns: Mapping[str, Mapping[str, Sequence[Cell]]]) -> dict[str, float]:
    """Pixels of each column, by its longest cell and the longest word of its name."""
    longest = {
        name: max(len(cell.text) for cells in column.values() for cell in cells) for name, column in columns.items()
    }
    shares = {name: min(max(longest[name], *map(len, _words(name)), NARROWEST), WIDEST) + 2 for name in columns}
    unit = (WIDTH - GUTTER - 2 * MARGIN) / sum(shares.values())
    return {name: unit * share for name, share in shares.items()}


def _headings(widths: Mapping[str, float]) -> tuple[dict[str, list[str]], float]:
    """At most three lines of each column's name, and the size in points at which they fit."""
    fitting = [BOLD * width / max(map(len, _words(name))) for name, width in widths.items()]
    size = SIZE * min(1.0, max(min(fitting), SMALLEST / SIZE))
    headings = {}
    for name, width in widths.items():
        room = max(2, int(BOLD * width * SIZE / size))
        headings[name] = textwrap.wrap(" ".join(_words(name)), room, max_lines=3, placeholder="…")
    return headings, size


def _words(name: str) -> list[str]:
    return name.replace("_", " ").split() or ["-"]
