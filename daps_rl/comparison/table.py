"""The tables of a comparison, in Markdown that is as readable as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from daps_rl.comparison.curves import (
    AXES,
    NAMES,
    Curve,
    common_point,
    heading,
    measures_of,
    names_of,
    of_labels,
    of_rewards,
    read_at,
    validation,
)
from daps_rl.comparison.folder import Row
from daps_rl.comparison.plan import Plan
from daps_rl.comparison.statistics import (
    FEW_PAIRS,
    MIN_FOR_INTERVAL,
    bootstrap_interval,
    paired_differences,
    power_warning,
    sentence,
)
from daps_rl.data.kind import Measure
from daps_rl.data.pixels import Arrays


class Column(NamedTuple):
    """One number of a run, and how it is shown."""

    heading: str
    value: Callable[[Row], Any]
    form: str
    better: int = 0  # 1 where larger is better, -1 where smaller is, 0 where neither
    interval: bool = True
    optional: bool = False  # left out where no run has it


def _test(name: str) -> Callable[[Row], Any]:
    return lambda row: row["test"].get(name)


REWARDS = (
    Column("reward, greedy decisions", _test("reward_greedy"), ".4f", 1),
    Column("optimality gap, greedy", _test("gap_greedy"), ".2%", -1, optional=True),
    Column("reward", _test("log_likelihood"), ".4f", 1),
    Column("optimality gap", _test("gap"), ".2%", -1, optional=True),
    Column("optimality gap, best of 16", _test("gap_best"), ".2%", -1, optional=True),
    Column("KL (nats)", _test("kl"), ".2f"),
    Column("entropy (nats)", _test("entropy"), ".2f"),
)
"""Of decisions, in another problem than encoding."""
TABLES: dict[str, Sequence[Column]] = {
    "Likelihood": (
        Column("β-ELBO (nats)", _test("beta_elbo"), ".2f", 1),
        Column("log-likelihood (nats)", _test("log_likelihood"), ".2f", 1),
        Column("KL (nats)", _test("kl"), ".2f"),
        Column("ELBO (nats)", _test("elbo"), ".2f", 1),
        Column("importance-weighted bound (nats)", _test("importance_bound"), ".2f", 1),
    ),
    "Reconstructions": (
        Column("FID", _test("fid"), ".2f", -1, optional=True),
        Column("LPIPS", _test("lpips"), ".3f", -1, optional=True),
    ),
    "Codes": (
        Column("bits", lambda row: row["bits"], "g", 0, False),
        Column("code usage", _test("code_usage"), ".1%"),
        Column("code perplexity", _test("code_perplexity"), ".2f"),
        Column("entropy (nats)", _test("entropy"), ".2f"),
        Column("active positions", _test("active_positions"), ".1f"),
    ),
    "Cost": (
        Column("steps", lambda row: row["steps"], ",.0f", 0, False),
        Column("decoder evaluations", lambda row: row.get("decoder_evaluations"), ",.0f", 0, False),
        Column("seconds", lambda row: row["seconds"], ",.1f", 0, False),
        Column("steps/s", lambda row: row["steps_per_second"], ".1f", 1, False),
        Column("peak memory (MiB)", lambda row: (row.get("peak_memory_bytes") or math.nan) / 2**20, ",.0f", -1, False),
        Column("parameters", lambda row: sum(row["num_parameters"].values()), ",.0f", 0, False),
    ),
}


def reconstruction_columns(rows: Sequence[Row]) -> list[Column]:
    """Columns of the measures of the rows' data, of drawn and of greedy codes, and of what verdicts say."""
    columns = []
    for name, measure in measures_of(rows).items():
        greedy = measure._replace(words=f"{measure.words}, greedy codes")
        columns.append(Column(heading(measure), _test(name), measure.form, measure.better))
        of_greedy = _test(f"{name}_greedy")
        columns.append(
            Column(heading(greedy), of_greedy, measure.form, measure.better, optional=name not in Arrays.measures)
        )
    judged = sorted({name for row in rows for name in row["test"] if name.startswith(("recognised", "verdict_"))})
    columns += [Column(name.replace("_", " "), _test(name), ".3f", 1) for name in judged]
    return [*columns, *TABLES["Reconstructions"]]


