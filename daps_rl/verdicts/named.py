"""Verdicts by name: those that are ready, and functions of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from daps_rl.data import SPLITS, Splits
from daps_rl.data.errors import one_line
from daps_rl.data.parts import Parts
from daps_rl.data.sound import Sound
from daps_rl.names import did_you_mean, import_named, weighted_name
from daps_rl.verdicts.base import Verdict, Verdicts, file_name
from daps_rl.verdicts.classifier import Classifier
from daps_rl.verdicts.signals import SSIM, Stoi, edit_distance

READY: dict[str, Callable[[Splits], Verdict]] = {
    "classifier": lambda splits: _trees(splits, "classifier"),
    "classifier-right": lambda splits: _trees(splits, "classifier-right", probability=False),
    "ssim": lambda splits: _tried(SSIM(splits.value_range), splits),
    "edit-distance": lambda splits: _tried(edit_distance, splits),
    "stoi": lambda splits: _stoi(splits),
}
"""Verdicts by name, each as a function of the data."""


def make_verdicts(reward: Sequence[str], splits: Splits, saved: Path | None = None) -> Verdicts | None:
    """Makes the verdicts of a run's setting `reward`; None where it names none.

    Args:
        reward: NAME or NAME:WEIGHT each, a name of `READY` or package.module:function.
        splits: the data.
        saved: a folder that `Verdicts` of this kind were saved to; classifiers in it are loaded, not fitted again.
    Raises:
        ValueError: there is no such verdict, or it does not suit the data.
    """
    verdicts: dict[str, Any] = {}
    weights: dict[str, float] = {}
    for text in reward:
        name, weight = weighted_name(text)
        label = name.rpartition(":")[2]
        if saved is not None and (saved / file_name(label)).exists():
            verdicts[label] = Classifier.load(saved / file_name(label))
        elif name in READY:
            verdicts[label] = READY[name](splits)
        else:
            verdicts[label] = _own(name)
        if weight is not None:
            weights[label] = weight
    return Verdicts(verdicts, weights) if verdicts else None


def labelled(splits: Splits, name: str) -> tuple[Tensor, Tensor]:
    """What a decoder is to make of the training data, and their labels.

    Raises:
        ValueError: a split has no labels, or train is not held in memory.
    """
    missing = any(getattr(splits, f"{split}_labels") is None for split in SPLITS)
    if missing or not isinstance(splits.train, Tensor) or splits.train_labels is None:
        raise ValueError(
            f"reward {name!r} compares with labels, which must be there for all data, in memory, and {splits.name} "
            "has not; take labelled data, or another reward."
        )
    return splits.train if splits.train_targets is None else splits.train_targets, splits.train_labels


def _trees(splits: Splits, name: str, *, probability: bool = True) -> Classifier:
    if isinstance(splits.kind, Parts):
        raise ValueError(
            f"reward {name!r} would read the label that is a part of {splits.name} itself; take a function of your own "
            "that looks at the other parts (kind.unpack)."
        )
    return Classifier.fitted(*labelled(splits, name), probability=probability)


def _tried(verdict: Verdict, splits: Splits) -> Verdict:
    """A verdict that has judged a datum: what it cannot read is said before a run begins."""
    targets = splits.targets("test")
    x = (splits.test if targets is None else targets)[:1]
    verdict(x, x)
    return verdict


def _stoi(splits: Splits) -> Stoi:
    if not isinstance(splits.kind, Sound):
        raise ValueError(
            f"reward 'stoi' listens to sounds, and {splits.name} has none; take sounds, or another reward."
        )
    return Stoi(splits.kind.to_waveform, splits.kind.sample_rate)


def _own(name: str) -> Verdict:
    """A function of one's own, an object that can be called, or a class that makes one without arguments."""
    if ":" not in name:
        raise ValueError(
            f"reward must be one of {', '.join(READY)}, or package.module:function of your own, got {name!r}"
            f"{did_you_mean(name, READY)}."
        )
    made: Any = import_named("reward", name, "package.module:function")
    try:
        made = made() if isinstance(made, type) else made
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"reward {name!r} cannot be made without arguments ({why}); name an object of it.") from error
    if not callable(made):
        raise ValueError(f"reward {name!r} must be a function of two arguments, got a {type(made).__name__}.")
    return made
