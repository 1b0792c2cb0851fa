"""Checks of arguments, and the precision that everything is computed in."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def check_matrix(name: str, value: Tensor) -> None:
    """Raises ValueError unless `value` is a [B, K] tensor with at least one entry."""
    if value.ndim != 2 or value.numel() == 0:
        raise ValueError(
            f"{name} must be a non-empty [B, K] tensor (contexts, samples), got shape {tuple(value.shape)}; "
            "reshape it so that the K samples of one context share a row."
        )


def check_same_shape(**tensors: Tensor) -> None:
    """Raises ValueError unless all tensors have the shape of the first."""
    (first, reference), *others = tensors.items()
    for name, value in others:
        if value.shape != reference.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {tuple(reference.shape)}, got {tuple(value.shape)}; "
                "no axis is inferred or broadcast."
            )


def check_positive_integers(**values: int) -> None:
    """Raises ValueError unless all are integers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")


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


def can_read(value: Tensor) -> bool:
    """Whether the host can ask for a value: not while a step is compiled or recorded in a CUDA graph."""
    return not (torch.compiler.is_compiling() or (value.is_cuda and torch.cuda.is_current_stream_capturing()))


def read_flags(*flags: Tensor) -> list[bool]:
    """The values of 0-dim flags, in one read, which waits for a GPU; all False where the host cannot ask."""
    return torch.stack(flags).tolist() if can_read(flags[0]) else [False] * len(flags)


def check_reward(reward: Tensor, *flags: Tensor) -> list[bool]:
    """Raises ValueError where a reward is NaN or +inf, if that can be known; -inf is a reward like others.

    Returns what `read_flags` says of other flags, which come in the same read.
    """
    bad = reward.isnan() | (reward == math.inf)
    any_bad, *others = read_flags(bad.any(), *flags)
    if any_bad:
        raise ValueError(
            f"reward must be finite, or -inf for a code that is out of the question, got {int(bad.sum())} of "
            f"{bad.numel()} that are NaN or +inf; mend the decoder, or what else gives the reward."
        )
    return others


def check_kept(policy_samples: int, samples: int) -> None:
    """Raises ValueError unless so many of K samples can be scored."""
    if not isinstance(policy_samples, int) or not 0 <= policy_samples <= samples:
        raise ValueError(
            f"policy_samples must be a whole number in 0 … K = {samples} (samples), got {policy_samples}; it is how "
            "many of the K codes of a context the policy is scored on, 0 for all."
        )


def check_pooling(pooling: float, *, allowed: bool = True) -> None:
    """Raises ValueError unless pooling is a finite number of samples, and 0 where it is not allowed."""
    if not 0.0 <= pooling < math.inf:
        raise ValueError(f"pooling must be >= 0 and finite, got {pooling}; it is a number of samples, such as K.")
    if pooling and not allowed:
        raise ValueError(
            f"pooling needs groups and centred weights, got pooling={pooling}; others cannot make the codes of a bad "
            "group less likely: pass centered=True, or pooling=0."
        )


def check_beta(beta: Tensor | float) -> None:
    """Raises ValueError unless beta is one finite number of at least 0."""
    if isinstance(beta, Tensor) and beta.ndim:
        raise ValueError(f"beta must be a number or a 0-dim tensor, got shape {tuple(beta.shape)}.")
    if not 0.0 <= float(beta) < math.inf:
        raise ValueError(f"beta must be >= 0 and finite, got {float(beta)}; it weighs the KL to the prior, 0 for none.")


def as_float(value: Tensor) -> Tensor:
    """`value` in float32, or float64 where it came in float64: the precision that all the maths is done in."""
    return value if value.dtype == torch.float64 else value.float()


def in_full_precision(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """`function(*values)` in the precision of `as_float` where autocast has matrix products in a lower one."""
    kind = values[0].device.type
    if not torch.is_autocast_enabled(kind):
        return function(*values)
    with torch.autocast(kind, enabled=False):
        return function(*map(as_float, values))


def casting_once(device: torch.device) -> torch.autocast:
    """Inside an autocast region, one in which a weight is cast once and not at every use; without a gradient only."""
    kind = device.type
    enabled = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=True)
