"""Writes every generated table of docs/ from the committed rows: python benchmarks/table.py

The tables of comparisons, other problems and sweeps are made by the scripts that measure them; all others here.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import aggregates
import comparison
import kinds
import limits
import problems
import rate_distortion
import sweeps
import targets
from common import DOCS, REPORTS, Tables, interval, markdown, put
from common import read_rows as read
from strokes import STEPS, TUNING_SEED
from verdicts import METHODS, SIZES

METRICS = {"beta_elbo": 1, "log_likelihood": 1, "psnr": 2}  # digits shown


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
    """The latest row of each configuration."""
    latest = {(row["configuration"], row.get("agent")): row for row in read("speed")}
    lines = [
        [
            row["configuration"] if "agent" not in row else f"{row['configuration']}, {row['agent']}",
            f"{row['steps_per_second']:.2f}",
            f"{row['median_ms']:.0f}",
            f"{row['fastest_ms']:.0f}",
            str(row["threads"]),
            row["cpu"],
        ]
        for row in latest.values()
    ]
    return markdown(["configuration", "steps per second", "median step (ms)", "fastest", "threads", "CPU"], lines)


def gpu() -> str:
    """Training steps on a GPU: a line per configuration and agent, a column per way."""
    groups: dict[tuple[str, str, str], dict[tuple[str, bool], dict[str, Any]]] = defaultdict(dict)
    for row in read("gpu"):
        if "steps_per_second" in row:
            groups[row["configuration"], row["agent"], row["gpu"]][row["precision"], row["cuda_graph"]] = row
    ways = [(precision, graph) for precision in ("float32", "bfloat16") for graph in (False, True)]
    lines = [
        [
            configuration, f"`{agent}`",
            *(f"{rows[way]['steps_per_second']:.3g}" if way in rows else "" for way in ways),
            name,
        ]
        for (configuration, agent, name), rows in groups.items()
    ]  # fmt: skip
    header = ["configuration", "agent", "float32", "float32, graph", "bfloat16", "bfloat16, graph"]
    return markdown([*header, "GPU"], lines)


def roofline() -> str:
    """Where a step's time goes: a line per part, for each measured configuration."""
    lines = []
    columns = ("configuration", "agent", "batch_size", "threads")
    latest = {(*(row[name] for name in columns), row.get("cpu_kernels")): row for row in read("roofline")}
    for row in latest.values():
        title = f"{row['configuration']}, {row['agent']}, B = {row['batch_size']}, {row['threads']} threads"
        title += ", CPU kernels" if row.get("cpu_kernels") else ""
        for name, part in row["parts"].items():
            whole = name == "the step"
            cells = [title if whole else "", name, f"{part['flops'] / 1e9:.2f}", f"{part['bytes'] / 1e6:.0f}"]
            cells += [f"{part['floor_ms']:.1f}", f"{part['measured_ms']:.1f}"]
            cells += [f"{part['floor_ms'] / part['measured_ms']:.0%}"]
            lines.append([f"**{cell}**" if whole and cell else cell for cell in cells])
    return markdown(["configuration", "part", "GFLOP", "MB", "floor (ms)", "measured (ms)", "share"], lines)


def control() -> str:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read("control"):
        groups[row["problem"], row["agent"]].append(row)
    lines = []
    for (problem, agent), rows in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "daps")):
        first = [row["first_reached_at_steps"] for row in rows if row.get("first_reached_at_steps")]
        lines.append(
            [
                problem, agent, " ".join(f"{row['return']:g}" for row in sorted(rows, key=lambda row: row["seed"])),
                f"{sum(bool(row.get('reached')) for row in rows)} of {len(rows)}",
                f"{max(first):,}" if len(first) == len(rows) else "",
            ]
        )  # fmt: skip
    header = ["problem", "agent", "mean return, per seed", "reach the threshold", "all seeds had reached it by step"]
    return markdown(header, lines)


