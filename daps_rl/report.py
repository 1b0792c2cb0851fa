"""The pictures a training run leaves behind: reconstructions, learning curves, code usage.

Each function takes tensors or log rows and writes one PNG, about 1200 pixels wide, white background, colours that a
colour-blind reader tells apart. Matplotlib is imported when a picture is drawn, through its object interface: no
display is needed and no global state is touched. A picture appears complete or not at all.
"""

from __future__ import annotations

import io
import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from daps_rl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_code_usage", "plot_learning_curves", "plot_reconstructions", "read_metrics"]

_DPI = 150
_TITLE_SIZE = 12  # points
_WIDTH = 1200  # pixels
_INK, _GREY, _FAINT, _EMPTY = "#222222", "#777777", "#dddddd", "#ececec"
_BLUE, _VERMILION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"  # Okabe and Ito; the last is Tol's
_ROW_LABELS = ("original", "greedy code", "sampled code")

_MAX_DATA = 128  # data in one picture
_MAX_COLUMNS, _MIN_COLUMNS = 16, 8  # of images, before the grid wraps
_MAX_PIXELS = 256  # larger images are averaged down to this edge
_MAX_CELL = 128  # pixels to which a small image is enlarged at most
_GUTTER, _GAP, _BLOCK_GAP, _MARGIN = 160, 6, 22, 14  # pixels

_MAX_LANES = 4  # features drawn of a multivariate series
_LANE_OVERSHOOT = 0.3  # of a lane's height, before a reconstruction is cut off

_MAX_POINTS = 2000  # per curve
_SMOOTHING = 0.03  # of the curve's points, averaged
_MIN_TO_SMOOTH = 40  # points
_WORST_SHARE = 0.05  # of the rows may lie below the β-ELBO panel
_MIN_TO_CUT = 4  # points

_MAX_SEPARATE = 32  # token positions drawn one by one, with their perplexity in numbers


def plot_reconstructions(
    path: str | os.PathLike[str],
    originals: torch.Tensor,
    greedy: torch.Tensor,
    sampled: torch.Tensor,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str | None = None,
) -> None:
    """Shows data above what the decoder makes of their greedy and of a sampled code.

    Images are enlarged by a whole factor, so that every pixel is a square of the same size; beyond 16 columns
    (fewer for large images) the three rows continue below. NaN pixels are painted orange. Other data become
    one small line plot per datum, with the reconstructions drawn over the original.

    Args:
        path: PNG file to write; missing folders are made.
        originals: data. [N, C, H, W] with C = 1 (grey) or 3 (RGB); else [N, D] or [N, T, D] (T time steps).
        greedy: decoded from each datum's most probable code. Same shape.
        sampled: decoded from one code drawn for each datum. Same shape.
        value_range: values shown as black and as white; values beyond are clipped. Used for images only.
        title: text above the picture.
    Raises:
        ValueError: a shape differs or fits no kind of data, N is not in 1 … 128, or value_range is not increasing.
        ImportError: matplotlib is missing.
    """
    _check_reconstructions(originals, greedy, sampled, value_range)
    data = [part.detach().cpu().float() for part in (originals, greedy, sampled)]
    if originals.ndim == 4:
        figure = _image_figure([_to_pixels(part, value_range) for part in data], title)
    else:
        figure = _series_figure([part.reshape(*part.shape[:2], -1).numpy() for part in data], originals.ndim, title)
    _save(figure, path)


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
        ImportError: matplotlib is missing.
    """
    if not any(row.get("step") is not None for row in rows):
        raise ValueError(f"rows needs at least one row with a 'step', got {len(rows)} rows; log before plotting.")
    figure = _new_figure(_WIDTH, 800, title)
    panels = figure.subplots(2, 2, sharex=True)
    _draw_beta_elbo(panels[0, 0], rows)
    _draw_ess(panels[0, 1], rows)
    _draw_temperature(panels[1, 0], rows)
    _draw_curve(panels[1, 1], *_series(rows, "entropy"), _PURPLE, "policy")
    _finish(panels[1, 1], "Policy entropy (nats)", "step")
    _set_step_axis(panels[1, 0], rows)
    _save(figure, path)


def plot_code_usage(path: str | os.PathLike[str], counts: torch.Tensor, *, title: str | None = None) -> None:
    """Draws how evenly each token position uses its codes.

    Left, a heat map of each code's share n_tv / Σ_v n_tv on a log scale, the codes of each position in the order of
    their frequency, grey where a code never occurs. Right, the perplexity exp(−Σ_v p_tv log p_tv) of each position,
    between 1 (one code) and V (all codes alike); a position without any count has 0.

    Args:
        path: PNG file to write; missing folders are made.
        counts: how often position t used code v over a data split. Integers, [T, V].
        title: text above the picture.
    Raises:
        ValueError: counts is not a [T, V] integer tensor, or holds a negative or no positive number.
        ImportError: matplotlib is missing.
    """
    _check_counts(counts)
    table = counts.detach().cpu().double().numpy()  # [T, V]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)  # [T], nats
    perplexity = np.where(table.sum(axis=1) > 0, np.exp(entropy), 0.0)
    positions = len(table)
    figure = _new_figure(_WIDTH, int(min(max(300 + 26 * positions, 420), 1350)), title)
    heat, bars = figure.subplots(1, 2, width_ratios=(3.2, 1), sharey=True)
    _draw_shares(figure, heat, np.sort(shares, axis=1)[:, ::-1])
    _draw_perplexity(bars, perplexity, table.shape[1])
    _save(figure, path)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a JSON-lines log, one row per line.

    A last line without its line end that does not parse was being written when the run was killed: it is left out.
    Empty lines are skipped. NaN and Infinity are read as Python's own json module writes them.

    Args:
        path: the file, UTF-8.
    Returns:
        The rows, in the order of the file.
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


# Figures and files.


def _new_figure(width: int, height: int, title: str | None) -> Figure:
    """Makes a white figure of a size in pixels that lays out its own axes, with a title at the top left."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; install it with `pip install matplotlib`.") from error
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white", layout="constrained")
    if title:
        wrapped = textwrap.fill(title, _characters(width - 2 * _MARGIN, _TITLE_SIZE))
        figure.suptitle(wrapped, x=_MARGIN / width, ha="left", fontsize=_TITLE_SIZE, color=_INK, parse_math=False)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())


