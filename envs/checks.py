"""Checks of what an encoding environment is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from daps_rl.verdicts import Verdicts


def check_data(data: Tensor | np.ndarray) -> Tensor:
    """The data as a tensor. Raises ValueError where they are not floating-point [N, ...], or not finite."""
    tensor = torch.as_tensor(data)
    if tensor.ndim < 2 or len(tensor) == 0 or not torch.is_floating_point(tensor):
        raise ValueError(
            f"data must be floating-point [N, ...], got {tensor.dtype} of shape {tuple(tensor.shape)}; "
            "convert it with .float() or .astype('float32')."
        )
    if not tensor.isfinite().all():
        raise ValueError("data must be finite, got NaN or infinite entries; remove the data that hold them.")
    return tensor


def check_labels(labels: Tensor | np.ndarray | None, verdicts: Verdicts | None, count: int) -> Tensor | None:
    """The labels as a tensor. Raises ValueError where they are not integers [N], or missing where a verdict asks."""
    tensor = None if labels is None else torch.as_tensor(labels)
    if tensor is not None and (tensor.shape != (count,) or tensor.is_floating_point()):
        raise ValueError(f"labels must be integers [{count}], got {tensor.dtype} of shape {list(tensor.shape)}.")
    if tensor is None and verdicts is not None and verdicts.need_labels:
        raise ValueError(f"verdict {verdicts.need_labels[0]!r} compares with labels, and there are none; pass labels=.")
    return tensor


def find_size(name: str, size: int | None, decoder: nn.Module | None) -> int:
    """T or V as given, else the decoder's own; ValueError where that is no positive integer, or the two do not fit."""
    own = getattr(decoder, name, None)
    size = own if size is None else size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        scorer = "reward_fn" if decoder is None else f"the decoder {type(decoder).__name__}"
        raise ValueError(f"{name} must be a positive integer, got {size}; {scorer} does not say it, so pass it.")
    if isinstance(own, int) and (size > own or (size < own and name == "num_tokens")):
        at_most = "at most " if name == "vocab_size" else ""
        raise ValueError(f"{name} must be {at_most}the decoder's own, {own}, got {size}; make the two fit.")
    return size
