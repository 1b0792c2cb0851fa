"""The cells of a table as text: of `.csv` and `.parquet` files, DataFrames and dicts of columns."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daps_rl.data.errors import DataError
from daps_rl.data.plain import as_utf8, open_plain

SUFFIXES = (".csv", ".parquet")
SEPARATORS = ",;\t"  # of a .csv, whichever its first line has most of
MISSING = ("", "?", "na", "n/a", "nan", "nat", "none", "null", "<na>")  # what stands for a missing value, in any case

Cells = dict[str, list[str]]
"""A table: by the name of a column its cells, as text; "" for what is missing."""


def read_cells(path: Path) -> Cells:
    """Returns the table of a file.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read; a row has more or fewer cells than there are names.
        ImportError: it is a .parquet, and pyarrow is not there.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    with open_plain(path, "a table in UTF-8 with a line of names (.csv)") as file:
        text = as_utf8(file.read())
        first = text.partition("\n")[0]
        separator = max(SEPARATORS, key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            names, *rows = list(reader) or [[]]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    rows = [row for row in rows if row]
    if not names or not rows:
        raise DataError(f"{path} must hold a line of names and rows, got {'names alone' if names else 'nothing'}")
    _check_names(names, str(path))
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(f"{path}: row {number} must have {len(names)} cells, as the names, got {len(row)}; mend it")
    return cells_of(dict(zip(names, zip(*rows, strict=True), strict=True)))


def has_few_rows(path: Path, most: int) -> bool:
    """Whether a file has at most so many rows; False where it cannot be read, which is told when it is loaded."""
    try:
        with open_plain(path, "a table") as file:
            if path.suffix.lower() == ".parquet":
                from pyarrow import parquet

                return int(parquet.read_metadata(file).num_rows) <= most
            return sum(1 for _ in itertools.islice(file, most + 2)) <= most + 1  # the names stand in a line too
    except DataError:
        return False


def _read_parquet(path: Path) -> Cells:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow to be read: pip install 'daps-rl[tables]'") from error
    with open_plain(path, "a readable table (.parquet)") as file:
        table = parquet.ParquetFile(file).read()
    if not table.num_rows or not table.num_columns:
        raise DataError(f"{path} must hold rows and columns, got {table.num_rows} and {table.num_columns}")
    _check_names(table.column_names, str(path))
    return cells_of(table.to_pydict())


def cells_of(table: Any) -> Cells:
    """Returns a DataFrame, or a dict of columns, as text: whole numbers without a point, "" for what is missing.

    Raises:
        DataError: columns are of several lengths, or of one name.
    """
    names = list(getattr(table, "columns", table))
    _check_names(names, "a table")
    columns = [np.atleast_1d(np.asarray(table[name], dtype=object)).tolist() for name in names]
    if len(set(map(len, columns))) > 1:
        raise DataError("a table must have columns of one length, got several; cut or fill them")
    return {str(name).strip(): list(map(_text, column)) for name, column in zip(names, columns, strict=True)}


def _check_names(names: Sequence[Any], where: str) -> None:
    seen: set[str] = set()
    for name in (str(name).strip() for name in names):
        if name in seen:
            raise DataError(f"{where}: names of columns must differ, got {name!r} twice; rename one")
        seen.add(name)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return "" if text.lower() in MISSING else text
