"""Verdicts of somebody's own, importable by name and by worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sklearn.naive_bayes import GaussianNB
from torch import Tensor

from daps_rl.verdicts import Classifier


def brightness(truth: Tensor, decoded: Tensor) -> Tensor:
    """Minus the difference of the means."""
    return -(truth.flatten(1).mean(1) - decoded.flatten(1).mean(1)).abs()


def first_entry(truth: Tensor, decoded: Tensor) -> Tensor:
    return decoded[:, 0]


def leaves(truth: Tensor, decoded: Tensor) -> Any:
    raise SystemExit(3)


def dies(truth: Tensor, decoded: Tensor) -> Any:
    os._exit(1)


def sleeps(truth: Tensor, decoded: Tensor) -> Any:
    time.sleep(60)


class DiesOnce:
    """Ends its process the first time that it is asked for a datum below 1, and leaves a file that says so."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, truth: Tensor, decoded: Tensor) -> Tensor:
        if decoded[0, 0] < 1.0 and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        return decoded[:, 0]


class Unmakable:
    """Cannot be made here."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Odd(GaussianNB):
    """A classifier that is not scikit-learn's own."""


fitted = Classifier(GaussianNB().fit([[0.0] * 64, [1.0] * 64], [0, 1]))
odd = Classifier(Odd().fit([[0.0] * 64, [1.0] * 64], [0, 1]))
