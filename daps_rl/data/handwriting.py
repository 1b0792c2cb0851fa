"""Characters as a pen writes them, stroke after stroke: those of KanjiVG, and SVG files like them."""

from __future__ import annotations

import importlib.metadata
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.cache import cached_arrays
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.kind import Kind, Measure, write_array
from daps_rl.data.plain import list_files
from daps_rl.data.rows import Files, Rows, open_array
from daps_rl.data.splits import SPLITS, Splits
from daps_rl.data.text_files import read_text, write_folder
from daps_rl.report.handwriting import animate_handwriting, plot_handwriting

STEPS, MOST_STEPS = 64, 1024
REVISION = 1  # of the points that the same drawing gives
BOX = 109  # width and height of KanjiVG's drawings
PATH = re.compile(r"""<path\b[^>]*?\sd=["']([^"']*)""")
VIEW = re.compile(r"""\sviewBox=["']\s*([-+.\d]+)[\s,]+([-+.\d]+)[\s,]+([.\d]+)[\s,]+([.\d]+)\s*["']""")
COMMAND = re.compile(r"([A-DF-Za-df-z])([^A-DF-Za-df-z]*)")  # e is part of a number
FARTHEST = 1e9  # of a point
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
POINTS = {"M": 1, "L": 1, "C": 3, "S": 2}
"""How many points follow each command of a path that is read: to move, a line, and two ways to write a curve."""
CURVE_POINTS = 12  # of the polyline that stands for a curve while it is measured
TIMES = np.linspace(0.0, 1.0, CURVE_POINTS)
BERNSTEIN = np.stack([(1 - TIMES) ** 3, 3 * TIMES * (1 - TIMES) ** 2, 3 * TIMES**2 * (1 - TIMES), TIMES**3])


def load_handwriting(*, window: int = STEPS) -> Splits:
    """Characters of the package `kanjivg` as points along their strokes; all drawings of one are in one split.

    A character's code point decides: a tenth is for validation and a tenth for testing, also in another version of the
    package.

    Args:
        window: points of a datum, two at least for every stroke.
    Raises:
        MissingDataError: the package is not there.
        DataError: there are too few points, or over 1,024.
    """
    if type(window) is not int or not 2 <= window <= MOST_STEPS:
        raise DataError(
            f"window of handwriting must lie in 2 … {MOST_STEPS:,} points, got {window}; leave it out for 64"
        )
    package = _kanjivg()
    name = f"handwriting-{REVISION}-{package.version}-{window}"
    data: dict[str, Any] = {
        split: torch.from_numpy(x) for split, x in cached_arrays(name, lambda: _read_all(package, window)).items()
    }
    return Splits(name="handwriting", **data, likelihood="fixed_columns", kind=Handwriting(steps=window))


def _kanjivg() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("kanjivg")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDataError("handwriting needs kanjivg; install it by pip install 'daps-rl[handwriting]'") from error


def _read_all(package: importlib.metadata.Distribution, steps: int) -> dict[str, np.ndarray]:
    """Returns the drawings of each split, [N, steps, 3], in an order that is as good as drawn."""
    files = [Path(str(package.locate_file(name))) for name in package.files or () if name.suffix == ".svg"]
    drawings: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for path in sorted(files, key=lambda path: (_draw(path.stem), path.stem)):
        split = {0: "test", 1: "validation"}.get(_draw(path.stem[:5]) % 10, "train")
        drawings[split].append(read_drawing(path, steps))
    return {split: np.stack(parts) for split, parts in drawings.items()}


def _draw(text: str) -> int:
    """Returns a number that is as good as drawn, and the same for the same text."""
    return zlib.crc32(text.encode())


@dataclass(frozen=True, kw_only=True)
class Handwriting(Kind):
    """Points along pen strokes, [steps, 3]: x to the right and y down, both in [-1, 1] across the box, and the pen.

    The pen is 1 where it draws from the point before to this one, and 0 where it comes to this one through the air: at
    the first point of each stroke.

    Args:
        steps: points of a datum.
    """

    measures: ClassVar[dict[str, Measure]] = {
        "distance": Measure("distance of points", "% of the box", ".2f", -1),
        "pen": Measure("right pen", "%", ".1f", 1),
    }
    steps: int

    @property
    def columns(self) -> tuple[str, ...]:
        return ("number*2", "yes-no")

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        apart = (decoded - x)[..., :2].norm(dim=-1).mean(-1)
        right = (decoded[..., 2] > 0.5) == (x[..., 2] > 0.5)
        return {"distance": 50.0 * apart, "pen": 100.0 * right.to(x.dtype).mean(-1)}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        strokes = {label: [split_strokes(drawing) for drawing in data.numpy()] for label, data in rows.items()}
        moving = path.with_name("handwriting.gif")
        plot_handwriting(path, strokes, title)
        animate_handwriting(moving, {label: drawings[:8] for label, drawings in list(strokes.items())[:2]})
        return [path, moving]

    def rows(self, path: Path) -> Rows:
        if path.suffix.lower() == ".npy":
            return open_array(path)
        return Files(list_files(path, (".svg",), "drawings"), self._read_files)

    def _read_files(self, files: Sequence[Path]) -> np.ndarray:
        return np.stack([read_drawing(file, self.steps) for file in files])

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        drawings = (torch.cat((part[..., :2], (part[..., 2:] > 0.5).to(part.dtype)), dim=-1) for part in parts)
        if path.suffix.lower() == ".npy":
            return write_array(path, drawings, count)
        return write_folder(path, ".svg", (_as_svg(drawing.numpy()) for part in drawings for drawing in part))


