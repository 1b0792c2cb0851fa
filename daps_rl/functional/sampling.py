"""Drawing from categorical distributions with one uniform number per draw."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_categorical(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draws by inverting the cumulative distribution: the first token whose cumulative probability exceeds u.

    One uniform per draw in place of V Gumbel or exponential variables. A token of probability zero is never drawn.
    probs [..., V] are not negative and need not be normalised, uniform [..., n] is in [0, 1) → int64 [..., n].
    """
    cumulative = probs.cumsum(-1)
    total = cumulative[..., -1:]
    # u · total can round up to total, past the last token that has any probability.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).clamp_(max=probs.shape[-1] - 1)
