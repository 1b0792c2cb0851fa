"""Memory bounded by recomputation: a function over a large batch, a few data at a time, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_microbatches(function: Callable[..., Any], *tensors: Tensor, size: int, draws: bool = True) -> Any:
    """`function(*tensors)`, computed on `size` rows at a time; the backward pass computes each part once more.

    Memory is that of one part, the gradient that of the whole batch. Random numbers are drawn alike in both passes.

    Args:
        function: gives a tensor, or a tuple of tensors, with as many rows.
        tensors: with B rows each.
        size: rows at a time; 0, or B and more, for all at once.
        draws: whether the function draws random numbers. Setting their state back is nothing that a CUDA graph can do.
    """
    if not 0 < size < len(tensors[0]):
        return function(*tensors)
    slices = zip(*(tensor.split(size) for tensor in tensors), strict=True)
    parts = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=draws) for part in slices]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)
