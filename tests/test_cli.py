"""The command, as a person types it: in a process of its own where kills and signals matter."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, error_of

from daps_rl.agents import AGENTS
from daps_rl.cli import main
from daps_rl.commands.parser import COMMANDS
from daps_rl.config import make_config


def train(data: Path, out: Path, *options: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *TINY, *options])


def process(*arguments: str, **kwargs: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "daps_rl", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def wait_for(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail("waited in vain")
        time.sleep(0.02)


def test_a_warning_is_one_line_without_our_code(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{i}.5,{i % 7}.5\n" for i in range(40)))
    ran = process("train", "--dry-run", "--data", str(tmp_path / "a.csv"), *TINY)
    _, said = ran.communicate(timeout=120)
    assert ran.returncode == 0
    assert said.startswith(f"daps-rl: warning: {tmp_path}/a.csv: columns: a number, b number; numbers are standardised")
    assert said.count("\n") == 1


def test_a_run_leaves_everything_behind_and_evaluate_recomputes_it(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "8", "--checkpoint-every", "4") == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"] == str(data)
    assert (summary["agent"], summary["seed"], summary["steps"], summary["bits"]) == ("daps-na", 0, 8, 6.0)
    assert {"seconds", "steps_per_second", "num_parameters", "beta", "validation"} <= set(summary)
    names = [
        "log_likelihood",
        "kl",
        "elbo",
        "beta_elbo",
        "psnr",
        "psnr_greedy",
        "ssim",
        "code_usage",
        "code_perplexity",
    ]
    assert set(names) <= set(summary["test"])
    assert all(np.isfinite(summary["test"][name]) for name in names)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert {"config.json", "checkpoint.safetensors", "reconstructions.png", "learning_curves.png"} <= {
        path.name for path in run.iterdir()
    }
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".zip")]
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {split: summary[split] for split in ("validation", "test")}


def test_encode_decode_sample_and_report(data, tmp_path, capsys):
    run, codes, means = tmp_path / "run", tmp_path / "codes.npy", tmp_path / "x.npy"
    assert train(data, run, "--steps", "4") == 0
    assert main(["encode", str(run), "--input", str(data), "--output", str(codes)]) == 0
    z = np.load(codes)
    assert z.shape == (60, 3)
    assert z.dtype == np.int64
    assert main(["decode", str(run), "--input", str(codes), "--output", str(means)]) == 0
    assert np.load(means).shape == (60, 1, 8, 8)
    assert main(["sample", str(run), "-n", "5", "--output", str(means)]) == 0
    assert np.load(means).shape == (5, 1, 8, 8)
    (run / "reconstructions.png").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "reconstructions.png").stat().st_size > 1000
    capsys.readouterr()
    np.save(codes, np.full((2, 3), 4))
    assert main(["decode", str(run), "--input", str(codes), "--output", str(means)]) == 2
    assert "integers [..., 3] in 0 … 3" in error_of(capsys)


def test_resumed_run_ends_with_the_same_weights_bit_for_bit(data, tmp_path):
    torch.set_num_threads(1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--steps", "300", "--checkpoint-every", "10", "--agent", "daps")
    assert train(data, whole, *options) == 0
    child = process("train", "--data", str(data), "--out", str(killed), *TINY, *options)
    wait_for(lambda: (killed / "checkpoint.safetensors").exists() or child.poll() is not None)
    time.sleep(0.1)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.communicate()
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"step": 9999, "sec')  # torn while it was written
    assert main(["train", "--resume", "--out", str(killed)]) == 0
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)

    def rows(run: Path) -> list[dict]:
        drop = ("seconds",)
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key not in drop} for row in found]

    assert rows(whole) == rows(killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_exit(data, tmp_path, number):
    run = tmp_path / "run"
    child = process("train", "--data", str(data), "--out", str(run), *TINY, "--steps", "100000")
    wait_for(lambda: (run / "metrics.jsonl").exists() or child.poll() is not None)
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert "--resume" in error
    assert "Traceback" not in error
    from daps_rl.tensor_file import load_tensors

    _, info = load_tensors(run / "checkpoint.safetensors", "checkpoint")
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert info["step"] == json.loads(rows[-1])["step"]
    assert not list(run.glob(".checkpoint*"))


def test_resume_before_the_first_checkpoint_starts_over(data, tmp_path):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "4") == 0
    for name in ("checkpoint.safetensors", "summary.json"):
        (run / name).unlink()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 4


def test_changed_data_are_refused(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "4") == 0
    x = np.load(data)
    x[0, 0, 0, 0] += 0.25
    np.save(data, x)
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert "data have changed" in error_of(capsys)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[: len(content) // 2], "damaged"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "digest"),
        (lambda content: b"hello", "damaged"),
    ],
)
def test_damaged_checkpoints_are_refused(data, tmp_path, capsys, spoil, says):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "4") == 0
    path = run / "checkpoint.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert says in error_of(capsys)


def test_foreign_checkpoint_is_refused(data, tmp_path, capsys):
    from safetensors.torch import save_file

    run = tmp_path / "run"
    assert train(data, run, "--steps", "4") == 0
    save_file({"weight": torch.zeros(2)}, run / "checkpoint.safetensors")
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert "no checkpoint of this version" in error_of(capsys)


def test_checkpoint_of_other_settings_is_refused(data, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert train(data, run, "--steps", "4") == 0
    assert train(data, other, "--steps", "4", "--seed", "1") == 0
    (run / "checkpoint.safetensors").write_bytes((other / "checkpoint.safetensors").read_bytes())
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert "other settings" in error_of(capsys)


def test_folder_in_use_is_refused(data, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    with open(run / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train(data, run, "--steps", "4") == 2
    assert "in use" in error_of(capsys)
    assert not (run / "config.json").exists()


def test_full_disk_is_one_line_and_keeps_the_last_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    child = process("train", "--data", str(data), "--out", str(run), *TINY, "--steps", "100000")
    wait_for(lambda: (run / "metrics.jsonl").exists() or child.poll() is not None)
    child.terminate()
    child.communicate(timeout=60)
    before = (run / "checkpoint.safetensors").read_bytes()

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    child = process("train", "--resume", "--out", str(run), preexec_fn=little_room)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 2
    lines = [line for line in error.splitlines() if not line.startswith("step ")]
    assert len(lines) == 1, lines
    assert "File too large; free some space, then go on with --resume" in lines[0]
    assert (run / "checkpoint.safetensors").read_bytes() == before
    assert not list(run.glob(".checkpoint*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--zzzz"], "unrecognized arguments: --zzzz; see daps-rl train --help"),
        (["--agents", "daps"], "unrecognized arguments: --agents daps (did you mean --agent?); see"),
        (["--bacth-size=3"], "unrecognized arguments: --bacth-size=3 (did you mean --batch-size?); see"),
        (["--steps", "0"], "steps must be positive"),
        (["--steps", "2", "--minutes", "1"], "exactly one of steps and minutes"),
        (["--steps", "x"], "invalid int value"),
        (["--data", "nowhere.npy"], "nowhere.npy"),
        (["--data-dir", "/nonexistent", "--data", "fashion-mnist"], "/nonexistent"),
        (["--num-tokens", "100000"], "num_tokens must be positive and <= 65,536 and whole, got 100000"),
        (["--ess-fraction", "0.2", "--samples", "4", "--steps", "1"], "ess_fraction"),
        (["--agent", "nobody", "--steps", "1"], "got 'nobody'."),
        (["--agent", "dasp-na", "--steps", "1"], "got 'dasp-na' (did you mean daps-na?)."),
        (["--problem", "tps20", "--steps", "1"], "got 'tps20' (did you mean tsp20?)."),
        (["--embed-dim", "9", "--steps", "1"], "multiple of num_heads"),
        (["--resume"], "--resume needs --out"),
        (["--config", "nothing"], "invalid choice"),
    ],
)
def test_errors_are_one_line_and_code_2(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["train", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert says in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_commands_on_no_run(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    assert "config.json is missing" in error_of(capsys)


def test_a_second_run_in_the_same_folder_is_refused(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "2") == 0
    capsys.readouterr()
    assert train(data, run, "--steps", "2") == 2
    assert "holds a run already" in error_of(capsys)


def test_a_resumed_run_keeps_its_settings(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "2") == 0
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run), "--batch-size", "16"]) == 2
    assert "leave out --batch-size" in error_of(capsys)
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out


def test_tensorboard_events(data, tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    assert train(data, run, "--steps", "4", "--tensorboard") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("beta_elbo")] == [2, 4]


def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_the_short_help_shows_what_people_use_and_the_long_one_everything(capsys, monkeypatch):
    short = help_of(capsys, monkeypatch, "train", "--help")
    long = help_of(capsys, monkeypatch, "train", "--help-all")
    flags = {line.split()[0] for line in short.splitlines() if line.startswith("  --")}
    assert flags == {
        "--help-all", "--data", "--problem", "--config", "--num-tokens", "--vocab-size", "--agent", "--batch-size",
        "--prior", "--rate-weight", "--target-bits", "--token-price", "--samples", "--reward", "--steps", "--minutes",
        "--seed", "--out", "--resume",
    }  # fmt: skip
    assert [line[:-1] for line in short.splitlines()[3:] if line[-1:] == ":" and line[0] != " "][:6] == [
        "options", "data", "code", "agent", "length", "output",
    ]  # fmt: skip
    assert "(default: 256; 16 for digits)" in " ".join(short.split())
    for name in dataclasses.asdict(make_config()):
        assert name == "observation_shape" or f"--{name.replace('_', '-')} " in long.replace(",", " ")
    for text in (short, long):
        assert max(map(len, text.splitlines())) <= 80
        for name, spec in AGENTS.items():
            assert f"  {name:<20}  {spec.help}\n" in text


@pytest.mark.parametrize("command", list(COMMANDS)[1:])
def test_every_command_says_what_it_does(command, capsys, monkeypatch):
    text = help_of(capsys, monkeypatch, command, "--help")
    assert re.search(r"\n\n[A-Z][a-z]+ .*\.\n\n", text, re.DOTALL)
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_whose_codes_say_nothing_says_so(data, tmp_path, capsys):
    """A learning rate of next to nothing leaves the decoder deaf to the code; of few data the gain is mostly noise."""
    np.save(data, np.random.default_rng(0).random((600, 1, 8, 8), dtype=np.float32))
    assert train(data, tmp_path / "deaf", "--steps", "1", "--learning-rate", "1e-12") == 0
    summary = json.loads((tmp_path / "deaf" / "summary.json").read_text())
    assert summary["validation"]["code_gain"] < 0.1
    assert "the codes say nothing of the data" in capsys.readouterr().err


def test_an_agent_of_ones_own_in_the_working_directory(data, tmp_path):
    (tmp_path / "my_agents.py").write_text("from daps_rl.agents import RLOO\n\n\nclass Mine(RLOO):\n    pass\n")
    script = Path(sys.executable).parent / "daps-rl"
    arguments = ["train", "--data", str(data), "--steps", "2", "--num-tokens", "3", "--vocab-size", "4", "--out", "run"]
    done = subprocess.run(
        [str(script), *arguments, "--agent", "my_agents:Mine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["agent"] == "my_agents:Mine"


def test_an_unknown_agent_leaves_no_folder(tmp_path, capsys):
    assert main(["train", "--agent", "nobody", "--steps", "1", "--out", str(tmp_path / "run")]) == 2
    assert "agent must be one of" in error_of(capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_without_codes_ends_well(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "2", "--agent", "gaussian") == 0
    assert "continuous latents" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert "code_usage" not in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["mnist", "cifar10", "motion"])
def test_a_dry_run_of_published_settings_takes_two_steps_and_writes_nothing(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", preset, "--dry-run", "--agent", "daps-na"]) == 0
    said = capsys.readouterr().out
    assert "on noise" in said
    assert f"{ {'mnist': 64, 'cifar10': 576, 'motion': 640}[preset] } bits" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_imagenet(capsys):
    assert main(["train", "--config", "imagenet256", "--dry-run"]) == 0
    assert "10240 bits" in capsys.readouterr().out


def test_a_dry_run_on_data_and_with_settings_that_do_not_fit(data, tmp_path, capsys):
    assert main(["train", "--data", str(data), "--dry-run", *TINY]) == 0
    assert "a step with 8 data and 4 codes" in capsys.readouterr().out
    assert main(["train", "--data", str(data), "--dry-run", "--out", str(tmp_path / "run")]) == 2
    assert "--dry-run writes nothing" in error_of(capsys)


def test_published_settings_without_data_of_their_own_ask_for_some(capsys):
    for preset in ("imagenet256", "motion"):
        assert main(["train", "--config", preset]) == 2
        assert f"--config {preset} names no data; pass --data" in error_of(capsys)


def test_values_may_hold_commas():
    from daps_rl.commands.options import split_settings

    assert split_settings("levels=[8,8,4],preserve_symmetry=true") == ["levels=[8,8,4]", "preserve_symmetry=true"]
    assert split_settings("top=3, other=x,") == ["top=3", "other=x,"]
    assert split_settings("") == []


def test_levels_of_fsq_from_the_command_line(data, tmp_path):
    out = tmp_path / "run"
    options = ["--agent", "fsq", "--vocab-size", "27", "--policy-options", "levels=[3,3,3]", "--steps", "3"]
    assert main(["train", "--data", str(data), "--out", str(out), *TINY, *options]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["bits"] == pytest.approx(3 * np.log2(27))
    assert summary["test"]["bits"] == pytest.approx(summary["bits"])