def _dress(axes: Axes, heading: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Gives a panel its words and the common look: small ticks, two light spines."""
    axes.set_title(heading, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(xlabel, fontsize=9, color=_INK)
    axes.set_ylabel(ylabel, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)


def _limits_around(low: float, high: float, margin: float) -> tuple[float, float]:
    """Returns the range widened on both sides by a share of it, and never empty."""
    pad = margin * (high - low) or max(margin * abs(high), 1e-3)
    return low - pad, high + pad


def _characters(width: float, size: float) -> int:
    """Returns how many characters of a size in points fit into a width in pixels."""
    return max(8, int(width / (0.56 * size * _DPI / 72)))


def _short_number(value: float) -> str:
    """Writes 250000 as 250k."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


# Reconstructions.


def _check_reconstructions(
    originals: torch.Tensor, greedy: torch.Tensor, sampled: torch.Tensor, value_range: tuple[float, float]
) -> None:
    shape = tuple(originals.shape)
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[1] not in (1, 3)) or 0 in shape:
        raise ValueError(
            f"originals must be [N, C, H, W] with C = 1 or 3, [N, D] or [N, T, D], none of them 0, got {list(shape)}; "
            "reshape them, or pass three of the channels."
        )
    for name, part in (("greedy", greedy), ("sampled", sampled)):
        if part.shape != originals.shape:
            raise ValueError(
                f"{name} must have the shape of originals, {list(shape)}, got {list(part.shape)}; "
                "pass one reconstruction per datum."
            )
    if shape[0] > _MAX_DATA:
        raise ValueError(f"originals must hold at most {_MAX_DATA} data, got {shape[0]}; pass the first 16.")
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
    pixels = (unit * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
    pixels[broken] = torch.tensor([230, 159, 0], dtype=torch.uint8)
    return pixels.numpy()


def _image_figure(rows: list[np.ndarray], title: str | None) -> Figure:
    """Sets three rows of images, uint8 [N, H, W, 3] each, pixel for pixel, wrapping into blocks of three rows."""
    columns, blocks, scale = _image_grid(*rows[0].shape[:3])
    cell_height, cell_width = (edge * scale + _GAP for edge in rows[0].shape[1:3])
    zoom = max(1.0, columns * cell_width / (_WIDTH - _GUTTER - _MARGIN))  # a wide picture gets larger letters
    gutter, title_size = round(_GUTTER * zoom), _TITLE_SIZE * zoom
    width = gutter + columns * cell_width + _MARGIN
    if title:
        width = max(width, min(round(len(title) * 0.62 * title_size * _DPI / 72) + 2 * _MARGIN, _WIDTH))
    lines = textwrap.wrap(title or "", _characters(width - 2 * _MARGIN, title_size))
    top = _MARGIN + (round(len(lines) * 1.3 * title_size * _DPI / 72) + 8 if lines else 0)
    height = top + blocks * (3 * cell_height + _BLOCK_GAP) - _BLOCK_GAP + _MARGIN

    figure = _new_figure(width, height, None)
    if lines:
        head: dict[str, Any] = {"va": "top", "fontsize": title_size, "color": _INK, "parse_math": False}
        figure.text(_MARGIN / width, 1 - _MARGIN / height, "\n".join(lines), **head)
    look: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 9 * zoom, "color": _INK}
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for block in range(blocks):
        for line, (label, images) in enumerate(zip(_ROW_LABELS, rows, strict=True)):
            y = top + block * (3 * cell_height + _BLOCK_GAP) + line * cell_height
            figure.text((gutter - 12 * zoom) / width, 1 - (y + (cell_height - _GAP) / 2) / height, label, **look)
            for column, image in enumerate(images[block * columns : (block + 1) * columns]):
                _paint(canvas, image, scale, y, gutter + column * cell_width)
    figure.figimage(canvas, origin="upper")
    return figure


