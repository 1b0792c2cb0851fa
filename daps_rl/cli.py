"""The daps-rl command. Options of `train` come from `TrainConfig`, the one home of their defaults."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

USAGE_ERROR = 2
COLLAPSED = 0.1  # nats of code_gain


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the options in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; errors of use are one line on stderr and exit code 2."""
    options = vars(_parser().parse_args(arguments))
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
    _add_train_options(train)
    train.set_defaults(command=train_command)

    def on_run(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("run", help="folder of a finished run")
        sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        sub.set_defaults(command=command)
        return sub

    on_run("evaluate", evaluate_command, "recompute a run's metrics from its saved model")
    on_run("report", report_command, "draw a run's pictures anew")
    for name, command, text in (
        ("encode", encode_command, "data (.npy [N, ...]) to codes (.npy, int64 [N, T])"),
        ("decode", decode_command, "codes (.npy [N, T]) to data (.npy)"),
    ):
        sub = on_run(name, command, text)
        sub.add_argument("--input", required=True, metavar="FILE.npy")
        sub.add_argument("--output", required=True, metavar="FILE.npy")
        if name == "encode":
            sub.add_argument("--sampled", action="store_true", help="draw codes instead of taking the greedy ones")
    sample = on_run("sample", sample_command, "decode codes drawn from the prior")
    sample.add_argument("-n", type=int, default=16, help="how many (default: 16)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--output", required=True, metavar="FILE.npy")
    return parser


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    from daps_rl.config import PUBLISHED, TrainConfig

    parser.add_argument("--out", metavar="DIR", help="folder of the run (default: a new one under runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--config", choices=sorted(PUBLISHED), help="published settings, by the data they are for")
    texts = _attribute_texts()
    types = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        if field.name == "observation_shape":  # the data say
            continue
        flag, kind = f"--{field.name.replace('_', '-')}", types[field.name]
        default = "" if field.default in (None, dataclasses.MISSING) else f" (default: {_show(field.default)})"
        arguments: dict[str, Any] = {"default": None, "help": f"{texts[field.name]}{default}".replace("%", "%%")}
        if kind is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["type"] = _converter(kind)
            arguments["metavar"] = field.name.split("_")[-1].upper()
        parser.add_argument(flag, **arguments)


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


def _converter(kind: Any) -> Any:
    """What turns a flag's text into a value of that type."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is dict:

        def named(text: str) -> dict[str, Any]:
            pairs = [part.split("=", 1) for part in text.split(",") if part]
            if not all(len(pair) == 2 for pair in pairs):
                raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE, got {text!r}")
            return {name.strip(): _literal(value) for name, value in pairs}

        return named
    if typing.get_origin(kind) is tuple:

        def widths(text: str) -> tuple[int, ...]:
            return tuple(int(part) for part in text.split(","))

        return widths
    return options[0] if options else kind


def _literal(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def train_command(*, out: str | None, resume: bool, config: str | None, **options: Any) -> int:
    """`daps-rl train`."""
    from daps_rl.config import config_from_dict, make_config
    from daps_rl.progress import Progress, tensorboard_observer
    from daps_rl.runs import RunFolder, folder_is_writable, new_run_path
    from daps_rl.session import Observer, StopRequest, absolute_paths, load_data, train_run

    given = absolute_paths({name: value for name, value in options.items() if value is not None})
    if resume:
        if out is None:
            raise ValueError("--resume needs --out, the folder of the run to go on with.")
        run = RunFolder(out)
        settings = config_from_dict(run.read_json(run.config))
        changed = [name for name, value in given.items() if getattr(settings, name) != value]
        if changed or config is not None:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in changed) or "--config"
            raise ValueError(f"a resumed run keeps its settings; leave out {named}, or start anew in another --out.")
        if run.summary.exists():
            print(f"{run.path} is finished already; see {run.summary}")
            return 0
    else:
        settings = make_config(config, **given)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{Path(settings.data).stem}-{settings.agent}")
        path = Path(out) if out is not None else new_run_path(Path("runs"), name)
        run = RunFolder(path)
        if run.config.exists():
            raise ValueError(f"{path} holds a run already; add --resume to go on with it, or choose another --out.")
        folder_is_writable(path)
    splits = load_data(settings)
    stop = StopRequest()
    with run.locked(), stop.listening(), Progress() as progress:
        observers: list[Observer] = [progress]
        if settings.tensorboard:
            observers.append(tensorboard_observer(run.path / "tensorboard"))
        summary = train_run(settings, splits, run, resume=resume, stop=stop, observers=tuple(observers))
    if summary is None:
        print(f"stopped; go on with: daps-rl train --resume --out {run.path}", file=sys.stderr)
        return 128 + int(stop.signal or 0)
    _print_summary(summary, run.path)
    return 0


def _print_summary(summary: dict[str, Any], path: Path) -> None:
    print(
        f"{summary['agent']} on {summary['data']}: {summary['steps']} steps in {summary['seconds']:.0f} s "
        f"({summary['steps_per_second']:.1f} steps/s), codes of {summary['bits']:g} bits"
    )
    for split in ("validation", "test"):
        print(f"{split:>10}  {_metrics_text(summary[split])}")
    print(f"look at {path}{os.sep}reconstructions.png")
    gain = summary["validation"].get("code_gain")
    if gain is not None and gain < COLLAPSED:
        print(
            "the codes say nothing of the data (posterior collapse: another datum's code does as well); lower "
            "--beta-start or --learning-rate, or train longer",
            file=sys.stderr,
        )


def _metrics_text(metrics: dict[str, Any]) -> str:
    def show(name: str, form: str, unit: str = "") -> str:
        return "" if metrics.get(name) is None else f"{name} {metrics[name]:{form}}{unit}"

    parts = (
        show("beta_elbo", ".2f", " nats"),
        show("log_likelihood", ".2f", " nats"),
        show("kl", ".2f", " nats"),
        show("psnr", ".2f", " dB"),
        show("psnr_greedy", ".2f", " dB"),
        show("ssim", ".3f"),
        show("code_usage", ".0%"),
        show("code_perplexity", ".1f"),
    )
    return "  ".join(part for part in parts if part)


def evaluate_command(*, run: str, device: str) -> int:
    """`daps-rl evaluate`: prints the metrics as JSON."""
    from daps_rl.runs import same_data
    from daps_rl.session import evaluate_splits, load_data, load_run

    folder, config, model = load_run(run, device)
    splits = load_data(config)
    same_data(splits.fingerprint(), folder.read_json(folder.summary).get("fingerprint", ""))
    print(json.dumps(evaluate_splits(model, splits, config.beta_end), indent=2))
    return 0


def report_command(*, run: str, device: str) -> int:
    """`daps-rl report`."""
    from daps_rl.session import draw, load_data, load_run

    folder, config, model = load_run(run, device)
    for path in draw(folder, model, load_data(config)):
        print(path)
    return 0


def encode_command(*, run: str, device: str, input: str, output: str, sampled: bool) -> int:
    """`daps-rl encode`."""
    import numpy as np
    import torch

    from daps_rl.session import load_run

    _, _, model = load_run(run, device)
    x = torch.from_numpy(_read_npy(input)).float()
    codes = [model.encode(part.to(_device(model)), deterministic=not sampled).cpu() for part in x.split(500)]
    np.save(output, torch.cat(codes).numpy())
    return 0


def decode_command(*, run: str, device: str, input: str, output: str) -> int:
    """`daps-rl decode`."""
    import numpy as np
    import torch

    from daps_rl.session import load_run

    _, config, model = load_run(run, device)
    codes = torch.from_numpy(_read_npy(input))
    expected = f"integers [N, {config.num_tokens}] in 0 … {config.vocab_size - 1}"
    if codes.dtype.is_floating_point or codes.ndim != 2 or codes.shape[1] != config.num_tokens:
        raise ValueError(f"{input} must hold {expected}, got {codes.dtype} of shape {tuple(codes.shape)}.")
    if len(codes) and not (codes.min() >= 0 and codes.max() < config.vocab_size):
        raise ValueError(f"{input} must hold {expected}, got values {codes.min()} … {codes.max()}.")
    means = [model.decode(part.long().to(_device(model))).cpu() for part in codes.split(500)]
    np.save(output, torch.cat(means).numpy())
    return 0


def sample_command(*, run: str, device: str, n: int, seed: int, output: str) -> int:
    """`daps-rl sample`."""
    import numpy as np
    import torch

    from daps_rl.session import load_run

    if n < 1:
        raise ValueError(f"-n must be >= 1, got {n}.")
    _, _, model = load_run(run, device)
    torch.manual_seed(seed)
    np.save(output, model.sample(n).cpu().numpy())
    return 0


def _read_npy(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is no readable .npy file ({error}); save it with numpy.save.") from error


def _device(model: Any) -> Any:
    return next(model.parameters()).device


if __name__ == "__main__":
    sys.exit(main())
