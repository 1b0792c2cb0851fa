"""Bits in real files against distortion: codes of several sizes and rate weights, the same prior fitted to all.

    python benchmarks/rate_distortion.py --only fashion-mnist --seeds 0     # half an hour on two cores
    python benchmarks/rate_distortion.py --only spoken-digits --minutes 1 --fit-minutes 0.25
    python benchmarks/rate_distortion.py --minutes 3 --fit-minutes 1       # everything; skips what has a row
    python benchmarks/rate_distortion.py --codecs                          # codecs of files; minutes
    python benchmarks/rate_distortion.py --draw                            # docs/images/rate_distortion.png

Every model is trained for the same minutes of its own processor time; then an autoregressive prior is fitted to its
codes, and the test split is compressed with it, by greedy codes and by ones that are searched for
log p(x|z) + λ·log p(z), with the same λ for all. DAPS with a rate weight learns its prior in training, and the same one
is fitted afterwards. Spoken digits are also encoded for the verdict of benchmarks/verdicts.py, which is another
recogniser than the one that counts here; FSQ and Gumbel-Softmax have the network that imitates it, at the weight that
was best there on validation data. Codecs of files get the same data, one file a datum for pictures and sounds; their
headers count.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import time
from collections import defaultdict
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import torch
import verdicts
from common import IMAGES, Row, add_pool_options, interval, markdown, read_rows, run_tasks, write_row
from file_codecs import coded
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes import compress, fit_prior_of
from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.evaluation.recogniser import make_recogniser
from daps_rl.report.figures import FAINT, GREY, SERIES, WIDTH, dress, new_figure, save
from daps_rl.verdicts import Classifier

Point = tuple[float, float]
"""Bits, and quality, of which more is better."""

NAME = "rate_distortion"
DATA = ("fashion-mnist", "spoken-digits", "handwriting")
METHODS: dict[str, dict[str, Any]] = {
    **{
        f"daps-na λ={weight:g}": {"agent": "daps-na", "prior": "autoregressive", "rate_weight": weight}
        for weight in (0.3, 1.0, 3.0)
    },
    "daps-na": {"agent": "daps-na"},
    "daps-na half": {"agent": "daps-na", "size": 0.5},
    "fsq": {"agent": "fsq"},
    "fsq half": {"agent": "fsq", "size": 0.5},
    "fsq double": {"agent": "fsq", "size": 2.0},
    "vq": {"agent": "vq", "learning_rate": 0.002},
    "vq half": {"agent": "vq", "learning_rate": 0.002, "size": 0.5},
    "gumbel-na": {"agent": "gumbel-na"},
    "gumbel-na half": {"agent": "gumbel-na", "size": 0.5},
}
OF_VERDICT: dict[str, dict[str, Any]] = {
    "daps-na verdict": {"agent": "daps-na", "size": 0.5, "reward": ("classifier",)},
    "daps-na verdict quarter": {"agent": "daps-na", "size": 0.25, "reward": ("classifier",)},
    **{
        f"daps-na verdict λ={weight:g}": {
            "agent": "daps-na", "size": 0.5, "reward": ("classifier",), "prior": "autoregressive", "rate_weight": weight
        }
        for weight in (10.0, 30.0)
    },
    **{
        f"{agent} surrogate{name}": {"agent": agent, "size": size, "surrogate": 200.0}
        for agent in ("fsq", "gumbel-na")
        for name, size in (("", 0.5), (" quarter", 0.25))
    },
}  # fmt: skip
MORE = {"spoken-digits": OF_VERDICT}
OURS = ("DAPS, λ", "DAPS", "DAPS, verdict")
TEST = 1000  # data
SEARCH, WEIGHTS = "sweep:1/16", (0.0, 0.3, 1.0, 3.0)  # λ in the search's score, of every model
LISTED = (None, 0.0, 3.0)  # of these, None for greedy codes, in the table
SHOWN: dict[
    str, dict[str, tuple[str, int]]
] = {  # what is told of each kind of data, and its digits; the first is drawn
    "fashion-mnist": {"log_likelihood": ("log p(x given z) (nats)", 1), "psnr": ("PSNR (dB)", 2)},
    "spoken-digits": {"recognised": ("recognised (%)", 1), "mel_distance": ("mel distance (dB)", 2)},
    "handwriting": {"log_likelihood": ("log p(x given z) (nats)", 1), "distance": ("distance (% of the box)", 2)},
}
FAMILIES = {
    "DAPS, λ": r"daps-na( λ.*)?", "DAPS": "daps-na( half)?", "FSQ": "fsq.*", "VQ": "vq.*", "Gumbel": "gumbel.*",
    "DAPS, verdict": "daps-na verdict.*",
}  # fmt: skip


def methods(data: str) -> dict[str, dict[str, Any]]:
    """The methods of a kind of data."""
    return {**METHODS, **MORE.get(data, {})}


def train(splits: Splits, data: str, method: dict[str, Any], seed: int, minutes: float) -> DiscreteAutoencoder:
    """Trains a model of a method; `size` is of T, over the recipe's, and `surrogate` the weight of the imitation."""
    options = dict(method)
    size, weight = options.pop("size", 1.0), options.pop("surrogate", None)
    config = make_config(data=data, minutes=minutes, seed=seed, validate_every=0, **options)
    config = dataclasses.replace(config, num_tokens=round(size * config.num_tokens))
    verdict = None if weight is None else Classifier.fitted(splits.train, splits.train_labels)
    model = verdicts.train(splits, config, weight, verdict).autoencoder.eval()
    decoder = model.decoder if weight is None else model.decoder.decoder  # without what imitates
    settings = config.model_config(splits.observation_shape, splits.likelihood, splits.kind.columns)
    return DiscreteAutoencoder(model.policy, decoder, model.prior, settings, splits.kind).eval()