def identity() -> str:
    """Mean reward after training, lowest and highest seed."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in read("identity"):
        groups[row["agent"]].append(row["reward"])
    lines = [
        [f"`{agent}`", str(len(rewards)), f"{min(rewards):.4f}", f"{statistics.fmean(rewards):.4f}"]
        for agent, rewards in groups.items()
    ]
    return markdown(["agent", "seeds", "lowest mean reward", "mean"], lines)


def agents(mode: str, brief: bool = False) -> str:
    """Returns a line per agent, the best mean test β-ELBO first; failed runs are counted."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(f"agents_{mode}"):
        groups[row["agent"]].append(row)
    lines = []
    for agent, rows in groups.items():
        good = [row for row in rows if "error" not in row]
        test = [row["test"] for row in good]
        lines.append(
            [
                f"`{agent}`", f"{good[0]['learning_rate']:g}", f"{len(good)} of {len(rows)}",
                interval([t["beta_elbo"] for t in test]), interval([t["log_likelihood"] for t in test]),
                interval([t["kl"] for t in test]), interval([t["psnr"] for t in test], 2),
                interval([100 * row["read"] for row in good]), interval([row["steps"] for row in good], 0),
                interval([row["seconds"] for row in good], 0),
            ]
        )  # fmt: skip
    lines.sort(key=lambda line: -float(line[3].split()[0]))
    header = ["agent", "learning rate", "runs", "test β-ELBO (nats)", "log-likelihood", "KL", "PSNR (dB)"]
    header += ["sampled read (%)", "steps", "seconds"]
    kept = (0, 3, 4, 7, 8) if brief else range(len(header))
    return markdown([header[i] for i in kept], [[line[i] for i in kept] for line in lines])


def at_equal_evaluations() -> str:
    """Validation β-ELBO read off the runs of one minute, at the most decoder evaluations that all of them reach."""
    curves: dict[str, list[list[list[float]]]] = defaultdict(list)
    for row in read("agents_minutes"):
        if "error" not in row:
            validated = [point for point in row["curve"] if point[3] is not None]
            per_step = row["decoder_evaluations"] / row["steps"]
            curves[row["agent"]].append([[point[0] * per_step, point[1], point[3]] for point in validated])
    if not curves:
        return ""
    most = min(curve[-1][0] for seeds in curves.values() for curve in seeds)
    lines = []
    for agent, seeds in curves.items():
        reached = [[point for point in curve if point[0] <= most][-1] for curve in seeds]
        lines.append(
            [
                f"`{agent}`", str(len(seeds)), interval([point[2] for point in reached]),
                interval([point[1] for point in reached]),
            ]
        )  # fmt: skip
    lines.sort(key=lambda line: -float(line[2].split()[0]))
    header = ["agent", "runs", f"validation β-ELBO (nats) at {most:,.0f} decoder evaluations", "seconds until then"]
    return markdown(header, lines)


def tuning(mode: str) -> str:
    """Validation β-ELBO by learning rate."""
    groups: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read(f"agents_{mode}"):
        if "error" not in row:
            groups[row["agent"]][row["learning_rate"]].append(row["validation"]["beta_elbo"])
    rates = sorted({rate for scores in groups.values() for rate in scores})
    lines = [
        [f"`{agent}`", *(interval(scores[rate]) if rate in scores else "" for rate in rates)]
        for agent, scores in groups.items()
    ]
    return markdown(["agent", *(f"{rate:g}" for rate in rates)], lines)


def trials() -> str:
    """Settings tried on Fashion-MNIST's validation split, one seed each."""

    def show(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        [
            row["trial"], str(row["steps"]), f"{row['seconds']:.0f}",
            *(show(row["validation"][name], digits) for name, digits in METRICS.items()),
        ]
        for row in read("trials")
    ]  # fmt: skip
    return markdown(["trial", "steps", "seconds", "β-ELBO (nats)", "log-likelihood", "PSNR (dB)"], lines)


def api_price() -> str:
    lines = [
        [
            row["configuration"], str(row["threads"]), f"{row['bare_steps_per_second']:.2f}",
            *(f"{row[f'{loop}_ratio']:.0%}" for loop in ("torchrl", "sb3", "sb3_env")), row["cpu"],
        ]
        for row in read("api_price")
    ]  # fmt: skip
    header = ["configuration", "threads", "bare loop (steps/s)", "TorchRL", "SB3", "SB3, decoder learns in the env"]
    return markdown([*header, "CPU"], lines)


