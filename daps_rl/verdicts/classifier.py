"""A scikit-learn classifier as the verdict: whether what is decoded can still be told for what it is."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
from torch import Tensor

from daps_rl.data.errors import one_line

TREES = 100


class Classifier:
    """A fitted classifier's probability of the right label, 0 … 1, or 1 for the right answer and 0 for a wrong one.

    It sees decoded data flat, [M, features]. A label that it was not fitted on has probability 0.

    Args:
        estimator: a fitted classifier of scikit-learn, a pipeline among them.
        probability: whether the verdict is its probability or its answer.
    Raises:
        ValueError: the estimator is not fitted, on other labels than whole numbers, or has no probabilities.
    """

    truth = "labels"

    def __init__(self, estimator: Any, probability: bool = True) -> None:
        need = "predict_proba" if probability else "predict"
        if not (hasattr(estimator, need) and hasattr(estimator, "classes_")):
            raise ValueError(
                f"the classifier must be fitted and have {need}, got {type(estimator).__name__}; call fit, or pass "
                "probability=False for answers alone."
            )
        if np.asarray(estimator.classes_).dtype.kind not in "biuf":  # no label would be one of them
            raise ValueError(
                f"the classifier must be fitted on labels that are whole numbers, got {estimator.classes_[0]!r} as one "
                "of them; fit it on the labels of the data."
            )
        self.estimator, self.probability = estimator, probability

    @classmethod
    def fitted(cls, data: Tensor, labels: Tensor, *, probability: bool = True) -> Classifier:
        """Fits a hundred extremely randomised trees, the same ones every time. data [N, *x], labels [N]."""
        from sklearn.ensemble import ExtraTreesClassifier

        trees = ExtraTreesClassifier(TREES, random_state=0)
        return cls(trees.fit(data.flatten(1).cpu().numpy(), labels.cpu().numpy()), probability)

    def __call__(self, labels: Tensor, decoded: Tensor) -> np.ndarray:
        """[M], float32, of labels [M] and decoded data [M, *x]."""
        features, right = decoded.flatten(1).numpy(), labels.numpy()
        if not self.probability:
            return (self.estimator.predict(features) == right).astype(np.float32)
        classes = self.estimator.classes_
        column = np.searchsorted(classes, right).clip(max=len(classes) - 1)
        of_right = self.estimator.predict_proba(features)[np.arange(len(right)), column]
        return np.where(classes[column] == right, of_right, 0.0).astype(np.float32)

    def to_bytes(self) -> bytes:
        """What a file of it holds, without pickle; see `load`.

        Raises:
            ImportError: skops is not installed.
            ValueError: skops cannot save the estimator, or it holds what is not scikit-learn's or NumPy's.
        """
        io, name = _skops(), type(self.estimator).__name__
        try:
            content: bytes = io.dumps(
                {"estimator": self.estimator, "probability": self.probability}, compression=ZIP_DEFLATED
            )
        except Exception as error:  # whatever a part of it raises
            raise ValueError(f"the classifier {name} cannot be saved without pickle: {one_line(error)}.") from error
        _trusted(content, name)
        return content

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Reads a file of `to_bytes`; ValueError where it is damaged, or holds types that are not trusted."""
        content = path.read_bytes()
        try:
            return cls(**_skops().loads(content, trusted=_trusted(content, str(path))))
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(f"{path} holds no classifier ({one_line(error)}); restore a copy.") from error


def _skops() -> Any:
    try:
        return importlib.import_module("skops.io")
    except ModuleNotFoundError as error:
        raise ImportError(
            "a classifier is saved with its run by skops; install it with pip install 'daps-rl[verdicts]'."
        ) from error


def _trusted(content: bytes, what: str) -> list[str]:
    """The types in a file that skops does not trust of itself, all of them classes of scikit-learn."""
    types: list[str] = _skops().get_untrusted_types(data=content)
    others = [name for name in types if not _is_class_of_sklearn(name)]
    if others:
        raise ValueError(
            f"{what} holds {', '.join(others)}, and a run loads nothing but scikit-learn's and NumPy's own types; "
            "use such an estimator through a function of your own (package.module:function)."
        )
    return types


def _is_class_of_sklearn(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if module.partition(".")[0] != "sklearn":
        return False
    try:
        return inspect.isclass(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError):
        return False
