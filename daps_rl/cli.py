"""The daps-rl command: its options and how it fails. What it does is in `daps_rl.commands`."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from daps_rl.commands.options import USAGE_ERROR, OneLineParser
from daps_rl.commands.parser import add_commands

OUT_OF_MEMORY = "out of memory; lower --batch-size, --samples, -n or the model's sizes, or set --microbatch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; errors of use are one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug, formatwarning = "--debug" in arguments, warnings.formatwarning
    try:
        if not debug:
            warnings.formatwarning = _warning_line
        options = vars(_parser(arguments).parse_args(arguments))
        if any(":" in argument or argument == "--trust" for argument in arguments) and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # as with python -m: an agent of one's own may lie in the working directory
        (module, _, name), debug = options.pop("command").partition(":"), options.pop("debug")
        return getattr(importlib.import_module(module), name)(**options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError, OverflowError) as error:
        if debug:
            raise
        print(f"daps-rl: error: {_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    finally:
        warnings.formatwarning = formatwarning


def _warning_line(message: object, *_: object, **__: object) -> str:
    """A warning without the line of our code that gave it."""
    return f"daps-rl: warning: {' '.join(str(message).split())}\n"


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        return f"{where}{error.strerror}{'; free some space, then go on with --resume' if full else ''}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return OUT_OF_MEMORY
    return text


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser for these arguments: a help that is not asked for is not written."""
    from daps_rl import __version__

    parser = OneLineParser(prog="daps-rl", description="Train discrete latent codes by policy search (DAPS).")
    parser.add_argument("--version", action="version", version=f"daps-rl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    add_commands(parser, arguments)
    return parser


if __name__ == "__main__":
    sys.exit(main())
