"""A comparison from its settings to its report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from daps_rl.comparison import runner
from daps_rl.comparison.curves import Curve, measures_of, names_of, of_labels, read_curve
from daps_rl.comparison.folder import ComparisonFolder, Row
from daps_rl.comparison.pictures import plot_bits, plot_curves, plot_reconstructions_of
from daps_rl.comparison.plan import Plan, PlannedRun
from daps_rl.comparison.progress import ComparisonProgress
from daps_rl.comparison.table import comparison_text
from daps_rl.data import Splits
from daps_rl.files import write_atomically

DEFAULT_REFERENCE = "daps"
ERROR_LOG = "error.txt"
DISTINCT = 1.1  # codes whose bits differ by less count as of one size

Rows = dict[tuple[str, int], Row]
Curves = Mapping[tuple[str, int], Curve]


def train_all(
    folder: ComparisonFolder, plan: Plan, *, jobs: int, retry_failed: bool, stop: Callable[[], bool] = lambda: False
) -> None:
    """Trains what is still to train, in a folder that is this process's own (`folder.locked()`).

    Finished runs are left alone, half-done ones go on from their checkpoints, failed ones are left as they are unless
    they are to be tried again. A row is written as soon as a run has ended; what a failed run said is kept in its
    error.txt. Once `stop()` is true it ends, checkpointed.
    """
    with _own_rows(folder):
        rows = collect_rows(folder, plan)
    done = ("finished",) if retry_failed else ("finished", "failed")
    todo = [run for run in plan.runs() if run.key not in rows or rows[run.key]["status"] not in done]
    runs = {folder.prepare(run).path: run for run in todo}
    for path, run in runs.items():
        rows.pop(run.key, None)
        (path / ERROR_LOG).unlink(missing_ok=True)  # of an earlier try

    def on_end(path: Path, code: int, stderr: str) -> None:
        reason = runner.outcome(path, code, stderr)
        if reason is not None:
            if stop():
                return
            write_atomically(path / ERROR_LOG, stderr.encode())
        rows[runs[path].key] = folder.row(plan, runs[path], reason=reason)
        folder.write_rows([rows[run.key] for run in plan.runs() if run.key in rows])
        progress.ended(path, reason)

    with ComparisonProgress(runs, len(rows)) as progress:
        runner.run_commands(
            {path: (*runner.TRAIN, str(path)) for path in runs},
            jobs=jobs,
            threads=runner.threads_each(jobs),
            stop=stop,
            on_start=progress.started,
            on_end=on_end,
            on_look=progress.look,
        )


def collect_rows(folder: ComparisonFolder, plan: Plan) -> Rows:
    """The rows in the order of the plan, and one for each finished run that has none; writes them."""
    rows = folder.read_rows()
    for run in plan.runs():
        finished = rows.get(run.key, {}).get("status") == "finished"
        if folder.run(run).summary.exists() and not finished:
            folder.prepare(run)  # refuses other settings
            rows[run.key] = folder.row(plan, run)
        if run.key in rows and (found := folder.searched(run)):
            rows[run.key]["search"] = found
    ordered = {run.key: rows[run.key] for run in plan.runs() if run.key in rows}
    folder.write_rows(list(ordered.values()))
    return ordered


@contextlib.contextmanager
def _own_rows(folder: ComparisonFolder) -> Iterator[None]:
    """Says in one line that what is read was not written by a comparison: its values are of other types."""
    try:
        yield
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder.path} holds rows or logs that no comparison wrote ({type(error).__name__}: {error}); restore "
            f"them, or delete {folder.rows.name}, which is then written anew."
        ) from error


def reference_of(plan: Plan, against: str | None) -> str:
    """The label that the others are tested against: the one asked for, "daps", or else the first."""
    if against is not None and against not in plan.agents:
        raise ValueError(f"--against must be one of {', '.join(plan.agents)}, got {against!r}.")
    return against or (DEFAULT_REFERENCE if DEFAULT_REFERENCE in plan.agents else next(iter(plan.agents)))


def write_report(folder: ComparisonFolder, plan: Plan, splits: Splits, *, reference: str) -> str:
    """Writes rows, table and pictures from what is there; returns the table, of tests against `reference`."""
    with _own_rows(folder):
        rows = collect_rows(folder, plan)
        finished = [run for run in plan.runs() if rows.get(run.key, {}).get("status") == "finished"]
        curves = {run.key: read_curve(folder.run(run).metrics) for run in finished}
        text = comparison_text(plan, rows, curves, reference)
        pictures = _draw(folder, plan, finished, rows, curves, splits) if finished else []
    shown = "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures)
    write_atomically(folder.table, (text + shown).encode())
    return text


def _draw(
    folder: ComparisonFolder, plan: Plan, finished: Sequence[PlannedRun], rows: Rows, curves: Curves, splits: Splits
) -> list[Path]:
    """Draws what there is to draw: the picture of the bits needs codes of several sizes."""
    title = f"{splits.title}: {', '.join(plan.agents) if len(plan.agents) <= 4 else 'agents compared'}"
    first = {run.label: run for run in reversed(finished)}
    paths = []
    if any(curves.values()):
        paths.append(folder.path / "curves.png")
        above = f"{title}, on the validation split (mean and range over seeds)"
        problem = plan.problem is not None
        names = names_of((rows[run.key] for run in finished), problem)
        plot_curves(paths[-1], of_labels(curves, plan.agents), title=above, names=names, problem=problem)
    if plan.problem is not None:  # decisions reconstruct nothing
        return paths
    chosen = [row for row in (rows[run.key] for run in finished) if row["bits"] is not None]
    bits = [row["bits"] for row in chosen]
    if bits and max(bits) > DISTINCT * min(bits):  # FSQ's 63.3 beside 64 are no two sizes
        paths.append(folder.path / "bits.png")
        plot_bits(paths[-1], plan.agents, chosen, title=f"{title}, on the test split (mean and range over seeds)")
    runs = {}
    for label in filter(first.__contains__, plan.agents):
        row = rows[label, first[label].seed]
        shown = [f"{row['test'][name]:{m.form}} {m.unit}".strip() for name, m in [*measures_of([row]).items()][:1]]
        runs["\n".join((label, *shown))] = folder.run(first[label]).path
    sheet = folder.path / "reconstructions.png"
    return paths + plot_reconstructions_of(sheet, runs, splits, device=finished[0].config.device)
