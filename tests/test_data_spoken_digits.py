"""Spoken digits: what is spoken, kept and mixed; the recordings of a real voice."""

import io
import shutil
import sys

import numpy as np
import pytest
import torch
from data_files import assert_one_line

from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data import spoken_digits as module
from daps_rl.data.spoken_digits import ASTERISK, VOICES, clips_of, load_real_digits, speak

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture
def few(monkeypatch):
    """A hundredth of the clips: one accent, rate and pitch."""
    for name, value in (("ACCENTS", ("en-us",)), ("RATES", (165,)), ("PITCHES", (50,))):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def hummed(few, monkeypatch):
    """Instead of each clip a tone: of its digit, and as loud as a digit. Counts the clips."""
    spoken = []

    def hum(clip):
        spoken.append(clip)
        times = np.arange(8000) / 8000
        wave = 0.3 * np.sin(2 * np.pi * (300 + 300 * clip.digit) * times) * np.exp(-5 * times) * (times < 0.5)
        return np.round(32768 * wave).astype(np.int16)

    monkeypatch.setattr(module, "speak", hum)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    return spoken


def test_there_are_enough_clips_and_no_voice_is_in_two_splits():
    assert [len(clips_of(split)) for split in VOICES] == [3600, 1200, 1200]
    heard = [{clip.voice for clip in clips_of(split)} for split in VOICES]
    assert len(set.union(*heard)) == sum(map(len, heard))
    assert len({clip for split in VOICES for clip in clips_of(split)}) == 6000
    assert [clip.digit for clip in clips_of("test")[:11]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@needs_espeak
def test_espeak_speaks_the_same_every_time():
    clip = clips_of("test")[7]
    wave = speak(clip)
    assert (wave.dtype, wave.shape) == (np.int16, (8000,))
    assert np.array_equal(speak(clip), wave)
    length = np.flatnonzero(wave)[-1] / 8000
    assert 0.3 < length < 0.9  # "seven"
    assert np.square(wave[: round(8000 * length)] / 32768).mean() ** 0.5 == pytest.approx(0.1, rel=0.05)


@needs_espeak
def test_what_espeak_cannot_say_is_told_in_one_line():
    with pytest.raises(DataError, match=r"espeak-ng -v xx\+m1 .* must give a WAV, got: .*does not exist") as error:
        speak(clips_of("test")[0]._replace(accent="xx", voice="m1"))
    assert_one_line(error)


@needs_espeak
def test_real_clips_can_be_told_apart_after_a_round_trip_through_waves(few, tmp_path):
    from daps_rl.evaluation.recogniser import Recogniser

    splits = load("spoken-digits", tmp_path)
    assert splits.train.shape == (60, 32, 24)
    recogniser = Recogniser(splits.train, splits.train_labels)
    original = recogniser.share(splits.test, splits.test_labels)
    again = splits.kind.from_waveform(splits.kind.to_waveform(splits.test))
    assert original >= 0.9
    assert recogniser.share(again, splits.test_labels) >= original - 0.1
    assert splits.kind.metrics(again, splits.test)["mel_distance"].mean() < 1.0


def test_clips_are_kept(hummed, tmp_path, monkeypatch):
    splits = load("spoken-digits", tmp_path)
    assert len(hummed) == 100
    assert splits.test_labels.tolist() == [*range(10)] * 2
    assert splits.kind.trim
    bands = splits.test[:10].mean(1).argmax(-1).tolist()
    assert bands == sorted(bands)
    kept = (tmp_path / "spoken-digits.npz").read_bytes()
    assert load("spoken-digits", tmp_path).fingerprint() == splits.fingerprint()
    assert len(hummed) == 100
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load("spoken-digits").fingerprint() == splits.fingerprint()
    assert (tmp_path / "cache" / "daps-rl" / "spoken-digits.npz").read_bytes() == kept
    assert load("spoken-digits", tmp_path, seconds=0.5).train.shape == (60, 20, 24)


def as_npy(raw):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: raw[:300] + b"?" + raw[301:], as_npy]
)
def test_a_damaged_file_is_made_anew(hummed, tmp_path, damage):
    fingerprint = load("spoken-digits", tmp_path).fingerprint()
    path = tmp_path / "spoken-digits.npz"
    kept = path.read_bytes()
    path.write_bytes(damage(kept))
    assert load("spoken-digits", tmp_path).fingerprint() == fingerprint
    assert len(hummed) == 200
    assert path.read_bytes() == kept
    np.savez(path, train=np.zeros((3, 8000), np.int16), validation=np.zeros(1), test=np.zeros(1))  # of another version
    assert load("spoken-digits", tmp_path).fingerprint() == fingerprint


