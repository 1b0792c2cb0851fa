"""Recordings of series as text: `.csv` files, and `.bvh` files of motion capture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daps_rl.data.errors import DataError
from daps_rl.data.plain import LARGEST_NUMBER
from daps_rl.data.text_files import read_text

HEAD_LIMIT = 2**16  # characters of a skeleton that are kept
RATE_TOLERANCE = 0.01


class Form(NamedTuple):
    """What the recordings of a data set have in common."""

    suffix: str  # ".npy", ".csv" or ".bvh"
    names: tuple[str, ...] = ()  # of the features; () of a `.npy` file
    head: str = ""  # of a `.bvh` file: the skeleton, unless that is too large
    frame_time: float = 0.0  # of a `.bvh` file: seconds


def read_recording(path: Path, form: Form | None) -> tuple[np.ndarray, Form]:
    """Returns the steps of a recording, float64 [steps, features], and its form.

    Args:
        path: a `.bvh` file, or a `.csv` file: a step a line, perhaps a header; commas, semicolons or tabs.
        form: of the recordings before, which this one must have; None for the first.
    Raises:
        DataError: it is broken, or has another form; it names file and line.
    """
    suffix = path.suffix.lower()
    text = read_text(path, f"a readable {suffix} file")
    try:
        steps, found = _read_bvh(text) if suffix == ".bvh" else _read_csv(text, form)
        if form is not None and found.names != form.names:
            got = next((pair for pair in zip(found.names, form.names, strict=False) if pair[0] != pair[1]), None)
            but = f"{len(found.names)}" if got is None else f"{got[0]} where {got[1]} should be"
            raise ValueError(f"it must have the {len(form.names)} columns of the recordings before, got {but}")
        if form is not None and abs(found.frame_time - form.frame_time) > RATE_TOLERANCE * form.frame_time:
            raise ValueError(f"its frame time must be {form.frame_time:g} s as before, got {found.frame_time:g} s")
    except ValueError as error:
        raise DataError(f"{path} must be a {suffix} file of steps: {error}; mend it, or leave it out") from error
    return steps, form or found


def recording_text(steps: np.ndarray, form: Form) -> str:
    """Returns steps [steps, features] as the text of a `.bvh` file, or of a `.csv` file where there is no head."""
    if form.head:
        rows = [" ".join(f"{value:.7g}" for value in row) for row in steps]
        return "\n".join([form.head, "MOTION", f"Frames: {len(rows)}", f"Frame Time: {form.frame_time:g}", *rows, ""])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([form.names] if form.names else [])
    writer.writerows([f"{value:.7g}" for value in row] for row in steps)
    return text.getvalue()


def _read_csv(text: str, form: Form | None) -> tuple[np.ndarray, Form]:
    first = text.lstrip().partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    try:
        lines = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error
    if not lines:
        raise ValueError("it is empty")
    cells = lines[0][1]
    if None not in map(_as_float, cells):  # NaN too: a first step with a gap is no header
        names = [f"feature {i}" for i in range(len(cells))]
        if form is not None and len(form.names) == len(names):
            names = list(form.names)
    else:
        names, lines = [cell.strip() for cell in cells], lines[1:]
    return _numbers(lines, len(names)), Form(".csv", tuple(names))


def _read_bvh(text: str) -> tuple[np.ndarray, Form]:
    head, found, motion = text.partition("MOTION")
    if not head.lstrip().startswith("HIERARCHY") or not found:
        raise ValueError("it must have HIERARCHY, and then MOTION")
    names: list[str] = []
    joint = ""
    for words in map(str.split, head.splitlines()):
        if words[:1] in (["ROOT"], ["JOINT"]):
            joint = " ".join(words[1:])
        elif words[:1] == ["CHANNELS"]:
            names += [f"{joint}.{channel}" for channel in words[2:]]
    above = head.count("\n") + 1
    lines = [(above + i, line.split()) for i, line in enumerate(motion.splitlines()) if line.strip()]
    told = [" ".join(words[:-1]) for _, words in lines[:2]]
    if told != ["Frames:", "Frame Time:"] or not all(_is_number(words[-1]) for _, words in lines[:2]):
        raise ValueError(f"line {above + 1} must begin Frames: N, and then Frame Time: SECONDS")
    frames, frame_time = (float(words[-1]) for _, words in lines[:2])
    steps = _numbers(lines[2:], len(names))
    if frames != len(steps):
        raise ValueError(f"it must have the {frames:g} frames that it tells of, got {len(steps)}")
    return steps, Form(".bvh", tuple(names), head.strip() if len(head) <= HEAD_LIMIT else "", frame_time)


def _numbers(lines: Iterable[tuple[int, Sequence[str]]], width: int) -> np.ndarray:
    """Returns the numbers of lines of cells, each with its place in the file. [lines, width]."""
    rows = []
    for place, cells in lines:
        if len(cells) != width:
            raise ValueError(f"line {place} must have {width} numbers, got {len(cells)}")
        if not all(map(_is_number, cells)):
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise ValueError(f"line {place} must hold numbers of at most {LARGEST_NUMBER:g}, got {wrong!r:.40}")
        rows.append([float(cell) for cell in cells])
    if not rows or not width:
        raise ValueError("it has no steps of numbers")
    return np.array(rows)


def _is_number(text: str) -> bool:
    value = _as_float(text)
    return value is not None and abs(value) <= LARGEST_NUMBER  # False of NaN


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
