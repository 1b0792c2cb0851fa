"""Sounds as log-mel frames: folders of WAV or FLAC files, spectrograms to look at, WAVs to listen to."""

from __future__ import annotations

import dataclasses
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import MAX_CORRUPT, CorruptFiles, DataError, one_line
from daps_rl.data.folder import find_files
from daps_rl.data.kind import Kind, Measure, write_array
from daps_rl.data.plain import list_files, new_folder
from daps_rl.data.rows import Files, Rows, open_array
from daps_rl.data.splits import Splits, cut_missing
from daps_rl.data.waves import (
    SUFFIXES,
    fit_length,
    griffin_lim,
    mel_filters,
    mel_power,
    rate_and_length,
    read_wave,
    spread_bands,
    trimmed,
    write_wave,
)
from daps_rl.report.figures import INK, WIDTH, new_figure, save

FRAME_SECONDS = 0.025  # from one frame to the next
DYNAMIC_RANGE = 60.0  # dB below the loudest entry of the training data: what is quieter is silence
SILENCE = -100.0  # dB, where a kind says no other floor
NARROW, BANDS, WIDE_BANDS = 8000, 24, 40  # Hz of a telephone; mel bands up to that rate, and above it
LOWEST_RATE, LONGEST = 2000, 3600  # Hz, seconds
BEFORE_SPEECH = 60.0  # seconds of silence that are read at most, before a sound that is trimmed
SAMPLE_FILES = 200  # whose rates and lengths stand for all
MEMORY = 500_000_000  # bytes of data, at most
AT_ONCE = 4_000_000  # samples
SHOWN, HEARD = 8, 4  # clips of a picture, and of the WAVs beside it


