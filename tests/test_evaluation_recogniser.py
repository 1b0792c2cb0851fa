"""The recogniser: the shares that it reads right, and when there is one."""

import dataclasses
import gc

import pytest
import torch
from torch import nn

from daps_rl.data import Splits
from daps_rl.data.sound import Sound
from daps_rl.evaluation import recogniser as module
from daps_rl.evaluation.recogniser import Recogniser, make_recogniser, recognised

KIND = Sound(sample_rate=8000, hop=200, frames=2, bands=3)


def separable(count, shift=4.0):
    """Data [count, 2, 3] of three classes, in turn: the band of their number is louder."""
    labels = torch.arange(count) % 3
    x = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(count))
    return x + shift * nn.functional.one_hot(labels, 3)[:, None], labels


def splits_of(labels=True, kind=KIND):
    parts = {name: separable(count) for name, count in (("train", 300), ("validation", 30), ("test", 60))}
    given = {f"{name}_labels": part[1] for name, part in parts.items()} if labels else {}
    data = {name: part[0] for name, part in parts.items()}
    return Splits(name="bands", **data, **given, likelihood="fixed_gaussian", kind=kind)


class Echo(nn.Module):
    """Codes are the data; the greedy code is as they are, a drawn one of the next band for every other datum."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x, deterministic=False):
        shifted = x.roll(1, -1)
        return x if deterministic else torch.where((torch.arange(len(x)) % 2 == 0)[:, None, None], x, shifted)

    def decode(self, z):
        return z


def test_shares_of_separable_data():
    recogniser = Recogniser(*separable(300))
    x, labels = separable(60)
    assert recogniser.share(x, labels) == 1.0
    assert recogniser.share(x, (labels + 1) % 3) == 0.0
    assert recogniser.share(x, torch.where(torch.arange(60) < 15, (labels + 1) % 3, labels)) == 0.75


def test_it_reads_what_codes_decode_to():
    recogniser = make_recogniser(splits_of())
    x, labels = separable(60)
    expected = {"recognised": 0.5, "recognised_greedy": 1.0, "recognised_original": 1.0}
    assert recognised(recogniser, Echo(), x, labels) == expected


def test_a_drawn_code_leaves_the_random_state_alone():
    recogniser = make_recogniser(splits_of())
    before = torch.random.get_rng_state()
    recognised(recogniser, Echo(), *separable(60))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_there_is_none_without_classes_or_of_kinds_that_are_not_read():
    splits = splits_of()
    assert make_recogniser(splits_of(labels=False)) is None
    assert make_recogniser(splits_of(kind=None)) is None
    assert make_recogniser(dataclasses.replace(splits, train_labels=torch.zeros(300, dtype=torch.int64))) is None


def test_it_is_fitted_once_for_a_data_set(monkeypatch):
    fitted = []
    monkeypatch.setattr(module, "Recogniser", lambda data, labels: fitted.append(len(data)) or object())
    splits = splits_of()
    assert make_recogniser(splits) is make_recogniser(splits)
    assert fitted == [300]
    assert make_recogniser(splits_of()) is not make_recogniser(splits)
    assert fitted == [300, 300]
    before = len(module._FITTED)
    del splits
    gc.collect()
    assert len(module._FITTED) < before


def test_it_is_fitted_on_so_many_data_at_most(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    fitted, fit = [], LogisticRegression.fit
    monkeypatch.setattr(module, "MOST", 100)
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: fitted.append(x.shape) or fit(self, x, y))
    recogniser = Recogniser(*separable(300))
    assert fitted == [(100, 6)]
    assert recogniser.share(*separable(60)) == pytest.approx(1.0)
