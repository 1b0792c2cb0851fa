"""Draws the pictures of docs/images that are made of committed rows.

    python benchmarks/plots.py                       # all; seconds
    python benchmarks/plots.py scaling agents        # some

The pictures of comparisons (curves, reconstructions) are drawn where they are trained, by `daps-rl compare`.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tune
from common import IMAGES, Row, read_rows
from sweeps import SHARED, by_sweep
from verdicts import METHODS, SIZES

from daps_rl.report.figures import BLUE, EMPTY, FAINT, GREY, INK, SERIES, VERMILION, WIDTH, dress, new_figure, save

AGENT_COLOURS = {
    "daps": VERMILION, "daps-na": "#E69F00", "tpo": "#AA4499", "rloo": BLUE, "grpo": "#56B4E9", "ppo": "#009E73",
    "a2c": GREY, "reinforce": INK, "reinforce-no-critic": "#8c564b", "daps-fixed": "#bcbd22",
}  # fmt: skip
CODES_A_STEP = 64 * 8
SWEEP_TITLES = {
    "samples": "K, codes per context", "learned": "codes learned from", "ess": "target of the ESS",
    "shape": "tokens × vocabulary", "bits": "bits", "beta": "β", "temperature": "temperature",
}  # fmt: skip
STEP_TITLES = {
    ("mnist", "daps", False): "published, autoregressive:\n{:.0f} ms",
    ("mnist", "daps", True): "the same by CPU kernels:\n{:.0f} ms",
    ("own", "daps-na", False): "our default, factorised:\n{:.0f} ms",
}
STEP_PARTS = (
    "encode x", "draw codes", "decode and score x", "temperature and weights", "score codes under the policy",
    "backward", "score codes, and backward", "clip and AdamW",
)  # fmt: skip


Rates = dict[str, dict[float, float]]
"""Scores by agent and learning rate."""


def agents() -> None:
    """β-ELBO of digits' training batches against time and evaluations: mean over seeds, and their range."""
    figure = new_figure(1500, 640, "Agents on digits: mean and range over five seeds")
    left, right = figure.subplots(1, 2, sharey=True)
    by_agent: dict[str, list[np.ndarray]] = defaultdict(list)
    for row in read_rows("agents_minutes"):
        if "error" not in row:
            whole = [entry[:3] for entry in row["curve"] if None not in entry[:3]]
            by_agent[row["agent"]].append(np.asarray(whole, float))  # step, seconds, β-ELBO
    ends = {agent: statistics.fmean(seed[-1, 2] for seed in seeds) for agent, seeds in by_agent.items()}
    for agent in sorted(ends, key=lambda agent: -ends[agent]):
        host, _, name = agent.rpartition(":")
        look = {"color": AGENT_COLOURS[name], "linestyle": "--" if host else "-", "linewidth": 1.6}
        for axes, column, scale in ((left, 1, 1.0), (right, 0, CODES_A_STEP)):
            seeds = by_agent[agent]
            spaced = np.linspace if axes is left else np.geomspace
            at = spaced(max(s[0, column] for s in seeds), min(s[-1, column] for s in seeds), 60)
            values = np.stack([np.interp(at, s[:, column], s[:, 2]) for s in seeds])
            axes.fill_between(at * scale, values.min(0), values.max(0), color=look["color"], alpha=0.06, linewidth=0)
            axes.plot(at * scale, values.mean(0), label=f"{agent}  {ends[agent]:.0f}", **look)
    dress(left, "", "seconds of training, one thread", "β-ELBO of training batches (nats)")
    dress(right, "", "decoder evaluations")
    right.set_xscale("log")
    for axes in (left, right):
        axes.set_ylim(bottom=-60)
        axes.grid(color=FAINT, linewidth=0.6)
    handles, labels = left.get_legend_handles_labels()
    title = "at the end, in nats"
    figure.legend(handles, labels, loc="outside right center", title=title, fontsize=8, title_fontsize=8, frameon=False)
    save(figure, IMAGES / "agents.png")


