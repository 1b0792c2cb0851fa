"""Codes that are trained to be understood, of spoken digits, pictures and rows: for likelihood alone, or for a verdict.

    python benchmarks/verdicts.py --only babble8 clean4   # about half an hour a size on two cores; skips what has a row

The verdict is that of extremely randomised trees, fitted on the original training data (of sound, on log-mel frames of
the training voices): their probability of the right class, or 1 for the right answer and 0 for a wrong one. It has no
gradient. FSQ and Gumbel-Softmax, which need one, get a network that imitates it while they train, and the best of three
weights on the validation split; the agents that learn from rewards get the weight that the rule gives. All have the
same networks and the same minutes, of their own processor time, so that work beside them takes nothing from them.

What is understood is said by two recognisers that no training has seen, of sound on voices that none has heard: a
support vector machine on cepstra, or on principal components ("judge", of another kind and on other features than the
verdict), and a logistic regression.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import time
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from common import add_pool_options, read_rows, run_tasks, write_row
from scipy.fft import dct
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.autoencoder import make_decoder
from daps_rl.config import TrainConfig, make_config
from daps_rl.data import MissingDataError, Splits, load
from daps_rl.data.sound import Sound
from daps_rl.data.spoken_digits import load_real_digits
from daps_rl.training import Trainer
from daps_rl.verdicts import Classifier

NAME = "verdicts"
SIZES = {  # data, T, V
    "clean4": ("spoken-digits", 2, 4), "clean6": ("spoken-digits", 2, 8), "clean8": ("spoken-digits", 2, 16),
    "babble6": ("spoken-digits-babble", 2, 8), "babble8": ("spoken-digits-babble", 2, 16),
    "babble12": ("spoken-digits-babble", 3, 16), "babble24": ("spoken-digits-babble", 6, 16),
    "fashion12": ("fashion-mnist", 3, 16), "breast6": ("breast-cancer", 2, 8),
}  # fmt: skip
REWARDED = ("daps-na", "rloo", "grpo", "ppo")
METHODS: dict[str, dict[str, Any]] = {
    **{f"{agent}": {"agent": agent} for agent in ("daps-na", "rloo", "fsq", "vq", "gumbel-na")},
    **{f"{agent} probability": {"agent": agent, "reward": ("classifier",)} for agent in REWARDED},
    **{f"{agent} right": {"agent": agent, "reward": ("classifier-right",)} for agent in REWARDED},
    **{f"{agent} surrogate": {"agent": agent, "surrogate": True} for agent in ("fsq", "gumbel-na")},
}
WEIGHTS = (50.0, 200.0, 800.0)  # of the surrogate, in nats
CEPSTRA, COMPONENTS, MOST = 13, 50, 10_000  # of a frame; of other data; training data of a judge
SPLITS = ("validation", "test")


def cepstra(x: np.ndarray) -> np.ndarray:
    """Returns the first cepstral coefficients of every frame and their slopes. [N, frames, bands] → [N, features]."""
    coefficients = dct(x, axis=-1, norm="ortho")[..., :CEPSTRA]
    return np.concatenate((coefficients, np.gradient(coefficients, axis=1)), axis=-1).reshape(len(x), -1)


def flat(x: np.ndarray) -> np.ndarray:
    """[N, ...] → [N, features]."""
    return x.reshape(len(x), -1)


class Judges:
    """Recognisers fitted on the original training clips, that no training sees."""

    def __init__(self, splits: Splits) -> None:
        rows = np.random.RandomState(0).permutation(len(splits.train))[:MOST]
        x, labels = splits.train[rows].numpy(), splits.train_labels[rows].numpy()
        sound = isinstance(splits.kind, Sound)
        components = PCA(min(COMPONENTS, flat(x).shape[1]), random_state=0)
        judge = make_pipeline(StandardScaler() if sound else components, SVC(C=10.0))
        features = cepstra if sound else flat
        self.of = {
            "judge": (features, judge.fit(features(x), labels)),
            "logistic": (flat, LogisticRegression(C=0.05, max_iter=500).fit(flat(x), labels)),
        }

    def __call__(self, x: Tensor, labels: Tensor) -> dict[str, float]:
        """Returns the share of clips that each reads right."""
        return {n: float(judge.score(made(x.numpy()), labels.numpy())) for n, (made, judge) in self.of.items()}


class Imitation(Distribution):
    """p(x|z) times a power of the surrogate's probability of the label, which stands behind the datum's entries."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Distribution, decoder: SurrogateDecoder) -> None:
        self.base, self.decoder = base, decoder
        event = torch.Size([math.prod(base.event_shape) + 1])
        super().__init__(base.batch_shape, event, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The reconstruction of the datum."""
        return self.base.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., features + 1] → [...]."""
        x, label = value[..., :-1].unflatten(-1, self.base.event_shape), value[..., -1].long()
        mean = self.base.mean
        if torch.is_grad_enabled() and self.decoder.training:
            self.decoder.imitate(mean.detach().reshape(-1, *self.base.event_shape))
        read = self.decoder.network(mean.flatten(-len(self.base.event_shape))).log_softmax(-1)
        label = label.expand(read.shape[:-1]).unsqueeze(-1)
        return self.base.log_prob(x) + self.decoder.weight * read.gather(-1, label).squeeze(-1)


class SurrogateDecoder(nn.Module):
    """A decoder beside a network that imitates the verdict on what is decoded, a step for each of the decoder's."""

    def __init__(self, decoder: nn.Module, verdict: Any, splits: Splits, weight: float) -> None:
        super().__init__()
        self.decoder, self.weight, self.verdict = decoder, weight, verdict
        self.num_tokens, self.vocab_size, self.embed = decoder.num_tokens, decoder.vocab_size, decoder.embed
        sizes = splits.train[0].numel(), len(verdict.estimator.classes_)
        network = nn.Sequential(
            nn.Linear(sizes[0], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, sizes[1])
        )
        self.held = [network]  # not a part of the module: the run's optimiser leaves it alone
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(300):
            rows = torch.randint(len(splits.train), (256,))
            self.imitate(splits.train[rows])

    @property
    def network(self) -> nn.Module:
        """The surrogate."""
        return self.held[0]

    def imitate(self, x: Tensor) -> None:
        """One step towards what the verdict makes of data. [M, frames, bands]."""
        with torch.enable_grad():
            target = torch.from_numpy(self.verdict.estimator.predict_proba(flat(x.numpy()))).float()
            loss = nn.functional.cross_entropy(self.network(x.flatten(1)), target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def forward(self, codes: Tensor) -> Imitation:
        return Imitation(self.decoder(codes), self)


def train(splits: Splits, config: TrainConfig, weight: float | None, verdict: Classifier) -> Trainer:
    """Trains a run to its end; with a weight for the surrogate where it has one."""
    decoder = None
    if weight is not None:
        torch.manual_seed(config.seed)
        made = make_decoder(config.model_config(splits.observation_shape, splits.likelihood), splits.mean())
        decoder = SurrogateDecoder(made, verdict, splits, weight)
        labelled = {
            f"{name}_targets": torch.cat((splits[name].flatten(1), splits[f"{name}_labels"][:, None].float()), 1)
            for name in ("train", *SPLITS)
        }
        parts = {name: splits[name] for name in ("train", *SPLITS)}
        splits = Splits(name=splits.name, **parts, **labelled, likelihood=splits.likelihood, kind=splits.kind)
    trainer = Trainer(config, splits, decoder=decoder)
    with mock.patch("time.perf_counter", time.process_time):
        for _ in trainer.run():
            pass
    return trainer


def measure(trainer: Trainer, splits: Splits, judges: Judges, verdict: Classifier) -> dict[str, Any]:
    """Returns what is read in decoded greedy codes of each split, and of real recordings where there are any."""
    model, found = trainer.autoencoder.eval(), {}
    data = {split: (splits[split], splits[f"{split}_labels"]) for split in SPLITS}
    with contextlib.suppress(MissingDataError):
        data |= {"real": load_real_digits(splits.kind)} if isinstance(splits.kind, Sound) else {}
    for split, (x, labels) in data.items():
        with torch.no_grad():
            decoded = model.decode(model.encode(x, deterministic=True))
        found[split] = {
            **judges(decoded, labels),
            "verdict": float(verdict(labels, decoded).mean()),
            **{n: float(v.mean()) for n, v in splits.kind.metrics(decoded, x).items() if n in splits.kind.measures},
            "squared_error": float((decoded - x).square().mean()),
        }
    return found


@functools.cache
def prepared(data: str) -> tuple[Splits, Judges, Classifier]:
    """Returns the data, their judges, and the verdict that the surrogate imitates."""
    splits = load(data)
    return splits, Judges(splits), Classifier.fitted(splits.train, splits.train_labels)


def run(size: str, method: str, seed: int, minutes: float) -> None:
    """Trains, measures and writes a row."""
    data, tokens, values = SIZES[size]
    splits, judges, verdict = prepared(data)
    options = dict(METHODS[method])
    surrogate = options.pop("surrogate", False)
    policy = {} if options["agent"] in ("fsq", "vq") else {"policy": "factorized"}
    config = make_config(
        data=data,
        num_tokens=tokens,
        vocab_size=values,
        minutes=minutes,
        seed=seed,
        validate_every=0,
        **policy,
        **options,
    )
    weights: tuple[float | None, ...] = (None,)
    if surrogate:
        known = [row for row in read_rows(NAME) if (row["size"], row["method"], row["seed"]) == (size, method, 0)]
        weights = WEIGHTS if not known else (known[0]["weight"],)
    best: dict[str, Any] = {}
    for weight in weights:
        trainer = train(splits, config, weight, verdict)
        found = measure(trainer, splits, judges, verdict)
        if not best or found["validation"]["verdict"] > best["validation"]["verdict"]:
            best = {**found, "weight": weight, "steps": trainer.step, "seconds": trainer.seconds}
            if trainer.verdicts is not None:
                best["weight"] = float(trainer.verdicts.weights()[0])
    write_row(
        NAME,
        {"size": size, "method": method, "seed": seed, "bits": config.bits, "minutes": minutes, **best,
         "original": judges(splits.test, splits.test_labels)},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SIZES), choices=SIZES, metavar="SIZE")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, each")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        size, method = options.one
        done = {(row["size"], row["method"], row["seed"]) for row in read_rows(NAME)}
        for seed in options.seeds:
            if (size, method, seed) not in done:
                run(size, method, seed, options.minutes)
        return
    done = {(row["size"], row["method"], row["seed"]) for row in read_rows(NAME)}
    tasks = [
        (size, method)
        for size in options.only
        for method in options.methods
        if any((size, method, seed) not in done for seed in options.seeds)
    ]
    run_tasks(tasks, options.workers, "--seeds", *map(str, options.seeds), "--minutes", str(options.minutes))


if __name__ == "__main__":
    main()
