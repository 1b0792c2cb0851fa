"""Sounds: log-mel frames and waves of them, folders of WAV and FLAC, metrics, pictures, files, the command."""

import dataclasses
import importlib
import json
import math
import sys
import wave

import numpy as np
import pytest
import torch
from conftest import TINY, error_of
from data_files import assert_one_line

from daps_rl.cli import main
from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data import sound as sound_module
from daps_rl.data.kind import kind_from_json, kind_to_json
from daps_rl.data.sound import Sound
from daps_rl.data.waves import fit_length, griffin_lim, mel_filters, read_wave, resample, spread_bands, trimmed

soundfile = pytest.importorskip("soundfile")
RATE = 8000
KIND = Sound(sample_rate=RATE, hop=200, frames=16, bands=24, mean=-20.0, deviation=8.0, floor=-50.0)


def tone(hertz, seconds=0.4, rate=RATE, loudness=0.3):
    return loudness * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def chirp(seconds=0.4):
    times = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * (300 * times + 2000 * times**2)) * np.hanning(len(times))


def noise(seconds=0.4):
    return np.random.default_rng(0).normal(size=round(seconds * RATE)) * np.hanning(round(seconds * RATE)) * 0.1


def write_tones(folder, count, *, rate=RATE, suffix=".wav", seconds=0.4, first=300):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        soundfile.write(folder / f"{number:02}{suffix}", tone(first + 100 * number, seconds, rate), rate)


def loudest_band(data):
    return data.mean(-2).argmax(-1).tolist()


# frames and waves


def test_frames_are_those_of_librosa():
    librosa = pytest.importorskip("librosa")
    wave = np.random.default_rng(0).normal(size=KIND.samples) * 0.1
    power = librosa.feature.melspectrogram(
        y=np.pad(wave, 100), sr=RATE, n_fft=400, hop_length=200, center=False, n_mels=24, fmin=60.0, fmax=4000.0,
        htk=True, norm=None,
    )  # fmt: skip
    expected = (10 * np.log10(power) - KIND.mean) / KIND.deviation
    np.testing.assert_allclose(KIND.from_waveform(torch.from_numpy(wave)[None])[0], expected.T, atol=1e-4)


def test_silence_lies_at_the_floor():
    assert (KIND.from_waveform(torch.zeros(2, KIND.samples)) == (-50.0 + 20.0) / 8.0).all()


def test_bands_overlap_to_one_between_the_first_and_the_last_middle():
    filters = mel_filters(16000, 800, 40)
    middles = filters.argmax(1)
    between = filters.sum(0)[middles[0] + 1 : middles[-1]]
    torch.testing.assert_close(between, torch.ones_like(between))


