"""Series: windows and what is missing of them, files by hand, every broken file, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from data_files import assert_one_line

from daps_rl.cli import main
from daps_rl.config import make_config
from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data.recordings import Form, read_recording
from daps_rl.data.series import Series, load_series_folder, split_recordings, window_starts

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 3 Xposition Zrotation Xrotation
  JOINT Left Leg
  {
    OFFSET 0.0 -40.0 0.0
    CHANNELS 1 Zrotation
    End Site
    {
      OFFSET 0.0 -40.0 0.0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.025
1.0 2.0 3.0 -4.5
1.5 2.5 3.5 -5.5
"""
KIND = Series(steps=3, mean=(10.0, 5.0), deviation=(2.0, 0.0), padded=True, suffix=".csv", names=("a", "b"))


def pendulum(random: np.random.Generator, steps: int) -> np.ndarray:
    """The place and the angle, in degrees, of the end of a damped pendulum of 100 cm. [steps, 3]."""
    time, start, speed = np.arange(steps) / 20, random.uniform(0.5, 2.5), random.uniform(2, 5)
    angle = start * np.exp(-0.3 * time) * np.cos(speed * time)
    return np.stack([100 * np.sin(angle), -100 * np.cos(angle), np.degrees(angle)], axis=1)


def write_csv(path: Path, steps: np.ndarray, header: str = "x,y,angle") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, steps, delimiter=",", header=header, comments="", fmt="%.6f")
    return path


