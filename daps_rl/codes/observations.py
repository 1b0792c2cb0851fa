"""Any number of data, encoded and decoded some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.data.rows import Array, ArrayFile, Rows, parts_of
from daps_rl.search import CodeScore, Search


class Observations:
    """Data as a model takes them: of files read, and checked, when they are sliced; of arrays now. float32 [N, *x].

    Args:
        model: whose data they are.
        rows: the data, in any form that `model.encode` takes. [N, ...].
        where: what messages call them.
    Raises:
        DataError: they have the wrong type, shape or values.
    """

    def __init__(self, model: DiscreteAutoencoder, rows: Rows, where: str = "x") -> None:
        self.model, self.where = model, where
        self.rows = model.observations(rows, where) if isinstance(rows, np.ndarray | Tensor) else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Tensor:
        whole = self.rows if isinstance(self.rows, ArrayFile) else None
        return self.model.observations(self.rows[rows], self.where, whole)


def encode_all(
    model: DiscreteAutoencoder,
    data: Rows,
    *,
    sampled: bool = False,
    search: Search | None = None,
    score: CodeScore | None = None,
) -> Tensor:
    """Codes of data, greedy, drawn, or searched for, on the CPU. [N, *x] → int64 [N, T]."""

    def encode(x: Array) -> Tensor:
        return model.encode(x, deterministic=not sampled, search=search, score=score).cpu()

    return torch.cat([*map(encode, parts_of(data))])


def decode_parts(model: DiscreteAutoencoder, codes: Tensor) -> Iterator[Tensor]:
    """Yields what codes decode to, some at a time, on the CPU. [N, T] → [n, *x]."""
    for part in parts_of(codes):
        yield model.decode(part).cpu()


def decode_all(model: DiscreteAutoencoder, codes: Tensor) -> Tensor:
    """What any number of codes decode to, on the CPU. [N, T] → [N, *x]."""
    return torch.cat([*decode_parts(model, codes)])