def test_a_spectrum_holds_the_power_of_its_bands():
    filters = mel_filters(RATE, 400, 24)
    power = torch.rand(5, 201, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ filters.T
    spectrum = spread_bands(power, filters)
    assert spectrum.min() >= 0.0
    torch.testing.assert_close(spectrum @ filters.T, power, rtol=0.01, atol=0.0)


def test_phases_are_as_good_as_librosas():
    librosa = pytest.importorskip("librosa")
    magnitude = torch.stft(
        torch.from_numpy(chirp()), 400, 100, window=torch.hann_window(400), return_complex=True
    ).abs()

    def error(found):
        again = torch.stft(found, 400, 100, window=torch.hann_window(400), return_complex=True).abs()
        return ((again - magnitude).norm() / magnitude.norm()).item()

    theirs = librosa.griffinlim(magnitude.numpy(), n_iter=32, hop_length=100, n_fft=400, length=3200, random_state=0)
    ours = griffin_lim(magnitude[None], 100, 3200)[0]
    assert ours.shape == (3200,)
    assert error(ours) < max(1.2 * error(torch.from_numpy(theirs)), 0.02)


def test_waves_of_data_sound_as_the_data_say():
    given = np.stack([noise(), np.roll(noise(), 1600) / 5])
    x = KIND.from_waveform(torch.from_numpy(given))
    waves = KIND.to_waveform(x)
    assert waves.shape == (2, KIND.samples)
    assert waves.dtype == torch.float32
    assert torch.equal(waves, KIND.to_waveform(x))
    assert KIND.metrics(KIND.from_waveform(waves), x)["mel_distance"].max() < 3.0
    loudness = waves.square().mean(1).sqrt()
    np.testing.assert_allclose(loudness, np.sqrt(np.square(given).mean(1)), rtol=0.15)


def test_data_beyond_all_sounds_make_no_noise_beyond_all_waves():
    waves = KIND.to_waveform(torch.full((1, 16, 24), 1e6))
    assert waves.isfinite().all()
    assert waves.abs().max() <= 1.0


def test_a_trimmed_sound_is_what_is_loud_of_it():
    quiet = np.zeros(1600)
    found = trimmed(np.concatenate([quiet, tone(500, loudness=0.02), quiet + 1e-5]), RATE)
    assert abs(len(found) - 3200) <= 80
    assert math.sqrt(np.square(found).mean()) == pytest.approx(0.1)
    assert len(trimmed(quiet, RATE)) == 1600


def test_lengths_and_rates():
    assert fit_length(np.arange(3.0), 5).tolist() == [0.0, 1.0, 2.0, 0.0, 0.0]
    assert fit_length(np.arange(3.0), 2).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(resample(tone(500, rate=44100), 44100, RATE)[400:-400], tone(500)[400:-400], atol=2e-3)


def test_the_metric_is_in_decibels():
    x = torch.zeros(2, 16, 24)
    decoded = torch.stack([torch.full((16, 24), 0.5), torch.zeros(16, 24)])
    decoded[1, :8] = -1.0
    assert KIND.metrics(decoded, x)["mel_distance"].tolist() == [4.0, 4.0]


def test_a_kind_is_saved_as_json():
    assert kind_from_json(json.loads(json.dumps(kind_to_json(KIND)))) == KIND
    assert kind_to_json(KIND)["kind"] == "sound"


@pytest.mark.parametrize(("rate", "seconds"), [(1000, 1.0), (8000, 0.0), (8000, -1.0), (8000, 4000.0)])
def test_kinds_out_of_range(rate, seconds):
    with pytest.raises(
        DataError, match=f"got {rate} Hz and {seconds} s; resample them, or pass other seconds"
    ) as error:
        Sound.of(rate, seconds)
    assert_one_line(error)


# folders


def test_a_flat_folder(tmp_path):
    write_tones(tmp_path / "data", 20)
    splits = load(tmp_path / "data")
    assert [list(splits[name].shape) for name in ("train", "validation", "test")] == [
        [16, 16, 24],
        [2, 16, 24],
        [2, 16, 24],
    ]
    assert splits.kind.sample_rate == RATE
    assert splits.train_labels is None
    assert splits.train.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert splits.train.std().item() == pytest.approx(1.0, abs=1e-3)
    # The same rows as every data set of that length is cut by: the higher the tone, the higher its band.
    order = np.random.RandomState(0).permutation(20)
    bands = loudest_band(torch.cat([splits.validation, splits.test, splits.train]))
    assert [bands[place] for place in np.argsort(order)] == sorted(bands)
    assert load("data", tmp_path).fingerprint() == splits.fingerprint()


def test_classes_and_splits_and_rates(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        write_tones(tmp_path / split / "low", count, rate=16000, suffix=".flac")
        write_tones(tmp_path / split / "high", count, rate=16000, first=3000)
    write_tones(tmp_path / "train" / "low", 1, rate=44100, suffix=".other.wav")
    splits = load(tmp_path, seconds=0.2)
    assert (splits.kind.sample_rate, splits.kind.hop, splits.kind.frames, splits.kind.bands) == (16000, 400, 8, 40)
    assert splits.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert splits.validation_labels.tolist() == splits.test_labels.tolist() == [0, 0, 1, 1]
    low = loudest_band(splits.test[2:])
    assert loudest_band(splits.train[[3, 4]])[0] == loudest_band(splits.train[[3, 4]])[1]  # 44.1 kHz and 16 kHz
    assert min(loudest_band(splits.test[:2])) > max(low)


def test_channels_are_averaged_and_lengths_made_equal(tmp_path):
    stereo = np.stack([tone(500, 0.1), np.zeros(800)], 1)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE, subtype="FLOAT")
    wave = read_wave(tmp_path / "stereo.wav", RATE)
    np.testing.assert_allclose(wave, tone(500, 0.1) / 2, atol=1e-6)
    assert len(read_wave(tmp_path / "stereo.wav", RATE, 0.05)) == 400
    np.testing.assert_allclose(KIND.read_file(tmp_path / "stereo.wav"), fit_length(wave, 3200), atol=1e-6)
    kind = dataclasses.replace(KIND, trim=True)
    assert np.square(kind.read_file(tmp_path / "stereo.wav")[:800]).mean() == pytest.approx(0.01, rel=1e-3)


def test_broken_files_are_skipped_up_to_a_limit(tmp_path):
    write_tones(tmp_path / "train" / "a", 3)
    write_tones(tmp_path / "train" / "b", 3)
    write_tones(tmp_path / "test", 2)
    write_tones(tmp_path / "val", 2)
    (tmp_path / "train" / "a" / "01.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "train" / "a" / "02.wav", np.zeros(0), RATE)
    with pytest.warns(UserWarning, match=r"skipped train/a/0\d\.wav, which cannot be read") as warnings:
        splits = load(tmp_path, max_corrupt=2)
    assert len(warnings) == 2
    assert splits.train_labels.tolist() == [0, 1, 1, 1]
    assert splits.test_labels is None
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match="at most 1 unreadable files") as error,
    ):
        load(tmp_path, max_corrupt=1)
    assert_one_line(error)


