"""Sounds as waves: read and written, resampled, trimmed; their mel bands, and waves of bands again."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import wave as wave_file
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import one_line
from daps_rl.data.plain import open_plain
from daps_rl.files import write_atomically

SUFFIXES, FORM = (".wav", ".flac"), "a readable WAV or FLAC file"
LOWEST_RATE, HIGHEST_RATE = 1000, 400_000  # Hz, of a file
LOWEST = 60.0  # Hz: where the mel bands begin
QUIET = 40.0  # dB below the loudest 10 ms: silence, where a sound is trimmed
LOUDNESS = 0.1  # root mean square of a trimmed sound
INVERSION_STEPS = 30
PHASE_STEPS, MOMENTUM = 32, 0.99
TINY = 1e-12


def read_wave(path: Path, sample_rate: int, seconds: float | None = None) -> np.ndarray:
    """Returns the sound of a WAV or FLAC file, its channels averaged, at a rate; at most so many seconds. [samples].

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no such file, is damaged, or holds no samples, or samples that are not finite.
        ImportError: soundfile is not installed.
    """
    with _opened(path) as sound:
        rate = sound.samplerate
        samples = sound.read(-1 if seconds is None else math.ceil(seconds * rate), dtype="float32", always_2d=True)
        if not len(samples) or not np.isfinite(samples).all():
            raise ValueError("no samples, or some that are no numbers")
        return resample(samples.mean(1), rate, sample_rate)


def rate_and_length(path: Path) -> tuple[int, float]:
    """Returns the rate of a WAV or FLAC file, in Hz, and its length, in seconds; raises what `read_wave` does."""
    with _opened(path) as sound:
        return sound.samplerate, sound.frames / sound.samplerate


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Gives a sound file of the soundfile library."""
    soundfile = _soundfile()
    with open_plain(path, FORM) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:  # of a damaged file: it would take all memory
                    raise ValueError(f"a rate of {sound.samplerate} Hz")
                yield sound
        except soundfile.LibsndfileError as error:
            raise ValueError(error.error_string) from error


def _soundfile() -> Any:
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: without the library that it stands on
        raise ImportError(
            f"WAV and FLAC files need the soundfile package: pip install 'daps-rl[audio]' ({one_line(error)})"
        ) from error


def write_wave(path: Path, wave: Tensor, sample_rate: int) -> None:
    """Writes a WAV of one channel and 16 bits, whole or not at all. [samples], in [-1, 1]."""
    content = io.BytesIO()
    with wave_file.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((wave.clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16).numpy().tobytes())
    write_atomically(path, content.getvalue())


def resample(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Returns a sound at another rate. [samples]."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, to)
    return wave if rate == to else resample_poly(wave, to // common, rate // common)


def trimmed(wave: np.ndarray, rate: int) -> np.ndarray:
    """Returns a sound without the silence at its ends, of root mean square `LOUDNESS`; silence alone as it is."""
    step = max(1, rate // 100)
    power = np.square(wave[: len(wave) // step * step].reshape(-1, step), dtype=np.float64).mean(1)
    loud = np.flatnonzero(power > max(power.max(initial=0.0) * 10.0 ** (-QUIET / 10.0), TINY))
    if not len(loud):
        return wave
    wave = wave[loud[0] * step : (loud[-1] + 1) * step]
    return wave * (LOUDNESS / math.sqrt(np.square(wave, dtype=np.float64).mean()))


def fit_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """Returns a sound cut at its end, or padded there with silence, to a length. [samples]."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def mel_filters(sample_rate: int, size: int, bands: int) -> Tensor:
    """Returns triangles of height 1, evenly spaced on the mel scale up to half the rate. [bands, size // 2 + 1]."""
    frequencies = np.linspace(0.0, sample_rate / 2, size // 2 + 1)
    low, high = (2595.0 * math.log10(1.0 + frequency / 700.0) for frequency in (LOWEST, sample_rate / 2))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, bands + 2) / 2595.0) - 1.0)
    left, middle, right = (edges[first : first + bands, None] for first in range(3))
    rise, fall = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0.0, None))


def mel_power(waves: Tensor, hop: int, size: int, filters: Tensor) -> Tensor:
    """Returns the power of mel bands in windows around the middles of hops. [N, samples] → [N, frames, bands]."""
    pad = size - hop
    waves = torch.nn.functional.pad(waves, (pad // 2, pad - pad // 2))
    window = torch.hann_window(size, dtype=waves.dtype)
    spectrum = torch.stft(waves, size, hop, window=window, center=False, return_complex=True)  # [N, bins, frames]
    return spectrum.abs().square().mT @ filters.T


def spread_bands(power: Tensor, filters: Tensor) -> Tensor:
    """Returns a power spectrum, nowhere negative, with that power in its mel bands. [..., bands] → [..., bins].

    References:
        Richardson (1972); Lucy (1974): their iteration, from each band's power spread evenly.
    """
    total = filters.sum(0).clamp(min=1e-3)
    spectrum = (power / filters.sum(1)) @ filters / total
    for _ in range(INVERSION_STEPS):
        spectrum = spectrum * ((power / (spectrum @ filters.T).clamp(min=TINY)) @ filters / total)
    return spectrum


def griffin_lim(magnitude: Tensor, hop: int, samples: int) -> Tensor:
    """Returns waves with spectra of such magnitudes, in windows centred at multiples of a hop. → [N, samples].

    Args:
        magnitude: [N, size // 2 + 1, 1 + samples // hop].
        hop: between windows, in samples.
        samples: length of the waves.
    References:
        Griffin and Lim (1984); Perraudin, Balazs and Søndergaard (2013), the fast form; from fixed random phases.
    """
    size = 2 * (magnitude.shape[1] - 1)
    options: dict[str, Any] = {
        "n_fft": size,
        "hop_length": hop,
        "window": torch.hann_window(size, dtype=magnitude.dtype),
    }
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0), dtype=magnitude.dtype)
    phases = torch.polar(torch.ones_like(magnitude), 2.0 * math.pi * turns)
    before = torch.zeros_like(phases)
    for _ in range(PHASE_STEPS):
        wave = torch.istft(magnitude * phases, length=samples, **options)
        rebuilt = torch.stft(wave, return_complex=True, **options)
        phases = rebuilt - MOMENTUM / (1.0 + MOMENTUM) * before
        phases, before = phases / phases.abs().clamp(min=TINY), rebuilt
    return torch.istft(magnitude * phases, length=samples, **options)
