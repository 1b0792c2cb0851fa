"""What people outside call: the public names of the package and the flags of its command, against a committed list.

A change of the list is a change for users and belongs in CHANGELOG.md. To write the list anew:
python tests/test_public_names.py --write
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
import types
from pathlib import Path

from daps_rl import cli

LIST = Path(__file__).with_name("public_names.txt")
MODULES = (
    "daps_rl", "daps_rl.agents", "daps_rl.agents.sb3", "daps_rl.comparison", "daps_rl.data", "daps_rl.data.kind",
    "daps_rl.decoders",
    "daps_rl.envs", "daps_rl.evaluation", "daps_rl.functional", "daps_rl.kernels", "daps_rl.objectives",
    "daps_rl.policies", "daps_rl.report", "daps_rl.verdicts",
)  # fmt: skip


def public_names(module: types.ModuleType) -> list[str]:
    """Returns `__all__`, or the names without an underscore that are neither modules nor imports from __future__."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
        ]
    assert all(hasattr(module, name) for name in listed)
    return sorted(listed)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of the command and those of its subcommands, by what one types."""
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(name: str, parser: argparse.ArgumentParser) -> None:
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command, sub in action.choices.items():
                    walk(f"{name} {command}", sub)

    walk("daps-rl", cli._parser())
    return found


def arguments(parser: argparse.ArgumentParser) -> list[str]:
    """Returns every spelling of every option, and the positional arguments' names."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    positional = [
        f"<{action.dest}>"
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
    ]
    return sorted(flags) + positional


def current() -> str:
    lines: list[str] = []
    for title, names in (
        *((name, public_names(importlib.import_module(name))) for name in MODULES),
        *((name, arguments(parser)) for name, parser in parsers().items()),
    ):
        lines += [f"[{title}]", *names, ""]
    return "\n".join(lines)


def test_public_names_and_flags_are_those_of_the_list():
    difference = difflib.unified_diff(
        LIST.read_text().splitlines(), current().splitlines(), LIST.name, "as it is now", lineterm="", n=1
    )
    text = "\n".join(difference)
    assert not text, (
        f"public names or flags have changed:\n{text}\nIf that is meant, say so in CHANGELOG.md and run: "
        "python tests/test_public_names.py --write"
    )


def test_the_list_holds_the_contracts():
    text = LIST.read_text()
    flags = text[text.index("[daps-rl train]") :].split("\n\n", 1)[0].splitlines()
    assert {"--data", "--agent", "--problem", "--steps", "--minutes", "--seed", "--out", "--resume"} <= set(flags)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_public_names.py --write")
    LIST.write_text(current())
    print(f"wrote {LIST}")
