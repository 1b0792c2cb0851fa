"""What a search is worth: log p(x|z) gained on the greedy codes, against decoder evaluations and seconds.

    python benchmarks/search.py --seeds 0 1 2 --data-dir DIR    # an hour and a half on one core; skips what has a row
    python benchmarks/search.py --draw                          # docs/images/search.png from the rows; seconds

Binarised Fashion-MNIST, codes of 64 bits (FSQ's of 63.3), models of about two minutes of training on an idle core; the
first test data, the same ones for all. Seconds are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from common import IMAGES, Row, read_rows, write_row
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.report.figures import FAINT, SERIES, WIDTH, dress, new_figure, save
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.session import load_run, train_run
from daps_rl.search import likelihood_score

NAME, DATA, COUNT = "search", "fashion-mnist", 250
STEPS = {"daps-na": 1200, "fsq": 1850, "vq": 1850, "daps": 600}
SEARCHES = (
    "best-of:4", "best-of:16", "best-of:64", "best-of:256", "beam:4", "beam:16", "beam:64", "beam:256",
    "sweep:1/2", "sweep:1/4", "sweep:1/8", "sweep:1/16", "sweep:1/64", "sweep:2/2", "sweep:2/4", "sweep:2/8",
    "sweep:2/16", "sweep:2/64", "sweep:1", "sweep:2", "sweep:4",
)  # fmt: skip


def model_of(run: RunFolder, agent: str, seed: int, data_dir: str | None) -> DiscreteAutoencoder:
    """Returns the model of a run, which is trained where it is not there."""
    if not run.summary.exists():
        options = {"data": DATA, "data_dir": data_dir, "agent": agent, "seed": seed, "validate_every": 0}
        config = make_config(**options, steps=STEPS[agent])
        train_run(config, load(DATA, data_dir), run)
    return load_run(run.path, "cpu")[2]


def measure(model: DiscreteAutoencoder, x: Tensor, how: str) -> Row:
    """Returns what a search gives and costs, means over the data."""
    torch.manual_seed(0)
    score = likelihood_score(model.decoder)
    with torch.no_grad():
        start = time.process_time()
        found = model.search(how, x)
        seconds = time.process_time() - start
        greedy, best = model.encode(x, deterministic=True), found.codes
        before, after = (score(x, codes.unsqueeze(1))[:, 0] for codes in (greedy, best))
        psnr = [model.kind.metrics(model.decode(codes), x)["psnr"].mean().item() for codes in (greedy, best)]
    return {
        "log_likelihood_greedy": before.mean().item(), "log_likelihood": after.mean().item(),
        "gain": (after - before).mean().item(), "psnr_greedy": psnr[0], "psnr": psnr[1],
        "changed_tokens": (greedy != best).double().sum(-1).mean().item(),
        "evaluations": int(found.evaluations[0]), "milliseconds": 1e3 * seconds / len(x),
    }  # fmt: skip


LINES = {
    "best-of:K": r"best-of:\d+", "beam:W": r"beam:\d+", "sweep:1/M": r"sweep:1/\d+", "sweep:2/M": r"sweep:2/\d+",
    "sweep:N": r"sweep:\d+",
}  # fmt: skip


def draw() -> None:
    """Draws the gain against decoder evaluations, a panel for each agent that has been measured: means over seeds."""
    rows = read_rows(NAME)
    agents = [agent for agent in STEPS if any(row["agent"] == agent for row in rows)]
    figure = new_figure(WIDTH, 480, "Fashion-MNIST, 64 bits: what a search adds to the greedy codes")
    panels = figure.subplots(1, len(agents), sharex=True, sharey=True, squeeze=False)[0]
    for agent, axes in zip(agents, panels, strict=True):
        for (name, form), colour in zip(LINES.items(), SERIES, strict=False):
            found: dict[str, list[Row]] = defaultdict(list)
            for row in rows:
                if row["agent"] == agent and re.fullmatch(form, row["search"]):
                    found[row["search"]].append(row)
            means = sorted(
                [statistics.fmean(row[axis] for row in of) for axis in ("evaluations", "gain")] for of in found.values()
            )
            axes.plot(
                [at for at, _ in means], [gain for _, gain in means], "o-", color=colour, markersize=4, label=name
            )
        axes.set_xscale("log")
        axes.grid(color=FAINT, linewidth=0.6)
        dress(axes, agent, "decoder evaluations a datum", "log p(x|z) gained (nats)" if axes is panels[0] else "")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(LINES), fontsize=8, frameon=False)
    save(figure, IMAGES / "search.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(STEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="where the models are, or will be")
    parser.add_argument("--data-dir", help="where the data are")
    parser.add_argument("--draw", action="store_true", help="draw the picture of the page, and measure nothing")
    options = parser.parse_args()
    if options.draw:
        draw()
        return
    torch.set_num_threads(1)
    x = load(DATA, options.data_dir).test[:COUNT]
    done = {(row["agent"], row["seed"], row["search"]) for row in read_rows(NAME)}
    for seed in options.seeds:
        for agent in options.agents:
            left = [how for how in SEARCHES if (agent, seed, how) not in done]
            if agent in ("fsq", "vq"):  # which have nothing to draw
                left = [how for how in left if not how.startswith("best-of")]
            if not left:
                continue
            model = model_of(RunFolder(options.runs / f"{agent}-{seed}"), agent, seed, options.data_dir)
            for how in left:
                row = {"agent": agent, "seed": seed, "steps": STEPS[agent], "data": len(x), "search": how}
                write_row(NAME, {**row, **measure(model, x, how)})


if __name__ == "__main__":
    main()
