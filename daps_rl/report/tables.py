"""Rows of a table above what a decoder makes of their codes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from daps_rl.report.figures import FAINT, GREY, INK, MARGIN, VERMILION, WIDTH, characters, new_figure, save

LINE, GAP, GUTTER = 26, 12, 130  # pixels: of a line, between rows of data, beside them
SIZE = 7.5  # points
BOLD = 0.8  # of the characters fit
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
    shares = []
    for name, column in columns.items():
        longest = max(len(cell.text) for cells in column.values() for cell in cells)
        shares.append(min(max(longest, *map(len, name.split("_")), NARROWEST), WIDEST))
    unit = (WIDTH - GUTTER - 2 * MARGIN) / sum(shares)
    headings = [
        textwrap.wrap(name.replace("_", " "), characters(BOLD * unit * share, SIZE))[:3] or [""]
        for name, share in zip(columns, shares, strict=True)
    ]
    top = LINE * max(map(len, headings)) + GAP
    group = LINE * len(labels) + GAP
    height = top + group * count + LINE
    figure = new_figure(WIDTH, height + (60 if title else 0), title)
    axes = figure.add_subplot(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    style = {"fontsize": SIZE, "va": "center", "parse_math": False}
    for row in range(count):
        for line, label in enumerate(labels):
            y = top + row * group + line * LINE
            axes.text(MARGIN, y + LINE / 2, label, color=GREY, **style)
        axes.plot([MARGIN, WIDTH - MARGIN], [y + LINE + GAP / 2] * 2, color=FAINT, linewidth=0.6)
    left = float(GUTTER + MARGIN)
    for (_, column), share, heading in zip(columns.items(), shares, headings, strict=True):
        width = unit * share
        for i, words in enumerate(heading):
            axes.text(left + 4, LINE * (i + 0.5), words, color=INK, fontweight="bold", **style)
        for line, label in enumerate(labels):
            for row, cell in enumerate(column[label]):
                y = top + row * group + line * LINE
                fill = axes.fill([left, left + width - 2, left + width - 2, left], [y, y, y + LINE, y + LINE])[0]
                fill.set(color=VERMILION, alpha=0.75 * min(cell.error, 1.0), linewidth=0)
                room, words = characters(width, SIZE), cell.text
                words = words if len(words) <= room else f"{words[: room - 1]}…"
                axes.text(left + 4, y + LINE / 2, words or "–", color=INK if line else "black", **style)
        left += width
    axes.text(MARGIN, height - LINE / 2, note, color=GREY, **style)
    save(figure, path)
