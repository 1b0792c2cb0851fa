"""What is done with a finished run: `daps-rl evaluate`, `report`, `encode`, `decode`, `sample`."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from daps_rl.commands.options import add_command, given_settings, is_asked
from daps_rl.files import to_json, write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def add_parsers(commands: Any, arguments: Sequence[str]) -> None:
    """Adds these commands to the parser's."""

    def add(name: str, command: Callable[..., int], text: str) -> argparse.ArgumentParser:
        parser = add_command(commands, name, text)
        parser.add_argument("run", help="read the run in this folder")
        if is_asked(parser, arguments):
            from daps_rl.config.run import DEVICES  # brings torch

            parser.add_argument("--device", default="auto", choices=DEVICES, help="work here (default: auto)")
        parser.set_defaults(command=command)
        return parser

    evaluate = add("evaluate", evaluate_command, "recompute a run's metrics from its saved model")
    for name, metric, network in (("fid", "FID", "Inception"), ("lpips", "LPIPS", "AlexNet")):
        text = f"measure {metric} too, with this file of {network}'s weights (docs/metrics.md)"
        evaluate.add_argument(f"--{name}-weights", metavar="FILE", help=text)
    add("report", report_command, "draw a run's pictures again")
    encode = add("encode", encode_command, "write data as codes: [N, ...] to int64 [N, T]")
    encode.add_argument("--sampled", action="store_true", help="draw codes instead of taking the greedy ones")
    decode = add("decode", decode_command, "read codes as data: [N, T] to [N, ...]")
    for parser in (encode, decode):
        parser.add_argument("--input", required=True, metavar="FILE.npy", help="read from this file")
    sample = add("sample", sample_command, "decode codes drawn from the prior")
    sample.add_argument("-n", type=int, default=16, help="draw this many (default: 16)")
    sample.add_argument("--seed", type=int, default=0, help="draw them by this seed (default: 0)")
    for parser in (encode, decode, sample):
        parser.add_argument("--output", required=True, metavar="FILE.npy", help="write to this file")


def evaluate_command(*, run: str, device: str, fid_weights: str | None, lpips_weights: str | None) -> int:
    """`daps-rl evaluate`: prints the metrics as JSON."""
    import dataclasses

    from daps_rl.evaluation import Perceptual
    from daps_rl.evaluation.summary import evaluate_splits, perceptual_metrics
    from daps_rl.runs.session import load_run, same_data
    from daps_rl.training import load_data

    given: Any = given_settings({"fid_weights": fid_weights, "lpips_weights": lpips_weights})
    if given:
        Perceptual(**given)  # a file that is missing is told before the data are read
    folder, config, model = load_run(run, device)
    splits = load_data(config)
    perceptual = perceptual_metrics(dataclasses.replace(config, **given), splits)
    same_data(splits.fingerprint(), folder.read_json(folder.summary).get("fingerprint", ""))
    print(to_json(evaluate_splits(model, splits, config.beta_end, perceptual), indent=2))
    return 0


def report_command(*, run: str, device: str) -> int:
    """`daps-rl report`."""
    from daps_rl.report.run import draw_run
    from daps_rl.runs.session import load_run
    from daps_rl.training import load_data

    folder, config, model = load_run(run, device)
    for path in draw_run(folder.path, model, load_data(config)):
        print(path)
    return 0


def encode_command(*, run: str, device: str, input: str, output: str, sampled: bool) -> int:
    """`daps-rl encode`."""
    from daps_rl.runs.session import load_run

    _, _, model = load_run(run, device)
    parts = _read_npy(input).float().split(500)
    return _write_npy(output, (model.encode(x.to(_device(model)), deterministic=not sampled) for x in parts))


def decode_command(*, run: str, device: str, input: str, output: str) -> int:
    """`daps-rl decode`."""
    from daps_rl.runs.session import load_run

    _, config, model = load_run(run, device)
    codes = _read_npy(input)
    expected = f"integers [N, {config.num_tokens}] in 0 … {config.vocab_size - 1}"
    if codes.dtype.is_floating_point or codes.ndim != 2 or codes.shape[1] != config.num_tokens:
        raise ValueError(f"{input} must hold {expected}, got {codes.dtype} of shape {tuple(codes.shape)}.")
    if len(codes) and not (codes.min() >= 0 and codes.max() < config.vocab_size):
        raise ValueError(f"{input} must hold {expected}, got values {codes.min()} … {codes.max()}.")
    return _write_npy(output, (model.decode(part.long().to(_device(model))) for part in codes.split(500)))


def sample_command(*, run: str, device: str, n: int, seed: int, output: str) -> int:
    """`daps-rl sample`."""
    import torch

    from daps_rl.runs.session import load_run

    if n < 1:
        raise ValueError(f"-n must be >= 1, got {n}.")
    _, _, model = load_run(run, device)
    torch.manual_seed(seed)
    return _write_npy(output, [model.sample(n)])


def _read_npy(path: str) -> Tensor:
    import numpy as np
    import torch

    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except ValueError as error:
        reason = str(error).partition(". ")[0]  # NumPy goes on to advise an unsafe load
        raise ValueError(f"{path} is no readable .npy file of numbers ({reason}); save it with numpy.save.") from error


def _write_npy(path: str, parts: Iterable[Tensor]) -> int:
    """Writes the parts as one array, whole or not at all, and says so."""
    import numpy as np
    import torch

    array, content = torch.cat([part.cpu() for part in parts]).numpy(), io.BytesIO()
    np.save(content, array)
    path = path if path.endswith(".npy") else f"{path}.npy"
    write_atomically(path, content.getvalue())
    print(f"wrote {path}: {array.dtype} {list(array.shape)}")
    return 0


def _device(model: Any) -> Any:
    return next(model.parameters()).device