@torch.no_grad()
def of_codes(model: DiscreteAutoencoder, splits: Splits, x: Tensor, z: Tensor) -> dict[str, float]:
    """What codes [N, T] lose: mean log-likelihood, and the rest of `distortion`."""
    pairs = list(zip(x.split(500), z.split(500), strict=True))
    log_likelihood = torch.cat([model.log_likelihood(*pair) for pair in pairs]).mean().item()
    return {"log_likelihood": log_likelihood, **distortion(splits, torch.cat([model.decode(z) for _, z in pairs]))}


def distortion(splits: Splits, made: Tensor) -> dict[str, float]:
    """The kind's own metrics of the first test data, and the share of them that is recognised."""
    found = {name: values.mean().item() for name, values in splits.kind.metrics(made, splits.test[: len(made)]).items()}
    recogniser = make_recogniser(splits)
    if recogniser is not None and splits.test_labels is not None:
        found["recognised"] = recogniser.share(made, splits.test_labels[: len(made)])
    return found


def run_codecs(data: str) -> None:
    """Writes a row for each codec of files."""
    splits = load(data)
    for name, bits, back in coded(splits, splits.test[:TEST]):
        write_row(NAME, {"data": data, "method": name, "seed": None, "file_bits": bits, **distortion(splits, back)})


def run(data: str, name: str, seed: int, minutes: float, fit_minutes: float) -> None:
    """Trains, fits, compresses and writes a row for each way to encode."""
    splits = load(data)
    trained = train(splits, data, methods(data)[name], seed, minutes)
    with mock.patch("time.perf_counter", time.process_time):
        model, rates = fit_prior_of(trained, splits, minutes=fit_minutes, seed=seed)
    x = splits.test[:TEST]
    assert model.config is not None
    for weight in (None, *WEIGHTS):  # None for greedy codes
        if weight is None:
            z = torch.cat([model.encode(part, deterministic=True) for part in x.split(500)])
        else:
            score = model.code_score(weight)
            z = torch.cat([model.encode(part, search=SEARCH, score=score) for part in x.split(100)])
        row = {
            "data": data, "method": name, "seed": seed, "minutes": minutes, "search_weight": weight,
            "bits": model.config.bits, "file_bits": 8.0 * len(compress(model, z)) / len(z), **rates,
            **of_codes(model, splits, x, z),
        }  # fmt: skip
        write_row(NAME, row)


