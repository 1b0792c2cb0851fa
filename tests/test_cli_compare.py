"""`daps-rl compare`, as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, error_of

from daps_rl.cli import main

DIES = """
import os, signal
from daps_rl.agents import DAPS

class Dies(DAPS):
    def losses(self, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def data(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(data.parent)
    return data


def start(data: Path, out: Path) -> subprocess.Popen:
    """A comparison of two runs without end, both under way."""
    command = [sys.executable, "-m", "daps_rl", "compare", "--agents", "daps-na", "--seeds", "2", "--jobs", "2"]
    child = subprocess.Popen(
        [*command, "--data", str(data), "--out", str(out), *TINY, "--steps", "100000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    end = time.monotonic() + 100
    while len(list(out.glob("runs/*/metrics.jsonl"))) < 2:
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return child


def test_a_comparison_leaves_everything_behind_and_reports_anew(data, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_agents.py").write_text(DIES)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "cmp"
    options = ["--agents", "daps-na,dies=own_agents:Dies", "--seeds", "1", "--steps", "8", "--jobs", "2"]
    own = ["--set", "daps-na:vocab_size=8,decoder-hidden=8,4"]
    assert main(["compare", "--data", str(data), "--out", str(out), *TINY, *options, *own]) == 1
    shown = capsys.readouterr()
    assert "some runs failed" in shown.err
    assert "- dies, seed 0: killed by SIGKILL (out of memory?)" in shown.out
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["label"], row["status"]) for row in rows] == [("daps-na", "finished"), ("dies", "failed")]
    summary = json.loads((out / "runs" / "daps-na-seed0" / "summary.json").read_text())
    assert all(rows[0][name] == value for name, value in summary.items() if name != "versions")
    assert (rows[0]["bits"], rows[0]["config"]["decoder_hidden"], rows[1]["bits"]) == (9.0, [8, 4], 6.0)
    names = {"comparison.json", "comparison.md", "rows.jsonl", "curves.png", "reconstructions.png"}
    assert names <= {path.name for path in out.iterdir()}
    assert f"{summary['test']['psnr']:.2f} (no interval)" in shown.out
    for name in ("comparison.md", "curves.png", "rows.jsonl"):
        (out / name).unlink()
    assert main(["compare", "--out", str(out), "--report"]) == 2
    assert "asks to import and run own_agents:Dies" in capsys.readouterr().err
    assert main(["compare", "--out", str(out), "--report", "--trust"]) == 0
    assert f"{summary['test']['psnr']:.2f} (no interval)" in capsys.readouterr().out
    assert (out / "curves.png").stat().st_size > 1000
    assert main(["compare", "--out", str(out), "--trust", "--steps", "9"]) == 2
    assert "leave out --steps" in error_of(capsys)


def test_a_target_for_some_agents_runs_beside_others_without(data, tmp_path, capsys):
    """Each keeps what it was given, and the table says whose settings are its own."""
    own = ["--set", "daps-na:target_bits=5,prior=independent"]
    options = ["--agents", "daps-na,fsq", "--seeds", "1", "--steps", "4", "--data", str(data), *TINY, *own]
    out = tmp_path / "cmp"
    assert main(["compare", *options, "--out", str(out)]) == 0
    assert "daps-na is daps-na with settings of its own: target_bits 5.0, prior independent." in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["config"]["target_bits"] for row in rows] == [5.0, None]
    assert main(["compare", "--out", str(out), "--agents", "vq", "--set", "vq:target_bits=5"]) == 2
    assert "target_bits needs agents that learn from log p(z), got vq;" in error_of(capsys)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signals_stop_and_save_all_runs(data, tmp_path, number):
    out = tmp_path / "cmp"
    child = start(data, out)
    child.send_signal(number)
    _, error = child.communicate(timeout=100)
    assert child.returncode == 128 + number
    assert "stopped; go on with: daps-rl compare --out" in error
    assert "Traceback" not in error
    from daps_rl.tensor_file import load_tensors

    for run in out.glob("runs/*"):
        _, info = load_tensors(run / "checkpoint.safetensors", "checkpoint")
        assert info["step"] == json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (out / "rows.jsonl").read_text() == ""
    assert "Runs still to do" in (out / "comparison.md").read_text()


@pytest.mark.slow
def test_children_of_a_killed_comparison_end_by_themselves_checkpointed(data, tmp_path):
    import fcntl

    out = tmp_path / "cmp"
    child = start(data, out)
    child.kill()
    child.communicate(timeout=100)
    for run in sorted(out.glob("runs/*")):
        with open(run / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # once its process is gone
        assert (run / "checkpoint.safetensors").exists()


def test_a_comparison_that_another_began_meanwhile_is_left_alone(data, tmp_path, capsys, monkeypatch):
    from daps_rl.comparison.folder import ComparisonFolder
    from daps_rl.comparison.plan import Plan

    folder = ComparisonFolder(tmp_path / "cmp")
    plan = Plan(agents={"ppo": "ppo"}, seeds=(0,), preset=None, options={"steps": 3}, own={})

    def slow(config):
        folder.path.mkdir()
        folder.write_json(folder.settings, plan.to_json())

    monkeypatch.setattr("daps_rl.commands.compare.load_data", slow)
    assert main(["compare", "--agents", "daps", "--steps", "1", "--out", str(folder.path)]) == 2
    assert "changed by another comparison meanwhile" in error_of(capsys)
    assert folder.plan() == plan


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "a comparison that goes on needs --out"),
        (["--report"], "--report needs --out"),
        (["--out", "nowhere"], "nowhere holds no comparison; start one with --agents"),
        (["--agents", "daps,daps"], "each label must be there once"),
        (["--agents", "daps", "--seeds", "0"], "expected how many"),
        (["--agents", "daps", "--seeds", "1,1", "--steps", "1"], "seeds must be different numbers"),
        (["--agents", "daps", "--jobs", "0"], "--jobs must be >= 1"),
        (["--agents", "daps", "--set", "ppo:samples=4"], "--set names ppo, which takes no part"),
        (["--agents", "daps", "--set", "daps:sampels=4"], "'sampels' is no setting of a run"),
        (["--agents", "daps,nobody", "--steps", "1"], "agent must be one of"),
        (["--agents", "daps", "--steps", "1", "--minutes", "1"], "exactly one of steps and minutes"),
        (["--agents", "daps", "--against", "ppo"], "--against must be one of daps, got 'ppo'"),
        (["--agents", "daps", "--data", "nowhere.npy"], "nowhere.npy"),
        (["--agents", "daps", "--no-such-option"], "unrecognized arguments"),
        (
            ["--agents", "daps-na,fsq,own=vq,gaussian,local-search", "--target-bits", "20", "--prior", "independent"],
            "target_bits needs agents that learn from log p(z), got fsq, own, gaussian, local-search; leave these out",
        ),
        (["--agents", "vq", "--rate-weight", "1"], "rate_weight needs agents that learn from log p(z), got vq; leave"),
        (["--agents", "daps-na", "--target-psnr", "20"], "target_psnr needs a prior that learns which codes are short"),
        (["--agents", "daps-na,fsq", "--set", "fsq:target_bits=9"], "target_bits needs agents that learn from log p"),
    ],
)
def test_errors_are_one_line_and_code_2(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["compare", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert says in error_of(capsys)
    assert not list(tmp_path.rglob("*"))
