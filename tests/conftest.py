"""What many tests share: seeds, small data, small decoders, small settings. Problems to learn are in problems.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Distribution, Independent

from daps_rl.data import Splits, from_arrays, load
from daps_rl.decoders import MLPDecoder

SIZES = {
    "num_tokens": 3, "vocab_size": 4, "embed_dim": 8, "num_heads": 2, "decoder_hidden": (8,), "decoder_embed_dim": 4,
    "batch_size": 7, "samples": 5, "validate_every": 0, "log_every": 1, "likelihood": "fixed_gaussian",
}  # fmt: skip
"""Settings of a run on `splits` whose step takes milliseconds."""

TINY = [
    "--batch-size", "8", "--samples", "4", "--ess-fraction", "0.5", "--num-tokens", "3", "--vocab-size", "4",
    "--embed-dim", "8", "--num-heads", "2", "--decoder-hidden", "8", "--decoder-embed-dim", "4",
    "--validate-every", "4", "--log-every", "2", "--likelihood", "fixed_gaussian",
]  # fmt: skip
"""Flags of a run on `data` whose step takes milliseconds."""


@pytest.fixture(autouse=True)
def torch_seed() -> None:
    """Every test draws from the same seed, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def splits() -> Splits:
    return from_arrays(torch.rand(50, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load("digits")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty pictures of noise, [60, 1, 8, 8], as an .npy file."""
    path = tmp_path / "data.npy"
    np.save(path, np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, kept instead of written, to look at their parts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found: list[Any] = []
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda canvas, _: found.append(canvas.figure))
    monkeypatch.setattr("daps_rl.report.figures.write_atomically", lambda path, content: None)
    return found


@pytest.fixture(scope="session")
def needs_compiler() -> None:
    """The first test compiles; where there is no compiler there is nothing to test."""
    from daps_rl.kernels import load as load_kernels

    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    load_kernels()


def binary_data(count: int, *shape: int) -> torch.Tensor:
    """Returns zeros and ones, float32 [count, *shape]."""
    return (torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def small_decoder(num_tokens: int, vocab_size: int, shape: tuple[int, ...], kind: type = MLPDecoder) -> MLPDecoder:
    """Returns the same decoder every time, and leaves torch's generator alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(num_tokens, vocab_size, shape, embed_dim=4, hidden=(8,))


class CountingDecoder(MLPDecoder):
    """Counts its calls."""

    calls = 0

    def forward(self, codes: torch.Tensor) -> Distribution:
        self.calls += 1
        return super().forward(codes)


def skewed_prior(num_tokens: int, vocab_size: int) -> Distribution:
    """Returns a prior over codes that is not uniform."""
    return Independent(Categorical(logits=torch.arange(num_tokens * vocab_size).float().view(num_tokens, -1) / 3), 1)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]
