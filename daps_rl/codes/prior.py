"""Priors fitted to the codes of a trained model: p(z), or p(z|y)."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes.observations import encode_all
from daps_rl.data import SPLITS, ImageStream, Splits
from daps_rl.evaluation import count_codes
from daps_rl.functional.bounds import in_bits
from daps_rl.functional.checks import check_positive_integers
from daps_rl.kinds import PRIORS
from daps_rl.modes import eval_mode
from daps_rl.optim import learning_rate_factor
from daps_rl.priors import IndependentPrior, LearnedPrior
from daps_rl.priors.learned import SHARPNESS

SMOOTHING = 0.5  # added to each count: the estimator of Krichevsky and Trofimov
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, LOOK_EVERY = 256, 4e-3, 0.01, 50
AT_ONCE = 4096  # codes whose rate is measured


class Codes(NamedTuple):
    """Codes of a split, and the labels of their data, if the prior is to know them."""

    codes: Tensor  # [N, T], int64
    labels: Tensor | None = None  # [N], int64

    def at(self, rows: Tensor) -> Codes:
        """Those of these numbers, int64 [n]."""
        return Codes(self.codes[rows], None if self.labels is None else self.labels[rows])


def rate(prior: LearnedPrior, codes: Codes) -> float:
    """Returns the mean of −log2 p(z), in bits a code: what a coder needs for them in a file.

    Of a prior that knows labels −log2 p(z|y), for a coder that is told y; in a file a code takes up to −log2 p(y) more.
    """
    with torch.no_grad():
        parts = map(codes.at, torch.arange(len(codes.codes)).split(AT_ONCE))
        total = sum(-_log_prob(prior, part).sum().item() for part in parts)
    return in_bits(total / len(codes.codes))


def fit_prior(
    prior: LearnedPrior,
    train: Codes,
    validation: Codes,
    *,
    minutes: float = 1.0,
    steps: int | None = None,
    seed: int = 0,
    redraw: Callable[[Tensor], Tensor] | None = None,
    show: Callable[[float, float], None] = lambda done, bits: None,
) -> float:
    """Fits a prior to codes, in place, by maximum likelihood; the classes' frequencies too, where it knows labels.

    Of an `IndependentPrior` at once, by counting; of any other by AdamW, and what is kept is what was best on the
    validation codes, looked at every 50 steps.

    Args:
        prior: fresh, or fitted before.
        train, validation: codes, with labels where the prior is to know them.
        minutes, steps: the longest that it learns; `steps` instead of minutes where given.
        seed: of the order of the codes.
        redraw: gives codes of training data of these numbers, int64 [n], drawn anew from the posterior, [n, T]; None
            for always the same codes.
        show: called with the share that is done, and the validation codes' rate in bits.
    Returns:
        the rate of the validation codes, in bits a code.
    Raises:
        ValueError: there are no codes, the labels are not there, or steps or minutes is not positive.
    """
    _check(prior, train, validation)
    if steps is not None:
        check_positive_integers(steps=steps)
    elif not minutes > 0.0:
        raise ValueError(f"minutes must be positive, got {minutes}.")
    if train.labels is not None and prior.num_classes:
        counts = torch.bincount(train.labels, minlength=prior.num_classes) + SMOOTHING
        prior.class_log_probs.copy_((counts / counts.sum()).log())
    if isinstance(prior, IndependentPrior):
        _count(prior, train)
        return rate(prior, validation)
    optimizer = torch.optim.AdamW(prior.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, kept = rate(prior, validation), copy.deepcopy(prior.state_dict())
    begin, step, done = time.perf_counter(), 0, 0.0
    order = _batches(train, redraw, torch.Generator().manual_seed(seed))
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, done, schedule="cosine", warmup_steps=LOOK_EVERY)
        optimizer.zero_grad()
        (-_log_prob(prior, next(order)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        step += 1
        done = step / steps if steps is not None else (time.perf_counter() - begin) / (60.0 * minutes)
        if step % LOOK_EVERY == 0 or done >= 1.0:
            bits = rate(prior, validation)
            if bits < best:
                best, kept = bits, copy.deepcopy(prior.state_dict())
            show(min(done, 1.0), bits)
    prior.load_state_dict(kept)
    return best


@torch.no_grad()
def codes_of(model: DiscreteAutoencoder, data: Any, *, sampled: bool = False) -> Tensor:
    """Greedy codes of data, or drawn ones, of the model in eval mode, on the CPU. [N, *x] → [N, T], int64."""
    with eval_mode(model):
        return encode_all(model, data, sampled=sampled)


def fit_prior_of(
    model: DiscreteAutoencoder,
    splits: Splits,
    kind: str = "autoregressive",
    *,
    labels: bool = False,
    seed: int = 0,
    **options: Any,
) -> tuple[DiscreteAutoencoder, dict[str, float]]:
    """Fits a prior to the codes of a model, and gives the model with it.

    It learns from codes that are drawn anew for each epoch, which are many for each datum; what is kept is what is best
    for the greedy codes of the validation split.

    Args:
        model: built from a config; left as it is.
        splits: its data.
        kind: "independent" or "autoregressive".
        labels: fit p(z|y) by the labels of the data.
        seed: of the prior's weights and of all draws.
        options: minutes, steps, show; see `fit_prior`.
    Returns:
        the model, whose policy and decoder are the given one's, and the rates of the greedy codes, in bits a code:
        `rate_train`, `rate_validation`, `rate_test`.
    Raises:
        ValueError: the model has no codes or was not built from a config, or the data have no end or no labels.
    """
    if model.config is None or model.config.bits is None:
        raise ValueError("a prior is fitted to codes of a model built from a config; fit one of your own by fit_prior.")
    if model.config.problem is not None:
        raise ValueError(f"a prior is fitted to codes of data, and problem {model.config.problem!r} encodes none.")
    train: Any = splits.train
    if not isinstance(train, Tensor | ImageStream):
        raise ValueError(f"a prior learns from the codes of all training data, and those of {splits.name} have no end.")
    of_splits: Mapping[str, Tensor | None] = _labels(splits) if labels else dict.fromkeys(SPLITS)
    classes = max((int(of.max()) + 1 for of in of_splits.values() if of is not None), default=0)
    config = dataclasses.replace(model.config, prior=kind, prior_classes=classes)
    split = {name: Codes(codes_of(model, splits[name]), of) for name, of in of_splits.items()}
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        prior = cast(LearnedPrior, PRIORS[kind](config))
        fit_prior(
            prior,
            split["train"],
            split["validation"],
            seed=seed,
            redraw=lambda rows: codes_of(model, train[rows], sampled=True),
            **options,
        )
    rates = {f"rate_{name}": rate(prior, codes) for name, codes in split.items()}
    made = DiscreteAutoencoder(model.policy, model.decoder, prior.to(device), config, model.kind)
    made.training = model.training
    return made, rates


def _labels(splits: Splits) -> dict[str, Tensor]:
    """The labels by split; a ValueError unless all splits have some, and none is negative."""
    found = {name: getattr(splits, f"{name}_labels") for name in SPLITS}
    if missing := [name for name, labels in found.items() if labels is None]:
        raise ValueError(f"{splits.name} has no labels of {', '.join(missing)}; leave out --labels.")
    if (least := min(int(labels.min()) for labels in found.values())) < 0:
        raise ValueError(f"labels of {splits.name} must be >= 0, got {least}; number the classes from 0.")
    return found


def _check(prior: LearnedPrior, *parts: Codes) -> None:
    for part in parts:
        if not len(part.codes):
            raise ValueError("a prior is fitted to codes of a training and a validation split; one has none.")
        if prior.num_classes and part.labels is None:
            raise ValueError("the prior is to know labels, and these data have none; leave out --labels.")


def _log_prob(prior: LearnedPrior, part: Codes) -> Tensor:
    return prior(part.labels if prior.num_classes else None).log_prob(part.codes)


def _batches(train: Codes, redraw: Callable[[Tensor], Tensor] | None, generator: torch.Generator) -> Iterator[Codes]:
    """Batches for ever, in a new order every epoch."""
    while True:
        for rows in torch.randperm(len(train.codes), generator=generator).split(BATCH_SIZE):
            yield train.at(rows) if redraw is None else train.at(rows)._replace(codes=redraw(rows))


def _count(prior: IndependentPrior, train: Codes) -> None:
    """Each token's frequency at each position, by class where there are some."""
    labels = torch.zeros(len(train.codes), dtype=torch.int64) if train.labels is None else train.labels
    for number, table in enumerate(prior.logits.data):
        chosen = train.codes if not prior.num_classes else train.codes[labels == number]
        counts = count_codes(chosen, prior.vocab_size) + SMOOTHING
        if prior.mask is not None:  # the end tokens behind the first are certain
            counts[:, -1] -= prior.mask.before(chosen).sum(0)
        table.copy_(F.log_softmax((counts / counts.sum(-1, keepdim=True)).log(), dim=-1) / SHARPNESS)
