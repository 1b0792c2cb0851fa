"""The pictures of a comparison: validation curves, final quality against bits, a sheet of reconstructions."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from daps_rl.comparison.curves import AXES, Curve, heading, names_of, of_rewards, points
from daps_rl.comparison.folder import Row
from daps_rl.data import Splits
from daps_rl.data.kind import Measure, kind_to_json
from daps_rl.report import images_in_a_line
from daps_rl.report.figures import (
    INK,
    WIDTH,
    dress_curves,
    limits_after_the_first,
    looks,
    new_figure,
    save,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACES = ("seconds", "decoder_evaluations")
SHOWN_SERIES = 8  # data in a sheet of line plots
_MARKERS = 6  # on a curve, about
_LOG_FROM = 4.0  # times as long
_MOST_TICKS = 7
_MOST_IN_A_LINE = 7  # entries of a legend
_ENTRY, _CHARACTER = 0.7, 0.07  # inches of a legend: line and gap, and each character of a label
_FIRST_SHARE = 0.1  # of the validations, which may lie below a panel


def plot_curves(
    path: Path,
    curves: Mapping[str, Sequence[Curve]],
    *,
    title: str,
    names: Mapping[str, Measure] | None = None,
    problem: bool = False,
) -> None:
    """Draws validation quality against seconds and against decoder evaluations: mean and range over the seeds.

    The mean is over the seeds at equal steps, of places as of values, as far as all of them have come. A panel leaves
    out the first validations where they lie far below the rest. Runs of very different lengths are on a log axis.
    `names` are the metrics, those of images if None; `problem` is whether the runs make decisions, in another problem
    than encoding.
    """
    headings = {metric: heading(name) for metric, name in (names or names_of((), problem)).items()}
    figure = new_figure(WIDTH, 860, title)
    panels = figure.subplots(len(PLACES), len(headings), sharex="row", sharey="col")
    for (row, axis), (column, metric) in itertools.product(enumerate(PLACES), enumerate(headings)):
        axes = panels[row, column]
        for (label, of_label), look in zip(curves.items(), _looks(), strict=False):
            _draw_mean(axes, [points(curve, axis, metric) for curve in of_label], {**look, "label": label})
        name = of_rewards(AXES[axis]) if problem else AXES[axis]
        _finish(axes, headings[metric] if row == 0 else "", name)
    for row, axis in enumerate(PLACES):
        _set_places(panels[row, 0], [curve[-1].get(axis) for of in curves.values() for curve in of if curve])
    for column, metric in enumerate(headings):
        values = [points(curve, "step", metric)[2] for of in curves.values() for curve in of]
        if any(map(len, values)):
            panels[0, column].set_ylim(*limits_after_the_first(_FIRST_SHARE, values))
    _legend_below(figure, panels.flat, len(curves))
    save(figure, path)


def plot_bits(path: Path, agents: Mapping[str, str], rows: Sequence[Row], *, title: str) -> None:
    """Draws final quality on the test split against the bits of a code: a line per agent, its range over the seeds.

    An agent looks as its first label does in the curves. The rows are those of finished runs whose codes have bits.
    """
    figure = new_figure(WIDTH, 500, title)
    headings = {metric: heading(name) for metric, name in names_of(rows, False).items()}
    panels = figure.subplots(1, len(headings))
    look_of: dict[str, dict[str, Any]] = {}
    for agent, look in zip(agents.values(), _looks(), strict=False):
        look_of.setdefault(agent, look)
    for (metric, shown_as), axes in zip(headings.items(), panels, strict=True):
        for agent, look in look_of.items():
            found: dict[float, list[float]] = {}
            for row in rows:
                if row["agent"] == agent and row["test"].get(metric) is not None:
                    found.setdefault(row["bits"], []).append(row["test"][metric])
            if found:
                _draw_range(axes, found, {**look, "label": agent})
        _finish(axes, shown_as, "bits of a code")
        axes.set_xscale("log", base=2)
        bits = sorted({row["bits"] for row in rows})
        shown = bits if len(bits) <= _MOST_TICKS else bits[:: len(bits) // _MOST_TICKS + 1]
        axes.set_xticks(shown, [f"{value:.4g}" for value in shown])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    _legend_below(figure, panels, len(look_of))
    save(figure, path)


def plot_reconstructions_of(path: Path, runs: Mapping[str, Path], splits: Splits, *, device: str) -> list[Path]:
    """Draws test data above what the models of finished runs make of sampled codes; returns what was written.

    `runs` are by what labels their rows.
    """
    from daps_rl.runs.session import load_run

    shape = splits.observation_shape
    shown = splits.test[: images_in_a_line(shape[-1]) if len(shape) == 3 else SHOWN_SERIES]
    sheet = {"original": shown}
    own = ":" in kind_to_json(splits.kind)["kind"]  # which was loaded already, as all that the comparison names
    for label, run in runs.items():
        _, _, model = load_run(run, device, trust=own)
        x = shown.to(next(model.parameters()).device)
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(0)
            sheet[label] = model.decode(model.encode(x)).cpu()
    measure = next(iter(splits.kind.measures.values()), None)
    measured = "" if measure is None else f", and the {measure.words} of the whole split"
    title = f"{splits.title}: test data from sampled codes{measured}"
    return splits.kind.draw(path, sheet, title)


def _looks() -> Iterator[dict[str, Any]]:
    for look, marker in zip(itertools.cycle(looks()), itertools.cycle("osD^vPX"), strict=False):
        yield {**look, "marker": marker, "linewidth": 1.6, "markersize": 4.5}


def _draw_mean(axes: Axes, curves: Sequence[np.ndarray], look: dict[str, Any]) -> None:
    """Draws the mean of curves, [3, n] of steps, places and values each, and their range, at the steps of them all."""
    curves = [curve for curve in curves if curve.size]
    if not curves:
        return
    first, last = max(curve[0, 0] for curve in curves), min(curve[0, -1] for curve in curves)
    steps = np.unique(np.concatenate([curve[0] for curve in curves]))
    steps = steps[(first <= steps) & (steps <= last)]
    places, values = (np.stack([np.interp(steps, curve[0], curve[part]) for curve in curves]) for part in (1, 2))
    place = places.mean(0)
    if len(steps) == 1:
        _draw_range(axes, {float(place[0]): values[:, 0].tolist()}, look)
        return
    axes.fill_between(place, values.min(0), values.max(0), color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(place, values.mean(0), markevery=max(len(steps) // _MARKERS, 1), **look)


def _draw_range(axes: Axes, values: Mapping[float, Sequence[float]], look: dict[str, Any]) -> None:
    """Draws means against places, with a bar from the lowest to the highest value."""
    places = sorted(values)
    means = [statistics.mean(values[place]) for place in places]
    below = [mean - min(values[place]) for mean, place in zip(means, places, strict=True)]
    above = [max(values[place]) - mean for mean, place in zip(means, places, strict=True)]
    axes.errorbar(places, means, yerr=(below, above), elinewidth=1.0, capsize=2.5, **look)


def _finish(axes: Axes, heading: str, xlabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    dress_curves(axes, heading, xlabel, "not defined")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))


def _set_places(axes: Axes, ends: Sequence[float | None]) -> None:
    """A log axis where the longest run is several times as long as the shortest, which would be a speck."""
    from matplotlib.ticker import LogLocator, NullFormatter

    lengths = [end for end in ends if end]
    if lengths and max(lengths) > _LOG_FROM * min(lengths):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, panels: Any, entries: int) -> None:
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 3.0}
    if handles:
        fit = int(figure.get_figwidth() / (_ENTRY + _CHARACTER * max(map(len, handles))))
        look["ncols"] = math.ceil(entries / math.ceil(entries / max(1, min(fit, _MOST_IN_A_LINE))))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", **look)
