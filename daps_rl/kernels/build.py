"""Compiles the kernels on the machine that uses them, once, and loads them."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("code_transformer.cpp")  # and the headers beside it
# Sums may be reordered; what is not a number stays what it is.
FLAGS = ["-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]
FLAGS += ["-fassociative-math", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]


class KernelsUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here."""


@functools.cache
def load() -> Path:
    """Makes `torch.ops.daps_rl` available; returns the library's path.

    The first call on a machine compiles it, in about 20 seconds, to `$XDG_CACHE_HOME/daps-rl` (`~/.cache/daps-rl`).
    It is compiled anew for another processor, compiler or PyTorch.

    Raises:
        KernelsUnavailable: there is no C++ compiler, or it, or the linker, fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelsUnavailable("there is no C++ compiler; install g++ or clang++, or name one in CXX.")
    library = _cache_folder() / f"code_transformer-{_key(compiler)}.so"
    if not library.exists():
        print(f"daps-rl: compiling CPU kernels, once, to {library}", file=sys.stderr)
        _compile(compiler, library)
    try:
        torch.ops.load_library(library)
    except OSError as error:  # a PyTorch without a BLAS that can be called, say
        raise KernelsUnavailable(f"{library} cannot be loaded ({error.__cause__ or error}).") from error
    return library


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daps-rl"


def _key(compiler: str) -> str:
    """Of all that the library depends on; the compiler's macros tell its version and what -march=native means here."""
    macros = _run([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    sources = "".join(path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))))
    parts = (sources, torch.__version__, " ".join(FLAGS), macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, library: Path) -> None:
    """To a file of its own first, so that processes that do so together, or are killed, leave no half of one."""
    include, libraries = (Path(torch.__file__).parent / folder for folder in ("include", "lib"))
    options = [*FLAGS, f"-I{include}", f"-I{include}/torch/csrc/api/include"]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _run([compiler, *options, str(SOURCE), "-o", str(made), f"-L{libraries}", "-ltorch_cpu", "-lc10"])
            made.replace(library)
    except OSError as error:
        raise KernelsUnavailable(f"{library.parent} cannot be written ({error}); set XDG_CACHE_HOME.") from error


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise KernelsUnavailable(f"{command[0]} cannot be run ({error}); install g++ or clang++.") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or [""]
        raise KernelsUnavailable(f"{command[0]} failed: {lines[0].strip()[:300]}") from error
