"""What is done with a finished run: `daps-rl evaluate`, `report`, `encode`, `decode`, `compress`, `fit-prior`, ..."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes import (
    HEADER,
    Search,
    compress,
    draw_codes,
    fit_prior_of,
    load_counts,
    quality_of_draws,
    save_counts,
)
from daps_rl.codes.compression import check_streams, decompress_parts
from daps_rl.codes.observations import Observations, decode_parts, encode_all
from daps_rl.codes.prior import codes_of
from daps_rl.commands.options import given_settings
from daps_rl.commands.terminal import shares
from daps_rl.config import TrainConfig, check_trusted
from daps_rl.data.arrays import as_codes
from daps_rl.data.kind import write_array
from daps_rl.data.plain import open_plain, read_array
from daps_rl.data.stream import ImageStream
from daps_rl.device import memory_size
from daps_rl.evaluation import Perceptual, count_codes
from daps_rl.evaluation.summary import evaluate_splits, perceptual_metrics
from daps_rl.files import to_json, write_atomically
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.pictures import draw_run, draw_samples
from daps_rl.runs.session import code_score_of, load_run, same_data
from daps_rl.training import load_data
from daps_rl.verdicts import make_verdicts


def evaluate_command(
    *,
    run: str,
    trust: bool,
    device: str,
    fid_weights: str | None,
    lpips_weights: str | None,
    search: str | None,
) -> int:
    """`daps-rl evaluate`: prints the metrics as JSON."""
    how = None if search is None else Search.parse(search)
    given: Any = given_settings({"fid_weights": fid_weights, "lpips_weights": lpips_weights})
    if given:
        Perceptual(**given)  # a file that is missing is told before the data are read
    folder, config, model = load_run(run, device, trust=trust)
    check_trusted((*config.data_code, *config.reward_names), folder.config, trust)
    splits = load_data(config)
    perceptual = perceptual_metrics(dataclasses.replace(config, **given), splits)
    same_data(splits.fingerprint(), folder.read_json(folder.summary).get("fingerprint", ""))
    verdicts = make_verdicts(config.reward, splits, folder.verdicts)
    score = code_score_of(folder, config, model)
    metrics = evaluate_splits(model, splits, config.beta_end, perceptual, verdicts, how, score)
    print(to_json(metrics, indent=2))
    return 0


def report_command(*, run: str, trust: bool, device: str) -> int:
    """`daps-rl report`."""
    folder, config, model = load_run(run, device, trust=trust)
    check_trusted(config.data_code, folder.config, trust)
    for path in draw_run(folder.path, model, load_data(config)):
        print(path)
    return 0


def encode_command(
    *, run: str, trust: bool, device: str, input: str, output: str, sampled: bool, search: str | None
) -> int:
    """`daps-rl encode`."""
    if search is not None and sampled:
        raise ValueError("--sampled takes the code that is drawn, --search the best that is found; leave out one.")
    how = None if search is None else Search.parse(search)
    folder, config, model = load_run(run, device, trust=trust)
    codes, _ = _encode(folder, config, model, input, how, sampled=sampled)
    print(f"wrote {write_array(Path(output), [codes], len(codes))}")
    return 0


def decode_command(*, run: str, trust: bool, device: str, input: str, output: str) -> int:
    """`daps-rl decode`."""
    _, config, model = load_run(run, device, trust=trust)
    array, num_tokens = read_array(input), config.num_tokens
    if config.end_token and len(array.shape) > 0 and array.shape[-1] < num_tokens:  # the first tokens of codes
        num_tokens = array.shape[-1]
    codes = as_codes(array, num_tokens, config.num_symbols, input)
    if codes.ndim != 2:
        raise ValueError(f"{input} must hold codes [N, {config.num_tokens}], got shape {list(codes.shape)}.")
    return _write_data(output, model, codes)


def sample_command(
    *, run: str, trust: bool, device: str, n: int, label: int | None, temperature: float, seed: int, output: str
) -> int:
    """`daps-rl sample`."""
    _, config, model = load_run(run, device, trust=trust)
    most = memory_size() // (8 * max(config.num_tokens, math.prod(_shape(model))))
    if not 1 <= n <= most:
        raise ValueError(f"-n must lie in 1 … {most:,}, what this machine's memory can hold, got {n}.")
    _check_seed(seed)
    torch.manual_seed(seed)
    if label is None:
        return _write_data(output, model, draw_codes(model.prior(), n, temperature))
    if not getattr(model.prior, "num_classes", 0):
        raise ValueError(f"{run} has no prior that knows labels; fit one: daps-rl fit-prior {run} --labels.")
    index = torch.tensor([label], device=next(model.parameters()).device)
    return _write_data(output, model, draw_codes(model.prior(index), n, temperature).squeeze(1))


def fit_prior_command(
    *, run: str, trust: bool, device: str, prior: str, labels: bool, minutes: float, steps: int | None, seed: int
) -> int:
    """`daps-rl fit-prior`: saves the model with its new prior, prints what it found, and draws from it."""
    _check_seed(seed)
    if steps is not None and steps < 1:
        raise ValueError(f"--steps must be >= 1, got {steps}.")
    folder, config, model = load_run(run, device, trust=trust)
    check_trusted(config.data_code, folder.config, trust)
    splits = load_data(config)
    same_data(splits.fingerprint(), folder.read_json(folder.summary).get("fingerprint", ""))
    with folder.locked():
        with shares() as show:
            fitted, rates = fit_prior_of(
                model, splits, prior, labels=labels, minutes=minutes, steps=steps, seed=seed, show=show
            )
        fitted.save_pretrained(folder.model)
        found = {"prior": prior, "labels": labels, "bits": config.bits, **rates, **quality_of_draws(fitted, splits)}
        folder.write_json(folder.path / "prior.json", found)
        pictures = draw_samples(folder.path, fitted, splits)
    print(to_json(found, indent=2))
    for path in pictures:
        print(f"look at {path}")
    return 0


def compress_command(
    *,
    run: str,
    trust: bool,
    device: str,
    input: str,
    output: str,
    search: str | None,
    coder: str,
    lossless: bool,
) -> int:
    """`daps-rl compress`."""
    check_streams(by_counts=coder == "independent", lossless=lossless)
    how = None if search is None else Search.parse(search)
    folder, config, model = load_run(run, device, trust=trust)
    codes, data = _encode(folder, config, model, input, how)
    counts = _counts(folder, config, model, trust) if coder == "independent" else None
    content = compress(model, codes, data=data if lossless else None, counts=counts)
    write_atomically(output, content)
    bits = 8 * (len(content) - HEADER.size) / len(data)
    print(f"wrote {output}: {len(data):,} data in {len(content):,} bytes, {bits:.2f} bits each after the header")
    return 0


def decompress_command(*, run: str, trust: bool, device: str, input: str, output: str) -> int:
    """`daps-rl decompress`."""
    with open_plain(Path(input), "a file of daps-rl compress") as file:
        content = file.read()
    folder, config, model = load_run(run, device, trust=trust)
    counts = load_counts(folder.model, config.num_tokens, config.num_symbols)
    codes, parts = decompress_parts(model, content, counts=counts, where=input)
    print(f"wrote {model.kind.write_parts(Path(output), parts, len(codes))}")
    return 0


def _encode(
    folder: RunFolder,
    config: TrainConfig,
    model: DiscreteAutoencoder,
    path: str,
    search: Search | None,
    *,
    sampled: bool = False,
) -> tuple[Tensor, Observations]:
    """Codes [N, T] of the data [N, *x] at a path, greedy, drawn or searched for, on the CPU; and these data."""
    score = None if search is None else code_score_of(folder, config, model)
    data = Observations(model, model.kind.rows(Path(path)), path)
    return encode_all(model, data, sampled=sampled, search=search, score=score), data


def _counts(folder: RunFolder, config: TrainConfig, model: DiscreteAutoencoder, trust: bool) -> Tensor:
    """The counts of the tokens of a run's training data, which are made with their first use, and saved."""
    counts = load_counts(folder.model, config.num_tokens, config.num_symbols)
    if counts is None:
        check_trusted(config.data_code, folder.config, trust)
        data = load_data(config).train
        if not isinstance(data, Tensor | ImageStream):
            raise ValueError("--coder independent counts the codes of training data, and these have no end; use auto.")
        codes = as_codes(codes_of(model, data), config.num_tokens, config.num_symbols)
        counts = count_codes(codes, config.num_symbols)
        path = save_counts(folder.model, counts)
        print(f"wrote {path}: the tokens of {len(data):,} training data; copy it with the model")
    return counts


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be >= 0 and below 2^63, got {seed}.")


def _write_data(path: str, model: DiscreteAutoencoder, codes: Tensor) -> int:
    """Writes what codes decode to in the form that its kind has, whole or not at all, and says so."""
    print(f"wrote {model.kind.write_parts(Path(path), decode_parts(model, codes), len(codes))}")
    return 0


def _shape(model: DiscreteAutoencoder) -> tuple[int, ...]:
    """Shape of one datum of a run's model."""
    assert model.config is not None  # a run keeps no model of parts that it could not build again
    return model.config.observation_shape
