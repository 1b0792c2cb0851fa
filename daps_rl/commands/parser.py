"""What each command of `daps-rl` takes. The function that does it is named, and imported when the command is run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from daps_rl.commands.options import OneLineParser, Options, choosable, converter, split_settings
from daps_rl.names import DEVICES

MOST_SEEDS = 10_000
TRUST = "import and run the package.module:Class that a file of the run names"


def add_commands(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Adds the commands; with settings, which bring torch, where `arguments`, what was typed, are for that command."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    for name, (text, own) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        file = "models" if isinstance(own, dict) else name
        command.set_defaults(command=f"daps_rl.commands.{file}:{name.replace('-', '_')}_command")
        if isinstance(own, dict):
            for argument, options in own.items():
                command.add_argument(argument, **options)
        elif not arguments or name in arguments:
            own(Options(command, arguments))


def _train(options: Options) -> None:
    options.add("output", "--out", "write to this folder (default: a new one under runs/)", metavar="DIR")
    options.add("output", "--resume", "go on with the run in --out", action="store_true")
    options.add("output", "--trust", TRUST, common=False, action="store_true")
    text = "take two steps with two data, or with noise where only --config is given, and write nothing"
    options.add("output", "--dry-run", text, common=False, action="store_true")
    options.add_settings()


def _compare(options: Options) -> None:
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
    text = "measure the best codes too that best-of:K, sweep:N, sweep:N/M or beam:W finds (docs/codes.md)"
    add("output", "--search", text, metavar="HOW")
    add("output", "--retry-failed", "try failed runs again", action="store_true")
    add("output", "--trust", TRUST, common=False, action="store_true")
    options.add_settings(without=("agent", "seed"))


def positive(text: str) -> float:
    """A positive, finite number."""
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


RUN: dict[str, dict[str, Any]] = {
    "run": {"help": "read the run in this folder"},
    "--trust": {"action": "store_true", "help": TRUST},
    "--device": {"default": "auto", "choices": DEVICES, "help": "work here (default: auto)"},
}
INPUT = {"--input": {"required": True, "metavar": "PATH", "help": "read this file, or the files of this folder"}}
OUTPUT = {"--output": {"required": True, "metavar": "PATH", "help": "write here, in the form that the data have"}}
MEASURE = "measure {} too, with this file of {}'s weights (docs/metrics.md)"
WEIGHTS = {
    "--fid-weights": {"metavar": "FILE", "help": MEASURE.format("FID", "Inception")},
    "--lpips-weights": {"metavar": "FILE", "help": MEASURE.format("LPIPS", "AlexNet")},
}
SAMPLED = {"--sampled": {"action": "store_true", "help": "draw codes instead of taking the greedy ones"}}
SEARCH = {
    "--search": {
        "metavar": "HOW",
        "help": "take the best codes that best-of:K, sweep:N, sweep:N/M, beam:W or multistart finds, of problems with "
        "symmetries also with +augment:N (docs/codes.md)",
    }
}
PRIOR = {
    "--prior": {
        "choices": ("independent", "autoregressive"),
        "default": "autoregressive",
        "help": "token by token, or each given those before it (default: autoregressive)",
    },
    "--labels": {"action": "store_true", "help": "fit p(z|y), by the labels of the data"},
    "--minutes": {"type": positive, "default": 1.0, "help": "learn for this long (default: 1)"},
    "--steps": {"type": int, "help": "or for this many steps"},
    "--seed": {"type": int, "default": 0, "help": "seed weights and draws (default: 0)"},
}
DRAWS = {
    "--label": {"type": int, "help": "draw of this class, where the prior knows labels"},
    "--temperature": {"type": positive, "default": 1.0, "help": "below 1 for likelier codes (default: 1)"},
    "-n": {"type": int, "default": 16, "help": "draw this many (default: 16)"},
    "--seed": {"type": int, "default": 0, "help": "draw them by this seed (default: 0)"},
}
FILE = {"--output": {"required": True, "metavar": "FILE", "help": "write this file"}}
CODER = {
    "--coder": {
        "default": "auto",
        "choices": ("auto", "independent"),
        "help": "code by the run's prior, or by counts of each token alone, in whole numbers, for files that are to be "
        "read on another machine (default: auto)",
    },
    "--lossless": {
        "action": "store_true",
        "help": "write the data too, given their codes: zeros and ones, categories, or texts",
    },
}
COMPRESSED = {"--input": {"required": True, "metavar": "FILE", "help": "read this file, which compress wrote"}}
COMMANDS: dict[str, tuple[str, Any]] = {
    "train": ("train on data or on a problem; with no option, on digits in about two minutes", _train),
    "compare": ("train several agents over several seeds, and compare them in a table and pictures", _compare),
    "evaluate": ("recompute a run's metrics from its saved model", RUN | WEIGHTS | SEARCH),
    "report": ("draw a run's pictures again", RUN),
    "encode": ("write data as codes: [N, ...] to int64 [N, T]", RUN | INPUT | OUTPUT | SAMPLED | SEARCH),
    "decode": ("read codes as data: [N, T] to [N, ...]", RUN | INPUT | OUTPUT),
    "compress": (
        "write data as a file of codes, in as few bits as the prior allows",
        RUN | INPUT | FILE | SEARCH | CODER,
    ),
    "decompress": ("read what compress wrote as data", RUN | COMPRESSED | OUTPUT),
    "fit-prior": ("learn how likely a run's codes are, for sampling and for small files", RUN | PRIOR),
    "sample": ("decode codes drawn from the prior", RUN | OUTPUT | DRAWS),
}
"""By name: what a command does, a line that begins with a verb; its arguments for argparse, or what adds them."""


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
    if not parts or not all(part.isdecimal() and len(part) < 19 for part in parts) or parts == ["0"]:
        raise argparse.ArgumentTypeError(f"expected how many, or a list such as 0,1,2, got {text!r}")
    if "," not in text and int(text) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_SEEDS} seeds, got {text}; list those to take")
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
