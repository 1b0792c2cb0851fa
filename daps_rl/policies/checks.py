"""What the policies and their distributions share: checks of arguments, and drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

Relaxation: TypeAlias = Callable[[Tensor], Tensor]
"""Logits [..., V] → one-hot tokens [..., V] with a gradient, such as `functional.gumbel_softmax`."""


class RelaxedCodes(NamedTuple):
    """Codes drawn with a gradient, and the log-probabilities of every token given those before it."""

    one_hot: Tensor  # [B, K, T, V]
    log_probs: Tensor  # [B, K, T, V], in nats


SampleShape: TypeAlias = torch.Size | list[int] | tuple[int, ...]


@torch.no_grad()
def draw_with_log_prob(posterior: Distribution, sample_shape: SampleShape = ()) -> tuple[Tensor, Tensor]:
    """Codes [*sample_shape, B, T], and their log-probabilities [*sample_shape, B] in nats; without a gradient.

    One pass where the distribution scores a code while it draws it, two where it does not.
    """
    if hasattr(posterior, "sample_with_log_prob"):
        codes, log_prob = posterior.sample_with_log_prob(sample_shape)
        return codes, log_prob
    codes = posterior.sample(torch.Size(sample_shape))
    return codes, posterior.log_prob(codes)


def draw_scored(posterior: Distribution, sample_shape: SampleShape = ()) -> tuple[Tensor, Tensor]:
    """Codes [*sample_shape, B, T], and their log-probabilities [*sample_shape, B] in nats, these with a gradient."""
    if hasattr(posterior, "log_prob_of_drawn"):
        codes, drawn = draw_with_log_prob(posterior, sample_shape)
        return codes, posterior.log_prob_of_drawn(codes, drawn)
    codes = posterior.sample(torch.Size(sample_shape))
    return codes, posterior.log_prob(codes)


def score_drawn(posterior: Distribution, codes: Tensor, log_prob: Tensor) -> Tensor:
    """log q(z|x) with gradient, in nats, of codes [*S, B, T] that this very posterior drew with log_prob. [*S, B].

    Without the pass that would find it again, where the distribution can do without.
    """
    if hasattr(posterior, "log_prob_of_drawn"):
        known: Tensor = posterior.log_prob_of_drawn(codes, log_prob)
        return known
    found: Tensor = posterior.log_prob(codes)
    return found


def check_code_sizes(num_tokens: int, vocab_size: int) -> None:
    """Raises ValueError unless there is at least one token and two codes per token."""
    if num_tokens < 1 or vocab_size < 2:
        raise ValueError(
            f"num_tokens must be >= 1 and vocab_size >= 2, got {num_tokens} and {vocab_size}; "
            "a code of 8 tokens of 256 has 64 bits."
        )


def check_transformer_sizes(embed_dim: int, num_heads: int, num_layers: int) -> None:
    """Raises ValueError unless num_heads divides embed_dim and all are positive."""
    if min(embed_dim, num_heads, num_layers) < 1 or embed_dim % num_heads:
        raise ValueError(
            f"embed_dim must be a positive multiple of num_heads and num_layers >= 1, got embed_dim={embed_dim}, "
            f"num_heads={num_heads}, num_layers={num_layers}; the published sizes are 64 or 128 with 4 heads."
        )


def check_codes(codes: Tensor, num_tokens: int, batch_shape: torch.Size) -> None:
    """Raises ValueError unless codes are int64 [*S, *batch_shape, T]."""
    expected = (*batch_shape, num_tokens)
    if codes.dtype != torch.int64 or tuple(codes.shape[-len(expected) :]) != expected:
        raise ValueError(
            f"codes must be int64 of shape [..., {', '.join(map(str, expected))}] (samples, contexts, tokens), "
            f"got {codes.dtype} of shape {tuple(codes.shape)}; move the samples in front."
        )
