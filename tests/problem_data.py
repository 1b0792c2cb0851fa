"""Codes and contexts for the tests of the problems."""

from __future__ import annotations

import itertools

import torch

from daps_rl.envs import find_problem


def bits(count: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=count)))


def contexts(name: str, count: int = 3) -> torch.Tensor:
    return find_problem(name).splits().test[:count]
