"""How a setting is declared: default, range and help stand together, and all else is derived from them."""

from __future__ import annotations

import dataclasses
import math
import numbers
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a setting beside its name, its type and its default.

    Attributes:
        text: what one does with it: a sentence that begins with a verb, without a full stop.
        group: the heading under which it is listed.
        common: whether the short help shows it.
        choices: the values that it can take; empty for any.
        above, least, most: bounds of a number, or of each of several; None for no bound.
    """

    text: str
    group: str
    common: bool = False
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None

    def check(self, name: str, value: Any, kinds: tuple[Any, ...]) -> None:
        """Raises ValueError unless a value is what was declared.

        Args:
            name: of the setting.
            value: what it was given.
            kinds: `kinds_of` its type.
        """
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} must be one of {', '.join(self.choices)}, got {value!r}.")
        if not {int, float} & set(kinds) or (value is None and type(None) in kinds):
            return
        for number in value if isinstance(value, tuple) else (value,):
            fits = isinstance(number, numbers.Integral if int in kinds else numbers.Real)
            fits = fits and math.isfinite(number)
            fits = fits and (self.above is None or number > self.above)
            fits = fits and (self.least is None or number >= self.least)
            if not (fits and (self.most is None or number <= self.most)):
                raise ValueError(f"{name} must be {self.range_text(whole=int in kinds)}, got {value!r}.")

    def range_text(self, *, whole: bool) -> str:
        """The range of a number in words: "positive and finite", ">= 0 and whole"."""
        bounds = {">": self.above, ">=": self.least, "<=": self.most}
        words = [f"{sign} {bound:,}" for sign, bound in bounds.items() if bound is not None]
        words += ["whole" if whole else "finite"]
        return " and ".join(words).replace("> 0 ", "positive ")


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
        types = types_of(type(self))
        for name, declared in declared_in(type(self)).items():
            declared.check(name, getattr(self, name), kinds_of(types[name]))


def declared_in(cls: type[Settings]) -> dict[str, Setting]:
    """What each setting of a group is declared with, by name."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}


def types_of(cls: type[Settings]) -> dict[str, Any]:
    """The type of each setting of a group, by name."""
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if name in declared_in(cls)}


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The plain types that a type is made of: (int, NoneType) of `int | None`, (int, ...) of `tuple[int, ...]`."""
    return typing.get_args(kind) or (kind,)


def documented(cls: type[T]) -> type[T]:
    """Lists a group's settings in its docstring, from what they are declared with."""
    lines = [f"        {name}: {declared.text}." for name, declared in declared_in(cls).items()]  # type: ignore[arg-type]
    cls.__doc__ = "\n".join((cls.__doc__ or "", "", "    Attributes:", *lines, "    "))
    return cls
