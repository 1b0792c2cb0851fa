"""Data given their codes, in a stream of their own: zeros and ones, categories, symbols of texts."""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from daps_rl.codes.coder import Stream, parts, same_numbers, whole_numbers
from daps_rl.data.rows import Rows
from daps_rl.decoders.columns import ColumnsDistribution

Entries = EllipsisType | tuple[EllipsisType, slice]


def code_data(stream: Stream, decoder: nn.Module, codes: Tensor, x: Rows | None) -> Iterator[Tensor]:
    """Writes data to a stream by what a decoder says of their codes, or reads them from one, in parts of the same size.

    A part is coded when it is asked for.

    Args:
        stream: a `Writer` or a `Reader`.
        decoder: in float64, on the CPU.
        codes: int64 [N, T].
        x: whole numbers to write, or None to read. [N, *x].
    Yields:
        parts of the data, on the CPU. float32 [n, *x].
    Raises:
        ValueError: the decoder's likelihood is not of whole numbers, or x holds others.
    """
    with same_numbers():
        first = decoder(codes[:1])
        size = sum(logits.numel() for _, logits in _logits(first, torch.zeros(1, *first.event_shape)))
    for rows in parts(len(codes), size):
        given = None if x is None else torch.as_tensor(x[rows]).float().cpu()
        with same_numbers():
            written = torch.zeros(len(codes[rows]), *first.event_shape, dtype=torch.float32)
            for entries, logits in _logits(decoder(codes[rows]), written):
                symbols = None if given is None else _symbols(given[entries], logits.shape[-1])
                written[entries] = stream.code(whole_numbers(logits), symbols).view(logits.shape[:-1]).float()
        yield written


def _symbols(x: Tensor, values: int) -> Tensor:
    """The entries of data as int64 [N]; a ValueError unless they are 0 … values − 1."""
    symbols = x.long()
    if not bool(((symbols == x) & (symbols >= 0) & (symbols < values)).all()):
        raise ValueError(
            f"lossless data must be whole numbers in 0 … {values - 1}, as the model's are, got others; make them so, "
            "or leave --lossless out."
        )
    return symbols.flatten()


def _logits(distribution: Distribution, x: Tensor) -> Iterator[tuple[Entries, Tensor]]:
    """Yields entries of a datum, and the logits of their values, [N, ..., V]; those that say what is there come first.

    x is what the data are so far: what was yielded before has been written into it. [N, *x].
    """
    if isinstance(distribution, ColumnsDistribution):
        yield from _of_columns(distribution, x)
        return
    base: Any = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, Bernoulli):
        yield ..., torch.stack((torch.zeros_like(base.logits), base.logits), dim=-1)
    elif isinstance(base, Categorical):
        yield ..., base.logits
    else:
        raise _unsuited(type(base).__name__)


def _of_columns(distribution: ColumnsDistribution, x: Tensor) -> Iterator[tuple[Entries, Tensor]]:
    for column, outputs in sorted(distribution.parts(), key=lambda part: part[0].given is not None):
        if column.kind == "number":
            raise _unsuited("columns of numbers")
        if column.kind == "yes-no":
            logits = torch.stack((torch.zeros_like(outputs), outputs), dim=-1)
        else:
            logits = outputs.unsqueeze(-2)  # [N, ..., 1, S]
        if column.given is not None:  # what is not there is 0
            zero = torch.full_like(logits, -torch.inf)
            zero[..., 0] = 0.0
            logits = torch.where(x[..., column.given, None, None] > 0.5, logits, zero)
        yield (..., slice(column.start, column.start + column.width)), logits


def _unsuited(what: str) -> ValueError:
    return ValueError(
        "lossless files need data of zeros and ones, of categories or of symbols, and this model's likelihood is "
        f"made of {what}; leave --lossless out."
    )
