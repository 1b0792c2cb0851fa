"""What each setting of DAPS is worth, on digits: two-minute runs of `daps`, one setting changed at a time.

    python benchmarks/sweeps.py                      # one seed of every sweep: half an hour on two cores
    python benchmarks/sweeps.py samples ess --seeds 0 1 2
    python benchmarks/sweeps.py bias                 # self-normalised weights against enumeration; seconds
    python benchmarks/sweeps.py --report             # tables and pictures of docs/sweeps.md, from the rows

Two runs at a time, one thread each; what has a row is not run again. Learning rate 4e-3, tuned for the default setting
(benchmarks/agents.py tune) and not anew for each; the policy is scored on all K codes (policy_samples 0). A run that
fails is a row that says why.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import ROWS, write_row

DOCS = Path(__file__).parent.parent / "docs"
BASE: dict[str, Any] = {
    "data": "digits", "agent": "daps", "learning_rate": 4e-3, "minutes": 2.0, "validate_every": 25, "policy_samples": 0,
}  # fmt: skip
DEFAULT: dict[str, Any] = {}  # the setting that every sweep shares
SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "samples": {f"K = {k}": {"samples": k, "ess_fraction": max(0.33, 1.2 / k)} for k in (2, 4, 16, 32)},
    "learnt": {f"{m} of 8": {"policy_samples": m} for m in (1, 2, 3, 4)},
    "ess": {f"{fraction:g}": {"ess_fraction": fraction} for fraction in (0.15, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)},
    "shape": {f"{t} × {v}": {"num_tokens": t, "vocab_size": v} for t, v in ((32, 2), (16, 4), (4, 256))},
    "bits": {f"{4 * t} bits": {"num_tokens": t} for t in (2, 4, 16, 32)},
    "beta": {
        "constant 0.01": {"beta_start": 0.01},
        "constant 0.05": {"beta_start": 0.05, "beta_end": 0.05},
        "0.5 to 0.01": {"beta_start": 0.5},
    },
    "temperature": {
        "adapted (published)": {"trust_region": "adaptive"},
        "fixed, 1": {"trust_region": "fixed"},
        "exact, by KL": {"trust_region": "kl"},
    },
}
SHARED = {
    "samples": "K = 8", "learnt": "8 of 8", "ess": "0.33", "shape": "8 × 16", "bits": "32 bits", "beta": "0.05 to 0.01",
    "temperature": "exact, by ESS",
}  # fmt: skip
AXES = ("step", "seconds", "validation_beta_elbo", "validation_log_likelihood", "ESS", "temperature", "beta")
SHOWN_BELOW_BEST = {"bits": 40.0}  # nats; what lies lower, or 12 nats lower elsewhere, is a number in brackets
METRICS = {"beta_elbo": 1, "log_likelihood": 1, "kl": 1, "psnr": 2, "code_usage": 2, "code_perplexity": 1}


def rows(name: str = "sweeps") -> list[dict[str, Any]]:
    path = ROWS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(settings: dict[str, Any], seed: int) -> None:
    """One run, in a process of its own; writes its row."""
    from daps_rl.config import make_config
    from daps_rl.data import load
    from daps_rl.evaluation.summary import evaluate_splits
    from daps_rl.training import Trainer

    torch.set_num_threads(1)
    row: dict[str, Any] = {"settings": settings, "seed": seed}
    try:
        splits = load("digits")
        config = make_config(seed=seed, device="cpu", **{**BASE, **settings})
        trainer = Trainer(config, splits)
        curve = [{axis: entry.get(axis) for axis in AXES} for entry in trainer.run()]
        keep = max(1, len(curve) // 60)
        row |= {
            "steps": trainer.step,
            "seconds": trainer.seconds,
            "decoder_evaluations": trainer.decoder_evaluations,
            "skipped_steps": int(trainer.optimizer.skipped),
            "bits": config.bits,
            **evaluate_splits(trainer.autoencoder.eval(), splits, 0.01),  # one β for all
            "curve": [p for i, p in enumerate(curve) if i % keep == 0 or p["validation_beta_elbo"] is not None],
        }
    except Exception as error:  # a row that says why
        row["error"] = f"{type(error).__name__}: {error}"
    write_row("sweeps", row)


def bias() -> None:
    """Total variation between the expected self-normalised weights and the target they stand for, by enumeration.

    64 codes with normal rewards and a normal policy's logits. For each K and temperature, groups of K are drawn; the
    mean weight that a code gets is compared with q(z) exp(R(z)/τ) / Z.
    """
    from daps_rl.functional import effective_sample_size, solve_temperature, target_weights

    generator = torch.Generator().manual_seed(0)
    codes, groups = 64, 400_000
    reward = torch.randn(codes, generator=generator, dtype=torch.float64)
    policy = torch.softmax(torch.randn(codes, generator=generator, dtype=torch.float64), dim=0)
    for samples in (2, 4, 8, 16, 32, 64):
        drawn = torch.multinomial(policy, groups * samples, replacement=True, generator=generator).view(groups, samples)
        own = solve_temperature(reward[drawn[:20_000]], max(0.33, 1.2 / samples)).item()
        for name, temperature in (("ESS 0.33", own), ("1", 1.0), ("0.5", 0.5), ("0.25", 0.25)):
            target = torch.softmax(policy.log() + reward / temperature, dim=0)
            weights = target_weights(reward[drawn], temperature)
            mean = torch.zeros(codes, dtype=torch.float64).index_add_(0, drawn.flatten(), weights.flatten()) / groups
            distance = 0.5 * (mean - target).abs().sum().item()
            row = {
                "samples": samples,
                "temperature_is": name,
                "temperature": temperature,
                "total_variation": distance,
                "target_from_policy": 0.5 * (policy - target).abs().sum().item(),
                "ess": effective_sample_size(weights).mean().item(),
                "groups": groups,
            }
            write_row("sweeps_bias", row)


def by_sweep() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The finished rows: sweep → label → a row per seed. The default setting is in every sweep."""
    keyed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows():
        if "error" not in row:
            keyed[json.dumps(row["settings"], sort_keys=True)].append(row)
    found = {}
    for sweep, settings in SWEEPS.items():
        labels = {SHARED[sweep]: DEFAULT, **settings}
        found[sweep] = {label: keyed[json.dumps(s, sort_keys=True)] for label, s in labels.items()}
        found[sweep] = {label: found[sweep][label] for label in sorted(labels, key=_order) if found[sweep][label]}
    return found