def grouped(data: str) -> dict[tuple[str, float | None], list[Row]]:
    """The rows of one kind of data by method and weight in the search, in the order of the methods."""
    found: dict[tuple[str, float | None], list[Row]] = defaultdict(list)
    for row in read_rows(NAME):
        if row["data"] == data:
            found[row["method"], row.get("search_weight")].append(row)
    order = [*methods(data), *(method for method, _ in found)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def measured() -> list[str]:
    """The kinds of data of which there are rows of models."""
    known = {row["data"] for row in read_rows(NAME) if row["seed"] is not None}
    return [data for data in DATA if data in known]


def table(data: str) -> str:
    """Returns a line for each method and way to encode: bits in files, and what they lose."""
    lines = []
    for (method, weight), rows in grouped(data).items():
        learned = method in methods(data)
        if weight not in LISTED:
            continue
        how = "" if not learned else "greedy" if weight is None else f"search, λ = {weight:g}"
        cells = [f"`{method}`" if learned else method, how, str(len(rows)) if learned else ""]
        cells += [f"{rows[0]['bits']:.0f}" if learned else "", interval([row["file_bits"] for row in rows])]
        for key, (name, digits) in SHOWN[data].items():
            values = [(100 if name.endswith("(%)") else 1) * row[key] for row in rows if key in row]
            cells.append(interval(values, digits) if values else "")
        lines.append(cells)
    names = [name for name, _ in SHOWN[data].values()]
    return markdown(["method", "codes", "seeds", "T·log2 V", "bits in a file", *names], lines)


def frontier(data: str, family: str, *, search: bool = True, seed: int | None = None) -> list[Point]:
    """A family's best points in the order of bits, of a seed or means over all: each is better than what takes fewer.

    Codes are greedy, or with `search` also found by one, whichever is better.
    """
    (key, (name, _)), *_ = SHOWN[data].items()
    scale, points = 100.0 if name.endswith("(%)") else 1.0, []
    for (method, weight), every in grouped(data).items():
        rows = [row for row in every if seed in (None, row["seed"])]
        if rows and re.fullmatch(FAMILIES[family], method) and (search or weight is None):
            points.append((fmean(row["file_bits"] for row in rows), scale * fmean(row[key] for row in rows)))
    points.sort()
    return [point for at, point in enumerate(points) if all(point[1] > better for _, better in points[:at])]


def saving(ours: list[Point], theirs: list[Point]) -> float | None:
    """Share of bits that ours save where both give the same quality: Bjøntegaard's delta of rates.

    The mean, over the qualities that both reach, of the difference of log bits between the two lines through the
    points; None where no quality is reached by both.
    """
    lines = []
    for points in (ours, theirs):
        bits, quality = np.array(points).T
        order = np.argsort(quality)
        lines.append((quality[order], np.log(bits[order])))
    low, high = max(quality[0] for quality, _ in lines), min(quality[-1] for quality, _ in lines)
    if not low < high:
        return None
    at = np.linspace(low, high, 200)
    our_bits, their_bits = (np.interp(at, *line) for line in lines)
    return float(1.0 - np.exp((our_bits - their_bits).mean()))


def savings() -> str:
    """Returns what DAPS, with rate weights, by sizes alone and for a verdict, saves over each rival, search allowed."""
    lines = []
    for data, ours, theirs in itertools.product(measured(), OURS, ("FSQ", "VQ", "Gumbel")):
        seeds = sorted({row["seed"] for row in read_rows(NAME) if row["data"] == data and row["seed"] is not None})
        pairs = [[frontier(data, family, seed=seed) for family in (ours, theirs)] for seed in seeds]
        shares = [100.0 * share for pair in pairs if all(pair) and (share := saving(*pair)) is not None]
        if any(map(all, pairs)):
            lines.append([data, ours, theirs, str(len(shares)), interval(shares, 0) if shares else ""])
    return markdown(["data", "by", "over", "seeds", "bits saved at equal quality (%)"], lines)


def draw() -> None:
    """Draws quality against bits in files, a panel for each kind of data that has been measured: means over seeds."""
    panels = measured()
    figure = new_figure(WIDTH, 520, "Bits in real files, and what they give back: test data, codes with a fitted prior")
    for data, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for (family, colour), search in itertools.product(zip(FAMILIES, SERIES, strict=False), (False, True)):
            if points := frontier(data, family, search=search):
                label, style = (family, "o-") if search else (None, "o:")
                axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)
        axes.grid(color=FAINT, linewidth=0.6)
        dress(axes, data, "bits in a file, a datum", next(iter(SHOWN[data].values()))[0])
    shown = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown["greedy codes, no search"] = figure.axes[0].plot([], [], ":", color=GREY)[0]
    figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=len(shown), fontsize=8, frameon=False)
    save(figure, IMAGES / f"{NAME}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *OF_VERDICT], metavar="METHOD")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each")
    parser.add_argument("--fit-minutes", type=float, default=1.0, help="of fitting the prior")
    parser.add_argument("--codecs", action="store_true", help="codecs of files instead; minutes")
    parser.add_argument("--draw", action="store_true", help="draw the picture of the page, and measure nothing")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.draw:
        draw()
        return
    if options.codecs:
        for data in options.only:
            run_codecs(data)
        return
    if options.one:
        run(*options.one, options.minutes, options.fit_minutes)
        return
    done = {(row["data"], row["method"], row["seed"]) for row in read_rows(NAME)}
    every = [
        (data, name, seed)
        for seed in options.seeds
        for data in options.only
        for name in options.methods or methods(data)
    ]
    tasks = [task for task in every if task not in done]
    run_tasks(tasks, options.workers, "--minutes", str(options.minutes), "--fit-minutes", str(options.fit_minutes))


if __name__ == "__main__":
    main()
