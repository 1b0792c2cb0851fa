"""What each setting of DAPS is worth, on digits: two-minute runs of `daps`, one setting changed at a time.

    python benchmarks/sweeps.py                      # one seed of every sweep: half an hour on two cores
    python benchmarks/sweeps.py samples ess --seeds 0 1 2
    python benchmarks/sweeps.py bias                 # self-normalised weights against enumeration; seconds
    python benchmarks/sweeps.py --report             # tables of docs/reports/sweeps.md, from the rows

Two runs at a time, one thread each; what has a row is not run again. Learning rate 4e-3, tuned for the default setting
(benchmarks/agents.py tune) and not anew for each; the policy is scored on all K codes (policy_samples 0). A run that
fails is a row that says why.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from typing import Any

import torch
from common import (
    REPORTS,
    Row,
    Tables,
    add_pool_options,
    interval,
    markdown,
    put,
    read_rows,
    run_tasks,
    write_row,
)

BASE: dict[str, Any] = {
    "data": "digits", "agent": "daps", "learning_rate": 4e-3, "minutes": 2.0, "validate_every": 25, "policy_samples": 0,
}  # fmt: skip
DEFAULT: dict[str, Any] = {}  # the setting that every sweep shares
SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "samples": {f"K = {k}": {"samples": k, "ess_fraction": max(0.33, 1.2 / k)} for k in (2, 4, 16, 32)},
    "learned": {f"{m} of 8": {"policy_samples": m} for m in (1, 2, 3, 4)},
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
    "samples": "K = 8", "learned": "8 of 8", "ess": "0.33", "shape": "8 × 16", "bits": "32 bits",
    "beta": "0.05 to 0.01", "temperature": "exact, by ESS",
}  # fmt: skip
AXES = ("step", "seconds", "validation_beta_elbo", "validation_log_likelihood", "ESS", "temperature", "beta")
METRICS = {"beta_elbo": 1, "log_likelihood": 1, "kl": 1, "psnr": 2, "code_usage": 2, "code_perplexity": 1}


def measure(settings: dict[str, Any], seed: int) -> None:
    """One run, in a process of its own; writes its row."""
    from daps_rl.config import make_config
    from daps_rl.data import load
    from daps_rl.runs.session import evaluate_splits
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


def by_sweep() -> dict[str, dict[str, list[Row]]]:
    """Returns the finished rows: sweep → label → a row per seed. The default setting is in every sweep."""
    keyed: dict[str, list[Row]] = defaultdict(list)
    for row in read_rows("sweeps"):
        if "error" not in row:
            keyed[json.dumps(row["settings"], sort_keys=True)].append(row)
    found = {}
    for sweep, settings in SWEEPS.items():
        labels = {SHARED[sweep]: DEFAULT, **settings}
        found[sweep] = {label: keyed[json.dumps(s, sort_keys=True)] for label, s in labels.items()}
        found[sweep] = {label: found[sweep][label] for label in sorted(labels, key=_order) if found[sweep][label]}
    return found


def _order(label: str) -> tuple[float, str]:
    """Returns the first number of a label, where it starts with one."""
    digits = label.removeprefix("K = ").split(" ")[0]
    try:
        return float(digits), label
    except ValueError:
        return math.inf, label


def table(groups: dict[str, list[Row]]) -> str:
    """Returns a line per setting: means over seeds, with a 95 % t-interval from three on."""
    header = ["setting", "seeds", "steps", "test β-ELBO (nats, β = 0.01)", "log-likelihood", "KL", "PSNR (dB)"]
    lines = []
    for label, group in groups.items():
        cells = [label, str(len(group)), interval([row["steps"] for row in group], 0, fewest=3)]
        metrics = [interval([row["test"][name] for row in group], places, fewest=3) for name, places in METRICS.items()]
        lines.append([*cells, *metrics])
    return markdown([*header, "code usage", "perplexity"], lines)


def bias_table() -> str:
    """Returns the distance of mean weights to their target: a line per K, a column per temperature."""
    found: dict[int, dict[str, Row]] = defaultdict(dict)
    for row in read_rows("sweeps_bias"):
        found[row["samples"]][row["temperature_is"]] = row
    names = ["ESS 0.33", "1", "0.5", "0.25"]
    lines = [
        [
            str(k),
            f"{group['ESS 0.33']['temperature']:.2f}",
            *(f"{group[name]['total_variation']:.3f}" for name in names),
        ]
        for k, group in sorted(found.items())
    ]
    return markdown(["K", "τ", *(f"bias at τ = {n}" if n[0] != "E" else "bias there" for n in names)], lines)


def tables() -> Tables:
    """Returns the tables of docs/reports/sweeps.md, by mark."""
    own = {name: table(groups) for name, groups in by_sweep().items()}
    return {REPORTS / "sweeps.md": {**own, "bias": bias_table()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"of {', '.join(SWEEPS)}, bias (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        return measure(*options.one)
    if options.report:
        return put(tables())
    names = options.sweeps or [*SWEEPS, "bias"]
    if unknown := sorted(set(names) - {*SWEEPS, "bias"}):
        parser.error(f"unknown sweep {', '.join(unknown)}; there are {', '.join(SWEEPS)}, bias")
    if "bias" in names:
        bias()
    done = {(json.dumps(row["settings"], sort_keys=True), row["seed"]) for row in read_rows("sweeps")}
    settings = [DEFAULT, *(s for name in names if name != "bias" for s in SWEEPS[name].values())]
    tasks = [(s, seed) for seed in options.seeds for s in settings if names != ["bias"]]
    tasks = [task for task in tasks if (json.dumps(task[0], sort_keys=True), task[1]) not in done]
    run_tasks(tasks, options.workers)
    return put(tables())


if __name__ == "__main__":
    main()
