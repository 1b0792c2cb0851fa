"""The device that a run works on, and its memory."""

from __future__ import annotations

import os
import platform
import resource

import torch


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device cuda was asked for, and PyTorch sees no GPU here; use --device auto or cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def memory_size() -> int:
    """Returns the memory of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def crowded() -> str:
    """Returns a line of advice where other processes keep the cores busy that this one's threads count on, else "".

    Threads that share the work of a small step wait for the slowest of them, which may be waiting for a core.
    """
    cores, load = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, os.getloadavg()[0]
    if "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() < 2 or load < 0.75 * cores:
        return ""
    return (
        f"other processes keep {load:.1f} of {cores} cores busy, and threads that wait for one another may be many "
        "times slower than one: set OMP_NUM_THREADS=1, or wait for the others"
    )


def peak_memory(device: torch.device) -> int:
    """Returns the most memory that this process has held at once, in bytes: on a GPU of its tensors, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # of this program alone: what getrusage tells begins with the program that started it
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if platform.system() == "Darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
