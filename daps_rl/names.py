"""What is chosen by name: devices, a class of one's own (`package.module:Class`), and what a mistyped name meant."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda")


def import_object(what: str, name: str) -> Any:
    """Returns what "package.module:name" names; `what` it is to be, in messages ("agent").

    Raises:
        ValueError: it cannot be imported, whatever its module raises.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {name!r} cannot be imported ({why}); it must be package.module:Class.") from error


def import_class(what: str, name: str, base: type[T]) -> type[T]:
    """Returns the subclass of `base` that "package.module:Class" names.

    Args:
        what: it is to be, in messages: "agent", "problem".
    Raises:
        ValueError: it cannot be imported, or is another thing.
    """
    made = import_object(what, name)
    if not (isinstance(made, type) and issubclass(made, base)):
        raise ValueError(f"{what} {name!r} must be a subclass of {base.__name__}; derive it from that.")
    return made


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean ...?)" where a known name is like the one given, else nothing."""
    like = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {like[0]}?)" if like else ""
