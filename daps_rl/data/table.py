"""Tables: rows of numbers, categories and yes or no, some of them missing, from `.csv` and `.parquet` files."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.kind import Array, Kind, Measure
from daps_rl.data.splits import SPLITS, Splits, cut_missing
from daps_rl.data.table_cells import Cells, cells_of, read_cells
from daps_rl.data.table_columns import LABEL, NUMBER, SHADED, YES_NO, Field, find_column, in_order, parse_kinds
from daps_rl.files import write_atomically
from daps_rl.report.tables import plot_table

LIMIT = 2**27  # numbers of a table in memory: half a gibibyte
SHOWN_ROWS, SHOWN_COLUMNS = 8, 12  # of a picture
NOTE = f"filled: a wrong value, or a number that is off, darkest at {SHADED:g} standard deviations"


@dataclass(frozen=True, kw_only=True)
class Table(Kind):
    """Rows of a table: accuracy of categories, R² of numbers, and both of each column; `.csv` and `.parquet` files.

    Args:
        fields: the columns, in order; see `Field`.
        ignored: names of further columns, which may be there and are not read.
    Raises:
        DataError: there is no column.
    """

    fields: tuple[Field, ...]
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(Field(*field) for field in self.fields))
        if not self.fields:
            raise DataError("a table must have a column that is no label and not skipped, got none; see --columns")
        numbers = [field.kind == NUMBER for field in self.fields]
        measures = {} if all(numbers) else {"accuracy": Measure("accuracy", "", ".3f", 1)}
        measures |= {"r2": Measure("R²", "", ".3f", 1)} if any(numbers) else {}
        object.__setattr__(self, "measures", measures)

    @property
    def columns(self) -> tuple[str, ...]:
        """() where all are numbers."""
        texts = [text for field, place in self._places() for text in field.columns(place.start)]
        if set(texts) == {NUMBER}:
            return ()
        merged: list[str] = []
        for text, run in itertools.groupby(texts):
            same = list(run)
            merged += [f"{NUMBER}*{len(same)}"] if text == NUMBER else same
        return tuple(merged)

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Returns the share of categories that are right, and 1 - the squared error of numbers, of each column too.

        Errors are in standard deviations of the training data, so that the mean over data is R² relative to their
        variance. What is missing has no error; a column's own metric is of the data that have it. [N] or fewer each.
        """
        right, explained, given, found = [], [], [], {}
        for field, place in self._places():
            made, true = decoded[:, place], x[:, place]
            if field.kind == NUMBER:
                there = true[:, 0] > 0.5 if field.optional else torch.ones_like(true[:, 0], dtype=torch.bool)
                explained.append(torch.where(there, 1.0 - (made[:, -1] - true[:, -1]).square(), 0.0))
                given.append(there)
                found[f"r2/{field.name}"] = explained[-1][there]
            else:
                values = (made > 0.5).to(true.dtype) if field.kind == YES_NO else made
                right.append((values == true).to(true.dtype)[:, 0])
                found[f"accuracy/{field.name}"] = right[-1]
        if right:
            found["accuracy"] = torch.stack(right).mean(0)
        if given:
            counts = torch.stack(given).sum(0)
            found["r2"] = (torch.stack(explained).sum(0) / counts)[counts > 0]
        return {name: values for name, values in found.items() if len(values)}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        shown = {label: x[:SHOWN_ROWS].numpy() for label, x in rows.items()}
        original = shown.get("original", next(iter(shown.values())))
        columns = {
            field.name: {label: field.compare(x[:, place], original[:, place]) for label, x in shown.items()}
            for field, place in self._places()[:SHOWN_COLUMNS]
        }
        notes = [NOTE]
        if "original" not in shown:  # draws, which nothing is wrong of
            notes, plain = [], columns
            columns = {
                name: {label: [cell._replace(error=0.0) for cell in cells] for label, cells in column.items()}
                for name, column in plain.items()
            }
        if left_out := len(self.fields) - len(columns):
            notes.append(f"columns that are not shown: {left_out}")
        note = "; ".join(notes)
        plot_table(path, columns, note=note, title=title)
        return [path]

    def read(self, path: Path) -> Array:
        return self.encode(read_cells(path), str(path))

    def write(self, path: Path, data: Tensor) -> str:
        path = path if path.suffix == ".csv" else path.with_name(f"{path.name}.csv")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        cells = self.decode(data)
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
        write_atomically(path, text.getvalue().encode())
        return f"{path}: {len(data)} rows of {len(cells)} columns"

    def prepare(self, x: Any) -> Array:
        """Takes a table as `cells_of` does too: a DataFrame, or a dict of columns."""
        return self.encode(cells_of(x), "x") if hasattr(x, "columns") or isinstance(x, Mapping) else x

    def encode(self, cells: Cells, where: str) -> np.ndarray:
        """Returns the rows of a table as a model takes them, standardised. float32 [N, C].

        Raises:
            DataError: a column is missing or unknown, or a cell is not what its column holds; it names the place.
        """
        names = [field.name for field in self.fields]
        missing = [name for name in names if name not in cells]
        unknown = [name for name in cells if name not in (*names, *self.ignored)]
        if missing or unknown:
            got = f"no {missing[0]!r}" if missing else f"{unknown[0]!r} too"
            raise DataError(f"{where}: columns must be {', '.join(names)}, got {got}; name them as in training")
        parts = [field.encode(cells[field.name], where) for field in self.fields]
        return np.concatenate(parts, axis=1)

    def decode(self, data: Tensor) -> Cells:
        """Returns data [N, C] as a table, in its units; `pandas.DataFrame` takes it."""
        entries = data.detach().cpu().numpy()
        return {field.name: field.decode(entries[:, place]) for field, place in self._places()}

    def _places(self) -> list[tuple[Field, slice]]:
        """The columns, and where in a datum they are."""
        ends = np.cumsum([field.width for field in self.fields]).tolist()
        return [(field, slice(end - field.width, end)) for field, end in zip(self.fields, ends, strict=True)]