def test_what_is_wrong_with_a_file_is_said_once(tmp_path):
    write_tones(tmp_path, 9)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    with pytest.warns(UserWarning, match=r"skipped bad.wav, .* \(must be a readable WAV or FLAC file, got: Format not"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"bad.wav must be a readable WAV or FLAC file, got: Format not recogni[sz]ed"):
        KIND.read(tmp_path / "bad.wav")


@pytest.mark.parametrize("rate", [1, 2**30])
def test_a_rate_of_no_sound_is_refused_before_it_is_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    for read in (KIND.read, sound_module.rate_and_length):
        with pytest.raises(DataError, match=f"a.wav must be a readable WAV or FLAC file, got: a rate of {rate} Hz"):
            read(tmp_path / "a.wav")


def test_a_folder_without_a_readable_file(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DataError, match="unreadable files") as error:
        load(tmp_path)
    assert_one_line(error)


def test_a_folder_beyond_memory(tmp_path, monkeypatch):
    write_tones(tmp_path, 9)
    monkeypatch.setattr(sound_module, "MEMORY", 13_000)  # 9 · 16 · 24 · 4 = 13,824
    with pytest.raises(DataError, match=r"9 sounds of 0\.4 s; pass fewer seconds, or fewer files") as error:
        load(tmp_path)
    assert_one_line(error)
    assert load(tmp_path, seconds=0.3).train.shape == (7, 12, 24)


def test_sounds_need_the_library_that_soundfile_stands_on(tmp_path, monkeypatch):
    whole = importlib.import_module

    def broken(name, *rest):
        if name == "soundfile":
            raise OSError("cannot load library 'libsndfile.so'")
        return whole(name, *rest)

    write_tones(tmp_path, 9)
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match=r"pip install 'daps-rl\[audio\]' \(cannot load library 'libsndfile.so'\)"):
        load(tmp_path)


def test_sounds_need_soundfile(tmp_path, monkeypatch):
    write_tones(tmp_path, 9)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"pip install 'daps-rl\[audio\]'"):
        load(tmp_path)


# files


