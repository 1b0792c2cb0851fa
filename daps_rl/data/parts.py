"""Data of several parts, such as a sound, a picture and a label: encoded from those that are there, decoded whole."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.kind import KINDS, Array, Kind, Measure, kind_from_json, kind_to_json, write_array
from daps_rl.data.rows import Rows, open_array
from daps_rl.data.splits import SPLITS, Splits


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a datum.

    Args:
        name: in the TensorDict, in messages and in the names of pictures.
        shape: of the part of one datum.
        entries: what each of its entries is: "number", "yes-no" or "category:S", see `daps_rl.columns.Columns`.
        mean, deviation: of the part's numbers, which the rows hold standardised by them.
        kind: of the part, or its `kind_to_json`; None for one that is neither drawn nor measured.
    """

    name: str
    shape: tuple[int, ...]
    entries: str = "number"
    mean: float = 0.0
    deviation: float = 1.0
    kind: Any = None  # JSON, once constructed

    def __post_init__(self) -> None:
        if isinstance(self.kind, Kind):
            object.__setattr__(self, "kind", kind_to_json(self.kind))

    @property
    def size(self) -> int:
        """Entries of the part."""
        return math.prod(self.shape)

    def standardised(self, x: Tensor) -> Tensor:
        """Returns the part as rows hold it."""
        return (x - self.mean) / self.deviation

    @cached_property
    def made(self) -> Kind | None:
        """The kind of the part, where it has one."""
        return None if self.kind is None else kind_from_json(self.kind)


