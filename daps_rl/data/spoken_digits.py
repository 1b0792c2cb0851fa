"""Ten spoken digits in many voices, made on the spot by the speech synthesiser espeak-ng; clean and in babble."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.sound import Sound, fit_length, resample, trimmed
from daps_rl.data.splits import Splits
from daps_rl.files import write_atomically

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
SECONDS = 0.8  # 32 frames;
LONGEST = 1.0  # seconds kept of a clip
HEADER = 44  # bytes before the samples of espeak-ng's WAV
FILE = "spoken-digits.npz"
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
    return [Clip(digit, *rest) for *rest, digit in parts]


def load_spoken_digits(data_dir: Path | None = None, seconds: float | None = None) -> Splits:
    """3,600 clips for training, 1,200 each for validation and test, in voices of their own; [32, 24] log-mels.

    They are made once by espeak-ng, which takes about a minute, and kept.

    Args:
        data_dir: where they are kept; if None `$XDG_CACHE_HOME/daps-rl`, or ~/.cache/daps-rl.
        seconds: length of a clip, cut or padded to it; 0.8 if None.
    Raises:
        MissingDataError: espeak-ng is not there.
        DataError: it fails, or seconds are not between 0.1 and 1.
    """
    return _splits("spoken-digits", _waves(data_dir, seconds))


def load_babble(data_dir: Path | None = None, seconds: float | None = None) -> Splits:
    """The same clips, each with another of its split mixed in, reversed and shifted, 0 to 12 dB below it."""
    waves = _waves(data_dir, seconds)
    return _splits(
        "spoken-digits-babble", {split: _mix(of_split, seed) for seed, (split, of_split) in enumerate(waves.items())}
    )


def _splits(name: str, waves: dict[str, Tensor]) -> Splits:
    kind = Sound.fitted(waves["train"], SAMPLE_RATE, trim=True)
    return Splits(
        name=name,
        **{split: kind.from_waveform(of_split) for split, of_split in waves.items()},
        **{f"{split}_labels": torch.tensor([clip.digit for clip in clips_of(split)]) for split in VOICES},
        likelihood="fixed_gaussian",
        kind=kind,
    )


def _mix(waves: Tensor, seed: int) -> Tensor:
    random = np.random.RandomState(seed)  # numpy promises that its stream never changes
    others = (np.arange(len(waves)) + random.randint(1, len(waves), len(waves))) % len(waves)
    shifts = random.randint(0, waves.shape[1], len(waves))
    gains = 10.0 ** (-random.choice(SNRS, len(waves)) / 20.0)
    babble = [np.roll(waves[other].numpy()[::-1], shift) for other, shift in zip(others, shifts, strict=True)]
    return waves + torch.from_numpy(np.stack(babble) * gains[:, None]).float()


def _waves(data_dir: Path | None, seconds: float | None) -> dict[str, Tensor]:
    """Clips of each split, [N, samples], cut or padded to seconds."""
    seconds = SECONDS if seconds is None else seconds
    if not 0.1 <= seconds <= LONGEST:
        raise DataError(
            f"seconds of spoken digits must lie in 0.1 … {LONGEST:g}, got {seconds}; leave it out for {SECONDS}"
        )
    folder = _cache() if data_dir is None else data_dir
    pcm = _read(folder / FILE)
    if pcm is None:
        pcm = _make(folder / FILE)
    samples = round(seconds * SAMPLE_RATE)
    return {split: torch.from_numpy(pcm[split][:, :samples]).float() / 32768.0 for split in VOICES}


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "daps-rl"


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The clips of a file, int16 by split; None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a checksum finds bytes that changed
            pcm = {split: file[split] for split in VOICES}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    shapes = {split: (len(clips_of(split)), round(LONGEST * SAMPLE_RATE)) for split in VOICES}
    whole = all(pcm[split].shape == shapes[split] and pcm[split].dtype == np.int16 for split in VOICES)
    return pcm if whole else None


def _make(path: Path) -> dict[str, np.ndarray]:
    """Makes all clips, and keeps them in a file, whole or not at all."""
    from tqdm import tqdm

    if shutil.which("espeak-ng") is None:
        raise MissingDataError(
            f"spoken digits are made by espeak-ng, got none on PATH and no {path}; apt install espeak-ng"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pcm = {}
    total = sum(len(clips_of(split)) for split in VOICES)
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=total, desc="speaking", unit="clip") as bar:
        for split in VOICES:
            spoken = []
            for wave in pool.map(_speak, clips_of(split)):
                spoken.append(wave)
                bar.update()
            pcm[split] = np.stack(spoken)
    content = io.BytesIO()
    np.savez_compressed(content, **pcm)
    write_atomically(path, content.getvalue())
    return pcm


def _speak(clip: Clip) -> np.ndarray:
    """A clip of `LONGEST` seconds, int16."""
    voice = f"{clip.accent}+{clip.voice}"
    command = ["espeak-ng", "-v", voice, "-s", str(clip.rate), "-p", str(clip.pitch), "--stdout", WORDS[clip.digit]]
    done = subprocess.run(command, capture_output=True, check=False)
    raw = done.stdout
    if done.returncode or raw[:4] != b"RIFF" or len(raw) <= HEADER:
        got = " ".join(done.stderr.decode(errors="replace").split())[:200] or f"exit status {done.returncode}"
        raise DataError(f"{' '.join(command)} must give a WAV, got: {got}; check espeak-ng")
    rate = int.from_bytes(raw[24:28], "little")
    wave = np.frombuffer(raw[HEADER : len(raw) // 2 * 2], np.int16) / 32768.0
    wave = trimmed(resample(wave, rate, SAMPLE_RATE), SAMPLE_RATE)
    wave = fit_length(wave, round(LONGEST * SAMPLE_RATE))
    return np.round(wave.clip(-1.0, 1.0) * 32767.0).astype(np.int16)