def _image_grid(number: int, height: int, width: int) -> tuple[int, int, int]:
    """Returns columns, blocks of three rows, and the whole factor that enlarges the images."""
    room = _WIDTH - _GUTTER - _MARGIN
    most = min(max(room // (width + _GAP), _MIN_COLUMNS), _MAX_COLUMNS)
    blocks = math.ceil(number / most)
    columns = math.ceil(number / blocks)
    scale = min(round((room / columns - _GAP) / width), _MAX_CELL // max(height, width))
    return columns, blocks, max(scale, 1)


def _paint(canvas: np.ndarray, image: np.ndarray, scale: int, top: int, left: int) -> None:
    """Puts an enlarged image onto the canvas, inside a hairline: white images end somewhere."""
    bottom, right = top + image.shape[0] * scale, left + image.shape[1] * scale
    canvas[top - 1 : bottom + 1, left - 1 : right + 1] = 200
    canvas[top:bottom, left:right] = image.repeat(scale, axis=0).repeat(scale, axis=1)


def _series_figure(parts: list[np.ndarray], original_ndim: int, title: str | None) -> Figure:
    """Draws three [N, T, D] arrays as small multiples; of several features the most varied, one lane each."""
    number, steps, features = parts[0].shape
    finite = np.nan_to_num(parts[0], posinf=0.0, neginf=0.0)
    chosen = np.sort(np.argsort(-finite.var(axis=(0, 1)), kind="stable")[:_MAX_LANES])
    columns = min(4, number)
    lines = math.ceil(number / columns)
    figure = _new_figure(_WIDTH, 130 + (340 if lines == 1 else 210) * lines, title)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    if features > 1:
        parts = _to_lanes([part[..., chosen] for part in parts], finite[..., chosen])
        panels[0, 0].set_yticks(np.arange(len(chosen)) + 0.5, [f"feature {feature}" for feature in chosen[::-1]])
        panels[0, 0].set_ylim(-0.2, len(chosen) + 0.2)
    else:
        panels[0, 0].set_ylim(*_limits_around(float(finite.min()), float(finite.max()), margin=0.3))
    looks: tuple[dict[str, Any], ...] = (
        {"color": "#b0b0b0", "linewidth": 3.2},
        {"color": _BLUE, "linewidth": 1.3},
        {"color": _VERMILION, "linewidth": 1.1, "linestyle": (0, (3, 1.2))},
    )
    for index, axes in enumerate(panels.flat):
        if index >= number:
            axes.set_visible(False)
            continue
        for part, look in zip(parts, looks, strict=True):
            axes.plot(np.arange(steps), part[index], marker="o" if steps == 1 else "", markersize=4, **look)
        _dress(axes)
        axes.xaxis.set_tick_params(labelbottom=index >= number - columns)
    figure.supxlabel("dimension" if original_ndim == 2 else "time step", fontsize=9, color=_INK)
    handles = panels[0, 0].lines[:: len(chosen)]
    figure.legend(handles, _ROW_LABELS, loc="outside upper right", ncols=3, frameon=False, fontsize=9, labelcolor=_INK)
    return figure


def _to_lanes(parts: list[np.ndarray], finite: np.ndarray) -> list[np.ndarray]:
    """Scales each feature by the originals' range and stacks the features, the first on top. [N, T, D] each."""
    low, high = finite.min(axis=(0, 1)), finite.max(axis=(0, 1))  # [D]
    scale = np.where(high > low, high - low, 1.0)
    floor = np.arange(len(low))[::-1]
    unit = [0.1 + 0.8 * (part - low) / scale for part in parts]
    return [floor + np.clip(part, -_LANE_OVERSHOOT, 1 + _LANE_OVERSHOOT) for part in unit]


# Learning curves.


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


def _add_legend(axes: Axes, place: Literal["lower right", "upper right"], note: str | None = None) -> None:
    axes.legend(loc=place, fontsize=8, labelcolor=_INK, edgecolor="none", title=note, title_fontsize=7)


def _finish(axes: Axes, heading: str, xlabel: str = "") -> None:
    """Gives a panel of curves its words and look; a panel without data says so."""
    _dress(axes, heading, xlabel)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if not axes.lines:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=_GREY, fontsize=9)
        axes.set_yticks([])
        axes.grid(visible=False)


def _draw_reference(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str) -> None:
    """Draws a dashed line, across the panel where it is constant."""
    look: dict[str, Any] = {"color": _INK, "linewidth": 1.1, "linestyle": (0, (4, 2)), "label": label}
    if len(values) and values.min() == values.max():
        axes.axhline(values[0], **look)
    elif len(values):
        axes.plot(_thin(steps), _thin(values), **look)


def _draw_beta_elbo(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, values = _series(rows, "beta_elbo")
    validation_steps, validation = _series(rows, "validation_beta_elbo")
    _draw_curve(axes, steps, values, _BLUE, "train")
    if len(validation):
        look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(_thin(validation_steps), _thin(validation), ls="", color=_VERMILION, label="validation", **look)
    if axes.lines:
        low, high = _limits_around(*_robust_range(values, validation), margin=0.06)
        axes.set_ylim(low, high)
        below = int((values < low).sum() + (validation < low).sum())
        _add_legend(axes, "lower right", f"points below the panel: {below}" if below else None)
    _finish(axes, "β-ELBO (nats)")


def _robust_range(values: np.ndarray, validation: np.ndarray) -> tuple[float, float]:
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
    axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))
    steps, _ = _series(rows, "step")
    if len(steps) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)


