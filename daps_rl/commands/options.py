"""Options of the command line that come from `TrainConfig`, the one home of their defaults."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import typing
from collections.abc import Collection
from typing import Any


def add_settings(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Adds one option for each setting of a run but those named, and --config."""
    from daps_rl.config import PUBLISHED, TrainConfig

    parser.add_argument("--config", choices=sorted(PUBLISHED), help="published settings, by the data they are for")
    texts, defaults = _attribute_texts(), {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name, kind in setting_types().items():
        if name in without:
            continue
        default = defaults[name]
        shown = "" if default in (None, dataclasses.MISSING) else f" (default: {_show(default)})"
        arguments: dict[str, Any] = {"default": None, "help": f"{texts[name]}{shown}".replace("%", "%%")}
        if kind is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["type"] = converter(kind)
            arguments["metavar"] = name.split("_")[-1].upper()
        parser.add_argument(f"--{name.replace('_', '-')}", **arguments)


def setting_types() -> dict[str, Any]:
    """The settings that a person can choose, and their types; the shape of a datum comes from the data."""
    from daps_rl.config import TrainConfig

    types = typing.get_type_hints(TrainConfig)
    return {
        field.name: types[field.name] for field in dataclasses.fields(TrainConfig) if field.name != "observation_shape"
    }


def _attribute_texts() -> dict[str, str]:
    """What the docstrings of the settings say about each attribute."""
    from daps_rl.config import ModelConfig, TrainConfig

    texts: dict[str, str] = {}
    for cls in (ModelConfig, TrainConfig):
        body = (cls.__doc__ or "").partition("Attributes:")[2]
        for names, text in re.findall(r"^ {8}([a-z_, ]+): (.+?)(?=^ {8}[a-z_, ]+: |\Z)", body, re.M | re.S):
            for name in names.split(", "):
                texts[name] = " ".join(text.split()).rstrip(".")
    return texts


def absolute_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with absolute paths among them, so that a run can be evaluated from anywhere."""
    from daps_rl.data.load import NAMES  # brings torch, which --help does without

    resolved = dict(options)
    for name in ("fid_weights", "lpips_weights", "data_dir"):
        if resolved.get(name) is not None:
            resolved[name] = os.path.abspath(resolved[name])
    data = resolved.get("data")
    if resolved.get("data_dir") is None and data is not None and os.path.exists(data) and data not in NAMES:
        resolved["data"] = os.path.abspath(data)
    return resolved


def split_settings(text: str) -> list[str]:
    """NAME=VALUE,NAME=VALUE apart; a value may hold commas of its own, as a list does."""
    return [part.strip() for part in re.split(r",(?=\s*\w+=)", text) if part.strip()]


def converter(kind: Any) -> Any:
    """What turns a flag's text into a value of that type."""
    if kind is bool:
        return _boolean
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is dict:

        def named(text: str) -> dict[str, Any]:
            pairs = [part.split("=", 1) for part in split_settings(text)]
            if not all(len(pair) == 2 for pair in pairs):
                raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE, got {text!r}")
            return {name.strip(): _literal(value) for name, value in pairs}

        return named
    if typing.get_origin(kind) is tuple:

        def widths(text: str) -> tuple[int, ...]:
            return tuple(int(part) for part in text.split(","))

        return widths
    return options[0] if options else kind


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _literal(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
