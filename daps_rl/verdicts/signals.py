"""Measures of pictures, sequences and sound as verdicts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.pixels import has_ssim, ssim


class SSIM:
    """Structural similarity of pictures [M, C, H, W], at most 1; see `daps_rl.data.pixels.ssim`.

    Args:
        value_range: smallest and largest possible value.
    """

    on_device = True

    def __init__(self, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        self.value_range = value_range

    def __call__(self, truth: Tensor, decoded: Tensor) -> Tensor:
        """[M], of pictures [M, C, H, W] and what is decoded; ValueError for other data."""
        if not has_ssim(truth):
            raise ValueError(f"ssim needs pictures of 8 pixels and more, got data of shape {list(truth.shape[1:])}.")
        return ssim(decoded, truth, self.value_range)


def edit_distance(truth: Tensor, decoded: Tensor) -> Tensor:
    """Minus the Levenshtein distance of sequences of whole numbers, per symbol: −1 … 0, 0 for the same. [M].

    Sequences are [M, L], or [M, L, 1] as windows of text are.

    A row of the table takes its insertions from a running minimum: row_j = min_{i ≤ j} (c_i − i) + j, where c_i is the
    cost with a substitution or a deletion last.
    """
    truth, decoded = (part.squeeze(-1) if part.ndim == 3 else part for part in (truth, decoded))
    if truth.ndim != 2 or (truth != truth.round()).any():
        raise ValueError(f"edit-distance needs sequences of whole numbers [M, L], got shape {list(truth.shape)}.")
    decoded, length = decoded.round(), truth.shape[1]
    place = torch.arange(length + 1, device=truth.device)
    row = place.expand(len(truth), -1)
    for i in range(length):
        substituted = row[:, :-1] + (truth[:, i : i + 1] != decoded)
        cost = torch.cat((row[:, :1] + 1, torch.minimum(row[:, 1:] + 1, substituted)), dim=1)
        row = (cost - place).cummin(dim=1).values + place
    return -row[:, -1].float() / length


class Stoi:
    """Short-time objective intelligibility of speech, about 0 … 1 (Taal et al., 2011), by the package pystoi.

    0 where less than 0.4 s of the true sound is loud enough to be compared.

    Args:
        to_waveform: data [M, *x] → waveforms [M, samples].
        sample_rate: of the waveforms, in Hz.
        extended: the measure of Jensen and Taal (2016), for noise that comes and goes.
    Raises:
        ImportError: pystoi is not installed.
    """

    def __init__(self, to_waveform: Callable[[Tensor], Any], sample_rate: int, *, extended: bool = False) -> None:
        try:
            from pystoi import stoi
        except ModuleNotFoundError as error:
            raise ImportError("Stoi needs pystoi; install it with pip install 'daps-rl[audio]'.") from error
        self.measure, self.to_waveform, self.sample_rate, self.extended = stoi, to_waveform, sample_rate, extended

    def __call__(self, truth: Tensor, decoded: Tensor) -> list[float]:
        """[M], of data [M, *x] and what is decoded."""
        once, place = truth.unique_consecutive(dim=0, return_inverse=True)  # a datum stands there for each of its codes
        pairs = zip(
            np.asarray(self.to_waveform(once))[place.numpy()], np.asarray(self.to_waveform(decoded)), strict=True
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Not enough STFT frames")
            return [float(self.measure(clean, heard, self.sample_rate, self.extended)) for clean, heard in pairs]