def _order(label: str) -> tuple[float, str]:
    """By the first number of a label, where it starts with one."""
    digits = label.removeprefix("K = ").split(" ")[0]
    try:
        return float(digits), label
    except ValueError:
        return math.inf, label


def table(groups: dict[str, list[dict[str, Any]]]) -> str:
    """A line per setting: means over seeds, with a 95 % t-interval from three on."""
    from scipy import stats

    def show(values: list[float], places: int) -> str:
        mean = sum(values) / len(values)
        if len(values) < 3:
            return f"{mean:.{places}f}"
        deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        half = stats.t.ppf(0.975, len(values) - 1) * deviation / len(values) ** 0.5
        return f"{mean:.{places}f} ± {half:.{places}f}"

    header = ["setting", "seeds", "steps", "test β-ELBO (nats, β = 0.01)", "log-likelihood", "KL", "PSNR (dB)"]
    header += ["code usage", "perplexity"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for label, group in groups.items():
        cells = [label, str(len(group)), show([row["steps"] for row in group], 0)]
        cells += [show([row["test"][name] for row in group], places) for name, places in METRICS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bias_table() -> str:
    found: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows("sweeps_bias"):
        found[row["samples"]][row["temperature_is"]] = row
    names = ["ESS 0.33", "1", "0.5", "0.25"]
    lines = ["| K | τ | " + " | ".join(f"bias at τ = {n}" if n[0] != "E" else "bias there" for n in names) + " |"]
    lines.append("|" + " --- |" * (len(names) + 2))
    for samples, group in sorted(found.items()):
        cells = [f"{group[name]['total_variation']:.3f}" for name in names]
        lines.append(f"| {samples} | {group['ESS 0.33']['temperature']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pictures() -> None:
    """Draws docs/images/sweep_*.png."""
    from daps_rl.report.figures import SERIES, dress, new_figure, save

    found = by_sweep()
    for sweep, groups in found.items():
        if len(groups) < 2:
            continue
        figure = new_figure(1200, 480, None)
        left, right = figure.subplots(1, 2)
        for i, (label, group) in enumerate(groups.items()):
            color = SERIES[i % len(SERIES)]
            for n, row in enumerate(group):
                points = [p for p in row["curve"] if p["validation_beta_elbo"] is not None]
                name = {"label": label} if n == 0 else {}
                style = "-" if i < len(SERIES) else "--"
                left.plot(
                    [p["seconds"] for p in points],
                    [p["validation_beta_elbo"] for p in points],
                    style, color=color, linewidth=1.3, alpha=1.0 if n == 0 else 0.4, **name,
                )  # fmt: skip
        dress(left, "while training", "seconds of training, one core", "β-ELBO of validation data (nats)")
        shown = SHOWN_BELOW_BEST.get(sweep, 12.0)
        best = max(row["test"]["beta_elbo"] for group in groups.values() for row in group)
        left.set_ylim(bottom=best - 50)
        left.legend(fontsize=7, frameon=False, loc="lower right")
        left.grid(alpha=0.25)
        labels = []
        for i, (label, group) in enumerate(groups.items()):
            values = [row["test"]["beta_elbo"] for row in group]
            right.plot([i] * len(values), values, "o", color=SERIES[i % len(SERIES)], markersize=5)
            below = [f"{value:.0f}" for value in values if value < best - shown]
            labels.append("\n".join([label, *(f"({', '.join(below)})" for _ in below[:1])]))
        right.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        right.set_ylim(best - shown, best + 1)
        dress(right, "at the end, a dot per seed", "", "test β-ELBO, β = 0.01 (nats)")
        right.grid(alpha=0.25, axis="y")
        save(figure, DOCS / "images" / f"sweep_{sweep}.png")
    if measured := rows("sweeps_bias"):
        figure = new_figure(700, 480, None)
        axes = figure.subplots()
        for i, name in enumerate(dict.fromkeys(row["temperature_is"] for row in measured)):
            group = sorted((row for row in measured if row["temperature_is"] == name), key=lambda row: row["samples"])
            label = "τ for an ESS of 0.33 K" if name[0] == "E" else f"τ = {name}"
            axes.plot(
                [r["samples"] for r in group], [r["total_variation"] for r in group], "o-", color=SERIES[i], label=label
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
        axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.25)
        dress(axes, "", "K, codes per context", "total variation, mean weights to target")
        save(figure, DOCS / "images" / "sweep_bias.png")


def report() -> None:
    """Puts the tables between their marks in docs/sweeps.md, and draws the pictures."""
    page = DOCS / "sweeps.md"
    text = page.read_text()
    tables = {name: table(groups) for name, groups in by_sweep().items()} | {"bias": bias_table()}
    for name, body in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, after = text.partition(start)
        text = before + start + "\n" + body + "\n" + end + after.partition(end)[2]
    page.write_text(text)
    pictures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"of {', '.join(SWEEPS)}, bias (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return measure(*json.loads(options.one))
    if options.report:
        return report()
    names = options.sweeps or [*SWEEPS, "bias"]
    if unknown := sorted(set(names) - {*SWEEPS, "bias"}):
        parser.error(f"unknown sweep {', '.join(unknown)}; there are {', '.join(SWEEPS)}, bias")
    if "bias" in names:
        bias()
    done = {(json.dumps(row["settings"], sort_keys=True), row["seed"]) for row in rows()}
    settings = [DEFAULT, *(s for name in names if name != "bias" for s in SWEEPS[name].values())]
    tasks = [(s, seed) for seed in options.seeds for s in settings if names != ["bias"]]
    tasks = [task for task in tasks if (json.dumps(task[0], sort_keys=True), task[1]) not in done]

    def launch(task: tuple[dict[str, Any], int]) -> None:
        subprocess.run([sys.executable, str(Path(__file__)), "--one", json.dumps(task)], check=False)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(launch, tasks))
    return report()


if __name__ == "__main__":
    main()