def memory() -> str:
    """Peak memory of a step, the latest row of each setting."""
    columns = ("config", "agent", "part", "batch_size", "samples", "microbatch")
    rows = {
        (*(row[name] for name in columns), row.get("cpu_kernels", 0)): row
        for row in read("memory")
        if row["steps"] < 1000
    }
    lines = [
        [config, f"{agent}, CPU kernels" if kernels else agent, *map(str, others),
         f"{row['peak_mib']:,}" if "peak_mib" in row else f"failed: {row['error']}"]
        for (config, agent, *others, kernels), row in sorted(
            rows.items(), key=lambda item: (item[0][:3], -item[0][3], item[0][4:])
        )
    ]  # fmt: skip
    return markdown(["configuration", "agent", "what", "B", "K", "microbatch", "peak (MiB)"], lines)


WITHOUT = {
    "parts": "codes scored all at once",
    "attention": "attention by PyTorch's kernel",
    "kernels": "by CPU kernels",
}
"""What a step is otherwise, of the ideas that `scaling.py` measures in turns."""


def scaling() -> str:
    """What more codes, more tokens and more processes cost: the latest row of each."""
    latest: dict[tuple[str, bool, Any], dict[str, Any]] = {}
    ideas: dict[tuple[str, int, bool], float] = {}
    ranks: dict[tuple[bool, int], list[float]] = defaultdict(list)
    for row in read("scaling"):
        kernels = row.get("cpu_kernels", False)
        if row["what"] == "ranks":
            ranks[kernels, row["processes"]].append(row["steps_per_second"])
        elif row["what"] in WITHOUT:
            used = row["used"] if "used" in row else row["in_parts"]  # rows before there were several ideas
            ideas[row["what"], row["K"], used] = row["median_ms"]
        else:
            latest[row["what"], kernels, row["K"] if row["what"] == "samples" else row["T"]] = row
    lines = []
    for (what, kernels, size), row in sorted(latest.items()):
        by = ", by CPU kernels" if kernels else ""
        if what == "samples":
            lines.append(
                [f"a step with K = {size}{by}", f"{row['median_ms']:.0f} ms", f"{row['over_K8']:.2f} of K = 8"]
            )
        else:
            cells = f"{row['over_matrix_floor']:.1f} of its operations, {row['over_memory_floor']:.1f} of its bytes"
            lines.append([f"drawing with T = {size}{by}", f"{row['seconds']:.2f} s", f"times the floor: {cells}"])
    for (what, size, used), took in sorted(ideas.items()):
        if not used:
            cells = [f"{took:.0f} ms", f"{took / ideas[what, size, True]:.2f} of the usual, in turns"]
            lines.append([f"a step with K = {size}, {WITHOUT[what]}", *cells])
    for (kernels, processes), rates in sorted(ranks.items()):
        share = statistics.median(rates) / statistics.median(ranks[kernels, 1])
        by = ", by CPU kernels" if kernels else ""
        name = "process of two threads" if processes == 1 else "processes of one thread"
        cells = [f"{processes} {name}{by}", f"{statistics.median(rates):.2f} steps/s", f"{share:.0%} of one process"]
        lines.append(cells)
    return markdown(["what", "measured", "ratio"], lines)


def strokes_tuning() -> str:
    """Returns the validation β-ELBO of each learning rate."""
    scores: dict[str, dict[float, str]] = defaultdict(dict)
    for row in read("strokes"):
        if row["seed"] == TUNING_SEED and "error" not in row:
            scores[row["agent"]][row["learning_rate"]] = f"{row['validation']['beta_elbo']:.1f}"
    rates = sorted({rate for of_agent in scores.values() for rate in of_agent})
    lines = [[f"`{agent}`", *(of_agent.get(rate, "") for rate in rates)] for agent, of_agent in scores.items()]
    return markdown(["agent", *(f"{rate:g}" for rate in rates)], lines)


