"""Checks of the policies' arguments."""

from __future__ import annotations

import torch
from torch import Tensor


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
