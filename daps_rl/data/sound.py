"""Sounds as log-mel frames: folders of WAV or FLAC files, spectrograms to look at, WAVs to listen to."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import re
import wave as wave_module
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.kind import Kind, Measure
from daps_rl.files import write_atomically
from daps_rl.report.figures import INK, WIDTH, new_figure, save

SUFFIXES = (".wav", ".flac")
FRAME_SECONDS = 0.025  # from one frame to the next; a frame's window is twice as long
DYNAMIC_RANGE = 60.0  # dB below the loudest entry of the training data, where silence begins
QUIET = 40.0  # dB below a clip's loudest 10 ms: the silence that `trim` cuts off at both ends
LOUDNESS = 0.1  # root mean square of a trimmed clip, of 1
SAMPLE_FILES = 200  # whose lengths and rates stand for all
MEMORY = 500_000_000  # bytes of features, at most
AT_ONCE = 500  # clips
SHOWN, HEARD = 8, 4  # clips of a picture, and of the WAVs beside it
INVERSION_STEPS = 30
PHASE_STEPS = 32  # of Griffin-Lim


@dataclass(frozen=True, kw_only=True)
class Sound(Kind):
    """Sounds of one length as standardised log-mel frames [frames, bands]: (dB - mean) / deviation.

    Args:
        sample_rate: in Hz; other rates are resampled.
        hop: samples from one frame to the next.
        frames, bands: of a datum.
        mean, deviation: of the training data, in dB.
        floor: what is quieter counts as this, in dB.
        trim: whether silence is cut off at both ends of what is read, and its loudness made the same for all.
    """

    measures: ClassVar[dict[str, Measure]] = {"mel_distance": Measure("mel distance", "dB", ".2f", -1)}
    recognised: ClassVar[bool] = True
    sample_rate: int
    hop: int
    frames: int
    bands: int
    mean: float = 0.0
    deviation: float = 1.0
    floor: float = -100.0
    trim: bool = False

    @classmethod
    def fitted(cls, waves: Tensor, sample_rate: int, *, trim: bool = False) -> Sound:
        """Returns the kind of clips of one length, [N, samples], with moments of their own."""
        hop = round(FRAME_SECONDS * sample_rate)
        bands = 24 if sample_rate <= 8000 else 40
        raw = cls(sample_rate=sample_rate, hop=hop, frames=waves.shape[1] // hop, bands=bands, trim=trim)
        decibels = raw.from_waveform(waves)
        floor = round(float(decibels.max()) - DYNAMIC_RANGE, 3)
        decibels = decibels.clamp(min=floor).double()
        mean, deviation = round(float(decibels.mean()), 3), round(float(decibels.std()), 3)
        return dataclasses.replace(raw, mean=mean, deviation=deviation or 1.0, floor=floor)

    @property
    def samples(self) -> int:
        """Length of a clip."""
        return self.frames * self.hop

    def from_waveform(self, waves: Tensor) -> Tensor:
        """Returns clips [N, samples], in [-1, 1], as data. [N, frames, bands]."""
        size, pad = self._window, self._window - self.hop
        filters = mel_filters(self.sample_rate, size, self.bands).T
        parts = []
        for part in waves.double().split(AT_ONCE):
            part = torch.nn.functional.pad(part, (pad // 2, pad - pad // 2))
            window = torch.hann_window(size, dtype=part.dtype)
            spectrum = torch.stft(part, size, self.hop, window=window, center=False, return_complex=True)
            power = spectrum.abs().square().mT @ filters  # [N, frames, bands]
            parts.append((10.0 * power.clamp(min=1e-10).log10()).clamp(min=self.floor))
        return ((torch.cat(parts) - self.mean) / self.deviation).float()

    def to_waveform(self, data: Tensor) -> Tensor:
        """Returns clips that sound as the data say, by Griffin and Lim's algorithm. [N, frames, bands] → [N, samples].

        Raises:
            ImportError: librosa is not installed.
        """
        librosa = _need("librosa", "to make sounds of data")
        decibels = (data.detach().cpu().double() * self.deviation + self.mean).clamp(self.floor, self.floor + 80.0)
        hop = max(1, self.hop // 4)  # phases need frames that overlap more than ours
        places = np.arange(1 + self.samples // hop) * hop / self.hop - 0.5
        filters = mel_filters(self.sample_rate, self._window, self.bands).numpy()
        waves = []
        for clip in decibels.numpy():
            fine = np.stack([np.interp(places, np.arange(self.frames), band) for band in clip.T])
            magnitude = np.sqrt(_spread_bands(10.0 ** (fine / 10.0), filters))
            waves.append(
                librosa.griffinlim(
                    magnitude,
                    n_iter=PHASE_STEPS,
                    hop_length=hop,
                    n_fft=self._window,
                    length=self.samples,
                    random_state=0,
                )
            )
        return torch.from_numpy(np.stack(waves)).float().clamp(-1.0, 1.0)

    @property
    def _window(self) -> int:
        return 2 * self.hop

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"mel_distance": (decoded - x).abs().flatten(1).mean(1) * self.deviation}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        plot_spectrograms(path, rows, self, title)
        if importlib.util.find_spec("librosa") is None:
            return [path]
        folder = path.parent / "sounds"
        folder.mkdir(parents=True, exist_ok=True)
        written = [path]
        for label, data in rows.items():
            word = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
            for number, wave in enumerate(self.to_waveform(data[:HEARD]), 1):
                written.append(folder / f"{number:02}-{word}.wav")
                write_wave(written[-1], wave, self.sample_rate)
        return written


def mel_filters(sample_rate: int, size: int, bands: int) -> Tensor:
    """Returns triangles of height 1, evenly spaced on the mel scale from 60 Hz to half the rate. [bands, bins]."""
    frequencies = np.linspace(0.0, sample_rate / 2, size // 2 + 1)
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (60.0, sample_rate / 2))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, bands + 2) / 2595.0) - 1.0)
    left, middle, right = (edges[i : i + bands, None] for i in range(3))
    rise, fall = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0.0, None))


def _spread_bands(power: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Returns a spectrum >= 0 whose bands hold the given power: Richardson and Lucy's iteration. [bands, t] → [bins, t]."""
    total = np.maximum(filters.sum(0), 1e-3)[:, None]
    spectrum = filters.T @ (power / filters.sum(1)[:, None]) / total
    for _ in range(INVERSION_STEPS):
        spectrum = spectrum * (filters.T @ (power / np.maximum(filters @ spectrum, 1e-12))) / total
    return spectrum


