"""What a kind of data needs beside its numbers: how it is measured, shown, read and written. One file a kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.lib import format as npy
from torch import Tensor

from daps_rl.data.errors import DataError, one_line
from daps_rl.data.rows import Array as Array
from daps_rl.data.rows import Rows
from daps_rl.files import new_file
from daps_rl.names import import_class

KINDS = {
    "arrays": "daps_rl.data.pixels:Arrays",
    "images": "daps_rl.data.images:Images",
    "parts": "daps_rl.data.parts:Parts",
    "sound": "daps_rl.data.sound:Sound",
    "handwriting": "daps_rl.data.handwriting:Handwriting",
    "series": "daps_rl.data.series:Series",
    "text": "daps_rl.data.text:Text",
    "table": "daps_rl.data.table:Table",
}
"""Kinds by the names that saved models know them by. One of a user's own is `package.module:Class` there."""


class Measure(NamedTuple):
    """How a metric is called, printed and read."""

    words: str
    unit: str  # "" for none
    form: str  # a format of one number
    better: int  # 1 where larger is better, -1 where smaller is


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Base of the kinds of data: a frozen dataclass of plain values, which are saved with a model as JSON.

    A kind of one's own derives from this, and is given to `Splits(..., kind=)`: see docs/data-kinds.md.
    """

    measures: ClassVar[dict[str, Measure]] = {}
    """How near a reconstruction is to its original, by `metrics` and `summary`; the first stands for all."""
    recognised: ClassVar[bool] = False
    """Whether it is measured how often a recogniser reads the right class from what codes decode to."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What the entries of the last axis are, as `daps_rl.columns.Columns` takes it; () where all are alike."""
        return ()

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Returns how near reconstructions are to their originals, under the names of `measures`. [N, *x] → [N]."""
        return {}

    def summary(self, metrics: Mapping[str, float | None], data: Tensor) -> dict[str, float]:
        """Returns what `summary.json` says of a split beside the means of its metrics. data, of the split, [N, *x]."""
        return {}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        """Draws data above labelled rows of reconstructions of them; returns what was written, the picture first.

        Args:
            path: of the picture, a PNG; what else there is to look at or to listen to goes beside it.
            rows: by label, the originals first. [N, *x] each.
            title: above the picture.
        """
        raise NotImplementedError

    def read(self, path: Path) -> Array:
        """Returns the data of a file or a folder, as `daps-rl encode` reads them. [N, *x].

        Raises:
            DataError: what is there cannot be used; it names the file and the place.
        """
        if type(self).rows is Kind.rows:
            raise NotImplementedError
        return self.rows(path)[:]

    def rows(self, path: Path) -> Rows:
        """Returns what `read` does, read when it is sliced where a kind says how. A kind has one of the two."""
        return self.read(path)

    def write(self, path: Path, data: Tensor) -> str:
        """Writes data [N, *x], as `daps-rl decode` and `sample` do, whole or not at all; returns what, in words."""
        if type(self).write_parts is Kind.write_parts:
            raise NotImplementedError
        return self.write_parts(path, [data], len(data))

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        """Does what `write` does with N = count data that come in parts [n, *x]. A kind has one of the two."""
        return self.write(path, torch.cat([*parts]))

    def prepare(self, x: Any) -> Array:
        """Returns data as a person has them as the array that a model takes: as they are, unless a kind knows more."""
        return x


def kind_to_json(kind: Kind) -> dict[str, Any]:
    """Returns a kind as JSON: its name and its values."""
    own = f"{type(kind).__module__}:{type(kind).__qualname__}"
    names = {place: name for name, place in KINDS.items()}
    return {"kind": names.get(own, own), **dataclasses.asdict(kind)}


def kind_from_json(values: Mapping[str, Any]) -> Kind:
    """Returns the kind that `kind_to_json` gave; code that the name stands for is imported.

    Raises:
        DataError: the name stands for no kind, or the values are not its own.
    """
    name = values.get("kind")
    if not isinstance(name, str) or (name not in KINDS and ":" not in name):
        raise DataError(f"kind must be one of {', '.join(KINDS)}, or package.module:Class, got {name!r}; train anew")
    cls = import_class("kind", KINDS.get(name, name), Kind)
    try:
        return cls(**{key: _as_tuple(value) for key, value in values.items() if key != "kind"})
    except (TypeError, ValueError) as error:
        raise DataError(f"the values of kind {name!r} are not its own ({one_line(error)}); train anew") from error


def _as_tuple(value: Any) -> Any:
    """Returns JSON's value with tuples for lists, as a frozen dataclass holds them."""
    if isinstance(value, dict):
        return {name: _as_tuple(part) for name, part in value.items()}
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def write_array(path: Path, parts: Iterable[Tensor], count: int) -> str:
    """Writes parts [n, *x] of N = count rows to one `.npy` file, whole or not at all; returns what, in words."""
    path, said = path if path.suffix == ".npy" else path.with_name(f"{path.name}.npy"), ""
    with new_file(path) as file:
        for part in parts:
            array = part.numpy()
            if not said:
                shape = (count, *array.shape[1:])
                header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(file, header)
                said = f"{path}: {array.dtype} {list(shape)}"
            file.write(array.tobytes())
    return said