@dataclass(frozen=True, kw_only=True)
class Parts(Kind):
    """Data of several parts, each of which may be missing: one row of all their entries, and a flag for each part.

    A TensorDict, or a dict, of some of the parts is what a person encodes, and `unpack` gives what codes decode to as
    one of all parts. A part that is missing counts for nothing in log p(x|z).

    Args:
        parts: in the order of the row; from JSON as dictionaries.
    Raises:
        DataError: a part is named twice, or is of a kind that is not one of ours.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        parts = tuple(part if isinstance(part, Part) else Part(**part) for part in self.parts)
        object.__setattr__(self, "parts", parts)
        names = [part.name for part in parts]
        if len(set(names)) < len(names):
            raise DataError(f"parts must have names of their own, got {', '.join(names)}; rename one")
        for part in parts:
            if part.kind is not None and part.kind.get("kind") not in KINDS:
                raise DataError(f"the kind of part {part.name} must be one of {', '.join(KINDS)}; leave it out")

    @property
    def measures(self) -> dict[str, Measure]:  # type: ignore[override]  # those of its parts
        """Those of the parts, by their names."""
        found = {}
        for part in self.parts:
            if part.entries.startswith("category"):
                found[f"{part.name}_accuracy"] = Measure(f"{part.name}, right", "", ".1%", 1)
            elif (kind := part.made) is not None:
                for name, measure in kind.measures.items():
                    found[f"{part.name}_{name}"] = measure._replace(words=f"{part.name}, {measure.words}")
        return found

    @property
    def width(self) -> int:
        """Entries of all parts, after which the flags stand."""
        return sum(part.size for part in self.parts)

    @property
    def columns(self) -> tuple[str, ...]:
        columns: list[str] = []
        for flag, part in enumerate(self.parts, self.width):
            if part.entries.startswith("category"):
                columns += [f"{part.entries}@{flag}"] * part.size
            else:
                columns.append(f"{part.entries}*{part.size}@{flag}")
        return (*columns, f"yes-no*{len(self.parts)}")

    def pack(self, data: Mapping[str, Any]) -> Tensor:
        """Returns rows of those parts that are given, and of zeros. A dict or TensorDict of [N, *part] → [N, C].

        Raises:
            DataError: there is no such part, none is given, or one has another shape.
        """
        given = {str(name): torch.as_tensor(value).float() for name, value in data.items()}
        self._check_names(given)
        first = torch.atleast_1d(next(iter(given.values())))
        count, rows = len(first), []
        for part in self.parts:
            value = given.get(part.name)
            if value is not None and value.shape != (count, *part.shape):
                shape = ", ".join(map(str, part.shape))
                raise DataError(f"{part.name} must have shape [{count}, {shape}], got {list(value.shape)}; reshape it")
            known_part = first.new_zeros(count, part.size) if value is None else part.standardised(value)
            rows.append(known_part.reshape(count, -1))
        flags = first.new_tensor([part.name in given for part in self.parts]).expand(count, -1)
        return torch.cat((*rows, flags), dim=1)

    def unpack(self, rows: Tensor) -> TensorDict:
        """Returns all parts of rows, at their means where they are not there. [N, C] → a TensorDict of [N, *part]."""
        sizes = [part.size for part in self.parts]
        values = rows[:, : self.width].split(sizes, dim=1)
        named = {
            part.name: (x * part.deviation + part.mean).reshape(-1, *part.shape)
            for part, x in zip(self.parts, values, strict=True)
        }
        return TensorDict(named, batch_size=[len(rows)])

    def there(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns which rows have which part, by the part's name. [N, C] → bool [N] each."""
        return {part.name: rows[:, flag] > 0.5 for flag, part in enumerate(self.parts, self.width)}

    def only(self, rows: Tensor, names: Collection[str]) -> Tensor:
        """Returns the same rows with no parts but these, of those that they have. [N, C] → [N, C].

        Raises:
            DataError: there is no such part, or none is named.
        """
        self._check_names(names)
        kept = torch.tensor([part.name in names for part in self.parts]).repeat(2)  # parts, and their flags
        sizes = torch.tensor([part.size for part in self.parts] + [1] * len(self.parts))
        return torch.where(kept.repeat_interleave(sizes).to(rows.device), rows, 0.0)

    def _check_names(self, names: Collection[str]) -> None:
        known = [part.name for part in self.parts]
        if not names or set(names) - set(known):
            raise DataError(f"parts must be some of {', '.join(known)}, got {', '.join(names) or 'none'}; rename them")

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Returns the measures of each part, of the data that have it. [N] or fewer each."""
        found, pair, there = {}, (self.unpack(decoded), self.unpack(x)), self.there(x)
        for part in self.parts:
            ours, theirs = (data[part.name][there[part.name]] for data in pair)
            if not len(theirs):
                continue
            if part.entries.startswith("category"):
                found[f"{part.name}_accuracy"] = (ours == theirs).flatten(1).float().mean(1)
            elif (kind := part.made) is not None:
                found |= {f"{part.name}_{name}": value for name, value in kind.metrics(ours, theirs).items()}
        return found

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        """Draws each part by itself, as its own kind does; one that is not there as the lowest value: black, silent."""
        data, there = ({label: take(x) for label, x in rows.items()} for take in (self.unpack, self.there))
        paths = []
        for part in self.parts:
            if (kind := part.made) is not None:
                lowest = torch.cat([parts[part.name] for parts in data.values()]).min()
                shape = (-1, *[1] * len(part.shape))
                own = {
                    label: parts[part.name].where(there[label][part.name].reshape(shape), lowest)
                    for label, parts in data.items()
                }
                heading = f"{title}: {part.name}" if title else part.name
                paths += kind.draw(path.with_stem(f"{path.stem}-{part.name}"), own, heading)
        return paths

    def rows(self, path: Path) -> Rows:
        return open_array(path)

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        return write_array(path, parts, count)

    def prepare(self, x: Any) -> Array:
        return x if isinstance(x, Tensor) or not isinstance(x, Mapping | TensorDict) else self.pack(x)


def part_splits(
    name: str, kind: Parts, data: Mapping[str, Mapping[str, Tensor]], given: Sequence[Sequence[str]]
) -> Splits:
    """Splits of data of several parts: each datum is encoded from each choice of its parts, and scored whole.

    Args:
        name: of the data set.
        kind: its parts.
        data: by split, all parts [N, *part] of its data; "label", where it is a part [N], gives the classes too.
        given: choices of parts that a policy sees, in turn: (("sound",), ("picture",), ("sound", "picture")).
    """
    tensors: dict[str, Any] = {}
    for split in SPLITS:
        whole = kind.pack(data[split])
        seen = torch.stack([kind.only(whole, names) for names in given], dim=1)  # [N, choices, C]
        tensors[split] = seen.flatten(0, 1)
        tensors[f"{split}_targets"] = whole.repeat_interleave(len(given), dim=0)
        if "label" in data[split]:
            labels = data[split]["label"].reshape(len(whole)).long()
            tensors[f"{split}_labels"] = labels.repeat_interleave(len(given))
    return Splits(name=name, **tensors, likelihood="fixed_columns", kind=kind)
