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
    """What is known of a setting beside its default.

    Attributes:
        text: what one does with it: a sentence that begins with a verb, without a full stop.
        group: the heading under which it is listed.
        common: whether the short help shows it.
        choices: the values that it can take; empty for any.
        above, least, most: bounds of a number, or of each of several; None for no bound.
        name: filled in by `declared_in`, and so are
        kinds: the plain types that its type is made of: (int, NoneType) of `int | None`, (int, ...) of
            `tuple[int, ...]`.
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
        for number in value if isinstance(value, tuple) else (value,):
            fits = isinstance(number, numbers.Integral if int in self.kinds else numbers.Real)
            fits = fits and math.isfinite(number)
            fits = fits and (self.above is None or number > self.above)
            fits = fits and (self.least is None or number >= self.least)
            if not (fits and (self.most is None or number <= self.most)):
                raise ValueError(f"{self.name} must be {self.range_text()}, got {value!r}.")

    def range_text(self) -> str:
        """The range of a number in words: "positive and finite", ">= 0 and whole"."""
        bounds = {">": self.above, ">=": self.least, "<=": self.most}
        words = [f"{sign} {bound:,}" for sign, bound in bounds.items() if bound is not None]
        words += ["whole" if int in self.kinds else "finite"]
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
        for name, declared in declared_in(type(self)).items():
            declared.check(getattr(self, name))


def declared_in(cls: type[Settings]) -> dict[str, Setting]:
    """What each setting of a group is declared with, by name."""
    types = typing.get_type_hints(cls)
    return {
        field.name: dataclasses.replace(
            field.metadata["setting"],
            name=field.name,
            kinds=typing.get_args(types[field.name]) or (types[field.name],),
        )
        for field in dataclasses.fields(cls)
    }


def documented(cls: type[T]) -> type[T]:
    """Lists a group's settings in its docstring, from what they are declared with."""
    lines = [f"        {name}: {declared.text}." for name, declared in declared_in(cls).items()]  # type: ignore[arg-type]
    cls.__doc__ = "\n".join((cls.__doc__ or "", "", "    Attributes:", *lines, "    "))
    return cls
