"""`daps-rl compare`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daps_rl.commands.options import Options, add_command, choosable, converter, given_settings
from daps_rl.commands.stop import StopRequest

DEFAULT_SEEDS = 3


def add_parser(commands: Any, arguments: Sequence[str]) -> None:
    """Adds `compare` to the parser's commands: options of its own, and the settings of a run."""
    text = "train several agents over several seeds, and compare them in a table and pictures"
    parser = add_command(commands, "compare", text)
    options = Options(parser, arguments)
    add = options.add
    add("agent", "--agents", "compare these, as AGENT,LABEL=AGENT; a label lets an agent in again", type=_agents)
    text = f"repeat with this many seeds, or with those of a list as 0,1,2 (default: {DEFAULT_SEEDS})"
    add("length", "--seeds", text, type=_seeds)
    text = "give one agent settings of its own; repeatable"
    add("agent", "--set", text, type=_own, action="append", metavar="AGENT:NAME=VALUE,…")
    text = "test the others against this one (default: daps, or else the first)"
    add("agent", "--against", text, metavar="AGENT")
    text = "run this many at once, each on its part of the cores (default: 1)"
    add("machine", "--jobs", text, type=int, default=1)
    text = "write to this folder, or go on in it (default: a new one under runs/)"
    add("output", "--out", text, metavar="DIR")
    add("output", "--report", "train nothing; write the report again from what is in --out", action="store_true")
    add("output", "--retry-failed", "try failed runs again", action="store_true")
    options.add_settings(without=("agent", "seed"))
    parser.set_defaults(command=compare_command)


def _agents(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    agents = {label: agent or label for label, _, agent in pairs}
    if len(agents) < len(pairs):
        raise argparse.ArgumentTypeError(f"each label must be there once, got {text!r}; write LABEL=AGENT")
    return agents


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or parts == ["0"]:
        raise argparse.ArgumentTypeError(f"expected how many, or a list such as 0,1,2, got {text!r}")
    return tuple(map(int, parts)) if "," in text else tuple(range(int(text)))


def _own(text: str) -> tuple[str, dict[str, Any]]:
    """AGENT:NAME=VALUE,NAME=VALUE; a comma before anything but a setting's name belongs to the value."""
    settings = choosable()
    agent, colon, first = text.partition("=")[0].rpartition(":")
    if not (agent and colon and "=" in text):
        raise argparse.ArgumentTypeError(f"expected AGENT:NAME=VALUE,NAME=VALUE, got {text!r}")
    names = "|".join(re.escape(form) for name in settings for form in {name, name.replace("_", "-")})
    values: dict[str, Any] = {}
    for part in re.split(rf",(?=(?:{names})=)", text[len(agent) + 1 :]):
        name, _, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if name not in settings:
            raise argparse.ArgumentTypeError(f"{first!r} is no setting of a run; see daps-rl train --help-all")
        try:
            values[name] = converter(settings[name])(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{name} cannot be {value!r}") from None
    return agent, values


def compare_command(
    *,
    agents: dict[str, str] | None,
    seeds: tuple[int, ...] | None,
    set: Sequence[tuple[str, dict[str, Any]]] | None,
    against: str | None,
    jobs: int,
    retry_failed: bool,
    report: bool,
    out: str | None,
    config: str | None,
    **options: Any,
) -> int:
    """`daps-rl compare`."""
    from daps_rl.comparison.folder import ComparisonFolder
    from daps_rl.comparison.plan import Plan, extended
    from daps_rl.comparison.session import reference_of, train_all, write_report
    from daps_rl.runs.folder import folder_is_writable, new_run_path
    from daps_rl.training import load_data

    if jobs < 1:
        raise ValueError(f"--jobs must be >= 1, got {jobs}.")
    given = given_settings(options)
    own: dict[str, dict[str, Any]] = {}
    for label, values in set or ():
        own[label] = own.get(label, {}) | values
    if out is None:
        if report or agents is None:
            raise ValueError(f"{'--report' if report else 'a comparison that goes on'} needs --out, its folder.")
        out = str(new_run_path(Path("runs"), f"compare-{Path(given.get('data', 'digits')).stem}"))
    folder = ComparisonFolder(out)
    recorded = folder.plan()
    if recorded is not None:
        plan = extended(recorded, agents=agents or {}, seeds=seeds or (), preset=config, options=given, own=own)
    elif report or agents is None:
        raise ValueError(f"{folder.path} holds no comparison; start one with --agents daps,ppo.")
    else:
        seeds = seeds or tuple(range(DEFAULT_SEEDS))
        plan = Plan(agents=agents, seeds=seeds, preset=config, options=given, own=own)
    reference = reference_of(plan, against)
    plan.check()
    folder_is_writable(folder.path)
    splits = load_data(plan.config(reference, plan.seeds[0]))
    stop = StopRequest()
    with folder.locked():
        if folder.plan() != recorded:
            raise ValueError(f"{folder.path} was changed by another comparison meanwhile; try again.")
        if not report:
            folder.write_json(folder.settings, plan.to_json())
            with stop.listening():
                train_all(folder, plan, jobs=jobs, retry_failed=retry_failed, stop=stop)
        print(write_report(folder, plan, splits, reference=reference))
    print(f"look at {folder.table} and the pictures beside it", file=sys.stderr)
    if stop.signal is not None:
        print(f"stopped; go on with: daps-rl compare --out {folder.path}", file=sys.stderr)
        return 128 + stop.signal
    failed = any(row["status"] == "failed" for row in folder.read_rows().values())
    if failed:
        print("some runs failed, see the table; try them again with --retry-failed", file=sys.stderr)
    return int(failed)