def _as_svg(drawing: np.ndarray) -> str:
    """Returns a drawing [steps, 3] as an SVG file of KanjiVG's size, a path of straight lines for each stroke."""
    points = [(stroke + 1.0) * BOX / 2 for stroke in split_strokes(drawing)]
    paths = ["M" + "L".join(f"{x:.6f},{y:.6f}" for x, y in stroke) for stroke in points]
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{BOX}" height="{BOX}" viewBox="0 0 {BOX} {BOX}">']
    lines += ['<g style="fill:none;stroke:#000000;stroke-width:3;stroke-linecap:round;stroke-linejoin:round">']
    return "\n".join([*lines, *(f'<path d="{path}"/>' for path in paths), "</g>", "</svg>", ""])


def split_strokes(drawing: np.ndarray) -> list[np.ndarray]:
    """Returns the points of each stroke, [n, 2], of a drawing [steps, 3]."""
    return np.split(drawing[:, :2], np.flatnonzero(drawing[1:, 2] <= 0.5) + 1)


def read_drawing(path: Path, steps: int) -> np.ndarray:
    """Returns the paths of an SVG file, in their order, as float32 [steps, 3], see `Handwriting`.

    Raises:
        DataError: the file has no path, or one that is not understood, or more strokes than there are pairs of points.
    """
    text = read_text(path, "a readable .svg file")
    try:
        strokes = [stroke for found in PATH.findall(text) for stroke in parse_path(found)]
        if not 0 < len(strokes) <= steps // 2:
            raise ValueError(f"it must have 1 … {steps // 2} strokes for {steps} points (window), got {len(strokes)}")
        view = VIEW.search(text)
        left, top, width, height = map(float, view.groups()) if view else (0.0, 0.0, BOX, BOX)
        if not min(width, height) > 0:
            raise ValueError(f"its viewBox must have a width and a height, got {width:g} and {height:g}")
    except ValueError as error:
        raise DataError(f"{path} must be an .svg file of pen strokes: {error}; mend it, or leave it out") from error
    points, first = resample(strokes, steps)
    unit = (points - complex(left + width / 2, top + height / 2)) / (max(width, height) / 2)
    return np.stack([unit.real, unit.imag, ~first], axis=-1).astype(np.float32)


def parse_path(text: str) -> list[np.ndarray]:
    """Returns the strokes of an SVG path as cubic Bézier curves: for each [curves, 4] control points, x + iy.

    The first curve of a stroke is the point where the pen is put down.

    Raises:
        ValueError: a command or its numbers are not understood.
    """
    strokes: list[list[list[complex]]] = []
    at = handle = 0j  # the pen, and the control point before it
    if not text.lstrip().startswith(("M", "m")):
        raise ValueError(f"a path must begin with M, got {text[:20]!r}")
    for command, numbers in COMMAND.findall(text):
        kind, values = command.upper(), list(map(float, NUMBER.findall(numbers)))
        size = POINTS.get(kind, 0)
        if not size or not values or len(values) % (2 * size) or max(map(abs, values)) > FARTHEST:
            raise ValueError(f"a path must be of M, L, C and S with their points, got {command}{numbers.strip()[:40]}")
        points = list(map(complex, values[::2], values[1::2]))
        for start in range(0, len(points), size):
            origin = at if command.islower() else 0j
            given = [origin + point for point in points[start : start + size]]
            if kind == "M" and start == 0:
                strokes.append([given * 4])
            elif size == 1:
                strokes[-1].append([at, at, *given * 2])
            else:
                strokes[-1].append([at, *[2 * at - handle] * (kind == "S"), *given])
            at, handle = given[-1], given[-2] if size > 1 else given[-1]
    return [np.array(stroke) for stroke in strokes]


def resample(strokes: Sequence[np.ndarray], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points along strokes, as many on each, at equal distances from its first to its last point.

    So characters with as many strokes have each at the same place, which a network finds far easier than points at
    equal distances along the whole.

    Args:
        strokes: control points, [curves, 4] each, x + iy.
        steps: points in all.
    Returns:
        the points, complex [steps], and which of them begin a stroke, bool [steps]; a stroke has one more or fewer than
        another where steps are no multiple of the strokes.
    """
    line = (np.concatenate(strokes) @ BERNSTEIN).ravel()
    ends = np.cumsum([len(stroke) * CURVE_POINTS for stroke in strokes])
    starts = np.concatenate([[0], ends[:-1]])
    gaps = np.abs(np.diff(line, prepend=line[0]))
    gaps[starts] += 1.0  # so that a stroke ends before the next begins
    place = np.cumsum(gaps)
    lengths = np.maximum(place[ends - 1] - place[starts], 1e-9)
    counts = np.diff(np.arange(len(strokes) + 1) * steps // len(strokes))
    number = np.arange(steps) - np.repeat(counts.cumsum() - counts, counts)  # of a point within its stroke
    wanted = np.repeat(place[starts], counts) + number * np.repeat(lengths / (counts - 1), counts)
    return np.interp(wanted, place, line), number == 0
