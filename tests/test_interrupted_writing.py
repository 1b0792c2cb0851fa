"""What a full disk or a kill leaves: files that are whole, and pictures that are drawn when the run goes on."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY

from daps_rl import report
from daps_rl.cli import main
from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.data.kind import write_array
from daps_rl.files import write_atomically

COUNTS = torch.ones(2, 3, dtype=torch.int64)
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = [{"step": 1, "beta_elbo": 1.0}]

WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: write_atomically(folder / "a file", b"new"),
    "parts.npy": lambda folder: write_array(folder / "parts.npy", [COUNTS, COUNTS], 4),
    "rows.jsonl": lambda folder: ComparisonFolder(folder).write_rows([{"label": "new"}]),
    "comparison.json": lambda folder: ComparisonFolder(folder).write_json(folder / "comparison.json", {"new": 1}),
    "usage.png": lambda folder: report.plot_code_usage(folder / "usage.png", COUNTS),
    "curves.png": lambda folder: report.plot_learning_curves(folder / "curves.png", ROWS),
    "sheet.png": lambda folder: report.plot_sheet(folder / "sheet.png", {"a": IMAGES, "b": IMAGES}),
}


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "fdopen", "replace"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_file_before_and_is_named(tmp_path, monkeypatch, name, where) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    monkeypatch.setattr(f"daps_rl.files.os.{where}", refuse)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        WRITERS[name](tmp_path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    monkeypatch.undo()
    WRITERS[name](tmp_path)
    assert path.read_bytes() != b"old"


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/nowhere/a'"):
        write_atomically(tmp_path / "nowhere" / "a", b"new")


@pytest.mark.parametrize("name", ["metrics.jsonl", "learning_curves.png", "comparison.md", "model/config.json"])
def test_what_a_kill_left_half_goes_when_the_folder_is_held(tmp_path, name) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / ".mine").touch()
    killed = (
        f"import os; os.replace = lambda *_: os._exit(9); from daps_rl.files import *; write_atomically({name!r}, b'')"
    )
    assert subprocess.run([sys.executable, "-c", f"{killed}({name!r}, b'')"], cwd=tmp_path, check=False).returncode == 9
    assert len(list(tmp_path.rglob(".*"))) == 2
    with ComparisonFolder(tmp_path).locked():
        assert {path.name for path in tmp_path.rglob(".*")} == {".mine", ".lock"}


def test_numbers_that_are_not_finite_are_no_words_of_json(tmp_path) -> None:
    folder = ComparisonFolder(tmp_path)
    folder.write_rows([{"label": "a", "seed": 0, "test": {"psnr": math.inf, "kl": [math.nan, -math.inf, 1.0]}}])

    def refuse_word(word: str) -> None:
        raise AssertionError(word)

    row = json.loads(folder.rows.read_text(), parse_constant=refuse_word)
    assert row["test"] == {"psnr": None, "kl": [None, None, 1.0]}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_run_killed_before_its_last_picture_draws_what_is_missing(data, tmp_path, capsys, monkeypatch) -> None:
    """The kill is where the first picture is whole and the second is about to be written."""
    options = ["--data", str(data), *TINY, "--steps", "6", "--checkpoint-every", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", *options, "--out", str(whole)]) == 0

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daps_rl.runs.pictures.plot_code_usage", kill)
    assert main(["train", *options, "--out", str(killed)]) != 0
    monkeypatch.undo()
    assert set(pictures(killed)) < set(pictures(whole))
    assert not (killed / "summary.json").exists()
    assert main(["train", "--resume", "--out", str(killed)]) == 0
    assert set(pictures(killed)) == set(pictures(whole))
    assert pictures(killed)["code_usage.png"] == pictures(whole)["code_usage.png"]
    summaries = [json.loads((folder / "summary.json").read_text())["test"] for folder in (whole, killed)]
    assert summaries[0] == summaries[1]
    assert main(["train", "--resume", "--out", str(killed)]) == 0
    assert "is finished already" in capsys.readouterr().out


def test_a_comparison_killed_before_its_last_picture_draws_what_is_missing(data, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "cmp"
    monkeypatch.setattr("daps_rl.comparison.session.plot_reconstructions_of", refuse)
    options = ["--agents", "daps-na", "--seeds", "1", "--steps", "4", "--data", str(data), "--out", str(out), *TINY]
    assert main(["compare", *options]) != 0
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert set(pictures(out)) == {"curves.png"}
    assert not (out / "comparison.md").exists()
    monkeypatch.undo()
    assert main(["compare", "--out", str(out)]) == 0
    assert set(pictures(out)) == {"curves.png", "reconstructions.png"}
    assert "reconstructions.png" in (out / "comparison.md").read_text()
    assert {path.name for path in (out / "runs" / "daps-na-seed0").glob("*.png")} == {
        "code_usage.png", "learning_curves.png", "reconstructions.png",
    }  # fmt: skip
