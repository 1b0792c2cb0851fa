"""A comparison's folder: its settings, an ordinary run folder for each run, one row for each that has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from daps_rl import __version__
from daps_rl.comparison.plan import Plan, PlannedRun, plan_from_json
from daps_rl.comparison.runner import cores
from daps_rl.config import config_from_dict
from daps_rl.files import to_json, write_atomically
from daps_rl.report import read_metrics
from daps_rl.runs.folder import RunFolder

PACKAGES = ("torch", "torchrl", "tensordict", "stable-baselines3", "gymnasium", "numpy", "scipy")

Row = dict[str, Any]


class ComparisonFolder(RunFolder):
    """Paths and files of a comparison; `locked()` makes it, and holds it for one process."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.settings, self.rows = self.path / "comparison.json", self.path / "rows.jsonl"
        self.table = self.path / "comparison.md"

    def plan(self) -> Plan | None:
        """The settings that the comparison began with; None where it has not begun."""
        return plan_from_json(self.read_json(self.settings)) if self.settings.exists() else None

    def run(self, planned: PlannedRun) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / planned.name)

    def searched(self, planned: PlannedRun) -> dict[str, Any]:
        """What searches found with a run's model, by the search; empty where there was none."""
        run = self.run(planned)
        return run.read_json(run.searches) if run.searches.exists() else {}

    def prepare(self, planned: PlannedRun) -> RunFolder:
        """Makes the folder of one run with its settings, for `daps-rl train --resume` to begin or to go on with.

        Raises:
            ValueError: a run of other settings is there.
        """
        run = self.run(planned)
        if run.config.exists():
            held = config_from_dict(run.read_json(run.config))
            # Kernels, if nobody says it, are as the machine was that the run began on.
            if dataclasses.replace(held, cpu_kernels=planned.config.cpu_kernels) != planned.config:
                raise ValueError(f"{run.path} holds a run of other settings; restore it, or choose another --out.")
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            run.write_json(run.config, dataclasses.asdict(planned.config))
        return run

    def read_rows(self) -> dict[tuple[str, int], Row]:
        """The rows by label and seed."""
        return {(row["label"], row["seed"]): row for row in read_metrics(self.rows)} if self.rows.exists() else {}

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Writes all rows, one line each."""
        write_atomically(self.rows, "".join(f"{to_json(row)}\n" for row in rows).encode())

    def row(self, plan: Plan, planned: PlannedRun, *, reason: str | None = None) -> Row:
        """What is known of a run that has ended, and failed where there is a reason: settings, machine and summary."""
        run, where = self.run(planned), environment()
        summary = run.read_json(run.summary) if reason is None else {}
        return {
            "label": planned.label,
            "agent": planned.config.agent,
            "seed": planned.seed,
            "status": "finished" if reason is None else "failed",
            "reason": reason,
            "config": run.read_json(run.config),
            "command": shlex.join(plan.command(planned)),
            "bits": planned.config.bits,
            **where,
            **summary,
            "versions": {**where["versions"], **summary.get("versions", {})},
        }


@functools.cache
def environment() -> dict[str, Any]:
    """Commit (None outside a git checkout of daps-rl), versions, and what the machine is."""
    versions = {"python": platform.python_version(), "daps-rl": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a nightly has another name
            versions[package] = importlib.metadata.version(package)
    host = {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"commit": _commit(), "versions": versions, "host": host}


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with "-dirty" where files have changed since."""
    package = Path(__file__).parent.parent
    try:
        tracked = ["git", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(tracked, check=True, capture_output=True)
        describe = ["git", "-C", str(package), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    """The first processor's name, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
