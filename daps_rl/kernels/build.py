"""Compiles the kernels on the machine that uses them, once, and loads them."""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from daps_rl.linear import onednn_pays

SOURCE = Path(__file__).with_name("code_transformer.cpp")  # and the headers beside it
# Sums may be reordered; what is not a number stays what it is.
FLAGS = ["-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]
FLAGS += ["-fassociative-math", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]


class KernelsUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded here."""


def find_compiler() -> list[str]:
    """Returns the command that compiles C++ here, which CXX may name; empty where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    return named or [path for path in (shutil.which("g++") or shutil.which("clang++"),) if path]


@functools.cache
def load() -> Path:
    """Makes `torch.ops.daps_rl` available; returns the library's path.

    The first call on a machine compiles it, in about 20 seconds, to `$XDG_CACHE_HOME/daps-rl` (`~/.cache/daps-rl`).
    It is compiled anew for another processor, compiler or PyTorch.

    Raises:
        KernelsUnavailable: there is no C++ compiler, or it, or the linker, fails.
    """
    compiler = find_compiler()
    if not compiler:
        raise KernelsUnavailable("there is no C++ compiler; install g++ or clang++, or name one in CXX.")
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daps-rl"
        library = cache / f"code_transformer-{_key(compiler)}.so"
        if library.exists():
            try:
                torch.ops.load_library(library)
                return library
            except OSError:  # damaged, perhaps
                library.unlink()
        print(f"daps-rl: compiling CPU kernels, once, to {library}", file=sys.stderr)
        _compile(compiler, library)
    except KernelsUnavailable:
        raise
    except (OSError, RuntimeError) as error:  # no home, or none that can be written
        raise KernelsUnavailable(f"they cannot be kept ({error}); set XDG_CACHE_HOME.") from error
    try:
        torch.ops.load_library(library)
    except OSError as error:  # a PyTorch without a BLAS that can be called, say
        raise KernelsUnavailable(f"{library} cannot be loaded ({error.__cause__ or error}).") from error
    return library


def _options() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"  # PyTorch's
    own_products = ["-DDAPS_AVX512"] if onednn_pays() else []
    return [*FLAGS, *own_products, abi, f"-I{include}", f"-I{include}/torch/csrc/api/include"]


def _key(compiler: list[str]) -> str:
    """Of all that the library depends on; the compiler's macros tell its version and what -march=native means here."""
    macros = _run([*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    sources = "".join(path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))))
    parts = (sources, torch.__version__, *_options(), macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: list[str], library: Path) -> None:
    """To a file of its own first, so that processes that do so together, or are killed, leave no half of one."""
    link = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        _run([*compiler, *_options(), str(SOURCE), "-o", str(made), *link])
        made.replace(library)


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise KernelsUnavailable(f"{command[0]} cannot be run ({error}); install g++ or clang++.") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or [""]
        raise KernelsUnavailable(f"{command[0]} failed: {lines[0].strip()[:300]}") from error
