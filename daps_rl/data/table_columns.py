"""The columns of a table: what they hold, as found or as said, and how their cells become numbers and text again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from daps_rl.data.errors import DataError
from daps_rl.data.plain import LARGEST_NUMBER
from daps_rl.names import did_you_mean
from daps_rl.report.tables import Cell

NUMBER, CATEGORY, YES_NO, LABEL, SKIP = KINDS = ("number", "category", "yes-no", "label", "skip")
FEW, ROWS_EACH = 10, 10  # whole numbers are categories where there are few of them, each with as many rows on average
FOUND, MOST = 100, 1000  # categories of a text that is taken for one, and that a column may have at all
SHADED = 2.0  # standard deviations: an error that is shown as wholly wrong
DECIMALS = 6  # written behind a point; numbers that have more are written with as many digits in all


class Field(NamedTuple):
    """A column of a table."""

    name: str
    kind: str  # "number", "category" or "yes-no"
    values: tuple[str, ...] = ()  # of a category, "" for what is missing; of a yes-no, no before yes
    mean: float = 0.0  # of a number, over the training split
    deviation: float = 1.0
    decimals: int = 0  # of a number as it is written; more than DECIMALS for any number of digits
    optional: bool = False  # a number that may be missing: a yes-no before it says whether it is there

    @property
    def width(self) -> int:
        """How many entries of a datum it takes."""
        return 2 if self.optional else 1

    @property
    def words(self) -> str:
        """Says its kind and values."""
        optional = " (or missing)" if self.optional else ""
        return f"{self.kind} ({self._listed(4)})" if self.values else f"{self.kind}{optional}"

    def _listed(self, most: int) -> str:
        """At most so many of the values, and how many there are."""
        more = [f"… {len(self.values)}"] if len(self.values) > most else []
        return ", ".join([*(value or "missing" for value in self.values[:most]), *more])

    def columns(self, start: int) -> list[str]:
        """Its texts for `daps_rl.columns.Columns`, where its first entry is `start`."""
        if self.kind == CATEGORY:
            return [f"category:{len(self.values)}"]
        return ["yes-no", f"number@{start}"] if self.optional else [self.kind]

    def encode(self, cells: Sequence[str], where: str) -> np.ndarray:
        """Returns the entries of cells, float32 [N, width]; DataError, with its place, for one that does not fit."""
        try:
            return self._entries(cells)
        except (KeyError, ValueError):
            for row, cell in enumerate(cells, 1):
                self._check(cell, f"{where}: row {row}, column {self.name!r}")
            raise

    def _check(self, cell: str, place: str) -> None:
        try:
            self._entries([cell])
        except (KeyError, ValueError) as error:
            needed = "a number" if self.kind == NUMBER else f"one of {self._listed(20)}"
            got = repr(cell) if cell else "nothing"
            raise DataError(f"{place} must be {needed}, as in training, got {got}; mend it") from error

    def _entries(self, cells: Sequence[str]) -> np.ndarray:
        if self.kind != NUMBER:
            places = {value: i for i, value in enumerate(self.values)}
            return np.array([[places[cell]] for cell in cells], dtype=np.float32)
        values = np.array([float(cell) if cell or not self.optional else self.mean for cell in cells])
        if not (np.abs(values) <= LARGEST_NUMBER).all():
            raise ValueError("a number that is too large")
        parts = [[bool(cell) for cell in cells]] if self.optional else []
        return np.stack([*parts, (values - self.mean) / self.deviation], axis=1).astype(np.float32)

    def decode(self, entries: np.ndarray, *, short: bool = False) -> list[str]:
        """Returns entries [N, width], decoded or not, as text; `short` leaves out digits that say little."""
        if self.kind != NUMBER:
            places = entries[:, 0] > 0.5 if self.kind == YES_NO else entries[:, 0]
            return [self.values[int(place)] for place in places]
        telling = max(0, 2 - math.floor(math.log10(self.deviation)))  # a hundredth of the deviation
        decimals = min(self.decimals, telling) if short else self.decimals
        values = (entries[:, -1].astype(float) * self.deviation + self.mean).tolist()
        if decimals > DECIMALS:
            texts = [format(value, f".{DECIMALS}g") for value in values]
        else:
            texts = [format(round(value, decimals) + 0.0, f".{decimals}f") for value in values]  # no -0.0
        if self.optional:
            texts = [text if there > 0.5 else "" for text, there in zip(texts, entries[:, 0], strict=True)]
        return texts

    def compare(self, entries: np.ndarray, original: np.ndarray) -> list[Cell]:
        """Returns entries [N, width] as cells of a picture, beside those that they stand for."""
        if self.kind == NUMBER:
            errors = np.abs(entries[:, -1] - original[:, -1]) / SHADED
            errors = np.where(entries[:, 0].round() == original[:, 0], errors, 1.0) if self.optional else errors
        else:
            errors = (entries[:, 0].round() != original[:, 0]).astype(float)
        return [
            Cell(text, min(float(error), 1.0))
            for text, error in zip(self.decode(entries, short=True), errors, strict=True)
        ]


def find_column(name: str, cells: Sequence[str], asked: str | None, train: Sequence[int], where: str) -> Field | str:
    """Returns what a column is, as asked or as found, or in words why it is no part of the data.

    Args:
        name: of the column.
        cells: of all rows.
        asked: a kind of KINDS, or None.
        train: the rows that mean and deviation are of.
        where: what messages call the table.
    Raises:
        DataError: it cannot be what was asked.
    """
    kind, why = (asked, "as asked") if asked else find_kind(cells)
    if kind == LABEL:
        return LABEL
    if kind == SKIP:
        return f"skipped ({why})"
    optional = "" in cells
    if kind == NUMBER:
        numbers = _numbers([cell for cell in cells if cell])
        if numbers is None or not numbers:
            raise DataError(f"{where}: column {name!r} must hold numbers to be one, got text; leave number out")
        learned = [float(cells[row]) for row in train if cells[row]] or numbers
        deviation = float(np.std(learned)) if min(learned) < max(learned) else 1.0
        decimals = max(map(_decimals, cells))
        return Field(name, kind, (), float(np.mean(learned)), deviation, decimals, optional)
    values = tuple(in_order(set(cells)))
    if not 2 <= len(values) <= MOST or (kind == YES_NO and len(values) - optional != 2):
        needed = "two values" if kind == YES_NO else f"2 … {MOST} values"
        raise DataError(f"{where}: column {name!r} must hold {needed} to be a {kind}, got {len(values)}; skip it")
    return Field(name, CATEGORY if optional else kind, values)


def find_kind(cells: Sequence[str]) -> tuple[str, str]:
    """Returns a column's kind by its cells, and why where it is to be skipped.

    In order: one value is skipped, unless it may be missing; two are yes-no; text is a category where there are at most
    100 and half as many as rows, else skipped; whole numbers that count the rows are skipped; at most ten whole
    numbers, with ten rows each on average, are a category; else it is a number.
    """
    given = [cell for cell in cells if cell]
    distinct, numbers = set(given), _numbers(given)
    if len(set(cells)) < 2:
        return SKIP, "always the same"
    if len(distinct) <= 2:  # one value, or missing, is a category of two
        return YES_NO if len(distinct) == 2 else CATEGORY, ""
    if numbers is None:
        few = len(distinct) <= min(FOUND, len(given) / 2)
        return (CATEGORY, "") if few else (SKIP, f"text, {len(distinct)} different ones")
    if all(number.is_integer() for number in numbers):
        if numbers == [numbers[0] + i for i in range(len(cells))]:
            return SKIP, "counts the rows"
        if len(distinct) <= min(FEW, len(given) / ROWS_EACH):
            return CATEGORY, ""
    return NUMBER, ""


def parse_kinds(text: str | None, names: Sequence[str], where: str) -> dict[str, str]:
    """Returns the kinds that NAME=KIND,NAME=KIND gives; kinds are number, category, yes-no, label and skip.

    Raises:
        DataError: it is not of that form, a name is no column's, or there are two labels.
    """
    kinds: dict[str, str] = {}
    for part in (text or "").split(","):
        name, sign, kind = (piece.strip() for piece in part.rpartition("="))
        if not part.strip():
            continue
        if not sign or kind not in KINDS:
            raise DataError(f"columns must be NAME=KIND,..., with kinds {', '.join(KINDS)}, got {part!r}; mend it")
        if name not in names:
            hint = did_you_mean(name, names)
            raise DataError(f"columns must name those of {where}: {', '.join(names)}, got {name!r}; mend it{hint}")
        kinds[name] = kind
    if list(kinds.values()).count(LABEL) > 1:
        raise DataError(f"columns must name one label, got {text!r}; skip the others")
    return kinds


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """The numbers that texts are, or None where one is none."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if all(abs(number) <= LARGEST_NUMBER for number in numbers) else None


def _decimals(cell: str) -> int:
    """How many digits a number has behind its point."""
    return DECIMALS + 1 if "e" in cell.lower() else len(cell.partition(".")[2])


def in_order(values: set[str]) -> list[str]:
    """Returns values in the order of numbers, where they are, else of text; what is missing first."""
    given = sorted(values - {""})
    numbers = _numbers(given)
    if numbers is not None:
        given = [value for _, value in sorted(zip(numbers, given, strict=True))]
    return [""] * ("" in values) + given
