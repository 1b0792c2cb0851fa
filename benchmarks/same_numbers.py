"""Whether every path still computes the same numbers: the weights after 20 steps, recorded before a change of the code.

    python benchmarks/same_numbers.py --record [FILE]   # before: benchmarks/rows/same_numbers.jsonl
    python benchmarks/same_numbers.py --check [FILE]    # after; exit 1 if one differs and `EXPECTED` does not say why
    python benchmarks/same_numbers.py --check --only "torchrl/*"

One thread, fixed seeds, a minute or two. Bits are promised on one machine with one set of versions; elsewhere the
size of a difference tells rounding from a change of meaning. The paths are in same_numbers_paths.py.

FILE has what was recorded where, then a row for each path: `sha256` over the bytes of all weights, their `norm`, and
eight `projections`. All three leave out what a weight is called and where it stands, so that a module can be renamed.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import logging
import math
import random
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROWS, environment
from same_numbers_paths import PATHS, Trained, Unavailable
from torch import Tensor, nn

EXPECTED: dict[str, tuple[str, ...]] = {
    "linear layers and kernels multiply by other routines on AMD's processors: rounding": (
        "train/daps-na",
        "train/rloo",
        "train/ppo",
        "train/a2c",
        "train/reinforce",
        "train/reinforce-no-critic",
        "train/vq",
        "train/vq-rotation",
        "train/fsq",
        "train/gaussian",
        "train/daps, policy_samples=0",
        "train/daps, 2 epochs, not centered",
        "train/daps, not centered",
        "train/rloo, policy_samples=3",
        "train/ppo, factorized",
        "train/problem reverse8",
        "train/problem knapsack50",
        "train/problem add4, ppo",
        "train/config mnist, daps-na",
        "train/config mnist",
        "train/ppo, cpu_kernels",
        "train/daps, cpu_kernels, policy_samples=0, microbatch",
    ),
    "relaxations draw their noise by the logarithm of uniform numbers": (
        "train/gumbel",
        "train/gumbel-na",
        "train/gr-mck",
        "train/gr-mck-na",
        "train/reinmax",
        "train/reinmax-na",
    ),
    "round trips are written by glimpses, in groups over all starts": ("train/problem tsp20",),
    "SB3's AutoregressivePolicy begins uniform, reads a vector whole, and takes steps of its own under PPO": (
        "sb3/daps, 2 epochs, not centered",
        "sb3/daps, not centered",
        "sb3/ppo, autoregressive",
    ),
    "one rule chooses the codes that are scored, at first and later uses of a batch: max(|w - 1/K|, 1/2K)": (
        "train/daps",
        "train/daps-fixed",
        "train/sb3:daps",
        "train/daps, policy_samples=2",
        "train/daps, 2 epochs, policy_samples=3",
        "train/daps, kl",
        "train/daps, adaptive",
        "train/daps, pooling",
        "train/daps, pooling, 2 epochs",
        "train/daps, microbatch",
        "train/daps, decoder_samples=0",
        "train/daps, decoder_samples=0, microbatch",
        "train/daps, free token vectors, gaussian",
        "train/daps, resnet, clip by norm",
        "train/daps, strokes",
        "train/daps, bfloat16",
        "train/tpo, policy_samples=3, 2 epochs",
        "train/sb3:daps, 2 epochs",
        "train/daps, cpu_kernels",
        "sb3/daps, 2 epochs, minibatches, policy_samples",
        "sb3/daps, mlp, policy_samples",
        "sb3/daps, policy_samples",
        "torchrl/daps, reuse, 2 epochs, policy_samples",
        "torchrl/daps, sample_dim=2",
    ),
    "centred weights are the ratio to the policy that drew: rounding at first, another step once it has moved": (
        "train/daps, 2 epochs",
        "train/daps, microbatch, policy_samples=0, 2 epochs",
        "train/sb3:daps, policy_samples=0",
        "train/sb3:daps, 2 epochs, policy_samples=0",
        "sb3/daps, adaptive",
        "sb3/daps, 3 steps a rollout",
        "sb3/daps, 2 epochs, minibatches",
        "sb3/daps, mlp, 2 epochs",
        "sb3/daps, 2 epochs",
        "sb3/daps, minibatches",
        "sb3/daps, pooling",
        "sb3/daps, autoregressive",
        "sb3/daps, CartPole, kl, centered",
        "torchrl/daps, pooling",
        "torchrl/daps, reuse, 2 epochs",
        "torchrl/daps, centered",
        "torchrl/trainer, 2 epochs",
        "bottleneck/autoregressive, centered",
        "bottleneck/factorized, centered, kl",
    ),
    "temperature and pooling are those of the whole batch, not of a minibatch": (
        "torchrl/trainer, minibatches, pooling",
        "torchrl/trainer, minibatches, 2 epochs",
        "torchrl/trainer, minibatches",
    ),
    "rewards are shifted before they are standardised, so that equal ones give 0": (
        "train/tpo",
        "train/grpo",
    ),
    "the reward of SB3's own algorithms is put together once; beta log q was added and taken away again: rounding": (
        "train/sb3:ppo",
        "train/sb3:a2c",
        "train/problem reverse8, sb3:ppo",
    ),
}
"""Why the meaning of some paths was meant to change since the recording, and which."""

FILE = ROWS / "same_numbers.jsonl"
PACKAGES = ("numpy", "tensordict", "torchrl", "stable_baselines3", "gymnasium", "vector-quantize-pytorch")
MACHINE = ("python", "torch", "cpu", "instructions", "packages")  # entries that bits depend on
PROJECTIONS = 8
FREQUENCIES = tuple(math.sqrt(prime) for prime in (2, 3, 5, 7, 11, 13, 17, 19))


def where() -> dict[str, Any]:
    """Commit, versions, processor, threads."""
    return {**environment(), "instructions": torch.backends.cpu.get_cpu_capability(), "packages": versions()}


def versions() -> dict[str, str]:
    """Of the packages that take part; those that are missing are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def weights(trained: Trained) -> Iterator[Tensor]:
    """Each weight once: parameters, and what modules save in floating point beside theirs (a codebook, say)."""
    seen: set[int] = set()
    for part in trained:
        tensors = (part,) if isinstance(part, nn.Parameter) else part.state_dict(keep_vars=True).values()
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor.detach().cpu().contiguous()


def digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    header = f"{tensor.dtype} {list(tensor.shape)};".encode()
    return hashlib.sha256(header + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def projections(tensor: Tensor) -> list[float]:
    """Onto cosines of unit mean square: the rms of a difference's projections is about its norm. In float64."""
    flat = tensor.reshape(-1).double()
    at = torch.arange(len(flat), dtype=torch.float64)
    return [(math.sqrt(2.0) * (at * frequency + 1.0).cos() @ flat).item() for frequency in FREQUENCIES]


def summary(trained: Trained) -> dict[str, Any]:
    """What a row says of trained weights; the same whatever their names and their order."""
    tensors = list(weights(trained))
    columns = zip(*map(projections, tensors), strict=True)
    return {
        "sha256": hashlib.sha256("".join(sorted(map(digest, tensors))).encode()).hexdigest(),
        "tensors": len(tensors),
        "numbers": sum(tensor.numel() for tensor in tensors),
        "norm": math.sqrt(math.fsum(tensor.double().square().sum().item() for tensor in tensors)),
        "projections": [math.fsum(column) for column in columns],
    }


def follow(name: str) -> dict[str, Any]:
    """The row of one path; of one that fails, the error."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"name": name, **summary(PATHS[name]())}
    except Unavailable as reason:
        return {"name": name, "unavailable": str(reason)}
    except Exception as error:  # a row like any other
        return {"name": name, "error": f"{type(error).__name__}: {error}"}


def record(file: Path, names: list[str]) -> int:
    """Writes what was recorded where, then a row for each path. Returns the number that failed."""
    rows = []
    for name in names:
        start = time.perf_counter()
        rows.append(follow(name))
        outcome = rows[-1].get("error") or rows[-1].get("unavailable") or rows[-1]["sha256"][:12]
        print(f"{time.perf_counter() - start:5.1f} s  {name}: {outcome}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in (where(), *rows)))
    failed = sum("error" in row for row in rows)
    print(f"{len(rows)} paths recorded in {file}, {failed} failed")
    return failed


def verdict(old: dict[str, Any] | None, new: dict[str, Any] | None) -> tuple[bool, str]:
    """Whether a path is as it was recorded, and in words how it is."""
    if new is None:
        return False, "missing: recorded, and no longer a path"
    if "unavailable" in new:
        return True, f"left out: {new['unavailable']}"
    if "error" in new:
        return False, new["error"]
    if old is None or "sha256" not in old:
        return True, "new: nothing to compare with"
    if new["sha256"] == old["sha256"]:
        return True, "same bit for bit"
    sizes = [f"{new[size]} {size} instead of {old[size]}" for size in ("tensors", "numbers") if new[size] != old[size]]
    return False, "differs: " + (", ".join(sizes) or f"relative difference {difference(old, new):.1e}")


def difference(old: dict[str, Any], new: dict[str, Any]) -> float:
    """About ‖new − old‖ / ‖old‖, from the projections."""
    squares = [(a - b) ** 2 for a, b in zip(old["projections"], new["projections"], strict=True)]
    return math.sqrt(sum(squares) / PROJECTIONS) / old["norm"]


def expected(name: str) -> str | None:
    """Why a path was meant to change, if it was."""
    return next((reason for reason, names in EXPECTED.items() if name in names), None)


def check(file: Path, pattern: str) -> int:
    """Follows each path and prints how it compares. Returns the number that differ without a reason in `EXPECTED`."""
    then, *rows = map(json.loads, file.read_text().splitlines())
    now = where()
    for entry in MACHINE:
        if then[entry] != now[entry]:
            print(f"warning: recorded with {entry} {then[entry]}, checked with {now[entry]}; bits may differ")
    recorded = {row["name"]: row for row in rows}
    unexplained = 0
    for name in [name for name in dict.fromkeys([*recorded, *PATHS]) if fnmatch.fnmatchcase(name, pattern)]:
        same, words = verdict(recorded.get(name), follow(name) if name in PATHS else None)
        reason = None if same else expected(name)
        unexplained += not same and reason is None
        print(f"{name}: {words}" + (f" (meant: {reason})" if reason else ""), flush=True)
    print(f"recorded at {then['commit']}, checked at {now['commit']}: {unexplained} differ without a reason")
    return unexplained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--record", metavar="FILE", type=Path, nargs="?", const=FILE, help="write the numbers")
    action.add_argument("--check", metavar="FILE", type=Path, nargs="?", const=FILE, help="compare with those of FILE")
    parser.add_argument("--only", metavar="PATTERN", default="*", help='paths whose name matches, such as "sb3/*"')
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    if options.record is not None:
        failed = record(options.record, [name for name in PATHS if fnmatch.fnmatchcase(name, options.only)])
    else:
        failed = check(options.check, options.only)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