def resample(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Returns a sound at another rate. [samples]."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, to)
    return wave if rate == to else resample_poly(wave, to // common, rate // common)


def trimmed(wave: np.ndarray, rate: int) -> np.ndarray:
    """Returns a sound without the silence at both ends, of one loudness; silence as it is. [samples] → [fewer]."""
    step = max(1, rate // 100)
    blocks = wave[: len(wave) // step * step].reshape(-1, step)
    power = np.square(blocks, dtype=np.float64).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10.0 ** (-QUIET / 10.0))
    if not len(loud):
        return wave
    wave = wave[loud[0] * step : (loud[-1] + 1) * step]
    return wave * (LOUDNESS / math.sqrt(float(np.square(wave, dtype=np.float64).mean())))


def fit_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """Returns a sound cut at the end, or padded there with silence, to a length. [samples]."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _need(name: str, what: str) -> Any:
    """The module of an optional package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} must be installed {what}: pip install 'daps-rl[audio]'") from error


def write_wave(path: Path, wave: Tensor, sample_rate: int) -> None:
    """Writes a sound of one channel, 16 bits, whole or not at all. [samples], in [-1, 1]."""
    content = io.BytesIO()
    with wave_module.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((wave.clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16).numpy().tobytes())
    write_atomically(path, content.getvalue())


def plot_spectrograms(path: Path, rows: Mapping[str, Tensor], kind: Sound, title: str | None) -> None:
    """Draws clips side by side, the first row above what becomes of them: time to the right, mel bands upwards."""
    shown = min(SHOWN, len(next(iter(rows.values()))))
    figure = new_figure(WIDTH, 90 + 150 * len(rows), title)
    panels = figure.subplots(len(rows), shown, sharex=True, sharey=True, squeeze=False)
    seconds = kind.samples / kind.sample_rate
    low = (kind.floor - kind.mean) / kind.deviation
    for line, (label, data) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(label, fontsize=9, color=INK)
        for axes, clip in zip(line, data[:shown].cpu(), strict=True):
            decibels = (clip.T - low) * kind.deviation
            axes.imshow(
                decibels, origin="lower", aspect="auto", cmap="magma", vmin=0.0, vmax=DYNAMIC_RANGE, interpolation="nearest",
                extent=(0.0, seconds, 0.0, kind.bands),
            )  # fmt: skip
            axes.set_yticks([])
            axes.tick_params(labelsize=8, colors=INK, length=3)
    save(figure, path)
