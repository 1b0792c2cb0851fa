"""Ten spoken digits in many voices, made on the spot by the speech synthesiser espeak-ng; clean and in babble."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.cache import cached_arrays
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.sound import Sound, sound_splits
from daps_rl.data.splits import Splits
from daps_rl.data.waves import fit_length, read_wave, resample, trimmed

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")
VOICES = {
    "train": ("m1", "m3", "m7", "f1", "f2", "f4"),
    "validation": ("m2", "f5"),
    "test": ("m5", "f3"),
}
"""Variants of each accent: a split's voices are heard in no other."""
RATES = (120, 140, 165, 195)  # words a minute
PITCHES = (35, 50, 65)  # of 0 to 99
SAMPLE_RATE = 8000
SECONDS = 0.8  # 32 frames
LONGEST = 1.0  # seconds kept of a clip
FULL_SCALE = 32768.0  # of 16 bits
HEADER = 44  # bytes before the samples of espeak-ng's WAV
ASTERISK = Path("/usr/share/asterisk/sounds/en_US_f_Allison/digits")
SPEEDS, DELAYS = (0.9, 1.0, 1.1), (0.0, 0.0125, 0.025)  # of real digits; seconds
SNRS = (0.0, 3.0, 6.0, 9.0, 12.0)  # dB between a digit and the babble in it


class Clip(NamedTuple):
    """What a clip is made of."""

    digit: int
    accent: str
    voice: str
    rate: int
    pitch: int


def clips_of(split: str) -> list[Clip]:
    """Returns the clips of a split in their order: digits turn fastest."""
    parts = itertools.product(ACCENTS, VOICES[split], RATES, PITCHES, range(10))
    return [Clip(digit, accent, voice, rate, pitch) for accent, voice, rate, pitch, digit in parts]


def load_spoken_digits(data_dir: Path | None = None, seconds: float | None = None) -> Splits:
    """3,600 clips for training, 1,200 each for validation and test, in voices of their own; [32, 24] log-mels.

    They are made once by espeak-ng, which takes about a minute on two cores, and kept. Labels are the digits.

    Args:
        data_dir: where they are kept; if None `$XDG_CACHE_HOME/daps-rl`, or ~/.cache/daps-rl.
        seconds: length to which a clip is cut or padded; 0.8 if None.
    Raises:
        MissingDataError: espeak-ng is not installed.
        DataError: it fails, the clips cannot be kept, or seconds are not in 0.1 … 1.
    """
    return _splits("spoken-digits", _waves(data_dir, seconds))


def load_babble(data_dir: Path | None = None, seconds: float | None = None) -> Splits:
    """The same clips, each with another of its split mixed in, reversed and shifted, 0 to 12 dB quieter.

    Arguments and errors are those of `load_spoken_digits`.
    """
    waves = _waves(data_dir, seconds)
    mixed = {split: _mix(clips, seed) for seed, (split, clips) in enumerate(waves.items())}
    return _splits("spoken-digits-babble", mixed)


def load_real_digits(kind: Sound, folder: Path = ASTERISK) -> tuple[Tensor, Tensor]:
    """The digits that a woman speaks in Debian's `asterisk-core-sounds-en-wav`, as a further test: data and labels.

    Each of the ten recordings is there nine times: at 0.9, 1 and 1.1 times its speed (pitch goes along), each time
    0, 12.5 and 25 ms late. That shows what depends on where frames begin; it is still one voice.

    Args:
        kind: of the data that a model was trained on.
        folder: with 0.wav to 9.wav.
    Returns:
        data [90, frames, bands], labels [90].
    Raises:
        MissingDataError: the recordings are not there.
        ImportError: soundfile is not installed.
    """
    if not (folder / "0.wav").exists():
        raise MissingDataError(f"{folder} must hold 0.wav to 9.wav; apt install asterisk-core-sounds-en-wav")
    clips, rate = [], kind.sample_rate
    for digit, speed, delay in itertools.product(range(10), SPEEDS, DELAYS):
        wave = trimmed(read_wave(folder / f"{digit}.wav", round(rate / speed)), rate)
        clips.append(fit_length(np.pad(wave, (round(delay * rate), 0)), kind.samples))
    data = kind.from_waveform(torch.from_numpy(np.stack(clips)))
    return data, torch.arange(10).repeat_interleave(len(SPEEDS) * len(DELAYS))


