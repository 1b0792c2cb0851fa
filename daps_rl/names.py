"""What is chosen by name: devices, a class of one's own (`package.module:Class`), and what a mistyped name meant."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda")
LARGEST = 10**30  # number that is given with a name: far from where float32 overflows


def import_class(what: str, name: str, base: type[T]) -> type[T]:
    """Returns the subclass of `base` that "package.module:Class" names.

    Args:
        what: it is to be, in messages: "agent", "problem".
    Raises:
        ValueError: it cannot be imported, or is another thing.
    """
    made = import_named(what, name, "package.module:Class")
    if not (isinstance(made, type) and issubclass(made, base)):
        raise ValueError(f"{what} {name!r} must be a subclass of {base.__name__}; derive it from that.")
    return made


def import_named(what: str, name: str, form: str) -> Any:
    """Returns what "package.module:name" stands for; ValueError where it cannot be imported, whatever is raised."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {name!r} cannot be imported ({why}); it must be {form}.") from error


def weighted_name(text: str) -> tuple[str, float | None]:
    """Returns name and weight of NAME:WEIGHT, where a name may have a colon itself; None where there is no weight.

    Raises:
        ValueError: there is no name, or the weight is negative or not finite in float32.
    """
    name, _, last = text.rpartition(":")
    try:
        weight = float(last) if name else None
    except ValueError:
        weight = None
    if not text.strip(": ") or (weight is not None and not 0.0 <= weight <= LARGEST):
        raise ValueError(f"reward must be NAME or NAME:WEIGHT, the weight in 0 … {LARGEST:g}, got {text!r}.")
    return (text, None) if weight is None else (name, weight)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean ...?)" where a known name is like the one given, else nothing."""
    like = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {like[0]}?)" if like else ""
