"""The installed package: what the wheel holds, and that importing it stays light."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if sys.version_info >= (3, 11):
    import tomllib


def expected_files() -> set[str]:
    sources = {"daps_rl": ROOT / "daps_rl", "daps_rl/envs": ROOT / "envs", "daps_rl/agents": ROOT / "agents"}
    return {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in sources.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".cpp", ".h") or path.name == "py.typed" or path.parent.name == "optima"
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_package_of_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(Path(name).parent).replace("/", ".") for name in expected_files() if name.endswith("__init__.py")}
    assert set(listed) == found


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    copy = tmp_path / "tree"  # a build leaves folders behind
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=lambda at, names: ignored(at, names) | ({"runs"} if Path(at) == ROOT else set()))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if ".dist-info/" not in name}
    assert code == expected_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not {name.split("/")[0] for name in code} - {"daps_rl"}  # no top-level envs or agents


def run_alone(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_light() -> None:
    program = "import sys, daps_rl; assert not {'torch', 'torchrl', 'gymnasium'} & set(sys.modules), 'heavy'"
    run_alone(program)


def test_policies_know_of_no_kernels_and_no_priors() -> None:
    program = "import sys, daps_rl.policies; assert not {'daps_rl.kernels', 'daps_rl.priors'} & set(sys.modules)"
    run_alone(program)


def test_core_needs_torch_alone() -> None:
    program = (
        "import sys, daps_rl.functional, daps_rl.policies, daps_rl.decoders; "
        "heavy = {'torchrl', 'tensordict', 'gymnasium', 'stable_baselines3', 'sklearn'} & set(sys.modules)"
        "; assert not heavy, heavy"
    )
    run_alone(program)
