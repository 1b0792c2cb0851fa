"""The daps-rl command: its options and how it fails. What it does is in `daps_rl.commands`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from daps_rl.commands import compare, models
from daps_rl.commands.options import add_settings
from daps_rl.commands.train import train_command

USAGE_ERROR = 2


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the options in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; errors of use are one line on stderr and exit code 2."""
    options = vars(_parser().parse_args(arguments))
    if os.getcwd() not in sys.path:  # as with python -m: an agent of one's own may lie in the working directory
        sys.path.append(os.getcwd())
    command, debug = options.pop("command"), options.pop("debug")
    try:
        return command(**options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        print(f"daps-rl: error: {_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        return f"{where}{error.strerror}{'; free some space, then go on with --resume' if full else ''}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    from daps_rl import __version__

    parser = OneLineParser(prog="daps-rl", description="Train discrete latent codes by policy search (DAPS).")
    parser.add_argument("--version", action="version", version=f"daps-rl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)

    train = commands.add_parser("train", help="train on a data set; with no option, on digits in about two minutes")
    train.add_argument("--out", metavar="DIR", help="folder of the run (default: a new one under runs/)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument(
        "--dry-run", action="store_true", help="two steps with two data, or with noise where only --config is given"
    )
    add_settings(train)
    train.set_defaults(command=train_command)

    compare.add_options(commands.add_parser("compare", help="train several agents over several seeds; table, pictures"))

    def on_run(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("run", help="folder of a finished run")
        sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        sub.set_defaults(command=command)
        return sub

    evaluate = on_run("evaluate", models.evaluate_command, "recompute a run's metrics from its saved model")
    for name, metric, network in (("fid", "FID", "Inception"), ("lpips", "LPIPS", "AlexNet")):
        evaluate.add_argument(
            f"--{name}-weights", metavar="FILE", help=f"{metric} too, with {network}'s weights (docs/metrics.md)"
        )
    on_run("report", models.report_command, "draw a run's pictures anew")
    for name, command, text in (
        ("encode", models.encode_command, "data (.npy [N, ...]) to codes (.npy, int64 [N, T])"),
        ("decode", models.decode_command, "codes (.npy [N, T]) to data (.npy)"),
    ):
        sub = on_run(name, command, text)
        sub.add_argument("--input", required=True, metavar="FILE.npy")
        sub.add_argument("--output", required=True, metavar="FILE.npy")
        if name == "encode":
            sub.add_argument("--sampled", action="store_true", help="draw codes instead of taking the greedy ones")
    sample = on_run("sample", models.sample_command, "decode codes drawn from the prior")
    sample.add_argument("-n", type=int, default=16, help="how many (default: 16)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--output", required=True, metavar="FILE.npy")
    return parser


if __name__ == "__main__":
    sys.exit(main())
