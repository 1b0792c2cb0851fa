"""Whatever is typed, a command ends with what was asked for or with one line, and leaves no half-made folder."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from fuzz_lines import lines, make_files
from hypothesis import HealthCheck, given, settings

from daps_rl.cli import main
from daps_rl.training import Trainer


def stands_in(config: Any, splits: Any, run: Any, **_: Any) -> dict[str, Any]:
    """Makes everything for a run, and takes its first step where that is small."""
    trainer = Trainer(config, splits)
    if config.batch_size * config.samples < 1000:
        trainer.train_step()
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    make_files(folder)
    return folder


def tree(folder: Path) -> set[str]:
    kept = {"counts.safetensors", "samples"}  # made with the first compress, and with each fit-prior
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".png" and path.name not in kept
    }


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(line=lines())
def test_every_command_line_ends_well_or_in_one_line(line, folder):
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr("daps_rl.commands.train.train_run", stands_in)
    patch.setattr("daps_rl.commands.train._print_summary", lambda summary, path: None)
    patch.setattr("daps_rl.commands.compare.train_all", lambda *_, **__: None)
    before, out, said = tree(folder), io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = main(line)
    except SystemExit as exit_:
        code = exit_.code
    finally:
        patch.undo()
    assert code in (0, 2)
    if code == 2:
        assert len(said.getvalue().splitlines()) == 1, said.getvalue()
        assert tree(folder) == before
    for path in sorted(tree(folder) - before, reverse=True):
        (folder / path).rmdir() if (folder / path).is_dir() else os.unlink(folder / path)