def strokes() -> str:
    """Agents that learn to draw: what a reader of the originals reads."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read("strokes"):
        if "error" not in row and "minutes" not in row and row["seed"] != TUNING_SEED and row["steps"] == STEPS:
            groups[row["agent"]].append(row)
    lines = [
        [
            f"`{agent}`", f"{of[0]['learning_rate']:g}", str(len(of)), f"{of[0]['renders']:,}",
            interval([row["seconds"] for row in of], 0), interval([100.0 * row["read_drawings"] for row in of]),
            interval([row["test"]["beta_elbo"] for row in of]), interval([row["test"]["psnr_greedy"] for row in of]),
        ]
        for agent, of in groups.items()
    ]  # fmt: skip
    header = ["agent", "learning rate", "seeds", "renders", "seconds", "drawings read (%)", "test β-ELBO (nats)"]
    return markdown([*header, "PSNR of greedy drawings (dB)"], lines)


WORDS = {"probability": "verdict", "right": "verdict of 0 or 1", "surrogate": "a network that imitates the verdict"}


def by_method() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Returns the rows of codes that are trained to be understood, by size and method, in the script's order."""
    rows = read("verdicts")
    keys = [(size, method) for size in SIZES for method in METHODS]
    found = {key: [row for row in rows if (row["size"], row["method"]) == key] for key in keys}
    return {key: of for key, of in found.items() if of}


def understood() -> str:
    """Returns the share of decoded test clips that the unseen judge reads right, by method and size."""
    groups = by_method()
    sizes = [size for size in SIZES if any(key[0] == size for key in groups)]

    def share(size: str, method: str) -> str:
        of = groups.get((size, method), [])
        return interval([100.0 * row["test"]["judge"] for row in of]) if of else ""

    lines = []
    for method in METHODS:
        agent, _, reward = method.partition(" ")
        if any(key[1] == method for key in groups):
            name = f"`{agent}`, likelihood and {WORDS[reward]}" if reward else f"`{agent}`, likelihood alone"
            lines.append([name, *(share(size, method) for size in sizes)])
    return markdown(["trained by", *sizes], lines)


def verdicts() -> str:
    """Returns all that was measured of codes that are trained to be understood."""
    lines = [
        [
            size, method, str(len(of)),
            *(interval([100.0 * row["test"][name] for row in of]) for name in ("judge", "logistic", "verdict")),
            interval([100.0 * row["real"]["judge"] for row in of]) if "real" in of[0] else "",
            interval([row["test"]["squared_error"] for row in of], 2),
            interval([row["test"]["mel_distance"] for row in of], 2) if "mel_distance" in of[0]["test"] else "",
            *(interval([row[name] or 0.0 for row in of], 0) for name in ("steps", "weight")),
        ]
        for (size, method), of in by_method().items()
    ]  # fmt: skip
    header = ["size", "method", "seeds", "judge (%)", "logistic regression (%)", "verdict (%)", "real, judge (%)"]
    return markdown([*header, "squared error", "mel distance (dB)", "steps", "weight (nats)"], lines)


def summary() -> str:
    """Returns the steps per second that people ask for: on two CPU cores, with kernels and without, and on a GPU."""
    cpu = {row["configuration"]: f"{row['steps_per_second']:.1f}" for row in read("speed")}  # the latest
    on_gpu: dict[tuple[str, str], dict[str, tuple[float, str]]] = defaultdict(dict)
    for row in read("gpu"):
        if row.get("cuda_graph") and "steps_per_second" in row:
            on_gpu[row["configuration"], row["agent"]][row["precision"]] = (
                row["steps_per_second"],
                row["gpu"].split()[1],
            )
    lines = []
    for title, cpu_name, gpu_key in (
        ("published MNIST, `daps`", "published mnist, daps", ("mnist", "daps")),
        ("published MNIST, `daps-na`", "published mnist, daps-na", ("mnist", "daps-na")),
        ("default, `daps`", "own, daps", ("default", "daps")),
        ("default, `daps-na`", "own, daps-na", ("default", "daps-na")),
        ("default, `gumbel-na`", "own, gumbel-na", ("default", "gumbel-na")),
        ("default, `fsq`", "own, fsq", ("default", "fsq")),
        ("published CIFAR-10, `daps`", "", ("cifar10", "daps")),
        ("published ImageNet-256, `daps`", "", ("imagenet256", "daps")),
    ):
        rates = on_gpu.get(gpu_key, {})
        shown = ", ".join(f"{rate:.3g} ({precision}, {name})" for precision, (rate, name) in rates.items())
        without, kernels = cpu.get(cpu_name, ""), cpu.get(f"{cpu_name}, CPU kernels", "")
        lines.append([title, kernels or without, without if kernels else "", shown])
    return markdown(["configuration", "two CPU cores", "with `--no-cpu-kernels`", "a GPU"], lines)


