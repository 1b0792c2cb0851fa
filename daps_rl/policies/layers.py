"""The transformer's parts: position embeddings, attention with a cache, blocks (all pre-LN), a pointer."""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.functional.checks import as_float, in_full_precision
from daps_rl.linear import Linear

FEW_KEYS = 16  # for attention on a CPU


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Sinusoidal position embeddings (Vaswani et al., 2017). [length, dim]."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10_000.0) / dim))
    angles = position * frequency  # [length, ceil(dim / 2)]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[:, :dim].float()


class KeyValueCache:
    """Keys and values of the tokens sampled so far, in place: nothing is ever copied to make room.

    Holds [N, H, T, D/H] for N = B·K sequences; `length` tokens of them are filled.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one token's key and value [N, H, 1, D/H]; returns views of all so far [N, H, length, D/H]."""
        self.keys[:, :, self.length] = key[:, :, 0]
        self.values[:, :, self.length] = value[:, :, 0]
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def fill(self, first: KeyValueCache, copies: int) -> None:
        """Takes over what a cache of as many contexts holds, once for each of a context's K sequences."""
        self.length = first.length
        for own, held in ((self.keys, first.keys), (self.values, first.values)):
            contexts = own.view(held.shape[0], copies, *own.shape[1:])
            contexts[:, :, :, : self.length] = held[:, None, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Goes on with these of the N sequences. int64 [M]."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class GrowingCache:
    """Keys and values of the tokens so far, kept for the backward pass: a new tensor for every token."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one token's key and value [N, H, 1, D/H]; returns all so far [N, H, length, D/H]."""
        self.keys.append(key)
        self.values.append(value)
        self.length += 1
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


Cache: TypeAlias = KeyValueCache | GrowingCache


def attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017).

    Queries [N, H, L, d], keys and values [N, H, P, d] → [N, H, L, d]; causal: query i sees keys 0 … i.
    PyTorch's kernel for a CPU is made for many keys; with few of them products of small matrices are faster.
    """
    if query.device.type != "cpu" or key.shape[2] > FEW_KEYS:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    mixed = in_full_precision(functools.partial(_small_attention, causal=causal), query, key, value)
    return mixed.to(query.dtype)


def _small_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """The same by products of small matrices, in float32 at least."""
    query, key, value = map(as_float, (query, key, value))
    length, keys = query.shape[2], key.shape[2]
    flat_query, flat_key, flat_value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # [N·H, ...]
    scores = torch.bmm(flat_key, flat_query.transpose(1, 2)) * query.shape[-1] ** -0.5  # [N·H, P, L]
    if causal:
        later = torch.ones(keys, length, dtype=torch.bool, device=query.device).tril(-1)
        scores = torch.where(later, -math.inf, scores)
    weights = torch.softmax(scores.movedim(1, 0), 0).movedim(0, 1)  # over a short last dimension it is slow
    if length == 1:
        return (weights * flat_value).sum(1).view(query.shape)
    return torch.bmm(weights.transpose(1, 2), flat_value).view(query.shape)


class SelfAttention(nn.Module):
    """Multi-head self-attention over [N, L, D], causal or not, with an optional cache for one token at a time."""

    def __init__(self, dim: int, num_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, H, L, D/H]
        if cache is not None:
            k, v = cache.append(k, v)
        mixed = attention(q, k, v, causal=self.causal and cache is None)
        return self.out(mixed.transpose(1, 2).reshape(n, length, dim))


class CrossAttention(nn.Module):
    """Multi-head attention of code tokens [B, L, D] to a context's keys and values, shared by its K codes."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoded context. [B, P, D] → two of [B, H, P, D/H]."""
        k, v = self.key_value(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return k, v  # laid out once, and not for every token that is drawn

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        b, length, dim = x.shape
        q = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, L, D/H]
        return self.out(attention(q, *keys_values).transpose(1, 2).reshape(b, length, dim))


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        hidden = int(dim * mlp_ratio)
        super().__init__(Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))


class EncoderBlock(nn.Module):
    """Pre-LN transformer block without a mask. [N, L, D] → [N, L, D]."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, causal=False)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class DecoderBlock(nn.Module):
    """Pre-LN causal block over code tokens, cross-attending to the encoded context.

    Tokens come as [B, K, L, D]: K codes of the same context. Self-attention sees B·K sequences of length L,
    cross-attention B sequences of K·L queries, so that the context's keys and values are never repeated.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, causal=True)
        self.norm_cross = nn.LayerNorm(dim)
        self.cross = CrossAttention(dim, num_heads)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor], cache: Cache | None = None) -> Tensor:
        b, k, length, dim = x.shape
        x = x + self.attention(self.norm_attention(x).view(b * k, length, dim), cache).view(b, k, length, dim)
        x = x + self.cross(self.norm_cross(x).view(b, k * length, dim), context).view(b, k, length, dim)
        return x + self.mlp(self.norm_mlp(x))


class PointerHead(nn.Module):
    """Logits that point at items: c·tanh(q·k_v / √D), the keys made from the encoded items. [..., D] → [..., V].

    The clip c, in nats, keeps the policy from being certain too early.

    References:
        Bello et al. (2017), Neural combinatorial optimization, eq. 16. Kool et al. (2019), Attention, learn to solve
        routing problems!
    """

    def __init__(self, dim: int, clip: float = 10.0) -> None:
        super().__init__()
        self.query, self.key = Linear(dim, dim, bias=False), Linear(dim, dim, bias=False)
        self.clip = clip

    def keys(self, encoded: Tensor) -> Tensor:
        """The items' keys, computed once per context. [B, V, D]."""
        return self.key(encoded)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """x [B, K, D] or [B, K, L, D], keys [B, V, D] → [B, K, V] or [B, K, L, V]."""
        flat = self.query(x).flatten(1, -2)  # [B, K·L, D]
        scores = flat @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
        return (self.clip * torch.tanh(scores)).view(*x.shape[:-1], keys.shape[1])
