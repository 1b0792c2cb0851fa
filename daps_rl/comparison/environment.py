"""Where a run is made: code, versions, machine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchrl", "tensordict", "stable-baselines3", "gymnasium", "numpy", "scipy")


@functools.cache
def environment() -> dict[str, Any]:
    """Commit (None outside a git checkout of daps-rl), versions, and what the machine is."""
    import torch

    from daps_rl import __version__

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


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes at once; the person's own OMP_NUM_THREADS comes first."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdigit() and int(chosen) > 0 else max(cores() // jobs, 1)


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