def test_what_is_written_can_be_read(tmp_path):
    x = KIND.from_waveform(torch.from_numpy(np.stack([chirp(), noise(), noise() / 2])))
    assert KIND.write(tmp_path / "out", x) == f"{tmp_path / 'out'}: 3 WAV files of 0.4 s at 8000 Hz"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.wav", "2.wav", "3.wav", "out"]
    with wave.open(str(tmp_path / "out" / "2.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, KIND.samples)
    again = KIND.read(tmp_path / "out")
    assert KIND.metrics(again, x)["mel_distance"].max() < 3.0
    torch.testing.assert_close(KIND.read(tmp_path / "out" / "2.wav"), again[1:2])
    KIND.write(tmp_path / "x.npy", x)
    assert torch.equal(torch.from_numpy(KIND.read(tmp_path / "x.npy")), x)
    with pytest.raises(DataError, match=r"must be a new or an empty folder") as error:
        KIND.write(tmp_path / "out", x)
    assert_one_line(error)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(path, *rest):
        if path.name == "2.wav":
            raise OSError("full")

    monkeypatch.setattr(sound_module, "write_wave", full)
    with pytest.raises(OSError, match="full"):
        KIND.write(tmp_path / "out", torch.zeros(3, 16, 24))
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "empty").mkdir()
    for name, kind, message in (
        ("bad.wav", DataError, "bad.wav must be a readable WAV or FLAC file, got: .*; save it again"),
        (
            "nan.wav",
            DataError,
            "nan.wav must be a readable WAV or FLAC file, got: no samples, or some that are no numb",
        ),
        ("none.wav", MissingDataError, "no such file: .*none.wav"),
        ("empty", MissingDataError, r"empty must hold sounds \(.wav, .flac\), got a folder without"),
    ):
        with pytest.raises(kind, match=message) as error:
            KIND.read(tmp_path / name)
        assert_one_line(error)


def test_a_picture_and_the_sounds_beside_it(tmp_path, figures, monkeypatch):
    x = KIND.from_waveform(torch.from_numpy(np.stack([chirp(), tone(700)] * 5)))
    written = KIND.draw(tmp_path / "sheet.png", {"original": x, "greedy code": x}, "two rows")
    names = [f"sounds/{number:02}-{row}.wav" for row in ("original", "greedy-code") for number in range(1, 5)]
    assert written == [tmp_path / name for name in ("sheet.png", *names)]
    assert all(path.exists() for path in written[1:])
    (figure,) = figures
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 16
    np.testing.assert_allclose(images[1].get_array(), (KIND.decibels(x[1]) - KIND.floor).T)
    assert images[0].get_extent() == [0.0, 0.4, 0.0, 24]
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()][:2] == ["original", "greedy code"]


def test_the_command_reads_and_writes_sounds(tmp_path, capsys):
    for name, first in (("low", 300), ("high", 2000)):
        write_tones(tmp_path / "data" / name, 10, first=first)
    run, data = tmp_path / "run", str(tmp_path / "data")
    assert main(["train", "--data", data, "--seconds", "0.3", "--steps", "4", "--out", str(run), *TINY]) == 0
    assert "mel_distance" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["mel_distance"] > 0
    assert summary["test"]["recognised_original"] == 1.0
    assert 0 <= summary["test"]["recognised"] <= 1
    assert (run / "sounds" / "01-original.wav").exists()
    codes, sounds = tmp_path / "codes.npy", tmp_path / "sounds"
    assert main(["encode", str(run), "--input", str(tmp_path / "data" / "low"), "--output", str(codes)]) == 0
    assert np.load(codes).shape == (10, 3)
    assert main(["decode", str(run), "--input", str(codes), "--output", str(sounds)]) == 0
    assert sorted(path.name for path in sounds.iterdir())[-1] == "10.wav"
    assert main(["sample", str(run), "-n", "2", "--output", str(tmp_path / "drawn")]) == 0
    assert len(read_wave(tmp_path / "drawn" / "1.wav", RATE)) == 2400
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    capsys.readouterr()
    assert main(["encode", str(run), "--input", str(tmp_path / "bad.wav"), "--output", str(codes)]) == 2
    assert "bad.wav must be a readable WAV or FLAC file" in error_of(capsys)


def test_the_shortest_sound_has_two_frames():
    kind = Sound.of(8000, 0.001)
    assert (kind.frames, kind.samples) == (2, 400)
    assert kind.to_waveform(kind.from_waveform(torch.zeros(1, 400))).shape == (1, 400)  # of one, no wave could be found
