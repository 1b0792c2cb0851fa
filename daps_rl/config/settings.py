"""How a setting is declared: default, range and help stand together, and all else is derived from them."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a setting beside its default.

    Attributes:
        text: what one does with it: a sentence that begins with a verb, without a full stop.
        group: the heading under which it is listed; the short help shows those that are `common`.
        choices: the values that it can take; empty for any.
        above, least, most: bounds of a number, or of each of several; None for no bound.
        name, kinds: filled in by `declared_in`; (int, NoneType) are the kinds of `int | None`.
    """

    text: str
    group: str
    common: bool = False
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    name: str = ""
    kinds: tuple[Any, ...] = ()

    def check(self, value: Any) -> None:
        """Raises ValueError unless a value is what was declared."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}.")
        if not {int, float} & set(self.kinds) or (value is None and type(None) in self.kinds):
            return
        whole = int in self.kinds
        signs = ((">", operator.gt, self.above), (">=", operator.ge, self.least), ("<=", operator.le, self.most))
        bounds = [(sign, holds, bound) for sign, holds, bound in signs if bound is not None]
        for number in value if isinstance(value, tuple) else (value,):
            fits = isinstance(number, numbers.Integral if whole else numbers.Real) and math.isfinite(number)
            if not (fits and all(holds(number, bound) for _, holds, bound in bounds)):
                words = [*(f"{sign} {bound:,}" for sign, _, bound in bounds), "whole" if whole else "finite"]
                text = " and ".join(words).replace("> 0 ", "positive ")
                raise ValueError(f"{self.name} must be {text}, got {value!r}.")


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
            declared.check(getattr(self, name))


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
