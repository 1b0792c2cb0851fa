"""What the pictures share: size, colours, the look of a panel; a picture appears complete or not at all.

Matplotlib is imported when a picture is drawn, through its object interface: no display is needed and no global state
is touched.
"""

from __future__ import annotations

import io
import itertools
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daps_rl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TITLE_SIZE = 12  # points
WIDTH = 1200  # pixels
MARGIN = 14  # pixels
INK, GREY, FAINT, EMPTY = "#222222", "#777777", "#dddddd", "#ececec"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"  # Okabe and Ito; the last is Tol's
SERIES = (BLUE, VERMILION, GREEN, PURPLE, "#E69F00", "#56B4E9", INK)
"""Colours that a colour-blind reader tells apart, for lines of one panel."""


def new_figure(width: int, height: int, title: str | None) -> Figure:
    """Makes a white figure of a size in pixels that lays out its own axes, with a title at the top left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained")
    if title:
        wrapped = textwrap.fill(title, characters(width - 2 * MARGIN, TITLE_SIZE))
        figure.suptitle(wrapped, x=MARGIN / width, ha="left", fontsize=TITLE_SIZE, color=INK, parse_math=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())


def dress(axes: Axes, heading: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Gives a panel its words and the common look: small ticks, two light spines."""
    axes.set_title(heading, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def dress_curves(axes: Axes, heading: str, xlabel: str, missing: str, *, whole: bool = False) -> None:
    """Gives a panel of curves its words, look, grid and ticks (of whole numbers); one without any curve says why."""
    from matplotlib.ticker import MaxNLocator

    dress(axes, heading, xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=whole))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if not axes.lines:
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9)


def limits_around(low: float, high: float, margin: float) -> tuple[float, float]:
    """Returns the range widened on both sides by a share of it, and never empty."""
    pad = margin * (high - low) or max(margin * abs(high), 1e-3)
    return low - pad, high + pad


def limits_after_the_first(share: float, curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the range of curves' values, of which there are some, with a margin.

    Without what lies below all but the first `share` of each curve, one value at least, where that would take over half
    of the range.
    """
    curves = [curve for curve in curves if len(curve)]
    late = np.concatenate([curve[min(max(1, round(len(curve) * share)), len(curve) - 1) :] for curve in curves])
    every = np.concatenate(curves)
    low = late.min() if late.min() - every.min() > np.ptp(late) else every.min()
    return limits_around(float(low), float(every.max()), margin=0.06)


def looks() -> Iterator[dict[str, Any]]:
    """Gives each line a colour; beyond the seventh, dashes too."""
    for dash, colour in itertools.product(((0, ()), (0, (4, 1.5)), (0, (1, 1.2))), SERIES):
        yield {"color": colour, "linestyle": dash}


def characters(width: float, size: float) -> int:
    """Returns how many characters of a size in points fit into a width in pixels."""
    return max(8, int(width / (0.56 * size * DPI / 72)))


def short_number(value: float) -> str:
    """Writes 250000 as 250k."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"