def search_columns(rows: Sequence[Row], problem: bool) -> list[Column]:
    """Columns of the codes that searches found, beside the greedy ones; none where nothing was searched."""
    searches = sorted({how for row in rows for how in row.get("search", ())})
    measures = {"reward": Measure("reward", "", ".4f", 1)} if problem else NAMES | measures_of(rows)
    measures.pop("beta_elbo", None)
    columns = []
    for name, measure in measures.items() if searches else ():
        greedy = measure._replace(words=f"{measure.words}, greedy codes")
        columns.append(Column(heading(greedy), _found("", f"{name}_greedy"), measure.form, measure.better))
        for how in searches:
            found = measure._replace(words=f"{measure.words}, {how}")
            columns.append(Column(heading(found), _found(how, f"{name}_search"), measure.form, measure.better))
    for how in searches:
        title = f"decoder evaluations a datum, {how}"
        columns.append(Column(title, _found(how, "search_evaluations"), ",.0f", 0, False))
    return columns


def _found(how: str, name: str) -> Callable[[Row], Any]:
    """A number that a search, or where it is named "" any of them, was measured with."""

    def value(row: Row) -> Any:
        searches = row.get("search", {})
        return searches.get(how or next(iter(searches), ""), {}).get(name)

    return value


def comparison_text(
    plan: Plan, rows: Mapping[tuple[str, int], Row], curves: Mapping[tuple[str, int], Curve], reference: str
) -> str:
    """The whole of comparison.md but its pictures: rows of runs that have ended, curves of finished ones.

    Tests are against the reference, or where no run of that has finished, against the first agent of which one has.
    """
    finished = of_labels({key: row for key, row in rows.items() if row["status"] == "finished"}, plan.agents)
    reference = next((label for label in (reference, *finished) if finished[label]), reference)
    lines = [f"# {', '.join(plan.agents)} on {plan.config(next(iter(plan.agents)), plan.seeds[0]).data}", ""]
    lines += [*_settings(plan), "", "## Test split, at the end of each run", ""]
    cost = [column._replace(heading=of_rewards(column.heading)) for column in TABLES["Cost"]]
    ended = [row for of_label in finished.values() for row in of_label]
    names = names_of(ended, plan.problem is not None)
    tables: Mapping[str, Sequence[Column]] = {"Reward": REWARDS, "Cost": cost}
    if plan.problem is None:
        tables = {**TABLES, "Reconstructions": reconstruction_columns(ended)}
    if searched := search_columns(ended, plan.problem is not None):
        tables = {**tables, "Search": searched}
    for title, columns in tables.items():
        lines += [f"### {title}", "", *_table(finished, columns, len(plan.seeds)), ""]
    lines += [*_reading_notes(finished), "", f"## Differences from {reference}", ""]
    lines += [*_differences(finished, reference, names), ""]
    for axis in ("step", "decoder_evaluations"):
        lines += [*_at_equal(axis, plan, curves, names), ""]
    lines += _not_finished(plan, rows)
    return "\n".join(lines).strip() + "\n"


def _settings(plan: Plan) -> list[str]:
    def text(options: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in options.items()) or "none"

    lines = [f"Seeds {', '.join(map(str, plan.seeds))}. Settings given: {text(plan.options)}."]
    if plan.preset is not None:
        lines.append(f"Published settings: {plan.preset}.")
    for label, agent in plan.agents.items():
        own = plan.own.get(label, {})
        if own or label != agent:
            lines.append(f"{label} is {agent} with settings of its own: {text(own)}.")
    return lines


def _table(finished: Mapping[str, Sequence[Row]], columns: Sequence[Column], seeds: int) -> list[str]:
    """One line per agent; the best mean of a column in bold."""
    measured = [row for rows in finished.values() for row in rows]
    columns = [c for c in columns if not c.optional or any(c.value(row) is not None for row in measured)]
    lines = [["agent", *finished], ["seeds", *(f"{len(rows)} of {seeds}" for rows in finished.values())]]
    for column in columns:
        values = [_numbers([column.value(row) for row in rows]) for rows in finished.values()]
        means = [fmean(numbers) for numbers in values if numbers]
        chosen = bool(column.better) and len(set(means)) > 1  # where there is anything to choose from
        best = max(means, key=lambda mean: column.better * mean) if chosen else None
        cells = zip(values, finished.values(), strict=True)
        lines.append([column.heading, *(_cell(numbers, column, best, len(rows)) for numbers, rows in cells)])
    return markdown(list(zip(*lines, strict=True)))


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _cell(numbers: Sequence[float], column: Column, best: float | None, runs: int) -> str:
    if not numbers:
        return "not defined" if runs else ""
    text = f"{fmean(numbers):{column.form}}"
    text = f"**{text}**" if fmean(numbers) == best else text
    if column.interval:
        interval = bootstrap_interval(numbers)
        text += " (no interval)" if interval is None else " [{:{form}}, {:{form}}]".format(*interval, form=column.form)
    return text if len(numbers) == runs else f"{text} ({len(numbers)} of {runs} runs)"


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table whose columns are aligned; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *body = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
    return [head, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *body]


