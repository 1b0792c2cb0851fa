"""Contextual bandits from classification: an action is a class, and only the right one is rewarded."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from daps_rl.data import SPLITS, Splits, load
from daps_rl.envs.problem import DiscreteProblem
from daps_rl.functional.weights import rounding_of

SHARES = (0.7, 0.1)  # of train and validation


class ClassificationBandit(DiscreteProblem):
    """The standard construction: the learner never sees the right class of a datum, only whether its own was.

    Observation:
        the features, standardised by the training split. [D].
    Action:
        one token: a class.
    Reward:
        1 for the right class, else 0.
    Optimum:
        1; what can be reached from the features is the accuracy of a supervised model.

    Args:
        features: [N, D], or a scikit-learn data set's `data`.
        labels: int [N], 0 … V-1: its `target`.
        name: what reports call it.
        seed: of the split into train, validation and test (70 / 10 / 20 %).
    Raises:
        ValueError: features and labels do not fit, or there are fewer than two classes.
    References:
        Dudík, Langford, Li (2011), Doubly robust policy evaluation and learning.
    """

    on_device = True
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 1, "num_code_layers": 1, "num_patches": 1, "batch_size": 64, "samples": 4,
        "beta_start": 0.05, "beta_end": 0.01, "ess_fraction": 0.5, "learning_rate": 1e-3, "steps": 1_000,
    }  # fmt: skip

    def __init__(
        self, features: Tensor | np.ndarray, labels: Tensor | np.ndarray, *, name: str = "bandit", seed: int = 0
    ) -> None:
        x, y = torch.as_tensor(features).float().flatten(1), torch.as_tensor(labels).long()
        if y.shape != x.shape[:1] or not len(y) or y.min() < 0 or y.max() < 1:
            raise ValueError(
                f"labels must be one class 0, 1, ... for each of {len(x)} rows of features, two classes at least, "
                f"got shape {tuple(y.shape)}; pass a data set's data and target."
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        ends = [round(SHARES[0] * len(x)), round(sum(SHARES) * len(x))]
        self._rows = dict(zip(SPLITS, order.tensor_split(ends), strict=True))
        self._x, self._y = x, y
        self.name = name
        self.num_tokens, self.vocab_size = 1, int(y.max()) + 1

    def splits(self) -> Splits:
        train = self._x[self._rows["train"]]
        mean, deviation = train.mean(0), train.std(0)
        deviation = torch.where(deviation > rounding_of(train.T)[:, 0], deviation, 1.0)  # 1 for a column of one value
        parts: dict[str, Tensor] = {}
        for split, rows in self._rows.items():
            parts[split], parts[f"{split}_labels"] = (self._x[rows] - mean) / deviation, self._y[rows]
            parts[f"{split}_targets"] = self._y[rows].float()[:, None]
        value_range = (parts["train"].min().item(), parts["train"].max().item() + 1.0)
        return Splits(name=self.name, **parts, likelihood="gaussian", value_range=value_range)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        return (codes[..., 0] == target[..., 0]).float()

    def target_shape(self, observation_shape: Any) -> tuple[int, ...]:
        return (1,)

    def optimum(self, split: str) -> Tensor:
        return torch.ones(len(self._rows[split]), dtype=torch.float64)


class DigitsBandit(ClassificationBandit):
    """scikit-learn's handwritten digits, 64 features and 10 classes, in the splits of `daps_rl.data.load("digits")`."""

    on_device = True

    def __init__(self) -> None:
        splits = load("digits")
        x = torch.cat([splits[split] for split in SPLITS])
        labels = torch.cat([splits[f"{split}_labels"] for split in SPLITS])
        super().__init__(x, labels, name="bandit-digits")
        numbers = torch.arange(len(x)).split([len(splits[split]) for split in SPLITS])
        self._rows = dict(zip(SPLITS, numbers, strict=True))