def performance() -> None:
    """A step part by part: what it takes, and the least that its products and its memory traffic could."""
    shown = [row for row in read_rows("roofline") if row["threads"] == 2 and row["batch_size"] == 256]
    latest = {(row["configuration"], row["agent"], row.get("cpu_kernels", False)): row for row in shown}
    figure = new_figure(WIDTH, 560, "A step on two CPU cores, part by part: 256 data, 8 codes each")
    panels = figure.subplots(1, len(STEP_TITLES), sharex=True, sharey=True)
    for (key, heading), axes in zip(STEP_TITLES.items(), panels, strict=True):
        parts = {part: latest[key]["parts"][part] for part in STEP_PARTS if part in latest[key]["parts"]}
        places = len(STEP_PARTS) - 1 - np.array([STEP_PARTS.index(part) for part in parts])
        columns = {name: [of[name] for of in parts.values()] for name in ("measured_ms", "floor_ms", "memory_ms")}
        axes.barh(places, columns["measured_ms"], 0.7, color=EMPTY, edgecolor=INK, linewidth=0.6, label="measured")
        axes.barh(places + 0.14, columns["floor_ms"], 0.24, color=BLUE, label="floor: matrix products, float32")
        axes.barh(places - 0.14, columns["memory_ms"], 0.24, color=VERMILION, label="floor: memory traffic")
        axes.set_yticks(np.arange(len(STEP_PARTS))[::-1], STEP_PARTS)
        dress(axes, heading.format(latest[key]["parts"]["the step"]["measured_ms"]), "milliseconds")
    legend_below(figure, panels[0])
    save(figure, IMAGES / "performance.png")


def scaling() -> None:
    """Cost of a step by K, of drawing by T, and steps per second by processes; without and with CPU kernels."""
    figure = new_figure(WIDTH, 520, "More codes, longer codes, more processes: two CPU cores")
    by_k, by_t, ranks = figure.subplots(1, 3)
    rows = read_rows("scaling")
    for kernels, colour, label in ((False, BLUE, "without CPU kernels"), (True, VERMILION, "with CPU kernels")):
        these = [row for row in rows if row.get("cpu_kernels", False) == kernels]
        look: dict[str, Any] = {"color": colour, "label": label, "marker": "o", "markersize": 5, "linewidth": 1.6}
        steps = {row["K"]: row["median_ms"] for row in these if row["what"] == "samples"}
        by_k.plot(list(steps), list(steps.values()), **look)
        drawn = {row["T"]: row for row in these if row["what"] == "tokens"}
        by_t.plot(list(drawn), [row["seconds"] for row in drawn.values()], **look)
        if not kernels:
            floor = [row["memory_floor_s"] for row in drawn.values()]
            by_t.plot(list(drawn), floor, color=GREY, linestyle=":", linewidth=1.6, label="floor of memory traffic")
        rates = {
            n: [r["steps_per_second"] for r in these if r["what"] == "ranks" and r["processes"] == n] for n in (1, 2)
        }
        places = [n + (0.18 if kernels else -0.18) for n in rates]
        ranks.bar(places, [statistics.median(of) for of in rates.values()], 0.34, color=colour)
        ranks.plot([p for p, of in zip(places, rates.values(), strict=True) for _ in of],
                   [value for of in rates.values() for value in of], "o", color=INK, markersize=3)  # fmt: skip
    for axes, ticks in ((by_k, (2, 8, 32)), (by_t, (64, 256, 1024))):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(color=FAINT, linewidth=0.6)
    by_k.set_yticks([50, 100, 200, 400, 800], ["50", "100", "200", "400", "800"])
    by_t.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
    ranks.set_xticks([1, 2], ["one process,\ntwo threads", "two processes,\none thread each"])
    dress(by_k, "a step, published MNIST (ms)", "K, codes per context")
    dress(by_t, "drawing 256 codes (s)", "T, tokens per code")
    dress(ranks, "steps per second")
    legend_below(figure, by_t)
    save(figure, IMAGES / "scaling.png")