def load_table(path: Path, *, columns: str | None = None) -> Splits:
    """Returns the rows of a `.csv` or `.parquet` file; a .csv has names first, and commas, semicolons or tabs.

    Errors are those of `read_cells` and `table_splits`, `columns` is that of `table_splits`.
    """
    return table_splits(read_cells(path), str(path), columns=columns)


def table_splits(table: Any, name: str = "table", *, columns: str | None = None, quiet: bool = False) -> Splits:
    """Returns a table's rows, 80 / 10 / 10 by a fixed permutation; says, in a warning, what its columns were taken for.

    Kinds and categories are those of all rows, mean and deviation of a number those of the training split.

    Args:
        table: a DataFrame, or a dict of columns.
        name: what messages and reports call it.
        columns: kinds of some columns, see `parse_kinds`.
        quiet: leave out the warning.
    Raises:
        DataError: a column is not what it is said to be, or there are no columns or too few rows.
    """
    cells = cells_of(table)
    asked = parse_kinds(columns, list(cells), name)
    count = len(next(iter(cells.values()), []))
    rows: dict[str, Any] = {"train": torch.arange(count)}
    labels: dict[str, Any] = {}
    for column in [column for column, kind in asked.items() if kind == LABEL]:
        labels["train_labels"] = _labels(cells[column], f"{name}: column {column!r}")
    cut_missing(rows, labels, name)
    found = {
        column: find_column(column, values, asked.get(column), rows["train"].tolist(), name)
        for column, values in cells.items()
    }
    fields = tuple(field for field in found.values() if isinstance(field, Field))
    if not fields:
        raise DataError(f"{name} must have a column that is no label and not skipped, got none; see --columns")
    kind = Table(fields=fields, ignored=tuple(column for column, why in found.items() if isinstance(why, str)))
    if count * sum(field.width for field in fields) > LIMIT:
        raise DataError(f"{name}: a table must hold at most {LIMIT:,} numbers, got more; skip columns or rows")
    data = torch.from_numpy(kind.encode(cells, name))
    parts: dict[str, Any] = {split: data[rows[split]] for split in SPLITS}
    if not quiet:
        words = ", ".join(f"{column} {what if isinstance(what, str) else what.words}" for column, what in found.items())
        warnings.warn(
            f"{name}: columns: {words}; numbers are standardised; --columns NAME=KIND,... says otherwise", stacklevel=3
        )
    return Splits(name=name, **parts, **labels, likelihood="columns" if kind.columns else "gaussian", kind=kind)


def load_named(name: str, *, columns: str | None = None) -> Splits:
    """Returns a table of scikit-learn: `wine`, `breast-cancer` and `iris` with their classes as labels, `diabetes`."""
    from sklearn import datasets

    load: Callable[..., Any] = getattr(datasets, f"load_{name.replace('-', '_')}")
    bunch = load(scaled=False) if name == "diabetes" else load()
    names = [str(column).replace(" (cm)", "") for column in bunch.feature_names]
    cells = dict(zip(names, bunch.data.T, strict=True))
    target = "progression" if name == "diabetes" else "class"
    cells[target] = bunch.target if name == "diabetes" else [str(bunch.target_names[i]) for i in bunch.target]
    asked = "progression=number" if name == "diabetes" else "class=label"
    return table_splits(cells, name, columns=f"{asked},{columns or ''}", quiet=True)


def load_penguins(*, columns: str | None = None) -> Splits:
    """Returns the table of the package `palmerpenguins`: 344 penguins, some without a sex or without sizes.

    References:
        Horst, Hill, Gorman (2020), palmerpenguins, doi:10.5281/zenodo.3960218.
    """
    spec = importlib.util.find_spec("palmerpenguins")  # read as a file: importing it needs pandas
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("penguins need the package palmerpenguins: pip install 'daps-rl[tables]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / "penguins.csv"
    return table_splits(read_cells(path), "penguins", columns=columns, quiet=True)


def _labels(cells: Sequence[str], where: str) -> Tensor:
    """Class numbers of a column, in the order of its values. int64 [N]."""
    if "" in cells:
        raise DataError(
            f"{where}: a label must be there in every row, got none in row {cells.index('') + 1}; fill it in"
        )
    order = {value: i for i, value in enumerate(in_order(set(cells)))}
    return torch.tensor([order[cell] for cell in cells])