def _reading_notes(finished: Mapping[str, Sequence[Row]]) -> list[str]:
    fewest = min((len(rows) for rows in finished.values() if rows), default=0)
    notes = ["Means over seeds; in brackets a bootstrapped 95 % interval of the mean (BCa); bold: the best mean."]
    if fewest < MIN_FOR_INTERVAL:
        notes.append(f"Fewer than {MIN_FOR_INTERVAL} seeds have no interval.")
    elif fewest < FEW_PAIRS:
        notes.append(f"An interval from {fewest} seeds is too narrow: it cannot reach beyond the seeds there are.")
    bits = {label: row["bits"] for label, rows in finished.items() for row in rows}
    if len(set(bits.values()) - {None}) > 1:
        notes.append("The codes differ in bits: a larger code can say more.")
    notes += [f"{label} has no discrete code: no bits limit it." for label, size in bits.items() if size is None]
    skipped = sorted({name for rows in finished.values() for row in rows for name in row.get("unreadable_files", ())})
    notes += [f"{len(skipped)} unreadable files were skipped: {', '.join(skipped)}."] if skipped else []
    if len({row["beta"] for rows in finished.values() for row in rows}) > 1:
        notes.append("β differs, so the β-ELBOs are of different problems.")
    return notes


def _differences(finished: Mapping[str, Sequence[Row]], reference: str, names: Mapping[str, Measure]) -> list[str]:
    """Paired t-tests in plain words, a list for each metric."""
    if len(finished) < 2:
        return ["There is no other agent to compare with."]
    lines, warning = [], None
    for metric, name in names.items():
        values = {
            label: {row["seed"]: row["test"][metric] for row in rows if _numbers([row["test"].get(metric)])}
            for label, rows in finished.items()
        }
        differences = paired_differences(values, reference)
        lines += [f"- {sentence(difference, reference, name.words, name.unit)}" for difference in differences]
        warning = warning or power_warning(differences)
    explained = (
        "Paired t-tests over the seeds that both have finished, test split; p after Holm's correction over the "
        "agents within a metric; intervals uncorrected."
    )
    return [explained, "", *lines, *(["", warning] if warning else [])]


def _at_equal(
    axis: str, plan: Plan, curves: Mapping[tuple[str, int], Curve], names: Mapping[str, Measure]
) -> list[str]:
    """The validation curves read at one point that all finished runs reach."""
    name = AXES[axis] if plan.problem is None else of_rewards(AXES[axis])
    lines = [f"## Validation split, at equal {name}", ""]
    by_label = {label: of_label for label, of_label in of_labels(curves, plan.agents).items() if of_label}
    point = common_point(by_label, axis)
    if point is None:
        return [*lines, f"No such table: some finished run has no validation with its {name}."]
    columns = [
        Column(heading(name), partial(validation, metric=metric), name.form, name.better)
        for metric, name in names.items()
    ]
    columns += [Column("read at step", lambda row: row["step"], ",.0f", 0, False)]
    columns += [Column("seconds", lambda row: row["seconds"], ",.1f", 0, False)]
    read = {label: [read_at(curve, axis, point) for curve in of_label] for label, of_label in by_label.items()}
    found = {label: [dict(row) for row in of_label if row is not None] for label, of_label in read.items()}
    note = (
        f"At {point:,.0f} {name}, the most that every finished run reaches: each run's last validation at or "
        "before that. Read off within the runs, whose schedules (β, learning rate) are those of their whole length."
    )
    return [*lines, note, "", *_table(found, columns, len(plan.seeds))]


def _not_finished(plan: Plan, rows: Mapping[tuple[str, int], Row]) -> list[str]:
    missing = [f"- {run.label}, seed {run.seed}" for run in plan.runs() if run.key not in rows]
    failed = [
        f"- {label}, seed {seed}: {row['reason']}" for (label, seed), row in rows.items() if row["status"] == "failed"
    ]
    lines = ["## Runs that failed", "", *failed, ""] if failed else []
    return lines + (["## Runs still to do", "", *missing, ""] if missing else [])
