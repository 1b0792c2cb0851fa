"""A run's log: its rows, and its learning curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from daps_rl.report.figures import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    WIDTH,
    dress_curves,
    limits_after_the_first,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 2000  # per curve
_SMOOTHING = 0.03  # of the curve's points, averaged
_MIN_TO_SMOOTH = 40  # points
_FIRST_SHARE = 0.05  # of the rows, which may lie below the β-ELBO panel


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a JSON-lines log, one row per line.

    A last line without its line end that does not parse was being written when the run was killed: it is left out.
    Empty lines are skipped. NaN and Infinity are read as Python's own json module writes them.

    Raises:
        ValueError: any other line is not a JSON object; the message names the file and the line.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n")  # the last piece is empty, unless its line end is missing
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both of this kind
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not valid JSON ({error}); mend or delete it.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} must be a JSON object, got {type(row).__name__}; delete it.")
        rows.append(row)
    return rows


def plot_learning_curves(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, title: str | None = None
) -> None:
    """Draws β-ELBO, effective sample size, temperature and policy entropy against the training step.

    A faint line is the log itself, thinned to 2000 points; the strong line is its centred moving average. The β-ELBO
    panel leaves out what lies below all but the first 5 % of the rows where that would take over half of it, and says
    how many. Missing, None, NaN and infinite values are skipped; where a step occurs twice (a resumed run), the later
    row counts.

    Args:
        path: PNG file to write; missing folders are made.
        rows: one mapping per log step, as `read_metrics` returns them. Read are `step`, `beta_elbo` and
            `validation_beta_elbo` (nats), `ESS` and `ess_target` (fractions of K), `temperature`,
            `temperature_floor` and `entropy` (nats). Any but `step` may be missing throughout.
        title: text above the picture.
    Raises:
        ValueError: there is no row with a step, or a value is not a number.
    """
    if not any(row.get("step") is not None for row in rows):
        raise ValueError(f"rows needs at least one row with a 'step', got {len(rows)} rows; log before plotting.")
    figure = new_figure(WIDTH, 800, title)
    elbo, ess, temperature, entropy = figure.subplots(2, 2, sharex=True).flat
    _draw_beta_elbo(elbo, _series(rows, "beta_elbo"), _series(rows, "validation_beta_elbo"))
    _draw_ess(ess, _series(rows, "ESS"), _series(rows, "ess_target"))
    _draw_temperature(temperature, _series(rows, "temperature"), _series(rows, "temperature_floor"))
    _draw_curve(entropy, _series(rows, "entropy"), PURPLE, "policy")
    headings = ("β-ELBO (nats)", "Effective sample size (fraction of K)", "Temperature (log scale)")
    for axes, heading in zip((elbo, ess, temperature, entropy), (*headings, "Policy entropy (nats)"), strict=True):
        dress_curves(axes, heading, "step" if axes in (temperature, entropy) else "", "not logged", whole=True)
        if not axes.lines:
            axes.set_yticks([])
            axes.grid(visible=False)
    steps, _ = _series(rows, "step")
    if len(steps) == 1:
        elbo.set_xlim(steps[0] - 1, steps[0] + 1)
    save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Returns the steps at which a key is finite, in order, and its values there. [2, n]."""
    points: dict[float, float] = {}
    for index, row in enumerate(rows):
        step, value = row.get("step"), row.get(key)
        if step is None or value is None:
            continue
        try:
            step, value = float(step), float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"rows[{index}]['{key}'] and its 'step' must be numbers, got {type(value).__name__} and "
                f"{type(step).__name__}; log scalars."
            ) from error
        if math.isfinite(step) and math.isfinite(value):
            points[step] = value
    return np.array(sorted(points.items())).reshape(-1, 2).T


def _thin(curve: np.ndarray) -> np.ndarray:
    """Returns at most 2000 evenly spread points of a curve, first and last among them. [2, n]."""
    number = curve.shape[1]
    return curve[:, np.linspace(0, number - 1, min(number, _MAX_POINTS)).round().astype(int)]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Averages over a centred window, beyond whose ends the values are mirrored."""
    from scipy.ndimage import uniform_filter1d

    return uniform_filter1d(values, 2 * max(1, round(len(values) * _SMOOTHING / 2)) + 1, mode="mirror")


def _draw_curve(axes: Axes, curve: np.ndarray, colour: str, label: str) -> None:
    """Draws a curve: faint as logged, strong as smoothed; a short one as it is, with its points."""
    if curve.shape[1] >= _MIN_TO_SMOOTH:
        axes.plot(*_thin(curve), color=colour, linewidth=0.7, alpha=0.3)
        axes.plot(*_thin(np.stack((curve[0], _smooth(curve[1])))), color=colour, linewidth=1.8, label=label)
    elif curve.size:
        axes.plot(*curve, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)


def _draw_reference(axes: Axes, reference: np.ndarray, label: str) -> None:
    """Draws a dashed line."""
    if reference.size:
        axes.plot(*_thin(reference), color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label=label)


def _draw_beta_elbo(axes: Axes, train: np.ndarray, validation: np.ndarray) -> None:
    _draw_curve(axes, train, BLUE, "train")
    if validation.size:
        look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(*_thin(validation), ls="", color=VERMILION, label="validation", **look)
    if axes.lines:
        low, high = limits_after_the_first(_FIRST_SHARE, [train[1], validation[1]])
        axes.set_ylim(low, high)
        below = int((train[1] < low).sum() + (validation[1] < low).sum())
        _add_legend(axes, "lower right", f"points below the panel: {below}" if below else None)


def _draw_ess(axes: Axes, ess: np.ndarray, target: np.ndarray) -> None:
    _draw_curve(axes, ess, GREEN, "batch mean")
    _draw_reference(axes, target, f"target {target[1, -1]:.3g}" if target.size else "target")
    if axes.lines:
        axes.set_ylim(0.0, 1.02)
        _add_legend(axes, "upper right")


def _draw_temperature(axes: Axes, temperature: np.ndarray, floor: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    # What is 0, as a floor may be, has no place on a log axis.
    temperature, floor = (curve[:, curve[1] > 0] for curve in (temperature, floor))
    _draw_curve(axes, temperature, VERMILION, "temperature τ")
    _draw_reference(axes, floor, "floor β")
    if axes.lines:
        both = np.concatenate((temperature[1], floor[1]))
        low, high = both.min() / 1.4, both.max() * 1.4
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _add_legend(axes, "best")  # it falls in some runs, and rises in others


def _add_legend(axes: Axes, place: Literal["lower right", "upper right", "best"], note: str | None = None) -> None:
    axes.legend(loc=place, fontsize=8, labelcolor=INK, edgecolor="none", title=note, title_fontsize=7)
