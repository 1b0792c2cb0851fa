"""Options of the command line that come from `TrainConfig`, the one home of their defaults, ranges and texts."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from daps_rl.names import did_you_mean

if TYPE_CHECKING:
    from daps_rl.config.settings import Setting

USAGE_ERROR = 2
GROUPS = ("data", "code", "agent", "length", "output")
"""Headings in the order of the short help; the others follow."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the options in one line, and what a mistyped one may have meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses what it does not know at once, where its own flags are at hand."""
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            near = did_you_mean(extra[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(extra)}{near}")
        return found, extra

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


class AutoSwitch(argparse.BooleanOptionalAction):
    """`--name`, `--no-name`, and `--name auto`, which is as if neither were given."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, **options)
        self.nargs, self.choices, self.metavar = "?", ("auto",), "auto"

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Holds what the flag says; of "auto" None."""
        if values is None:
            super().__call__(parser, namespace, values, option_string)
        elif option_string == self.option_strings[0]:
            setattr(namespace, self.dest, None)
        else:
            parser.error(f"argument {option_string} takes no value; leave out {values}")


class Options:
    """Adds options to a command under headings, and leaves those that few people use out of the short help.

    `arguments` are what was typed: they say whether help is asked for.
    """

    def __init__(self, parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
        self.parser, self.everything = parser, "--help-all" in arguments
        self.groups = {title: parser.add_argument_group(title) for title in GROUPS}
        parser.add_argument("--help-all", action="help", help="show all options and exit")
        parser.usage = "%(prog)s [options]"
        more = "" if self.everything else " These are the options that most people use; --help-all shows all."
        parser.description = textwrap.fill(f"{parser.description}{more}", 78)
        parser.formatter_class = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=26)
        if {"-h", "--help", "--help-all"} & set(arguments):
            parser.epilog = agents_text()

    def add(self, group: str, flag: str, text: str, *, common: bool = True, **arguments: Any) -> None:
        """Adds one option; `arguments` are those of argparse."""
        if group not in self.groups:
            self.groups[group] = self.parser.add_argument_group(group)
        text = text.replace("%", "%%") if common or self.everything else argparse.SUPPRESS
        self.groups[group].add_argument(flag, help=text, **arguments)

    def add_settings(self, *, without: Collection[str] = ()) -> None:
        """Adds one option for each setting of a run but those named, and --config."""
        from daps_rl.config import PUBLISHED

        for name, declared in choosable().items():
            if name in without:
                continue
            arguments: dict[str, Any] = {"action": AutoSwitch if declared.auto else argparse.BooleanOptionalAction}
            if bool not in declared.kinds:
                choices = f"{{{','.join(declared.choices)}}}" if declared.choices else name.split("_")[-1].upper()
                arguments = {"type": converter(declared), "metavar": choices}
            if set(declared.kinds) == {str, ...}:
                arguments = {"type": _names, "metavar": "NAME[:WEIGHT]", "action": "extend"}
            default = " (default: auto)" if declared.auto else default_text(name)
            text, flag = declared.text + default, f"--{name.replace('_', '-')}"
            self.add(declared.group, flag, text, common=declared.common, default=None, **arguments)
        self.add("data", "--config", "take the published settings for these data", choices=sorted(PUBLISHED))


def default_text(name: str) -> str:
    """What a setting is if nobody says it, in brackets: its default, and where a recipe says otherwise."""
    from daps_rl.config import TrainConfig
    from daps_rl.config.presets import OTHER_DATA, RECIPES

    default = TrainConfig.__dataclass_fields__[name].default
    parts = [] if default in (None, (), dataclasses.MISSING) else [_show(default)]
    recipes = {"digits": RECIPES["digits"], "other data": OTHER_DATA}  # not those of all data that have a name
    own = {data: recipe[name] for data, recipe in recipes.items() if recipe.get(name, default) != default}
    parts += [f"{_show(value)} for {data}" for data, value in own.items()]
    return f" (default: {'; '.join(parts)})" if parts else ""


def agents_text() -> str:
    """The agents by name, each with what it does, on lines of at most 79 characters."""
    from daps_rl.agents import AGENTS, SEARCHES
    from daps_rl.agents.sb3.adapter import SB3_AGENTS

    lines: dict[bool, list[str]] = {
        False: ["agents that learn from rewards:"],
        True: ["agents to compare with, which need the decoder's gradient:"],
    }
    for spec in (*AGENTS.values(), *SB3_AGENTS.values()):
        lines[spec.cls.needs_decoder_gradient].append(f"  {spec.name:<20}  {spec.help}")
    searches = [f"  {spec.name:<20}  {spec.help}" for spec in SEARCHES.values()]
    searches.append(f"  {'nevergrad:NAME':<20}  search by an optimiser of Nevergrad")
    lines[False] += ["", "searches for one decision, of problems whose contexts are all the same:", *searches]
    return "\n".join([*lines[False], "", *lines[True]])


def choosable() -> dict[str, Setting]:
    """The settings that a person can choose; the shape of a datum comes from the data."""
    from daps_rl.config import TrainConfig
    from daps_rl.config.settings import declared_in

    return {name: declared for name, declared in declared_in(TrainConfig).items() if name != "observation_shape"}


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, with absolute paths among them, so that a run can be evaluated from anywhere."""
    from daps_rl.data.load import NAMES  # brings torch, which --help does without

    given = {name: value for name, value in options.items() if value is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    paths = {"fid_weights", "lpips_weights", "data_dir"}
    if "data_dir" not in given and given.get("data") not in NAMES and os.path.exists(given.get("data", "")):
        paths.add("data")
    return {name: os.path.abspath(value) if name in paths else value for name, value in given.items()}


def split_settings(text: str, names: str = r"\w+") -> list[str]:
    """NAME=VALUE,NAME=VALUE apart; a comma before anything but NAME= belongs to the value, as in a list."""
    return [part.strip() for part in re.split(rf",(?=\s*(?:{names})=)", text) if part.strip()]


def converter(declared: Setting) -> Callable[[str], Any]:
    """What turns a flag's text into a value of that setting."""
    special = {bool: _literal, Any: _named, ...: _names if str in declared.kinds else _widths}
    return next((special[kind] for kind in declared.kinds if kind in special), declared.kinds[0])


def _named(text: str) -> dict[str, Any]:
    pairs = [part.split("=", 1) for part in split_settings(text)]
    if not all(len(pair) == 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE, got {text!r}")
    return {name.strip(): _literal(value) for name, value in pairs}


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers as 64,256, got {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _literal(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, too many digits, too deep
        return text


def _show(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