def learning_rates() -> None:
    """What each learning rate gave on validation data, the best of the other settings tried at each."""
    images: dict[str, Rates] = defaultdict(lambda: defaultdict(dict))
    others: dict[str, Rates] = defaultdict(lambda: defaultdict(dict))
    for trial in tune.trials().values():
        settings, agent, value = trial[0]["settings"], trial[0]["agent"], tune.score(trial)
        if not math.isfinite(value) or "data" in settings:
            continue
        if "problem" in settings:
            found = others[settings["problem"] + (" (area)" if trial[0].get("every") else "")]
        else:
            found = images[
                "quantisers, factorised encoders: 500 steps"
                if trial[0]["steps"] >= 500
                else "autoregressive encoders: 100 steps, daps 150"
            ]
        rate = trial[0]["learning_rate"]
        found[agent][rate] = max(value, found[agent].get(rate, -math.inf))
    title = "Fashion-MNIST: validation score (nats) by learning rate; dots: the best"
    figure = new_figure(WIDTH, 620, title)
    for axes, (heading, found) in zip(figure.subplots(1, 2), images.items(), strict=True):
        draw_rates(axes, heading, found, {agent: i for i, agent in enumerate(found)})
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    save(figure, IMAGES / "learning_rates.png")
    figure = new_figure(1400, 800, "Validation reward by learning rate; dots: the best")
    panels = figure.subplots(2, 4)
    places = {agent: i for i, agent in enumerate(("daps", "rloo", "grpo", "ppo", "reinforce"))}
    for axes, (heading, found) in zip(panels.flat, others.items(), strict=False):
        draw_rates(axes, heading, found, places)
    for axes in list(panels.flat)[len(others) :]:
        axes.set_axis_off()
    legend_below(figure, panels.flat[0])
    save(figure, IMAGES / "learning_rates_problems.png")


def draw_rates(axes: Any, heading: str, found: Rates, places: dict[str, int]) -> None:
    """A line per agent, its best rate a dot; what lies far below the worst of these dots is left out."""
    tops = [max(rates.values()) for rates in found.values()]
    span = max(tops) - min(tops)
    for agent, i in places.items():
        rates = found.get(agent, {})
        look: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "linestyle": ("-", "--")[i // len(SERIES) % 2]}
        axes.plot(sorted(rates), [rates[rate] for rate in sorted(rates)], linewidth=1.4, label=agent, **look)
        best = [rate for rate in rates if rates[rate] == max(rates.values())]
        axes.plot(best, [rates[rate] for rate in best], "o", color=look["color"], markersize=5)
    ticks = sorted({rate for rates in found.values() for rate in rates})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(min(tops) - 1.0 * span, max(tops) + 0.1 * span)
    axes.grid(color=FAINT, linewidth=0.6)
    dress(axes, heading, "learning rate")


def sweeps() -> None:
    """Each setting of DAPS: all of them in one picture, and one picture each with the curves of training."""
    found = {name: groups for name, groups in by_sweep().items() if len(groups) > 1}
    default = statistics.fmean(row["test"]["beta_elbo"] for row in next(iter(found.values()))[SHARED["samples"]])
    figure = new_figure(WIDTH, 860, "Test β-ELBO (nats) with one setting changed: a dot per seed, the default a line")
    panels = figure.subplots(2, 4)
    for (name, groups), axes in zip(found.items(), panels.flat, strict=False):
        low, high = (15.0, 58.0) if name == "bits" else (default - 9.0, default + 4.0)
        draw_ends(axes, groups, low, high)
        axes.axhline(default, color=GREY, linewidth=1.0)
        dress(axes, SWEEP_TITLES[name])
    for axes in list(panels.flat)[len(found) :]:
        axes.set_axis_off()
    save(figure, IMAGES / "sweeps.png")
    for name, groups in found.items():
        figure = new_figure(WIDTH, 480, None)
        left, right = figure.subplots(1, 2)
        draw_curves(left, groups)
        best = max(row["test"]["beta_elbo"] for group in groups.values() for row in group)
        draw_ends(right, groups, best - (40.0 if name == "bits" else 12.0), best + 1.0)
        dress(right, "at the end, a dot per seed", "", "test β-ELBO, β = 0.01 (nats)")
        save(figure, IMAGES / f"sweep_{name}.png")


def draw_curves(axes: Any, groups: dict[str, list[Row]]) -> None:
    """Validation β-ELBO while training, a line per seed."""
    for i, (label, group) in enumerate(groups.items()):
        for n, row in enumerate(group):
            points = [p for p in row["curve"] if p["validation_beta_elbo"] is not None]
            look: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "alpha": 1.0 if n == 0 else 0.4, "linewidth": 1.3}
            look |= {"label": label} if n == 0 else {}
            look["linestyle"] = "-" if i < len(SERIES) else "--"
            axes.plot([p["seconds"] for p in points], [p["validation_beta_elbo"] for p in points], **look)
    dress(axes, "while training", "seconds of training, one core", "β-ELBO of validation data (nats)")
    axes.set_ylim(bottom=max(row["test"]["beta_elbo"] for group in groups.values() for row in group) - 50)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    axes.grid(color=FAINT, linewidth=0.6)


