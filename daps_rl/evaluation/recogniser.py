"""How often the right class is still read from what codes decode to."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.data import Splits

MOST = 5000  # training data
AT_ONCE = 500  # data
STRENGTH, ITERATIONS = 0.05, 500  # of the logistic regression: C, and at most so many
_FITTED: WeakKeyDictionary[Splits, Recogniser] = WeakKeyDictionary()


class Recogniser:
    """A logistic regression of classes on standardised data, fitted on original training data alone.

    Args:
        data: of the training split; of more than 5,000 as many drawn, always the same. [N, *x].
        labels: their classes, of which there are two or more. [N].
    """

    def __init__(self, data: Tensor, labels: Tensor) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows = torch.from_numpy(np.random.RandomState(0).permutation(len(data))[:MOST])
        self._model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=ITERATIONS))
        self._model.fit(_flat(data[rows]), labels[rows].numpy())

    def share(self, data: Tensor, labels: Tensor) -> float:
        """Returns the share of data [N, *x] whose class [N] is read right."""
        return float(self._model.score(_flat(data), labels.numpy()))


def _flat(data: Tensor) -> np.ndarray:
    return data.detach().cpu().flatten(1).numpy()


def make_recogniser(splits: Splits) -> Recogniser | None:
    """Returns the recogniser of data whose kind is recognised, where training has two classes or more; else None.

    It is fitted once for a data set, and kept as long as that is.
    """
    labels, data = splits.train_labels, splits.train
    if not splits.kind.recognised or labels is None or not isinstance(data, Tensor) or len(labels.unique()) < 2:
        return None
    if splits not in _FITTED:
        _FITTED[splits] = Recogniser(data, labels)
    return _FITTED[splits]


def recognised(
    recogniser: Recogniser, autoencoder: DiscreteAutoencoder, data: Tensor, labels: Tensor
) -> dict[str, float]:
    """Returns the share that is read right of what one drawn code, and the greedy code, of each datum decodes to.

    Args:
        recogniser, autoencoder: of the same kind of data.
        data: of a split. [N, *x].
        labels: their classes. [N].
    Returns:
        `recognised`, `recognised_greedy`, and of the data themselves `recognised_original`.
    """
    device = next(autoencoder.parameters()).device
    parts = [x.to(device) for x in data.split(AT_ONCE)]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        drawn = torch.cat([autoencoder.decode(autoencoder.encode(x)) for x in parts])
        greedy = torch.cat([autoencoder.decode(autoencoder.encode(x, deterministic=True)) for x in parts])
    found = {"recognised": drawn, "recognised_greedy": greedy, "recognised_original": data}
    return {name: recogniser.share(x, labels) for name, x in found.items()}
