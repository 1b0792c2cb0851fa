"""How evenly the V values of a run's tokens are used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from daps_rl.functional import code_perplexity
from daps_rl.report.figures import BLUE, EMPTY, INK, WIDTH, dress, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_SEPARATE = 32  # token positions drawn one by one, with their perplexity in numbers


def plot_code_usage(path: str | os.PathLike[str], counts: torch.Tensor, *, title: str | None = None) -> None:
    """Draws how evenly each token position uses the V values of a token.

    Left, a heat map of each value's share n_tv / Σ_v n_tv on a log scale, the values of each position in the order of
    their frequency, grey where a value never occurs. Right, the perplexity exp(−Σ_v p_tv log p_tv) of each position,
    between 1 (one value) and V (all alike); a position without any count has 0.

    Args:
        path: PNG file to write; missing folders are made.
        counts: how often position t used value v over a data split. Integers, [T, V].
        title: text above the picture.
    Raises:
        ValueError: counts is not a [T, V] integer tensor, or holds a negative or no positive number.
    """
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
    table = counts.detach().cpu().double().numpy()  # [T, V]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    perplexity = code_perplexity(counts.detach().cpu()).nan_to_num(0.0).numpy()  # [T]
    positions = len(table)
    figure = new_figure(WIDTH, int(min(max(300 + 26 * positions, 420), 1350)), title)
    heat, bars = figure.subplots(1, 2, width_ratios=(3.2, 1), sharey=True)
    _draw_shares(figure, heat, np.sort(shares, axis=1)[:, ::-1])
    _draw_perplexity(bars, perplexity, table.shape[1])
    save(figure, path)


def _draw_shares(figure: Figure, axes: Axes, shares: np.ndarray) -> None:
    """Draws sorted shares [T, V] on a log scale."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, MaxNLocator

    positions, codes = shares.shape
    high = shares.max()
    image = axes.imshow(
        np.ma.masked_equal(shares, 0.0),
        norm=LogNorm(vmin=min(shares[shares > 0].min(), high / 10), vmax=high),
        cmap=colormaps["viridis"].with_extremes(bad=EMPTY),
        extent=(0.5, codes + 0.5, positions - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )
    dress(axes, "Share of each token value", "token values, the most frequent first", "token position")
    for axis, labels in ((axes.xaxis, 16 if codes <= 16 else 8), (axes.yaxis, 16)):
        axis.set_major_locator(MaxNLocator(nbins=labels, integer=True, steps=[1, 2, 5, 10]))
    axes.spines[:].set_visible(False)
    if positions <= _MAX_SEPARATE:
        axes.hlines(np.arange(1, positions) - 0.5, 0.5, codes + 0.5, color="white", linewidth=1.5)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=50, pad=0.02)
    bar.minorticks_off()
    decades = np.log10(high / image.norm.vmin)
    bar.locator = LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0))
    bar.update_ticks()
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    bar.ax.tick_params(labelsize=8, colors=INK, length=3)
    bar.outline.set_visible(False)
    bar.set_label("share of the position's tokens, log scale (grey: never used)", fontsize=8, color=INK)


def _draw_perplexity(axes: Axes, perplexity: np.ndarray, codes: int) -> None:
    """Draws a bar for each position, perplexity [T], against the V codes there are."""
    positions = len(perplexity)
    axes.barh(np.arange(positions), perplexity, height=0.75 if positions <= 64 else 1.0, color=BLUE)
    axes.axvline(codes, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    axes.set_xlim(0, codes * 1.25)
    dress(axes, f"Perplexity, of V = {codes}", f"mean {perplexity.mean():.3g}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if positions <= _MAX_SEPARATE:
        for position, value in enumerate(perplexity):
            axes.text(codes * 1.05, position, f"{value:.3g}", va="center", fontsize=7, color=INK)
