"""The comparison of docs/comparison.md: trains what is not yet trained, keeps the rows, writes tables and pictures.

    python benchmarks/comparison.py                       # everything: about three hours on two cores
    python benchmarks/comparison.py main                  # one part of it
    python benchmarks/comparison.py main --minutes 20 --seeds 5
    python benchmarks/comparison.py gpu                   # on a GPU: longer runs, five at a time
    python benchmarks/comparison.py --report              # the page again, from the rows that are committed

Two runs at a time, one thread each. The part "gpu" runs only when it is named. A part that was stopped goes on from its
checkpoints.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from common import ROWS

from daps_rl.comparison.curves import METRICS, read_curve
from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.comparison.plan import plan_from_json
from daps_rl.comparison.table import comparison_text

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "comparison.md"
_FACTORIZED = "policy=factorized,num_layers=2,mlp_ratio=6.0"  # the networks of daps-na


class Part(NamedTuple):
    """One comparison: its agents with their tuned settings (benchmarks/tune.py), length and seeds."""

    agents: str
    seeds: int
    minutes: float | None = None
    steps: int | None = None
    own: tuple[str, ...] = ()
    data: tuple[str, ...] = ("--data", "fashion-mnist")
    reference: str = "daps-na"
    validate_every: int = 100
    jobs: int = 2


PARTS = {
    "main": Part(
        "daps-na,daps,fsq,vq,gumbel-na,rloo-na=rloo,ppo-na=ppo",
        minutes=4,
        seeds=3,
        own=(
            "daps:learning_rate=0.008",
            "vq:learning_rate=0.002",
            f"rloo-na:{_FACTORIZED},learning_rate=0.002",
            f"ppo-na:{_FACTORIZED},learning_rate=0.002",
        ),
    ),
    "rest": Part(
        "daps-na,daps-fixed,tpo,rloo,grpo,ppo,a2c,reinforce,reinforce-no-critic,gumbel,gr-mck,gr-mck-na,reinmax,"
        "reinmax-na,vq-rotation,gaussian",
        minutes=4,
        seeds=1,
        own=("vq-rotation:learning_rate=0.002",),
    ),
    "gpu": Part(
        "daps-na,fsq,vq,gumbel-na,rloo-na=rloo",
        steps=8_000,
        seeds=1,
        own=(
            "vq:learning_rate=0.002",
            f"rloo-na:{_FACTORIZED},learning_rate=0.002",
        ),
        data=("--data", "fashion-mnist", "--device", "cuda"),
        validate_every=250,
        jobs=5,
    ),
    "long": Part("daps-na,fsq,gumbel-na", minutes=30, seeds=1, validate_every=500),
    "colour": Part(
        "daps-na,daps,fsq,vq,gumbel-na",
        minutes=10,
        seeds=1,
        own=("daps:learning_rate=0.008", "vq:learning_rate=0.002"),
        data=("--data", "photographs", "--num-tokens", "64", "--vocab-size", "512", "--batch-size", "32"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--minutes", type=float, help="of each run, in place of the part's own")
    parser.add_argument("--steps", type=int, help="of each run, likewise")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs", type=int, help="runs at a time")
    parser.add_argument("--data-dir", help="where the files of Fashion-MNIST are")
    parser.add_argument("--out", default="runs/comparison")
    parser.add_argument("--report", action="store_true", help="train nothing; write the page from the rows")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    for name in options.parts or [name for name in PARTS if options.report or name != "gpu"]:
        if not options.report:
            folder = Path(options.out) / name
            train(PARTS[name], folder, options)
            keep(name, folder)
        if rows_of(name).exists():
            write_page(name)


def train(part: Part, folder: Path, options: argparse.Namespace) -> None:
    """Runs `daps-rl compare`; a run that fails is a row, and no reason to stop."""
    command = [sys.executable, "-m", "daps_rl", "compare", "--agents", part.agents, *part.data, "--out", str(folder)]
    minutes, steps = options.minutes, options.steps
    if minutes is None and steps is None:
        minutes, steps = part.minutes, part.steps
    command += ["--minutes", str(minutes)] if steps is None else ["--steps", str(steps)]
    command += ["--seeds", str(options.seeds or part.seeds), "--jobs", str(options.jobs or part.jobs)]
    command += ["--validate-every", str(part.validate_every), "--against", part.reference]
    command += ["--data-dir", options.data_dir] if options.data_dir and "fashion-mnist" in part.data else []
    for own in part.own:
        command += ["--set", own]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):  # 1: some runs failed, and are rows
        raise SystemExit(code)


def rows_of(name: str) -> Path:
    return ROWS / f"comparison_{name}.jsonl"


def keep(name: str, path: Path) -> None:
    """Copies settings, rows with their validation curves, and pictures of a comparison into the repository."""
    folder = ComparisonFolder(path)
    plan = folder.plan()
    assert plan is not None
    lines = []
    for run in plan.runs():
        row = folder.read_rows().get((run.label, run.seed))
        if row is not None:
            axes = ("step", "seconds", "decoder_evaluations", *(f"validation_{metric}" for metric in METRICS))
            curve = [{axis: point.get(axis) for axis in axes} for point in read_curve(folder.run(run).metrics)]
            lines.append(json.dumps({**row, "curve": curve}))
    rows_of(name).write_text("\n".join([json.dumps({"plan": plan.to_json()}), *lines]) + "\n")
    for picture in sorted(path.glob("*.png")):
        shutil.copy(picture, DOCS / "images" / f"comparison_{name}_{picture.name}")


def write_page(name: str) -> None:
    """Puts a part's tables and pictures between its marks in docs/comparison.md."""
    first, *rest = (json.loads(line) for line in rows_of(name).read_text().splitlines())
    plan = plan_from_json(first["plan"])
    rows: dict[tuple[str, int], dict[str, Any]] = {(row["label"], row["seed"]): row for row in rest}
    curves = {key: row["curve"] for key, row in rows.items() if row["status"] == "finished"}
    text = comparison_text(plan, rows, curves, PARTS[name].reference)
    body = re.sub(r"^#", "###", text.partition("\n")[2].strip(), flags=re.MULTILINE)
    for picture in sorted((DOCS / "images").glob(f"comparison_{name}_*.png")):
        body += f"\n\n![{picture.stem.replace('_', ' ')}](images/{picture.name})"
    page = PAGE.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, after = page.partition(start)
    if not after:
        raise SystemExit(f"{PAGE} has no mark {start}")
    PAGE.write_text(before + start + "\n" + body + "\n" + end + after.partition(end)[2])


if __name__ == "__main__":
    main()
