"""Texts above what a decoder makes of their codes, the wrong symbols marked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from daps_rl.report.figures import DPI, GREY, INK, MARGIN, TITLE_SIZE, VERMILION, WIDTH, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT = "DejaVu Sans Mono"  # ships inside matplotlib
_SIZE, _LABEL_SIZE = 9.5, 9.0  # points
_CELL = 0.602 * _SIZE * DPI / 72  # pixels: the advance of a character
_LINE, _GAP, _TITLE = 26, 16, 42  # pixels: a line, between texts, for the title
_MARK = "#fbd9c3"  # behind a wrong symbol
_SHOWN = {"\n": "↵", "\t": "→", "\r": "←", "": "∅"}
_ABSENT = "□"  # what the font has no glyph for


def plot_texts(
    path: str | os.PathLike[str], rows: Mapping[str, Sequence[Sequence[str]]], *, title: str | None = None
) -> None:
    """Shows each text above one labelled line for each of its reconstructions, in which wrong symbols are marked.

    Args:
        path: PNG file to write; missing folders are made.
        rows: by label, the originals first: texts, each a list of its symbols, all of one length. A symbol may be of
            several characters, and is empty where the text has ended.
        title: above the picture.
    """
    texts = [list(zip(*text, strict=True)) for text in zip(*rows.values(), strict=True)]  # [N][L][rows]
    gutter = 30 + 0.56 * _LABEL_SIZE * DPI / 72 * max(map(len, rows))  # pixels, for labels
    widest = max(sum(map(_width, text)) for text in texts)
    columns = 2 if widest <= (_column(2) - gutter) // _CELL and len(texts) > 1 else 1
    wrapped = [list(_wrap(text, int((_column(columns) - gutter) // _CELL))) for text in texts]
    bands = [wrapped[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [max(map(len, band)) * len(rows) * _LINE + _GAP for band in bands]
    top = MARGIN + _TITLE * bool(title)
    height = top + sum(heights)
    figure = new_figure(WIDTH, height, None)
    if title:
        at = (MARGIN / WIDTH, 1 - (MARGIN + 12) / height)
        figure.text(*at, title, va="center", fontsize=TITLE_SIZE, color=INK, parse_math=False)
    for index, text in enumerate(wrapped):
        band, column = divmod(index, columns)
        y = top + sum(heights[:band])
        for line in text:
            _draw_line(figure, list(rows), line, column * _column(columns) + gutter, y)
            y += len(rows) * _LINE
    save(figure, path)


def mark_texts(rows: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """Returns the same as plain text: lines under labels, and a ^ under each wrong symbol. See `plot_texts`."""
    width = max(map(len, rows)) + 2
    lines = []
    for text in zip(*rows.values(), strict=True):
        cells = list(zip(*text, strict=True))  # [L][rows]
        for row, label in enumerate(rows):
            padded = [_show(cell[row]).ljust(_width(cell)) for cell in cells]
            marks = [("^" if cell[row] != cell[0] else " ") * _width(cell) for cell in cells]
            lines += [label.replace("\n", " ").ljust(width) + "".join(padded), " " * width + "".join(marks)]
        lines.append("")
    return "\n".join(line.rstrip() for line in lines if line.strip() or not line) + "\n"


def _column(columns: int) -> int:
    """Width of a column of texts, with its gutter, in pixels."""
    return (WIDTH - 2 * MARGIN) // columns


def _show(symbol: str) -> str:
    """Returns a symbol with a visible sign for what is none."""
    return "".join(_SHOWN.get(c, c if c.isprintable() else _ABSENT) for c in symbol) or _SHOWN[""]


def _width(symbols: Sequence[str]) -> int:
    """How many cells the widest of the rows' symbols takes."""
    return max(len(_show(symbol)) for symbol in symbols)


def _wrap(text: Sequence[Sequence[str]], most: int) -> Iterator[Sequence[Sequence[str]]]:
    """Cuts a text, [L][rows], into lines of at most so many cells, one symbol at least."""
    line: list[Sequence[str]] = []
    for symbols in text:
        if line and sum(map(_width, line)) + _width(symbols) > most:
            yield line
            line = []
        line.append(symbols)
    yield line


def _draw_line(figure: Figure, labels: Sequence[str], line: Sequence[Sequence[str]], left: float, y: float) -> None:
    """Draws a line of a text with those of its reconstructions below, from a place on in pixels; labels left of it."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches() * DPI
    words: dict[str, Any] = {"va": "center", "parse_math": False}
    for row, label in enumerate(labels):
        x, middle = left, 1 - (y + (row + 0.5) * _LINE) / height
        shown = label.replace("\n", " ")
        figure.text((x - 14) / width, middle, shown, ha="right", fontsize=_LABEL_SIZE, color=GREY, **words)
        for symbols in line:
            cells, wrong = _width(symbols) * _CELL, symbols[row] != symbols[0]
            if wrong:
                size = (cells / width, (_LINE - 2) / height)
                figure.add_artist(Rectangle((x / width, middle - size[1] / 2), *size, color=_MARK, linewidth=0))
            for place, character in enumerate(_show(symbols[row])):
                ink = VERMILION if wrong else INK
                at = ((x + (place + 0.5) * _CELL) / width, middle)
                glyph = character if ord(character) in _glyphs() else _ABSENT
                if glyph != " ":
                    figure.text(*at, glyph, ha="center", fontsize=_SIZE, family=FONT, color=ink, **words)
            x += cells


@cache
def _glyphs() -> frozenset[int]:
    """Code points that the font can show."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
