"""Comparisons of which a report of the documentation is made: each trains by `daps-rl compare`, and keeps its rows."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common import IMAGES, REPORTS, ROWS, Tables, put, read_rows

from daps_rl.comparison.curves import AXES, VALIDATION, read_curve
from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.comparison.plan import plan_from_json
from daps_rl.comparison.table import comparison_text


class Part(NamedTuple):
    """One comparison: its agents with their tuned settings, length and seeds."""

    agents: str
    seeds: int
    minutes: float | None = None
    steps: int | None = None
    own: tuple[str, ...] = ()
    data: tuple[str, ...] = ("--data", "fashion-mnist")
    reference: str = "daps-na"
    validate_every: int = 100
    jobs: int = 2


class Report:
    """docs/reports/NAME.md, with marks between which tables and pictures go.

    Args:
        name: of the report; rows and pictures begin with `prefix`.
        prefix: of rows and pictures.
        parts: by name, in order.
        more: tables that need more than one part's rows, by page and mark.
        by_name_only: parts that run only when they are named.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        parts: Mapping[str, Part],
        more: Callable[[], Tables],
        by_name_only: Collection[str] = (),
    ) -> None:
        self.path, self.prefix, self.parts = REPORTS / f"{name}.md", prefix, parts
        self.more, self.by_name_only = more, by_name_only

    def tables(self) -> Tables:
        """Returns all that goes between marks, from the rows that are committed."""
        tables = self.more()
        own = {name: self.body(name) for name in self.parts if self.rows_of(name).exists()}
        return {**tables, self.path: {**own, **tables.get(self.path, {})}}

    def main(self, description: str | None) -> None:
        """The command line: trains what is not yet trained, keeps the rows, writes the tables."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(self.parts)} (default: all)")
        parser.add_argument("--minutes", type=float, help="of each run, instead of the part's own")
        parser.add_argument("--steps", type=int, help="of each run, likewise")
        parser.add_argument("--seeds", type=int)
        parser.add_argument("--jobs", type=int, help="runs at a time")
        parser.add_argument("--processor-time", action="store_true", help="minutes of a run's own processor time")
        parser.add_argument("--data-dir", help="where the files of Fashion-MNIST are")
        parser.add_argument("--out", default=f"runs/{self.prefix}")
        parser.add_argument("--report", action="store_true", help="train nothing; write the tables from the rows")
        options = parser.parse_args()
        if unknown := sorted(set(options.parts) - set(self.parts)):
            parser.error(f"unknown part {', '.join(unknown)}; the parts are {', '.join(self.parts)}")
        asked = [name for name in self.parts if options.report or name not in self.by_name_only]
        for name in options.parts or asked:
            if not options.report:
                folder = Path(options.out) / name
                train(self.parts[name], folder, options)
                self.keep(name, folder)
        put(self.tables())

    def rows_of(self, name: str) -> Path:
        return ROWS / f"{self.prefix}_{name}.jsonl"

    def keep(self, name: str, path: Path) -> None:
        """Copies settings, rows with their validation curves, and pictures of a comparison into the repository."""
        folder = ComparisonFolder(path)
        plan = folder.plan()
        assert plan is not None
        lines = []
        for run in plan.runs():
            row = folder.read_rows().get((run.label, run.seed))
            if row is not None:
                curve = [_point(point) for point in read_curve(folder.run(run).metrics)]
                lines.append(json.dumps({**row, "curve": curve}))
        self.rows_of(name).write_text("\n".join([json.dumps({"plan": plan.to_json()}), *lines]) + "\n")
        for picture in sorted(path.glob("*.png")):
            shutil.copy(picture, IMAGES / f"{self.prefix}_{name}_{picture.name}")

    def body(self, name: str) -> str:
        """Returns a part's tables and pictures."""
        first, *rest = read_rows(self.rows_of(name).stem)
        plan = plan_from_json(first["plan"])
        rows: dict[tuple[str, int], dict[str, Any]] = {(row["label"], row["seed"]): row for row in rest}
        curves = {key: row["curve"] for key, row in rows.items() if row["status"] == "finished"}
        text = comparison_text(plan, rows, curves, self.parts[name].reference)
        body = re.sub(r"^#", "###", text.partition("\n")[2].strip(), flags=re.MULTILINE)
        for picture in sorted(IMAGES.glob(f"{self.prefix}_{name}_*.png")):
            body += f"\n\n![{picture.stem.replace('_', ' ')}](../images/{picture.name})"
        return body


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
    environment = dict(os.environ)
    if options.processor_time:
        environment["PYTHONPATH"] = str(Path(__file__).with_name("processor_time"))
    code = subprocess.run(command, check=False, env=environment).returncode
    if code not in (0, 1):  # 1: some runs failed, and are rows
        raise SystemExit(code)


def _point(row: dict[str, Any]) -> dict[str, Any]:
    """Returns what a curve shows of a run's row."""
    return {name: value for name, value in row.items() if name in AXES or name.startswith(VALIDATION)}
