"""Writes the tables of docs/results.md from the committed rows: python benchmarks/table.py"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

ROWS, PAGE = Path(__file__).parent / "rows", Path(__file__).parent.parent / "docs" / "results.md"
# Two-sided 97.5 % quantiles of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def read(name: str) -> list[dict[str, Any]]:
    path = ROWS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: list[float], digits: int = 1) -> str:
    """Mean, and half the width of a 95 % confidence interval where there are two seeds or more."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def fashion_mnist() -> str:
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in read("fashion_mnist"):
        config = row["config"]
        budget = f"{config['minutes']:g} min" if config["minutes"] else f"{config['steps']} steps"
        kind = "centred weights" if config["centered"] else config["trust_region"]
        groups[row["settings"], row["agent"], budget, kind].append(row)
    lines = []
    for (settings, agent, budget, kind), rows in groups.items():
        test = [row["test"] for row in rows]
        lines.append(
            [
                settings, f"`{agent}`", kind, budget, str(len(rows)),
                interval([t["beta_elbo"] for t in test]), interval([t["log_likelihood"] for t in test]),
                interval([t["kl"] for t in test]), interval([t["psnr"] for t in test], 2),
                f"{max(row['ess_worst_relative_error'] for row in rows):.2%}",
                interval([row["steps"] for row in rows], 0),
            ]
        )  # fmt: skip
    header = ["settings", "agent", "trust region", "budget", "seeds", "test β-ELBO (nats)", "log-likelihood", "KL"]
    return markdown([*header, "PSNR (dB)", "worst ESS error", "steps"], lines)


def digits() -> str:
    lines = [
        [
            f"`{row['agent']}`", str(row["seed"]), f"{row['bits']:g}", f"{row['seconds']:.0f}", str(row["steps"]),
            f"{row['read_originals']:.1%}", f"{row['read_sampled']:.1%}", f"{row['read_greedy']:.1%}",
            f"{row['test']['psnr']:.2f}",
        ]
        for row in read("digits")
    ]  # fmt: skip
    header = ["agent", "seed", "bits", "seconds", "steps", "originals read", "sampled read", "greedy read", "PSNR (dB)"]
    return markdown(header, lines)


def speed() -> str:
    lines = [
        [
            f"`{row['agent']}`",
            f"{row['steps_per_second']:.2f}",
            f"{row['median_ms']:.0f}",
            str(row["threads"]),
            row["cpu"],
        ]
        for row in read("speed")
    ]
    return markdown(["agent", "steps per second", "median step (ms)", "threads", "CPU"], lines)


def main() -> None:
    text = PAGE.read_text()
    for name, table in (("fashion_mnist", fashion_mnist()), ("digits", digits()), ("speed", speed())):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{table}\n{end}{after}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
