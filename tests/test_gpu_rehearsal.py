"""Everything that may stand on a GPU, on one that is simulated: nothing is left on the CPU, and the numbers are its."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_rehearsal
import pytest

LEFT_BEHIND = "left_behind"


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What each case gave on both, or its error."""
    script = Path(gpu_rehearsal.__file__)
    run = subprocess.run([sys.executable, script.name], cwd=script.parent, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(gpu_rehearsal.cases()), run.stderr[-2000:]
    return {line["case"]: line for line in lines}


def test_what_is_left_on_the_cpu_is_found(found):
    assert found[LEFT_BEHIND]["cpu"]["sum"] != 0.0
    assert "all have to be on one device" in found[LEFT_BEHIND]["error"]


@pytest.mark.parametrize("name", sorted(set(gpu_rehearsal.cases()) - {LEFT_BEHIND}))
def test_a_device_gives_the_numbers_of_the_cpu(found, name):
    row = found[name]
    assert "error" not in row, row["error"]
    assert len(row["cpu"]) > 1
    assert row["gpu"] == pytest.approx(row["cpu"], rel=2e-3, abs=2e-4)