@pytest.fixture
def pendulums(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for i in range(30):
        write_csv(tmp_path / "pendulums" / f"{i:02}.csv", pendulum(random, 12 + i % 9))
    return tmp_path / "pendulums"


def test_windows_lie_side_by_side_and_the_last_at_the_end():
    assert window_starts(9, 3) == [0, 3, 6]
    assert window_starts(8, 3) == [0, 3, 5]
    assert window_starts(3, 3) == [0]
    assert window_starts(2, 3) == [0]


def test_a_window_by_hand():
    found = KIND.windows([np.array([[10.0, 5], [12, 5], [8, 5], [14, 6]]), np.array([[10.0, 5], [13, 5]])], "here")
    assert found.dtype == np.float32
    expected = [
        [[0, 0, 1], [1, 0, 1], [-1, 0, 1]],
        [[1, 0, 1], [-1, 0, 1], [2, 1, 1]],
        [[0, 0, 1], [1.5, 0, 1], [0, 0, 0]],
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    back = KIND.unscaled(torch.from_numpy(found))
    np.testing.assert_array_equal(back[1], [[12, 5], [8, 5], [14, 5]])  # a constant stays what it was in training
    np.testing.assert_array_equal(back[2], [[10, 5], [13, 5], [np.nan, np.nan]])


def test_metrics_by_hand():
    x = torch.tensor([[[0.0, 0, 1], [1, 0, 1], [0, 0, 0]]])
    decoded = torch.tensor([[[3.0, 0, 0.9], [-3, 1, 0.2], [9, 9, 0.4]]])
    found = KIND.metrics(decoded, x)
    mean_square = (9 + 16) / 2
    assert found["rmse"].item() == pytest.approx((2.0 * mean_square**0.5 + 0.5**0.5) / 2)
    assert found["r2"].item() == pytest.approx(1.0 - mean_square)  # of the feature that varies
    assert found["length"].item() == pytest.approx(200 / 3)
    whole = Series(steps=3, mean=(0.0, 0.0), deviation=(1.0, 1.0), padded=False, suffix=".npy")
    assert set(whole.metrics(decoded[..., :2], x[..., :2])) == {"rmse", "r2"}


def test_what_is_decoded_has_the_most_probable_length():
    flags = torch.tensor([[0.9, 0.4, 0.9], [0.6, 0.1, 0.7], [0.1, 0.2, 0.3], [1.0, 1.0, 0.0]])
    lengths = [3, 1, 1, 2]  # by the products of p and 1 - p: .324 of 3, .162 of 1, .056 of 1
    x = torch.cat([torch.zeros(4, 3, 2), flags[..., None]], dim=-1)
    assert KIND.unscaled(x).isfinite().all(-1).sum(1).tolist() == lengths


def test_the_mean_of_training_has_an_r2_of_zero(pendulums):
    splits = load(pendulums)
    zeros = torch.cat([torch.zeros(24, 20, 3), splits.train[..., 3:]], dim=-1)
    steps = splits.train[..., 3].sum(1)
    r2 = splits.kind.metrics(zeros, splits.train)["r2"]
    assert (r2 * steps).sum().item() / steps.sum().item() == pytest.approx(0.0, abs=1e-6)


def test_a_folder_of_recordings_of_several_lengths(pendulums):
    splits = load(pendulums)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [24, 3, 3]
    assert splits.observation_shape == (20, 4)
    assert splits.likelihood == "fixed_columns"
    assert splits.kind.columns == ("number*3@3", "yes-no")
    assert splits.kind.names == ("x", "y", "angle")
    there = splits.train[..., 3] == 1
    assert (splits.train[~there] == 0).all()
    np.testing.assert_allclose(splits.train[there].mean(0)[:3], 0.0, atol=1e-5)
    np.testing.assert_allclose(splits.train[there].std(0, correction=0)[:3], 1.0, atol=1e-5)
    assert load(pendulums).fingerprint() == splits.fingerprint()


def test_windows_of_a_folder_of_classes_have_its_labels(tmp_path):
    random = np.random.default_rng(0)
    for name, steps in (("swing", 12), ("walk", 6)):
        for i in range(3):
            write_csv(tmp_path / "train" / name / f"{i}.csv", pendulum(random, steps))
    write_csv(tmp_path / "val" / "walk" / "a.csv", pendulum(random, 6))
    write_csv(tmp_path / "test" / "swing" / "a.csv", pendulum(random, 7))
    splits = load(tmp_path, window=6)
    assert splits.train_labels.tolist() == [0] * 6 + [1] * 3
    assert splits.validation_labels.tolist() == [1]
    assert splits.test_labels.tolist() == [0, 0]  # the second ends with the recording
    assert splits.observation_shape == (6, 3)  # nothing is missing
    assert (splits.likelihood, splits.kind.columns) == ("fixed_gaussian", ())
    assert torch.equal(splits.test[0, 1:], splits.test[1, :-1])


@pytest.mark.parametrize(("longest", "window"), [(256, 256), (257, 64)])
def test_the_window_of_long_recordings(tmp_path, longest, window):
    for i in range(12):
        write_csv(tmp_path / f"{i}.csv", pendulum(np.random.default_rng(i), longest if i == 3 else 100))
    assert load(tmp_path).observation_shape[0] == window


def test_a_file_of_floats_is_series_and_one_of_greys_is_images(tmp_path):
    series = np.random.default_rng(0).normal(5, 3, (20, 7, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", series)
    splits = load(tmp_path / "a.npy")
    assert isinstance(splits.kind, Series)
    assert splits.observation_shape == (7, 3)
    assert splits.likelihood == "fixed_gaussian"
    units = torch.cat([splits.kind.unscaled(splits[split]) for split in ("train", "validation", "test")])
    np.testing.assert_allclose(np.sort(units.ravel()), np.sort(series.ravel()), atol=1e-4)
    assert load(tmp_path / "a.npy", window=4).train.shape == (32, 4, 3)
    np.save(tmp_path / "b.npy", np.clip(series, 0, 1))
    assert load(tmp_path / "b.npy").observation_shape == (1, 7, 3)
    with pytest.raises(DataError, match=r"b\.npy must hold series to take a window, got \[20, 7, 3\]"):
        load(tmp_path / "b.npy", window=4)
    greys = np.clip(series, 0, 1)
    greys[3, 5:] = np.nan  # which no grey image has
    np.save(tmp_path / "b.npy", greys)
    assert load(tmp_path / "b.npy").kind.columns == ("number*3@3", "yes-no")
    np.save(tmp_path / "c.npy", series[:, None])
    assert load(tmp_path / "c.npy").observation_shape == (1, 7, 3)


def test_steps_that_are_nan_are_not_there(tmp_path):
    series = np.random.default_rng(0).normal(size=(20, 7, 3))
    series[::2, 5:] = np.nan
    np.savez(tmp_path / "a.npz", train=series, test=series[:4], train_labels=np.arange(20), test_labels=np.arange(4))
    splits = load(tmp_path / "a.npz")
    assert splits.test[..., 3].sum(1).tolist() == [5, 7, 5, 7]
    np.testing.assert_allclose(splits.kind.unscaled(splits.test), series[:4], atol=1e-6)
    assert sorted([*splits.train_labels.tolist(), *splits.validation_labels.tolist()]) == list(range(20))
    assert splits.kind.write(tmp_path / "out", splits.test) == f"{tmp_path / 'out.npy'}: float32 [4, 7, 3]"
    np.testing.assert_allclose(splits.kind.read(tmp_path / "out.npy"), splits.test, atol=1e-6)
    series[3, 2, 1] = np.nan
    with pytest.raises(DataError, match=r"here must be finite, but for steps at the end .* got others in series 3"):
        split_recordings(series, "here")
    with pytest.raises(DataError, match="got others in series 1"):
        split_recordings(np.where(np.arange(4)[:, None, None] == 1, np.nan, np.ones((4, 3, 2))), "here")
    np.savez(tmp_path / "b.npz", train=series[4:], train_labels=np.arange(20))
    with pytest.raises(DataError, match=r"train_labels must be one for each of the 16 series, got 20"):
        load(tmp_path / "b.npz")


def test_csv_written_and_read_again(pendulums, tmp_path):
    splits = load(pendulums)
    assert splits.kind.write(tmp_path / "out", splits.test) == f"{tmp_path / 'out'}: 3 .csv files"
    lines = (tmp_path / "out" / "00000.csv").read_text().splitlines()
    assert lines[0] == "x,y,angle"
    assert len(lines) == 1 + int(splits.test[0, :, 3].sum())  # without the steps that are not there
    np.testing.assert_allclose(splits.kind.read(tmp_path / "out"), splits.test, atol=1e-4)
    np.testing.assert_allclose(splits.kind.read(tmp_path / "out" / "00001.csv"), splits.test[1:2], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1;2,5\n", None),
        ("a;b\n1;2\n\n3;4\n", ("a", "b")),
        ("1\t2\n3\t4\n", ("feature 0", "feature 1")),
        ('\ufeff"a, b",c\n1,2\n3,4\n', ("a, b", "c")),
    ],
)
def test_separators_and_headers(tmp_path, text, names):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    if names is None:
        with pytest.raises(DataError):
            read_recording(tmp_path / "a.csv", None)
        return
    steps, form = read_recording(tmp_path / "a.csv", None)
    assert steps.tolist() == [[1, 2], [3, 4]]
    assert form == Form(".csv", names)


def test_bvh_read_and_written(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.bvh").write_text(BVH.replace("-5.5", f"-{i}.5"))
    steps, form = read_recording(tmp_path / "7.bvh", None)
    assert steps.tolist() == [[1, 2, 3, -4.5], [1.5, 2.5, 3.5, -7.5]]
    assert form.names == ("Hips.Xposition", "Hips.Zrotation", "Hips.Xrotation", "Left Leg.Zrotation")
    (tmp_path / "notes.csv").write_text("who,when\n")  # passed over beside .bvh files
    splits = load(tmp_path)
    assert splits.observation_shape == (2, 4)
    assert splits.kind.write(tmp_path / "out", splits.test) == f"{tmp_path / 'out'}: 1 .bvh files"
    number = next(i for i in range(12) if np.allclose(splits.kind.read(tmp_path / f"{i}.bvh"), splits.test))
    written = (tmp_path / "out" / "00000.bvh").read_text()
    assert written == (tmp_path / f"{number}.bvh").read_text().replace(".0 2.0 3.0", " 2 3")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x,y,angle\n1,2,3\n1,2\n", "line 3 must have 3 numbers, got 2"),
        ("x,y,angle\n1,2,3\n1,two,3\n", "line 3 must hold numbers of at most 1e.30, got 'two'"),
        ("x,y,angle\n1,1e300,3\n", "line 2 must hold numbers of at most 1e.30, got '1e300'"),
        ("x,y,angle\n1,2," + "3" * 200_000, "line 2: field larger than field limit"),
        (b"x,y,angle\n1,2,\xe9\n", "byte 0xe9 in line 2, which is no UTF-8"),
        ("1,nan,3\n1,2,3\n", "line 1 must hold numbers of at most 1e.30, got 'nan'"),
        ("x,y,angle\n1,2,3\n\n1,nan,3\n", "line 4 must hold numbers of at most 1e.30, got 'nan'"),
        ("x,y\n1,2\n", "it must have the 3 columns of the recordings before, got 2"),
        ("x,z,angle\n1,2,3\n", "it must have the 3 columns of the recordings before, got z where y should be"),
        ("", "it is empty"),
        ("x,y,angle\n", "it has no steps of numbers"),
    ],
)
def test_a_broken_csv_file(pendulums, text, reason):
    (pendulums / "99.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(UserWarning, match=rf"pendulums: skipped 99\.csv, which cannot be read \(must be.*: .*{reason}"):
        splits = load(pendulums)
    assert sum(len(splits[split]) for split in ("train", "validation", "test")) == 30
    with (
        pytest.warns(UserWarning, match="99"),
        pytest.raises(DataError, match=r"at most 0 unreadable files .* got 1: 99\.csv"),
    ):
        load(pendulums, max_corrupt=0)
    with pytest.raises(DataError, match=reason) as error:
        splits.kind.read(pendulums / "99.csv")
    assert_one_line(error)
    assert str(pendulums / "99.csv") in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("HIERARCHY", "SKELETON", "it must have HIERARCHY, and then MOTION"),
        ("Frames: 2", "Frames 2", "line 17 must begin Frames: N, and then Frame Time: SECONDS"),
        ("Frames: 2", "Frames: 3", "it must have the 3 frames that it tells of, got 2"),
        ("2.5 3.5", "2.5", "line 20 must have 4 numbers, got 3"),
        ("0.025", "0.1", "its frame time must be 0.025 s as before, got 0.1 s"),
    ],
)
def test_a_broken_bvh_file(tmp_path, old, new, reason):
    (tmp_path / "a.bvh").write_text(BVH)
    (tmp_path / "b.bvh").write_text(BVH.replace(old, new))
    _, form = read_recording(tmp_path / "a.bvh", None)
    with pytest.raises(DataError, match=rf"b\.bvh must be a \.bvh file of steps: {reason}") as error:
        read_recording(tmp_path / "b.bvh", form)
    assert_one_line(error)


def test_what_does_not_fit_a_model(tmp_path, monkeypatch):
    kind = Series(steps=3, mean=(0.0,) * 3, deviation=(1.0,) * 3, padded=False, suffix=".npy")
    np.save(tmp_path / "a.npy", np.ones((2, 2, 3)))
    with pytest.raises(DataError, match=r"a\.npy must have recordings of 3 steps or more, as in training, got 2"):
        kind.read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    with pytest.raises(DataError, match=r"a\.npy must have 3 features, as in training, got 4"):
        kind.read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    with pytest.raises(DataError, match=r"a\.npy must have shape \[N, steps, features\], got \[2, 3\]"):
        kind.read(tmp_path / "a.npy")
    with pytest.raises(MissingDataError, match=r"must hold recordings \(\.bvh, \.csv\), got a folder without"):
        kind.read(tmp_path)
    monkeypatch.setattr("daps_rl.data.series.LARGEST", 100)
    np.save(tmp_path / "a.npy", np.full((5, 7, 3), 2.0))
    with pytest.raises(DataError, match=r"a\.npy must hold at most 100 numbers in windows of 7, got 105; leave record"):
        load(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.full((5, 3, 3), 2.0))
    assert load(tmp_path / "a.npy", window=6).observation_shape == (6, 4)
    with pytest.raises(DataError, match=r"numbers in windows of 9, got 135; .* or take a smaller window"):
        load(tmp_path / "a.npy", window=9)
    for window in (0, -3, 2.5):
        with pytest.raises(DataError, match=f"window must be a whole number of steps >= 1, got {window}; leave"):
            load(tmp_path / "a.npy", window=window)


def test_a_folder_without_recordings(tmp_path):
    with pytest.raises(MissingDataError, match=r"must hold recordings \(\.csv\) of train, got none there") as error:
        load_series_folder(tmp_path)
    assert_one_line(error)


def test_gaussian_likelihoods_are_those_of_columns(pendulums):
    splits = load(pendulums)
    for given, taken in (("fixed_gaussian", "fixed_columns"), ("gaussian", "columns"), ("auto", "fixed_columns")):
        config = make_config(likelihood=given, steps=1)
        model = config.model_config(splits.observation_shape, splits.likelihood, splits.kind.columns)
        assert model.likelihood == taken
    config = make_config(likelihood="fixed_gaussian", steps=1)
    assert config.model_config((4,), "gaussian").likelihood == "fixed_gaussian"
    with pytest.raises(ValueError, match=r"likelihood must be columns or fixed_columns .* got bernoulli"):
        make_config(likelihood="bernoulli", steps=1).model_config((20, 4), "columns", splits.kind.columns)


@pytest.mark.parametrize("decoder", ["mlp", "sequence"])
def test_the_command(pendulums, tmp_path, capsys, decoder):
    run, codes, out = tmp_path / "run", str(tmp_path / "codes.npy"), tmp_path / "out"
    options = [*TINY, "--steps", "4", "--decoder", decoder]
    assert main(["train", "--data", str(pendulums), "--out", str(run), *options]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["test"]["rmse"] < 200
    assert {"r2", "length", "rmse_greedy"} <= set(summary["test"])
    assert (run / "reconstructions.png").stat().st_size > 10_000
    assert main(["encode", str(run), "--input", str(pendulums), "--output", codes]) == 0
    assert np.load(codes).shape == (30, 3)
    capsys.readouterr()
    assert main(["decode", str(run), "--input", codes, "--output", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}: 30 .csv files\n"
    assert (out / "00029.csv").read_text().startswith("x,y,angle\n")
    assert main(["sample", str(run), "-n", "2", "--output", str(tmp_path / "sample.npy")]) == 0
    assert np.load(tmp_path / "sample.npy").shape == (2, 20, 3)


@pytest.mark.parametrize("missing", [False, True])
def test_the_published_settings_of_motion(tmp_path, missing):
    motion = np.random.default_rng(0).normal(size=(20, 64, 128)).astype(np.float32).cumsum(1)
    if missing:
        motion[::3, 40:] = np.nan
    np.save(tmp_path / "motion.npy", motion)
    small = ["--steps", "1", "--batch-size", "4", "--samples", "4", "--vocab-size", "8", "--embed-dim", "8"]
    run = tmp_path / "run"
    assert main(["train", "--config", "motion", "--data", str(tmp_path / "motion.npy"), "--out", str(run), *small]) == 0
    model = json.loads((run / "model" / "config.json").read_text())["model"]
    assert model["observation_shape"] == [64, 128 + missing]
    assert (model["likelihood"], model["variance"]) == ("fixed_columns" if missing else "fixed_gaussian", 0.25)
    assert (model["decoder"], model["num_tokens"]) == ("sequence", 64)