def _splits(name: str, waves: Mapping[str, Tensor]) -> Splits:
    raw = Sound.of(SAMPLE_RATE, waves["train"].shape[1] / SAMPLE_RATE, trim=True)
    decibels = {split: raw.from_waveform(clips) for split, clips in waves.items()}
    labels = {f"{split}_labels": torch.tensor([clip.digit for clip in clips_of(split)]) for split in VOICES}
    return sound_splits(name, raw, decibels, labels)


def _mix(waves: Tensor, seed: int) -> Tensor:
    """Waves with others of them, reversed and shifted, at one of several levels. [N, samples]."""
    random = np.random.RandomState(seed)  # numpy promises that its stream never changes
    count, samples = waves.shape
    others = (np.arange(count) + random.randint(1, count, count)) % count
    shifts, gains = random.randint(0, samples, count), 10.0 ** (-random.choice(SNRS, count) / 20.0)
    babble = [np.roll(waves[other].numpy()[::-1], shift) for other, shift in zip(others, shifts, strict=True)]
    return waves + torch.from_numpy(np.stack(babble) * gains[:, None]).float()


def _waves(data_dir: Path | None, seconds: float | None) -> dict[str, Tensor]:
    """Clips of each split, cut or padded to a whole number of frames. [N, samples]."""
    seconds = SECONDS if seconds is None else seconds
    if not 0.1 <= seconds <= LONGEST:
        raise DataError(f"seconds of spoken digits must lie in 0.1 … {LONGEST:g}, got {seconds}; {SECONDS} holds most")
    forms = {split: ((len(clips_of(split)), round(LONGEST * SAMPLE_RATE)), np.int16) for split in VOICES}
    pcm = cached_arrays(
        "spoken-digits", _make, data_dir, fit=lambda found: forms == {k: (x.shape, x.dtype) for k, x in found.items()}
    )
    samples = Sound.of(SAMPLE_RATE, seconds).samples
    return {split: torch.from_numpy(pcm[split][:, :samples]).float() / FULL_SCALE for split in VOICES}


def _make() -> dict[str, np.ndarray]:
    """Makes all clips, int16 [N, samples] by split."""
    from tqdm import tqdm

    if shutil.which("espeak-ng") is None:
        raise MissingDataError("spoken digits are made by espeak-ng, which is not installed; apt install espeak-ng")
    clips = [clip for split in VOICES for clip in clips_of(split)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spoken = pool.map(speak, clips)
        made = np.stack([*tqdm(spoken, "speaking digits", len(clips), unit="clip", mininterval=1.0, leave=False)])
    ends = np.cumsum([len(clips_of(split)) for split in VOICES])[:-1]
    return dict(zip(VOICES, np.split(made, ends), strict=True))


def speak(clip: Clip) -> np.ndarray:
    """Returns a clip of `LONGEST` seconds as espeak-ng speaks it, without the silence before it. int16 [samples].

    Raises:
        DataError: espeak-ng fails.
    """
    voice = f"{clip.accent}+{clip.voice}"
    command = ["espeak-ng", "-v", voice, "-s", str(clip.rate), "-p", str(clip.pitch), "--stdout", WORDS[clip.digit]]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or done.stdout[:4] != b"RIFF" or len(done.stdout) <= HEADER:
        got = " ".join(done.stderr.decode(errors="replace").split())[:200] or f"exit status {done.returncode}"
        raise DataError(f"{' '.join(command)} must give a WAV, got: {got}; see whether espeak-ng is whole")
    rate = int.from_bytes(done.stdout[24:28], "little")
    wave = np.frombuffer(done.stdout[HEADER : len(done.stdout) // 2 * 2], "<i2") / FULL_SCALE
    wave = fit_length(trimmed(resample(wave, rate, SAMPLE_RATE), SAMPLE_RATE), round(LONGEST * SAMPLE_RATE))
    return np.round(wave * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
