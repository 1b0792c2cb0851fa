"""A rate that holds itself, and β without a schedule: how near runs end to their targets, and what it costs.

    python benchmarks/targets.py rate --data digits --targets 15 20 25
    python benchmarks/targets.py rate --data digits --targets 15 20 25 --prior autoregressive
    python benchmarks/targets.py rate --data fashion-mnist --targets 20 30 40 --steps 600
    python benchmarks/targets.py fixed --data digits --weights 0 1 2 4
    python benchmarks/targets.py beta --data digits spoken-digits text fashion-mnist

Runs of --steps, one after another, on one thread: the steps are what decides, so that another machine gives the same.
What has a row already is skipped. 600 steps on digits take about fifteen seconds of a core.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

import torch
from common import interval, markdown, read_rows, write_row

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.evaluation import evaluate
from daps_rl.training import Trainer

NAME = "targets"
STEPS = {"digits": 600, "spoken-digits": 400, "text": 300, "fashion-mnist": 300}
SPLITS = ("validation", "test")
BETAS = ("schedule", "auto")
QUALITY = (("log_likelihood", 1), ("psnr", 2))
KEPT = ("rate", "rate_greedy", "log_likelihood", "psnr", "kl", "entropy", "code_perplexity")


def run(key: dict[str, Any], data_dir: str | None, **settings: Any) -> None:
    """Trains to the end, and writes what validation and test say.

    Args:
        key: what the row is found by: part, data, steps, seed and more.
        settings: of the run, beside data, steps and seed.
    """
    data, steps, seed = key["data"], key["steps"], key["seed"]
    splits = load(data, data_dir if data == "fashion-mnist" else None)
    config = make_config(data=data, steps=steps, seed=seed, validate_every=0, **settings)
    trainer = Trainer(config, splits)
    last = list(trainer.run())[-1]
    found: dict[str, Any] = {}
    for split in SPLITS:
        metrics = evaluate(
            trainer.autoencoder,
            splits[split],
            beta=config.beta_end,
            kind=splits.kind,
            targets=splits.targets(split),
            importance_data=0,
        ).metrics
        found[split] = {name: metrics.get(name) for name in KEPT}
    if trainer.learner.target is not None:
        outcome = trainer.learner.target.outcome(found["validation"])
        found |= {"met": outcome["met"], "in_words": outcome["in_words"]}
        found |= {"off": {s: abs(found[s]["rate"] / config.target_bits - 1.0) for s in SPLITS}}
    ended = {"capacity": config.bits, "rate_weight": last.get("rate_weight"), "beta": last["beta"]}
    write_row(NAME, {**key, **ended, **found})


def held() -> str:
    """The table of docs/codes.md: rates that were asked for, and those of a fixed λ beside them."""
    lines = []
    for part, data in itertools.product(("rate", "fixed"), STEPS):
        rows = [row for row in read_rows(NAME) if (row["part"], row["data"]) == (part, data)]
        for prior, value, steps in sorted(
            {(row["prior"], row["value"], row["steps"]) for row in rows}, key=lambda key: (key[0] != "independent", key)
        ):
            runs = [row for row in rows if (row["prior"], row["value"], row["steps"]) == (prior, value, steps)]
            off = [f"{max(row['off'][split] for row in runs):.1%}" if part == "rate" else "" for split in SPLITS]
            means = [f"{statistics.fmean(row[split]['rate'] for row in runs):.2f}" for split in SPLITS]
            weights = [row["rate_weight"] or 0.0 for row in runs]
            words = f"{data}, {runs[0]['capacity']:g} bits"
            asked = f"{value:g} bits" if part == "rate" else f"λ = {value:g}"
            quality = [interval([row["test"][name] for row in runs], digits) for name, digits in QUALITY]
            found = [*itertools.chain(*zip(means, off, strict=True)), f"{statistics.fmean(weights):.2f}"]
            lines.append([words, prior, asked, str(steps), str(len(runs)), *found, *quality])
    header = ["data, capacity", "prior", "asked", "steps", "seeds", "validation (bits)", "worst off", "test (bits)"]
    return markdown([*header, "worst off", "last λ", "test log-likelihood (nats)", "PSNR (dB)"], lines)


def beta_auto() -> str:
    """The table of docs/codes.md: β by its schedule, and by the temperature."""
    lines = []
    for data in STEPS:
        rows = [row for row in read_rows(NAME) if (row["part"], row["data"]) == ("beta", data)]
        reached = {(row["value"], row["seed"]): row["test"]["log_likelihood"] for row in rows}
        seeds = [seed for value, seed in reached if value == "auto" and ("schedule", seed) in reached]
        if seeds:
            pairs = [[reached[value, seed] for seed in seeds] for value in BETAS]
            gain = [auto - schedule for schedule, auto in zip(*pairs, strict=True)]
            steps = str(rows[0]["steps"])
            lines.append([data, steps, str(len(seeds)), *(interval(values) for values in (*pairs, gain))])
    return markdown(["data", "steps", "seeds", "schedule (nats)", "auto", "difference"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rate", "fixed", "beta"))
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--data-dir", help="of Fashion-MNIST's files")
    parser.add_argument("--targets", type=float, nargs="+", default=[20.0], help="bits")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0], help="λ")
    parser.add_argument("--prior", default="independent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="in place of the data's own number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = {"rate": options.targets, "fixed": options.weights, "beta": BETAS}[options.part]
    setting = {"rate": "target_bits", "fixed": "rate_weight", "beta": "beta"}[options.part]
    model = {} if options.part == "beta" else {"agent": "daps-na", "prior": options.prior}
    done = read_rows(NAME)
    for data, seed, value in itertools.product(options.data, options.seeds, values):
        steps = options.steps or STEPS[data]
        key = {"part": options.part, "data": data, "seed": seed, "steps": steps, **model, "value": value}
        if not any(key.items() <= row.items() for row in done):
            run(key, options.data_dir, **model, **{setting: value})


if __name__ == "__main__":
    main()
