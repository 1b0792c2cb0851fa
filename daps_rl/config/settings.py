"""How a setting is declared: default, range and help stand together, and all else is derived from them."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import reprlib
import typing
from dataclasses import dataclass
from operator import ge, gt, le
from typing import Any, TypeVar

from daps_rl.names import LARGEST

T = TypeVar("T")
KINDS: dict[type, tuple[Any, str, Any, float | None]] = {
    bool: (bool, "true or false", bool, None),
    int: (numbers.Integral, "whole", int, 2**63 - 1),
    float: (numbers.Real, "finite", float, LARGEST),
    str: ((str, os.PathLike), "text in UTF-8", os.fspath, None),
    dict: (dict, "names with finite values", dict, None),
}
"""By the type of a setting: what is accepted, in words, what it is held as, and how large a number may be."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a setting beside its default.

    Attributes:
        text: what one does with it: a sentence that begins with a verb, without a full stop.
        group: the heading under which it is listed; the short help shows those that are `common`.
        choices: the values that it can take; empty for any.
        auto: whether `make_config` takes "auto", which leaves it to what it knows of the run.
        above, least, most: bounds of a number, or of each of several; None for no bound.
        name, kinds: filled in by `declared_in`; (int, NoneType) are the kinds of `int | None`.
    """

    text: str
    group: str
    common: bool = False
    choices: tuple[str, ...] = ()
    auto: bool = False
    above: float | None = None
    least: float | None = None
    most: float | None = None
    name: str = ""
    kinds: tuple[Any, ...] = ()

    def taken(self, value: Any) -> Any:
        """Returns a value as it is held: NumPy's numbers as Python's, a list as a tuple, a path as text.

        Raises:
            ValueError: it is not what was declared.
        """
        if value is None and type(None) in self.kinds:
            return None
        kind, several = dict if Any in self.kinds else self.kinds[0], ... in self.kinds
        accepted, word, hold, largest = KINDS[kind]
        bounds = [
            (f"{sign} {bound:,}", holds, bound)
            for sign, holds, bound in ((">", gt, self.above), (">=", ge, self.least), ("<=", le, self.most))
            if bound is not None
        ]

        def fits(part: Any) -> bool:
            if self.choices or not isinstance(part, accepted) or isinstance(part, bool) is not (kind is bool):
                return part in self.choices
            if kind is str:  # a file's name may be other bytes than UTF-8
                return (text := os.fspath(part)) == text.encode(errors="ignore").decode()
            if kind is dict:
                return all(not isinstance(value, float) or math.isfinite(value) for value in part.values())
            return largest is None or (abs(part) <= largest and all(holds(part, bound) for _, holds, bound in bounds))

        parts = value if several and isinstance(value, tuple | list) else (value,)
        if not all(map(fits, parts)) or (several and parts is not value):
            words = [*(text for text, _, _ in bounds), word]
            if largest is not None and any(isinstance(part, accepted) and abs(part) > largest for part in parts):
                words.append(f"<= {largest:g}")
            need = f"one of {', '.join(self.choices)}" if self.choices else " and ".join(words)
            raise ValueError(f"{self.name} must be {need.replace('> 0 ', 'positive ')}, got {reprlib.repr(value)}.")
        held = tuple(map(hold, parts))
        return held if several else held[0]


def setting(default: Any, text: str, **options: Any) -> Any:
    """A field of a group of settings; `options` are those of `Setting`. A default of `dict` stands for an empty one."""
    metadata = {"setting": Setting(text=text, **options)}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the groups of settings: each field is checked against what it is declared with."""

    def __post_init__(self) -> None:
        for name, declared in declared_in(type(self)).items():
            object.__setattr__(self, name, declared.taken(getattr(self, name)))


def declared_in(cls: type[Settings]) -> dict[str, Setting]:
    """What each setting of a group is declared with, by name."""
    types = typing.get_type_hints(cls)
    kinds = {name: typing.get_args(kind) or (kind,) for name, kind in types.items()}
    fields = {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
    return {name: dataclasses.replace(field, name=name, kinds=kinds[name]) for name, field in fields.items()}


def documented(cls: type[T]) -> type[T]:
    """Lists a group's settings in its docstring, from what they are declared with."""
    lines = [f"        {name}: {declared.text}." for name, declared in declared_in(cls).items()]  # type: ignore[arg-type]
    cls.__doc__ = "\n".join((cls.__doc__ or "", "", "    Attributes:", *lines, "    "))
    return cls
