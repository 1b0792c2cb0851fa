"""Bits in real files against distortion: codes of several sizes and rate weights, the same prior fitted to all.

    python benchmarks/rate_distortion.py --only fashion-mnist --seeds 0     # half an hour on two cores
    python benchmarks/rate_distortion.py --minutes 3 --fit-minutes 1       # everything; skips what has a row

Every model is trained for the same minutes on one core; then an autoregressive prior is fitted to its codes, and the
test split is compressed with it, once by greedy codes and once by searched ones. DAPS with a rate weight learns its
prior in training, and the same one is fitted afterwards. Codecs of files get the same data, one file a datum for
pictures and sounds; their headers count.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from common import add_pool_options, read_rows, run_tasks, write_row
from file_codecs import coded
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes import compress, fit_prior_of
from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.evaluation.recogniser import make_recogniser
from daps_rl.training import Trainer

NAME = "rate_distortion"
DATA = ("fashion-mnist", "spoken-digits", "handwriting")
METHODS: dict[str, dict[str, Any]] = {
    **{
        f"daps-na λ={weight:g}": {"agent": "daps-na", "prior": "autoregressive", "rate_weight": weight}
        for weight in (0.3, 1.0, 3.0)
    },
    "daps-na": {"agent": "daps-na"},
    "daps-na half": {"agent": "daps-na", "size": 0.5},
    "fsq": {"agent": "fsq"},
    "fsq half": {"agent": "fsq", "size": 0.5},
    "fsq double": {"agent": "fsq", "size": 2.0},
    "vq": {"agent": "vq", "learning_rate": 0.002},
    "vq half": {"agent": "vq", "learning_rate": 0.002, "size": 0.5},
    "gumbel-na": {"agent": "gumbel-na"},
    "gumbel-na half": {"agent": "gumbel-na", "size": 0.5},
}
TEST = 2000  # data


def train(splits: Splits, data: str, method: dict[str, Any], seed: int, minutes: float) -> DiscreteAutoencoder:
    """Trains a model of a method; `size` is of T, over the recipe's."""
    options = dict(method)
    size = options.pop("size", 1.0)
    config = make_config(data=data, minutes=minutes, seed=seed, validate_every=0, **options)
    config = dataclasses.replace(config, num_tokens=round(size * config.num_tokens))
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    return trainer.autoencoder.eval()


@torch.no_grad()
def of_codes(model: DiscreteAutoencoder, splits: Splits, x: Tensor, z: Tensor) -> dict[str, float]:
    """What codes [N, T] lose: mean log-likelihood, and the rest of `distortion`."""
    pairs = list(zip(x.split(500), z.split(500), strict=True))
    log_likelihood = torch.cat([model.log_likelihood(*pair) for pair in pairs]).mean().item()
    return {"log_likelihood": log_likelihood, **distortion(splits, torch.cat([model.decode(z) for _, z in pairs]))}


def distortion(splits: Splits, made: Tensor) -> dict[str, float]:
    """The kind's own metrics of the first test data, and the share of them that is recognised."""
    found = {name: values.mean().item() for name, values in splits.kind.metrics(made, splits.test[: len(made)]).items()}
    recogniser = make_recogniser(splits)
    if recogniser is not None and splits.test_labels is not None:
        found["recognised"] = recogniser.share(made, splits.test_labels[: len(made)])
    return found


def run_codecs(data: str) -> None:
    """Writes a row for each codec of files."""
    splits = load(data)
    for name, bits, back in coded(splits, splits.test[:TEST]):
        write_row(NAME, {"data": data, "method": name, "seed": None, "file_bits": bits, **distortion(splits, back)})


def run(data: str, name: str, seed: int, minutes: float, fit_minutes: float) -> None:
    """Trains, fits, compresses and writes a row for each way to encode."""
    splits = load(data)
    trained = train(splits, data, METHODS[name], seed, minutes)
    model, rates = fit_prior_of(trained, splits, minutes=fit_minutes, seed=seed)
    x = splits.test[:TEST]
    assert model.config is not None
    for search in (None, "sweep:1/16"):
        weight = METHODS[name].get("rate_weight", 0.0)
        if search is None:
            z = torch.cat([model.encode(part, deterministic=True) for part in x.split(500)])
        else:
            score = model.code_score(weight)
            z = torch.cat([model.encode(part, search=search, score=score) for part in x.split(100)])
        row = {
            "data": data, "method": name, "seed": seed, "minutes": minutes, "search": search, "bits": model.config.bits,
            "file_bits": 8.0 * len(compress(model, z)) / len(z), **rates, **of_codes(model, splits, x, z),
        }  # fmt: skip
        write_row(NAME, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each")
    parser.add_argument("--fit-minutes", type=float, default=1.0, help="of fitting the prior")
    parser.add_argument("--codecs", action="store_true", help="codecs of files instead; minutes")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.codecs:
        for data in options.only:
            run_codecs(data)
        return
    if options.one:
        run(*options.one, options.minutes, options.fit_minutes)
        return
    done = {(row["data"], row["method"], row["seed"]) for row in read_rows(NAME)}
    every = [(data, name, seed) for seed in options.seeds for data in options.only for name in options.methods]
    tasks = [task for task in every if task not in done]
    run_tasks(tasks, options.workers, "--minutes", str(options.minutes), "--fit-minutes", str(options.fit_minutes))


if __name__ == "__main__":
    main()
