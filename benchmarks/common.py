"""What the benchmarks share: rows as JSON lines, with where they were measured; runs side by side; tables in pages."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daps_rl.comparison import table
from daps_rl.comparison.curves import points
from daps_rl.comparison.runner import run_commands
from daps_rl.report import read_metrics

ROWS = Path(__file__).parent / "rows"
DOCS = Path(__file__).parent.parent / "docs"
REPORTS, IMAGES = DOCS / "reports", DOCS / "images"

Row = dict[str, Any]
Tables = dict[Path, dict[str, str]]
"""Generated text by page and mark."""


def environment() -> dict[str, Any]:
    """Where a row was measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": os.environ.get("DAPS_RL_COMMIT") or _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    """The checkout's; on a machine with a copy of the files alone, DAPS_RL_COMMIT says it."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except FileNotFoundError:
        return ""
    return run.stdout.strip()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def read_rows(name: str) -> list[Row]:
    """Returns the rows of benchmarks/rows/NAME.jsonl; none where there is no such file."""
    path = ROWS / f"{name}.jsonl"
    return read_metrics(path) if path.exists() else []


def read_runs(name: str) -> list[Row]:
    """Returns the finished runs of a comparison's rows, without the plan that is their first line."""
    return [row for row in read_rows(name) if row.get("status") == "finished"]


def write_row(name: str, row: Row) -> None:
    """Adds a row to benchmarks/rows/NAME.jsonl and prints it."""
    ROWS.mkdir(exist_ok=True)
    with open(ROWS / f"{name}.jsonl", "a") as file:
        file.write(json.dumps({**row, **environment()}) + "\n")
    print(json.dumps(row), flush=True)


def add_pool_options(parser: argparse.ArgumentParser) -> None:
    """Adds --workers, and the hidden --one by which `run_tasks` gives a child its task."""
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)


def run_tasks(tasks: Iterable[Any], workers: int, *arguments: str) -> None:
    """Runs this script with `--one TASK` for each task, in processes side by side; a child writes its own row."""
    script = str(Path(sys.argv[0]).resolve())
    commands = {text: [sys.executable, script, *arguments, "--one", text] for text in map(json.dumps, tasks)}

    def ended(text: str, code: int, stderr: str) -> None:
        if code:
            print(f"{text} ended with exit code {code}\n{stderr}", file=sys.stderr, flush=True)

    run_commands(commands, jobs=workers, threads=1, stdout=None, on_end=ended)


def interval(values: Sequence[float], digits: int = 1, fewest: int = 2) -> str:
    """Returns the mean, and half the width of its 95 % t-interval where there are enough seeds."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < fewest:
        return f"{mean:.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table with aligned columns."""
    return "\n".join(table.markdown([header, *lines]))


def put(tables: Tables) -> None:
    """Writes each text between its marks, `<!-- NAME -->` and `<!-- /NAME -->`, on its page."""
    for page, of_page in tables.items():
        page.write_text(with_tables(page.read_text(), of_page))


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Returns the text of a page with each table between its marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    for name, body in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, opened, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"the page needs the marks {start} and {end}.")
        page = f"{before}{start}\n{body}\n{end}{after}"
    return page


def evaluations_to(enough: float, curve: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the evaluations of the first validation from which the greedy reward is enough, and stays so."""
    _, at, values = points(curve, "decoder_evaluations", "reward_greedy")
    short = np.flatnonzero(values < enough)
    first = short[-1] + 1 if len(short) else 0
    return float(at[first]) if first < len(at) else None


def area(at: np.ndarray, values: np.ndarray) -> float:
    """Returns the mean of a curve from its first validation to its last, by the trapezoidal rule."""
    return float(np.trapezoid(values, at) / (at[-1] - at[0]))