def draw_ends(axes: Any, groups: dict[str, list[Row]], low: float, high: float) -> None:
    """Test β-ELBO, a dot per seed; what lies below the panel is a number above an arrow."""
    for i, group in enumerate(groups.values()):
        values = [row["test"]["beta_elbo"] for row in group]
        axes.plot([i] * len(values), values, "o", color=SERIES[i % len(SERIES)], markersize=5)
        below = [f"{value:.0f}" for value in values if value < low]
        axes.text(i, low + 0.01 * (high - low), "\n".join([*below, *("↓" for _ in below[:1])]), ha="center", fontsize=7)
    labels = [label.removeprefix("K = ").removesuffix(" bits").removesuffix(" (published)") for label in groups]
    turned: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, labels)) > 4 else {}
    )
    axes.set_xticks(range(len(labels)), labels, **turned)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(low, high)
    axes.grid(color=FAINT, linewidth=0.6, axis="y")


def bias() -> None:
    """Distance of the mean self-normalised weights to their target, against K."""
    figure = new_figure(700, 480, None)
    axes = figure.subplots()
    measured = read_rows("sweeps_bias")
    for i, name in enumerate(dict.fromkeys(row["temperature_is"] for row in measured)):
        group = sorted((row for row in measured if row["temperature_is"] == name), key=lambda row: row["samples"])
        label = "τ for an ESS of 0.33 K" if name[0] == "E" else f"τ = {name}"
        distances = [row["total_variation"] for row in group]
        axes.plot([row["samples"] for row in group], distances, "o-", color=SERIES[i], label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    axes.legend(fontsize=8, frameon=False)
    axes.grid(color=FAINT, linewidth=0.6)
    dress(axes, "", "K, codes per context", "total variation, mean weights to target")
    save(figure, IMAGES / "sweep_bias.png")


def legend_below(figure: Any, axes: Any, columns: int | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    look = {"ncols": columns or len(labels), "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, loc="outside lower center", **look)


def verdicts() -> None:
    """What an unseen recogniser reads in decoded clips, by what the codes were trained for: a point each seed."""
    rows = read_rows("verdicts")
    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    figure = new_figure(WIDTH, 1000, "What a recogniser that no training saw reads right in decoded test data")
    panels = figure.subplots(2, -(-len(sizes) // 2), sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(sizes) :]:
        axes.remove()
    places = np.arange(len(methods))[::-1]
    colours = {"": GREY, "probability": VERMILION, "right": "#E69F00", "surrogate": BLUE}
    for size, axes in zip(sizes, panels, strict=False):
        of_size = [row for row in rows if row["size"] == size]
        for method, place in zip(methods, places, strict=True):
            shares = [100.0 * row["test"]["judge"] for row in of_size if row["method"] == method]
            if shares:
                colour = colours[method.partition(" ")[2]]
                axes.barh(place, statistics.fmean(shares), 0.7, color=colour, alpha=0.75)
                axes.plot(shares, [place] * len(shares), ls="", marker="o", color=INK, markersize=3.5)
        axes.axvline(100.0 * of_size[0]["original"]["judge"], color=INK, linewidth=0.9, linestyle="--")
        axes.set_yticks(places, [method.replace(" ", ", ") for method in methods])
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 50, 100])
        dress(axes, f"{size.rstrip('0123456789')}, {of_size[0]['bits']:g} bits", "")
    figure.supxlabel("% (dashed: of the originals)", fontsize=9, color=INK)
    save(figure, IMAGES / "verdicts.png")


PICTURES: dict[str, Callable[[], None]] = {
    "agents": agents,
    "performance": performance,
    "scaling": scaling,
    "learning_rates": learning_rates,
    "sweeps": sweeps,
    "bias": bias,
    "verdicts": verdicts,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"of {', '.join(PICTURES)} (default: all)")
    for name in parser.parse_args(arguments).pictures or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
