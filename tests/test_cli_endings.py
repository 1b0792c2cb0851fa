"""How the command ends: by a signal at any time, by a full disk at the end, by an error that nobody foresaw."""

from __future__ import annotations

import json
import signal

import pytest
from conftest import TINY, error_of
from test_cli import process, train, wait_for

from daps_rl.cli import main

SLOW = """
import os, time
from daps_rl.agents import DAPS
from daps_rl.runs import session

evaluate_splits = session.evaluate_splits

def slowly(*arguments):
    open("evaluating", "w").close()
    time.sleep(float(os.environ.get("SLEEP", "0")))
    return evaluate_splits(*arguments)

session.evaluate_splits = slowly

class Mine(DAPS):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_final_evaluation_is_heeded(data, tmp_path, monkeypatch, number):
    (tmp_path / "slow_evaluation.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLEEP", "100")
    run = tmp_path / "run"
    options = ["--agent", "slow_evaluation:Mine", "--steps", "2", "--out", str(run)]
    child = process("train", "--data", str(data), *TINY, *options, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "evaluating").exists() or child.poll() is not None)
    child.send_signal(number)
    _, error = child.communicate(timeout=10)
    assert child.returncode == 128 + number
    assert "stopped; go on with: daps-rl train --resume" in error
    assert "Traceback" not in error
    assert not (run / "summary.json").exists()
    monkeypatch.setenv("SLEEP", "0")
    again = process("train", "--resume", "--trust", "--out", str(run), cwd=tmp_path)
    assert again.wait(timeout=100) == 0
    again.communicate()
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_a_picture_that_is_missing_is_drawn_again(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run, "--steps", "2") == 0
    before = (run / "summary.json").read_bytes()
    pictures = {path.name for path in run.glob("*.png")}
    assert pictures == set(json.loads(before)["pictures"]) == {
        "reconstructions.png", "learning_curves.png", "code_usage.png",
    }  # fmt: skip
    (run / "code_usage.png").unlink()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert (run / "code_usage.png").stat().st_size > 1000
    assert (run / "summary.json").read_bytes() == before


def test_a_run_is_finished_once_its_pictures_are_there(data, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "code_usage.png")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("daps_rl.runs.session.draw_run", full)
        assert train(data, run, "--steps", "2") == 2
    assert (
        "code_usage.png: No space left on device; free some space, then go on with --resume" in capsys.readouterr().err
    )
    assert not (run / "summary.json").exists()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert (run / "code_usage.png").exists()
    assert (run / "summary.json").exists()


def test_ctrl_c_while_options_are_parsed_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daps_rl.cli._parser", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory; lower --batch-size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; lower"),
        (OverflowError("int too big to convert"), "int too big to convert"),
        (RecursionError("maximum recursion\ndepth exceeded"), "maximum recursion depth exceeded"),
    ],
)
def test_the_last_resort_is_one_line(error, says, tmp_path, monkeypatch, capsys):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("daps_rl.commands.train.load_data", fails)
    assert main(["train", "--steps", "1"]) == 2
    assert says in error_of(capsys)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(type(error)):
        main(["--debug", "train", "--steps", "1"])


@pytest.mark.parametrize(("load", "threads", "told"), [(3.1, 2, True), (0.1, 2, False), (3.1, 1, False)])
def test_a_run_on_busy_cores_says_why_it_may_be_slow(data, tmp_path, monkeypatch, capsys, load, threads, told):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert train(data, tmp_path / "run", "--steps", "4") == 0
    assert capsys.readouterr().err.count("other processes keep 3.1 of 2 cores busy") == told
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(data, tmp_path / "again", "--steps", "4") == 0
    assert "other processes" not in capsys.readouterr().err
