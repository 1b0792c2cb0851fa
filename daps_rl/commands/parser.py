"""What each command of `daps-rl` takes. The function that does it is named, and imported when the command is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from daps_rl.commands.options import OneLineParser, Options, choosable, converter, split_settings

TRUST = "import and run the package.module:Class that a file of the run names"


def add_commands(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Adds the commands, with the options of those that `arguments`, what was typed, are for: these bring torch."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    for name, (text, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        file = name if name in ("train", "compare") else "models"
        command.set_defaults(command=f"daps_rl.commands.{file}:{name}_command")
        if not arguments or name in arguments:
            add_options(command, arguments)


def _train(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    options = Options(parser, arguments)
    options.add("output", "--out", "write to this folder (default: a new one under runs/)", metavar="DIR")
    options.add("output", "--resume", "go on with the run in --out", action="store_true")
    options.add("output", "--trust", TRUST, common=False, action="store_true")
    text = "take two steps with two data, or with noise where only --config is given, and write nothing"
    options.add("output", "--dry-run", text, common=False, action="store_true")
    options.add_settings()


def _compare(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    options = Options(parser, arguments)
    add = options.add
    add("agent", "--agents", "compare these, as AGENT,LABEL=AGENT; a label lets an agent in again", type=agents)
    text = "repeat with this many seeds, or with those of a list as 0,1,2 (default: 3)"
    add("length", "--seeds", text, type=seeds)
    text = "give one agent settings of its own; repeatable"
    add("agent", "--set", text, type=own_settings, action="append", metavar="AGENT:NAME=VALUE,…")
    text = "test the others against this one (default: daps, or else the first)"
    add("agent", "--against", text, metavar="AGENT")
    text = "run this many at once, each on its part of the cores (default: 1)"
    add("machine", "--jobs", text, type=int, default=1)
    text = "write to this folder, or go on in it (default: a new one under runs/)"
    add("output", "--out", text, metavar="DIR")
    add("output", "--report", "train nothing; write the report again from what is in --out", action="store_true")
    add("output", "--retry-failed", "try failed runs again", action="store_true")
    add("output", "--trust", TRUST, common=False, action="store_true")
    options.add_settings(without=("agent", "seed"))


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    from daps_rl.config.run import DEVICES

    parser.add_argument("run", help="read the run in this folder")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--device", default="auto", choices=DEVICES, help="work here (default: auto)")


def _evaluate(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    _run(parser, arguments)
    for name, metric, network in (("fid", "FID", "Inception"), ("lpips", "LPIPS", "AlexNet")):
        text = f"measure {metric} too, with this file of {network}'s weights (docs/metrics.md)"
        parser.add_argument(f"--{name}-weights", metavar="FILE", help=text)


def _encode(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    parser.add_argument("--sampled", action="store_true", help="draw codes instead of taking the greedy ones")
    _decode(parser, arguments)


def _decode(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    _run(parser, arguments)
    parser.add_argument("--input", required=True, metavar="FILE.npy", help="read from this file")
    parser.add_argument("--output", required=True, metavar="FILE.npy", help="write to this file")


def _sample(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    _run(parser, arguments)
    parser.add_argument("-n", type=int, default=16, help="draw this many (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="draw them by this seed (default: 0)")
    parser.add_argument("--output", required=True, metavar="FILE.npy", help="write to this file")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser, Sequence[str]], None]]] = {
    "train": ("train on data or on a problem; with no option, on digits in about two minutes", _train),
    "compare": ("train several agents over several seeds, and compare them in a table and pictures", _compare),
    "evaluate": ("recompute a run's metrics from its saved model", _evaluate),
    "report": ("draw a run's pictures again", _run),
    "encode": ("write data as codes: [N, ...] to int64 [N, T]", _encode),
    "decode": ("read codes as data: [N, T] to [N, ...]", _decode),
    "sample": ("decode codes drawn from the prior", _sample),
}
"""By name: what a command does, a line that begins with a verb, and what adds its options."""


def agents(text: str) -> dict[str, str]:
    """Agents by label, of AGENT,LABEL=AGENT."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    found = {label: agent or label for label, _, agent in pairs}
    if len(found) < len(pairs):
        raise argparse.ArgumentTypeError(f"each label must be there once, got {text!r}; write LABEL=AGENT")
    return found


def seeds(text: str) -> tuple[int, ...]:
    """Seeds, of how many or of a list."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or parts == ["0"]:
        raise argparse.ArgumentTypeError(f"expected how many, or a list such as 0,1,2, got {text!r}")
    return tuple(map(int, parts)) if "," in text else tuple(range(int(text)))


def own_settings(text: str) -> tuple[str, dict[str, Any]]:
    """An agent's label and its own settings, of AGENT:NAME=VALUE,NAME=VALUE."""
    settings, values = choosable(), dict[str, Any]()
    agent, colon, _ = text.partition("=")[0].rpartition(":")
    if not (agent and colon and "=" in text):
        raise argparse.ArgumentTypeError(f"expected AGENT:NAME=VALUE,NAME=VALUE, got {text!r}")
    names = "|".join(form for name in settings for form in {name, name.replace("_", "-")})
    for part in split_settings(text[len(agent) + 1 :], names):
        name, _, value = part.partition("=")
        declared = settings.get(name.strip().replace("-", "_"))
        if declared is None:
            raise argparse.ArgumentTypeError(f"{name!r} is no setting of a run; see daps-rl train --help-all")
        try:
            values[declared.name] = converter(declared)(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{declared.name} cannot be {value!r}") from None
    return agent, values