@dataclass(frozen=True, kw_only=True)
class Sound(Kind):
    """Sounds of one length as log-mel frames [frames, bands]: (decibels - mean) / deviation.

    Args:
        sample_rate: in Hz; files of other rates are resampled.
        hop: samples from one frame to the next; a frame's window is twice as long.
        frames, bands: of a datum.
        mean, deviation: of the training data, in dB.
        floor: what is quieter counts as this, in dB.
        trim: whether files lose the silence at both ends, and are made equally loud.
    """

    measures: ClassVar[dict[str, Measure]] = {"mel_distance": Measure("mel distance", "dB", ".2f", -1)}
    recognised: ClassVar[bool] = True
    sample_rate: int
    hop: int
    frames: int
    bands: int
    mean: float = 0.0
    deviation: float = 1.0
    floor: float = SILENCE
    trim: bool = False

    @classmethod
    def of(cls, sample_rate: int, seconds: float, *, trim: bool = False) -> Sound:
        """Returns the kind of sounds of a rate and a length, whose data are plain decibels. See `fitted`.

        Raises:
            DataError: the rate or the length is out of range.
        """
        if sample_rate < LOWEST_RATE or not 0.0 < seconds <= LONGEST:
            raise DataError(
                f"sounds must have a rate of at least {LOWEST_RATE} Hz and 0 < seconds <= {LONGEST}, got {sample_rate} "
                f"Hz and {seconds} s; resample them, or pass other seconds"
            )
        hop, frames = round(FRAME_SECONDS * sample_rate), max(2, round(seconds / FRAME_SECONDS))
        bands = BANDS if sample_rate <= NARROW else WIDE_BANDS
        return cls(sample_rate=sample_rate, hop=hop, frames=frames, bands=bands, trim=trim)

    @property
    def samples(self) -> int:
        """Length of a sound's wave."""
        return self.frames * self.hop

    def fitted(self, decibels: Tensor) -> Sound:
        """Returns this kind with floor, mean and deviation of training data, rounded. [N, frames, bands]."""
        floor = round(float(decibels.max()) - DYNAMIC_RANGE, 3)
        values = decibels.clamp(min=floor).double()
        mean, deviation = round(float(values.mean()), 3), round(float(values.std(correction=0)), 3)
        return dataclasses.replace(self, floor=floor, mean=mean, deviation=deviation or 1.0)

    def standardised(self, decibels: Tensor) -> Tensor:
        """Returns log-mel frames in dB as data. [N, frames, bands]."""
        return ((decibels.clamp(min=self.floor) - self.mean) / self.deviation).float()

    def decibels(self, data: Tensor) -> Tensor:
        """Returns data as log-mel frames in dB, between the floor and a little above the loudest of training."""
        top = self.floor + 1.2 * DYNAMIC_RANGE
        return (data.detach().cpu().double() * self.deviation + self.mean).clamp(self.floor, top)

    def from_waveform(self, waves: Tensor) -> Tensor:
        """Returns waves in [-1, 1] as data. [N, samples] → [N, frames, bands]."""
        filters = mel_filters(self.sample_rate, 2 * self.hop, self.bands)
        parts = waves.double().split(max(1, AT_ONCE // self.samples))
        power = torch.cat([mel_power(part, self.hop, 2 * self.hop, filters).float() for part in parts])
        return self.standardised(10.0 * power.clamp(min=10.0 ** (SILENCE / 10.0)).log10())

    def to_waveform(self, data: Tensor) -> Tensor:
        """Returns waves that sound as data say, in [-1, 1]. [N, frames, bands] → [N, samples].

        Phases are found by Griffin and Lim's algorithm, between frames interpolated to half the hop.
        """
        hop = max(1, self.hop // 2)
        places = (torch.arange(1 + self.samples // hop) * hop / self.hop - 0.5).clamp(0, self.frames - 1)
        before, share = places.long(), (places % 1.0)[:, None]
        after = (before + 1).clamp(max=self.frames - 1)
        filters = mel_filters(self.sample_rate, 2 * self.hop, self.bands)
        waves = []
        for part in self.decibels(data).split(max(1, AT_ONCE // (4 * self.samples))):
            fine = torch.lerp(part[:, before], part[:, after], share.double())
            magnitude = spread_bands(10.0 ** (fine / 10.0), filters).sqrt()  # [N, frames of half a hop, bins]
            waves.append(griffin_lim(magnitude.mT.float(), hop, self.samples))
        return torch.cat(waves).clamp(-1.0, 1.0)

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"mel_distance": (decoded - x).abs().flatten(1).mean(1) * self.deviation}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        """Draws spectrograms, and writes the first few sounds beside them: `sounds/01-original.wav` and so on."""
        plot_spectrograms(path, rows, self, title)
        folder, written = path.parent / "sounds", [path]
        folder.mkdir(parents=True, exist_ok=True)
        for label, data in rows.items():
            word = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
            for number, wave in enumerate(self.to_waveform(data[:HEARD]), 1):
                written.append(folder / f"{number:02}-{word}.wav")
                write_wave(written[-1], wave, self.sample_rate)
        return written

    def rows(self, path: Path) -> Rows:
        """Returns the sound of a file, those of a folder by their names, or data of a `.npy` file. [N, *x]."""
        if path.suffix == ".npy":
            return open_array(path)
        return Files(list_files(path, SUFFIXES, "sounds"), self._read_files)

    def _read_files(self, files: Sequence[Path]) -> Tensor:
        return self.from_waveform(torch.from_numpy(np.stack([self.read_file(file) for file in files])))

    def read_file(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Returns the wave of a file, cut at its end or padded there; raises what `read_wave` does. [samples]."""
        seconds = self.samples / self.sample_rate
        wave = read_wave(Path(path), self.sample_rate, seconds + BEFORE_SPEECH * self.trim)
        return fit_length(trimmed(wave, self.sample_rate) if self.trim else wave, self.samples).astype(np.float32)

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        """Writes a new folder of WAVs, one for each datum, or a `.npy` file of data where the path ends so."""
        if path.suffix == ".npy":
            return write_array(path, parts, count)
        with new_folder(path) as folder:
            waves = self.to_waveform(torch.cat([*parts]))
            for number, wave in enumerate(waves, 1):
                write_wave(folder / f"{number:0{len(str(count))}}.wav", wave, self.sample_rate)
        return f"{path}: {count} WAV files of {self.samples / self.sample_rate:g} s at {self.sample_rate} Hz"


def load_sound_folder(folder: Path, *, seconds: float | None = None, max_corrupt: int = MAX_CORRUPT) -> Splits:
    """Splits from a folder of WAV and FLAC files, with or without folders for classes and for splits.

    Channels are averaged, and all files brought to the commonest rate, of the first 200. They are kept in memory.

    Args:
        folder: as for images: files, or folders of classes with files, and either in folders for splits.
        seconds: length to which sounds are cut or padded, at their ends; the median length if None.
        max_corrupt: how many unreadable files may be skipped.
    Raises:
        MissingDataError: the folder holds no sounds.
        DataError: it holds too few, or too much for memory, classes that training lacks, or too many unreadable files.
        ImportError: soundfile is not installed.
    """
    found, labels = find_files(folder, SUFFIXES, "sounds")
    paths = [path for of_split in found.values() for path in of_split]
    ends = np.cumsum([len(of_split) for of_split in found.values()])
    rows = dict(zip(found, torch.arange(len(paths)).tensor_split(ends[:-1].tolist()), strict=True))
    cut_missing(rows, labels, str(folder))
    files = {split: [paths[row] for row in of_split.tolist()] for split, of_split in rows.items()}
    raw = _common_form(folder, files["train"][:SAMPLE_FILES], seconds)
    size = 4 * len(paths) * raw.frames * raw.bands
    if size > MEMORY:
        raise DataError(
            f"{folder} must fit into {MEMORY // 10**6} MB, got {size // 10**6} MB: {len(paths)} sounds of "
            f"{raw.samples / raw.sample_rate:g} s; pass fewer seconds, or fewer files"
        )
    corrupt, decibels = CorruptFiles(str(folder), max_corrupt), {}
    for split, of_split in files.items():
        read: list[int] = []
        decibels[split] = torch.cat(list(_read_files(raw, folder, of_split, corrupt, read)))
        given = labels[f"{split}_labels"]
        labels[f"{split}_labels"] = None if given is None else given[read]
    return sound_splits(str(folder), raw, decibels, labels)


def sound_splits(name: str, raw: Sound, decibels: Mapping[str, Tensor], labels: Mapping[str, Any]) -> Splits:
    """Splits of log-mel frames, standardised with the moments of the training split.

    Args:
        name: of the data set.
        raw: the kind, its moments those of a `Sound` that says none.
        decibels: of each split. [N, frames, bands].
        labels: by "train_labels" and so on, int64, or None. [N].
    """
    kind = raw.fitted(decibels["train"])
    data: dict[str, Any] = {split: kind.standardised(values) for split, values in decibels.items()}
    return Splits(name=name, **data, **labels, likelihood="fixed_gaussian", kind=kind)


def _common_form(folder: Path, paths: Iterable[str], seconds: float | None) -> Sound:
    """The kind of sounds of the commonest rate and the median length of some files, those that are readable."""
    forms = []
    for path in paths:
        try:
            forms.append(rate_and_length(folder / path))
        except DataError:  # told when it is read
            continue
    rates, lengths = zip(*forms, strict=True) if forms else ((NARROW,), (1.0,))
    return Sound.of(statistics.mode(rates), statistics.median(lengths) if seconds is None else seconds)


def _read_files(
    kind: Sound, folder: Path, paths: Sequence[str], corrupt: CorruptFiles, rows: list[int]
) -> Iterator[Tensor]:
    """Data of the files that can be read, some at a time, [n, frames, bands]; their places are added to `rows`."""
    for part in np.array_split(np.arange(len(paths)), max(1, len(paths) * kind.samples // AT_ONCE)):
        waves = []
        for row in part.tolist():
            try:
                waves.append(kind.read_file(folder / paths[row]))
                rows.append(row)
            except DataError as error:
                corrupt.note({paths[row]: one_line(error).removeprefix(f"{folder / paths[row]} ")})
        if waves:
            yield kind.from_waveform(torch.from_numpy(np.stack(waves)))
    if not rows:
        corrupt.note({}, exhausted=True)


def plot_spectrograms(path: Path, rows: Mapping[str, Tensor], kind: Sound, title: str | None) -> None:
    """Draws sounds side by side, the first row above what becomes of them: time to the right, mel bands upwards."""
    shown = min(SHOWN, len(next(iter(rows.values()))))
    figure = new_figure(WIDTH, 110 + 150 * len(rows), title)
    panels = figure.subplots(len(rows), shown, sharex=True, sharey=True, squeeze=False)
    extent = (0.0, kind.samples / kind.sample_rate, 0.0, kind.bands)
    for line, (label, data) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(label, fontsize=9, color=INK, parse_math=False)
        for axes, clip in zip(line, kind.decibels(data[:shown]) - kind.floor, strict=True):
            image = axes.imshow(clip.T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=extent)
            image.set_clim(0.0, DYNAMIC_RANGE)
            axes.set_yticks([])
            axes.tick_params(labelsize=8, colors=INK, length=3)
    figure.supxlabel("seconds", fontsize=9, color=INK)
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=40)
    bar.set_label("dB above silence", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=3)
    save(figure, path)
