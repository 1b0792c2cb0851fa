"""Data whose last axis holds columns of several kinds: numbers, yes or no, categories, and which of them are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

FORM = re.compile(r"(?:(number|yes-no)(?:\*(\d{1,7}))?|(category):(\d{1,7}))(?:@(\d{1,7}))?")


class Column(NamedTuple):
    """Entries of the last axis that are of one kind, side by side."""

    kind: str  # "number", "yes-no" or "category"
    start: int  # the first of them
    width: int  # how many there are; 1 of a category
    categories: int  # S of a category, else 0
    given: int | None  # the yes-no entry that says whether they are there; None where they always are

    def of(self, x: Tensor) -> Tensor:
        """The column's entries. [..., C] → [..., width]."""
        return x[..., self.start : self.start + self.width]

    def where_given(self, x: Tensor, values: Tensor) -> Tensor:
        """Values [..., n] where data x [..., C] say that the column is there, elsewhere 0."""
        return values if self.given is None else torch.where(x[..., self.given, None] > 0.5, values, 0.0)


class Columns(nn.Module):
    """The kinds of the entries of a datum's last axis.

    Called on data x [..., C], gives what a network reads, [..., F]: numbers and yes-no as they are, a category as S
    entries one of which is 1, and zeros for what is not there.

    Args:
        texts: in order, each `number`, `yes-no` (0 or 1) or `category:S` (0 … S-1). `number*24` stands for 24 of them,
            `number*24@30` for 24 that are there where entry 30, a yes-no, is 1. What is not there is 0 in the data and
            counts for nothing.
    Raises:
        ValueError: a text is not of that form, or `@` names no yes-no.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        columns: list[Column] = []
        self.width = 0  # C
        for text in texts:
            columns.append(_parse(text, self.width))
            self.width += columns[-1].width
        self.columns = tuple(columns)
        self.features = sum(column.categories or column.width for column in columns)  # F
        flags = {entry for c in columns if c.kind == "yes-no" for entry in range(c.start, c.start + c.width)}
        if unknown := sorted({c.given for c in columns if c.given is not None} - flags):
            raise ValueError(f"columns: @{unknown[0]} must name an entry that is a yes-no; these are {sorted(flags)}.")

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for column in self.columns:
            part = column.where_given(x, column.of(x))
            if column.categories:
                one_hot = x.new_zeros(*part.shape[:-1], column.categories).scatter_(-1, part.long(), 1.0)
                part = column.where_given(x, one_hot)
            parts.append(part)
        return torch.cat(parts, dim=-1)

    def check(self, x: Tensor, where: str) -> None:
        """Raises ValueError unless data [..., C] hold what the columns say."""
        if x.shape[-1] != self.width:
            raise ValueError(f"{where} must have {self.width} entries in its last axis, got shape {list(x.shape)}.")
        for column in self.columns:
            part, top = column.of(x), max(column.categories - 1, 1)
            if column.kind == "number":
                fits, needed = part.isfinite(), "finite numbers"
            else:
                fits, needed = (part >= 0) & (part <= top) & (part == part.round()), f"whole numbers in 0 … {top}"
            if not bool(fits.all()):
                raise ValueError(
                    f"{where} must hold {needed} in column {column.start} ({column.kind}), got "
                    f"{part.min().item():g} … {part.max().item():g}; make the column fit its kind."
                )


def _parse(text: str, start: int) -> Column:
    found = FORM.fullmatch(text)
    plain, count, category, size, given = found.groups() if found else ("",) * 5
    width, categories = int(count or 1), int(size or 0)
    if not found or not width or (category and categories < 2):
        raise ValueError(
            "columns must be number, yes-no or category:S, the first two with *COUNT and all with @ENTRY where it "
            f"suits, S >= 2 and COUNT >= 1, got {text!r}."
        )
    return Column(plain or category, start, width, categories, None if given is None else int(given))