def _draw_ess(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    _draw_curve(axes, *_series(rows, "ESS"), _GREEN, "batch mean")
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
    _draw_curve(axes, *curves[0], _VERMILION, "temperature τ")
    _draw_reference(axes, *curves[1], "floor β")
    if axes.lines:
        both = np.concatenate([values for _, values in curves])
        low, high = both.min() / 1.4, both.max() * 1.4
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _add_legend(axes, "upper right")
    _finish(axes, "Temperature (log scale)", "step")


# Code usage.


def _check_counts(counts: torch.Tensor) -> None:
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if counts.ndim != 2 or 0 in counts.shape or counts.dtype not in kinds:
        raise ValueError(
            f"counts must be integers [T, V], got {counts.dtype} {list(counts.shape)}; "
            "count with torch.bincount per position and stack."
        )
    if int(counts.min()) < 0 or int(counts.max()) == 0:
        raise ValueError(
            f"counts must be non-negative, and some positive, got values in [{int(counts.min())}, "
            f"{int(counts.max())}]; count the codes of at least one datum."
        )


def _draw_shares(figure: Figure, axes: Axes, shares: np.ndarray) -> None:
    """Draws sorted shares [T, V] on a log scale."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    positions, codes = shares.shape
    high = shares.max()
    norm = LogNorm(vmin=min(shares[shares > 0].min(), high / 10), vmax=high)
    image = axes.imshow(
        np.ma.masked_equal(shares, 0.0),
        norm=norm,
        cmap=colormaps["viridis"].with_extremes(bad=_EMPTY),
        extent=(0.5, codes + 0.5, positions - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )
    _dress(axes, "Share of each code", "codes, the most frequent first", "token position")
    for axis, labels in ((axes.xaxis, 16 if codes <= 16 else 8), (axes.yaxis, 16)):
        axis.set_major_locator(MaxNLocator(nbins=labels, integer=True, steps=[1, 2, 5, 10]))
    axes.spines[:].set_visible(False)
    if positions <= _MAX_SEPARATE:
        axes.hlines(np.arange(1, positions) - 0.5, 0.5, codes + 0.5, color="white", linewidth=1.5)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=50, pad=0.02)
    bar.minorticks_off()
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    bar.ax.tick_params(labelsize=8, colors=_INK, length=3)
    bar.outline.set_visible(False)
    bar.set_label("share of the position's codes, log scale (grey: never used)", fontsize=8, color=_INK)


def _draw_perplexity(axes: Axes, perplexity: np.ndarray, codes: int) -> None:
    """Draws a bar for each position, perplexity [T], against the V codes there are."""
    positions = len(perplexity)
    axes.barh(np.arange(positions), perplexity, height=0.75 if positions <= 64 else 1.0, color=_BLUE)
    axes.axvline(codes, color=_INK, linewidth=1.1, linestyle=(0, (4, 2)))
    axes.set_xlim(0, codes * 1.04)
    _dress(axes, f"Perplexity, of V = {codes}", f"mean {perplexity.mean():.3g}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if positions <= _MAX_SEPARATE:
        for position, value in enumerate(perplexity):
            inside = value > 0.3 * codes
            look: dict[str, Any] = {"ha": "right", "color": "white"} if inside else {"ha": "left", "color": _INK}
            shift = -0.02 * codes if inside else 0.02 * codes
            axes.text(value + shift, position, f"{value:.3g}", va="center", fontsize=7, **look)