def search() -> str:
    """What searches add to the greedy codes: a line for each search and agent, means over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read("search"):
        groups[row["agent"], row["search"]].append(row)
    lines = [
        [
            f"`{agent}`", how, str(len(rows)), f"{rows[0]['evaluations']:,}",
            f"{statistics.median(row['milliseconds'] for row in rows):.1f}",
            *(interval([row[name] for row in rows]) for name in ("log_likelihood_greedy", "log_likelihood", "gain")),
            interval([row["psnr"] - row["psnr_greedy"] for row in rows], 2),
        ]
        for (agent, how), rows in groups.items()
    ]  # fmt: skip
    header = ["agent", "search", "seeds", "decoder evaluations", "ms", "greedy (nats)", "found (nats)", "gain (nats)"]
    return markdown([*header, "gain (dB)"], lines)


def generation() -> str:
    """What is drawn from codes: a line for each generator, means over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read("generation"):
        groups[row["data"], row["generator"]].append(row)
    lines = [
        [
            data, generator, str(len(rows)), f"{rows[0]['bits']:g}",
            interval([row["rate_test"] for row in rows]) if "rate_test" in rows[0] else "",
            interval([100.0 * row["label_accuracy"] for row in rows]),
            interval([row["frechet_distance"] for row in rows]),
        ]
        for (data, generator), rows in groups.items()
    ]  # fmt: skip
    header = ["data", "generator", "seeds", "bits", "−log2 p(z given y), test (bits)", "class read right (%)"]
    return markdown([*header, "Fréchet distance"], lines)


def tables() -> Tables:
    """Returns every generated table, by page and mark."""
    results = {
        "fashion_mnist": fashion_mnist(),
        "digits": digits(),
        "speed": speed(),
        "gpu": gpu(),
        "roofline": roofline(),
        "control": control(),
        "control_aggregates": aggregates.table(),
        "agents_tune": tuning("tune"),
        "agents_minutes": agents("minutes"),
        "agents_evaluations": at_equal_evaluations(),
        "agents_minutes_tables": agents("minutes_tables"),
        "agents_steps_tables": agents("steps_tables"),
        "agents_tune_tables": tuning("tune_tables"),
        "identity": identity(),
        "trials": trials(),
        "api_price": api_price(),
        "limits": limits.table(),
    }
    return {
        **comparison.REPORT.tables(),
        **problems.REPORT.tables(),
        **kinds.REPORT.tables(),
        **sweeps.tables(),
        REPORTS / "results.md": results,
        REPORTS / "performance.md": {"memory": memory(), "scaling": scaling()},
        REPORTS / "strokes.md": {"tuning": strokes_tuning()},
        DOCS / "codes.md": {
            "generation": generation(),
            "held": targets.held(),
            "beta_auto": targets.beta_auto(),
            "savings": rate_distortion.savings(),
        },
        REPORTS / "verdicts.md": {"verdicts": verdicts()},
        REPORTS / "codes.md": {
            "search": search(),
            **{f"rate_{data}": rate_distortion.table(data) for data in rate_distortion.measured()},
        },
        DOCS / "verdicts.md": {"understood": understood()},
        DOCS / "strokes.md": {"summary": strokes()},
        DOCS / "performance.md": {"summary": summary()},
        DOCS / "results.md": {"summary": agents("minutes", brief=True)},
    }


if __name__ == "__main__":
    put(tables())
