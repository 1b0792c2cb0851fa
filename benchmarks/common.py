"""What every benchmark records: command, commit, versions, hardware; rows as JSON lines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROWS = Path(__file__).parent / "rows"


def environment() -> dict[str, Any]:
    """Where a row was measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "command": " ".join(["python", *sys.argv]),
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


def write_row(name: str, row: dict[str, Any]) -> None:
    """Adds a row to benchmarks/rows/NAME.jsonl and prints it."""
    ROWS.mkdir(exist_ok=True)
    with open(ROWS / f"{name}.jsonl", "a") as file:
        file.write(json.dumps({**row, **environment()}) + "\n")
    print(json.dumps(row), flush=True)


def area(at: np.ndarray, values: np.ndarray) -> float:
    """The mean of a curve from its first validation to its last, by the trapezoidal rule."""
    return float(np.trapezoid(values, at) / (at[-1] - at[0]))
