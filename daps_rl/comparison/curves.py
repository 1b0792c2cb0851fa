"""Validation curves of finished runs, and what they say at one point that all of them reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from daps_rl.data.kind import Measure
from daps_rl.data.pixels import Arrays
from daps_rl.report import read_metrics

NAMES = {
    "log_likelihood": Measure("log-likelihood", "nats", ".2f", 1),
    "beta_elbo": Measure("β-ELBO", "nats", ".2f", 1),
}
"""Of codes of data, beside the measures of their kind: how a metric is called and printed."""
PROBLEM_NAMES = {
    "reward_greedy": Measure("reward, greedy decisions", "", ".4f", 1),
    "log_likelihood": Measure("reward", "", ".4f", 1),
    "beta_elbo": Measure("reward - β·KL", "", ".4f", 1),
}
"""Of decisions, in another problem than encoding."""
VALIDATION = "validation_"  # before a metric's name, in the rows of a run that validates while it trains
AXES = {"step": "steps", "decoder_evaluations": "decoder evaluations", "seconds": "training time (seconds)"}

Curve = Sequence[Mapping[str, Any]]
T = TypeVar("T")


def of_rewards(text: str) -> str:
    """What the decoder is to encoding, the reward is to a problem."""
    return text.replace("decoder", "reward")


def of_labels(runs: Mapping[tuple[str, int], T], labels: Iterable[str]) -> dict[str, list[T]]:
    """What there is by label and seed, as a list for each label."""
    return {label: [part for (of, _), part in runs.items() if of == label] for label in labels}


def heading(measure: Measure) -> str:
    """A metric's name with its unit, where it has one."""
    return f"{measure.words} ({measure.unit})" if measure.unit else measure.words


def measures_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Measure]:
    """The measures of the data that finished runs were of; those of images in rows that do not say."""
    said = next((row["measures"] for row in rows if row.get("measures")), None)
    return Arrays.measures if said is None else {name: Measure(**values) for name, values in said.items()}


def names_of(rows: Iterable[Mapping[str, Any]], problem: bool) -> dict[str, Measure]:
    """The metrics that runs are compared by, also while they train: bounds, and the first measure of their data."""
    return PROBLEM_NAMES if problem else dict([*measures_of(rows).items()][:1]) | NAMES


def read_curve(path: Path) -> Curve:
    """The validations of a run: the rows of its metrics.jsonl that hold one."""
    rows = read_metrics(path) if path.exists() else []
    return [row for row in rows if any(_number(value) is not None for name, value in row.items() if VALIDATION in name)]


def common_point(curves: Mapping[str, Sequence[Curve]], axis: str) -> float | None:
    """The largest value of the axis at which every run has validated, or has before; None where there is none."""
    runs = [curve for of_label in curves.values() for curve in of_label]
    ends = [max((row[axis] for row in curve if row.get(axis) is not None), default=-math.inf) for curve in runs]
    end = min(ends, default=-math.inf)
    return end if end > -math.inf else None


def read_at(curve: Curve, axis: str, point: float) -> Mapping[str, Any] | None:
    """The last validation at or before a point; None where the first is later."""
    reached = [row for row in curve if row.get(axis) is not None and row[axis] <= point]
    return max(reached, key=lambda row: row[axis], default=None)


def validation(row: Mapping[str, Any] | None, metric: str) -> float | None:
    """One metric of a validation; None where it is not defined."""
    return None if row is None else _number(row.get(VALIDATION + metric))


def points(curve: Curve, axis: str, metric: str) -> np.ndarray:
    """The steps of a curve's validations, their places on an axis, and their values. [3, n], by steps."""
    found = {row["step"]: (row["step"], row.get(axis), validation(row, metric)) for row in curve}
    return np.array([found[step] for step in sorted(found) if None not in found[step]], dtype=float).reshape(-1, 3).T


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