def test_babble_is_another_clip_of_the_split(hummed, tmp_path):
    waves = module._waves(tmp_path, None)
    clean, mixed = waves["test"], module._mix(waves["test"], 2)
    babble = mixed - clean
    assert torch.equal(mixed, module._mix(waves["test"], 2))
    levels = 10 * (clean.square().mean(1) / babble.square().mean(1)).log10()
    assert {round(level, 1) for level in levels.tolist()} <= {0.0, 3.0, 6.0, 9.0, 12.0}
    assert len({round(level, 1) for level in levels.tolist()}) > 2
    spectra, reversed_spectra = torch.fft.rfft(babble), torch.fft.rfft(clean.flip(1)).conj()
    alike = torch.fft.irfft(spectra[:, None] * reversed_spectra).amax(-1)  # with every clip, at the best shift
    alike = alike / (babble.norm(dim=1)[:, None] * clean.norm(dim=1))
    torch.testing.assert_close(alike.amax(1), torch.ones(20), atol=1e-3, rtol=0)
    splits = load("spoken-digits-babble", tmp_path)
    assert splits.name == "spoken-digits-babble"
    assert splits.fingerprint() == load("spoken-digits-babble", tmp_path).fingerprint()
    assert splits.fingerprint() != load("spoken-digits", tmp_path).fingerprint()


def test_errors_are_one_line(few, tmp_path, monkeypatch):
    for seconds in (0.05, 1.5):
        with pytest.raises(DataError, match=f"must lie in 0.1 … 1, got {seconds}") as error:
            load("spoken-digits", tmp_path, seconds=seconds)
        assert_one_line(error)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDataError, match="espeak-ng, which is not installed; apt install espeak-ng") as error:
        load("spoken-digits-babble", tmp_path)
    assert_one_line(error)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .*; pass data_dir") as error:
        load("spoken-digits", tmp_path / "file" / "below")
    assert_one_line(error)


def test_real_digits(hummed, tmp_path, monkeypatch):
    kind = load("spoken-digits", tmp_path).kind
    with pytest.raises(MissingDataError, match="apt install asterisk-core-sounds-en-wav") as error:
        load_real_digits(kind, tmp_path)
    assert_one_line(error)
    soundfile = pytest.importorskip("soundfile")
    for digit in range(10):
        times = np.arange(4000) / 8000
        wave = 0.5 * np.sin(2 * np.pi * (500 + 200 * digit) * times)
        soundfile.write(tmp_path / f"{digit}.wav", np.pad(wave, 1600), 8000)
    x, labels = load_real_digits(kind, tmp_path)
    assert x.shape == (90, 32, 24)
    assert labels.tolist() == [digit for digit in range(10) for _ in range(9)]
    spoken = (x > x.min()).any(-1).sum(1).view(10, 3, 3)[5]  # frames with sound: speeds × delays
    assert spoken[0, 0] > spoken[1, 0] > spoken[2, 0]
    assert (spoken[:, 2] >= spoken[:, 0]).all()
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"daps-rl\[audio\]"):
        load_real_digits(kind, tmp_path)


@pytest.mark.skipif(not (ASTERISK / "0.wav").exists(), reason="needs asterisk-core-sounds-en-wav")
def test_the_recordings_of_asterisk(hummed, tmp_path):
    pytest.importorskip("soundfile")
    x, labels = load_real_digits(load("spoken-digits", tmp_path).kind)
    assert x.shape == (90, 32, 24)
    assert x.isfinite().all()
    assert labels.bincount().tolist() == [9] * 10
