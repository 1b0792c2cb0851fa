"""Learning curves of one run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
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
    limits_around,
    new_figure,
    save,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 2000  # per curve
_SMOOTHING = 0.03  # of the curve's points, averaged
_MIN_TO_SMOOTH = 40  # points
_WORST_SHARE = 0.05  # of the rows may lie below the β-ELBO panel
_MIN_TO_CUT = 4  # points


def plot_learning_curves(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, title: str | None = None
) -> None:
    """Draws β-ELBO, effective sample size, temperature and policy entropy against the training step.

    A faint line is the log itself, thinned to 2000 points; the strong line is its centred moving average. The β-ELBO
    panel leaves out the worst 5 % of the rows where they would take over half of it (the first steps, as a rule),
    and says how many. Missing, None, NaN and infinite values are skipped; where a step occurs twice (a resumed run),
    the later row counts.

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
    panels = figure.subplots(2, 2, sharex=True)
    _draw_beta_elbo(panels[0, 0], rows)
    _draw_ess(panels[0, 1], rows)
    _draw_temperature(panels[1, 0], rows)
    _draw_curve(panels[1, 1], *_series(rows, "entropy"), PURPLE, "policy")
    _finish(panels[1, 1], "Policy entropy (nats)", "step")
    _set_step_axis(panels[1, 0], rows)
    save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Collects the finite values of one key, ordered by step: steps [n], values [n]."""
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
    steps = np.array(sorted(points))
    return steps, np.array([points[step] for step in steps])


def _thin(values: np.ndarray) -> np.ndarray:
    """Picks at most 2000 evenly spread entries, first and last among them."""
    return values if len(values) <= _MAX_POINTS else values[np.linspace(0, len(values) - 1, _MAX_POINTS).astype(int)]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Averages over a centred window that narrows to a third towards both ends, lest it bend the curve there."""
    number = len(values)
    index = np.arange(number)
    widest = max(1, round(number * _SMOOTHING / 2))
    half = np.clip(np.minimum(index, number - 1 - index), math.ceil(widest / 3), widest)
    first, last = np.maximum(index - half, 0), np.minimum(index + half, number - 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[last + 1] - total[first]) / (last + 1 - first)


def _draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """Draws a curve: faint as logged, strong as smoothed; a short one as it is, with its points."""
    if len(steps) == 0:
        return
    if len(steps) < _MIN_TO_SMOOTH:
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)
        return
    axes.plot(_thin(steps), _thin(values), color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(_thin(steps), _thin(_smooth(values)), color=colour, linewidth=1.8, label=label)


def _add_legend(axes: Axes, place: Literal["lower right", "upper right", "best"], note: str | None = None) -> None:
    axes.legend(loc=place, fontsize=8, labelcolor=INK, edgecolor="none", title=note, title_fontsize=7)


def _finish(axes: Axes, heading: str, xlabel: str = "") -> None:
    dress_curves(axes, heading, xlabel, "not logged")
    if not axes.lines:
        axes.set_yticks([])
        axes.grid(visible=False)


def _draw_reference(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str) -> None:
    """Draws a dashed line, across the panel where it is constant."""
    look: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 2)), "label": label}
    if len(values) and values.min() == values.max():
        axes.axhline(values[0], **look)
    elif len(values):
        axes.plot(_thin(steps), _thin(values), **look)


def _draw_beta_elbo(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, values = _series(rows, "beta_elbo")
    validation_steps, validation = _series(rows, "validation_beta_elbo")
    _draw_curve(axes, steps, values, BLUE, "train")
    if len(validation):
        look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(_thin(validation_steps), _thin(validation), ls="", color=VERMILION, label="validation", **look)
    if axes.lines:
        low, high = limits_around(*robust_range(values, validation), margin=0.06)
        axes.set_ylim(low, high)
        below = int((values < low).sum() + (validation < low).sum())
        _add_legend(axes, "lower right", f"points below the panel: {below}" if below else None)
    _finish(axes, "β-ELBO (nats)")


def robust_range(values: np.ndarray, validation: np.ndarray) -> tuple[float, float]:
    """Returns lowest and highest value to show, without the worst 5 % where they would take most of the panel."""
    both = np.concatenate([values, validation])
    high, lowest = float(both.max()), float(both.min())
    low = float(np.quantile(values if len(values) else validation, _WORST_SHARE, method="higher"))
    if len(validation):
        low = min(low, float(np.median(validation)))
    spacious = len(both) < _MIN_TO_CUT or high - lowest <= 2 * (high - low)
    return (lowest if spacious else low), high


def _set_step_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Puts whole steps on the axis that all panels share."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    steps, _ = _series(rows, "step")
    if len(steps) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)


def _draw_ess(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    _draw_curve(axes, *_series(rows, "ESS"), GREEN, "batch mean")
    steps, target = _series(rows, "ess_target")
    _draw_reference(axes, steps, target, f"target {target[-1]:.3g}" if len(target) else "target")
    if axes.lines:
        axes.set_ylim(0.0, 1.02)
        _add_legend(axes, "upper right")
    _finish(axes, "Effective sample size (fraction of K)")


def _draw_temperature(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    curves = []
    for key in ("temperature", "temperature_floor"):
        steps, values = _series(rows, key)
        positive = values > 0  # a floor of 0 has no place on a log axis
        curves.append((steps[positive], values[positive]))
    _draw_curve(axes, *curves[0], VERMILION, "temperature τ")
    _draw_reference(axes, *curves[1], "floor β")
    if axes.lines:
        both = np.concatenate([values for _, values in curves])
        low, high = both.min() / 1.4, both.max() * 1.4
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _add_legend(axes, "best")  # it falls in some runs, and rises in others
    _finish(axes, "Temperature (log scale)", "step")
