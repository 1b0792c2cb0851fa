"""For contexts that are sets of items: an encoder without an order, and a head whose tokens are the items."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from daps_rl.policies.checks import check_transformer_sizes
from daps_rl.policies.layers import EncoderBlock


class ItemEncoder(nn.Module):
    """Transformer over a set of items: permuting them permutes what comes out. [B, N, F] → [B, N, D].

    Instead of the patch transformer: `AutoregressivePolicy(..., encoder=ItemEncoder(2, 64))` for two features an item.
    """

    def __init__(
        self, features: int, embed_dim: int, *, num_heads: int = 4, num_layers: int = 3, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        check_transformer_sizes(embed_dim, num_heads, num_layers)
        self.embed = nn.Linear(features, embed_dim)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, items: Tensor) -> Tensor:
        return self.mix(self.embed(items))

    def mix(self, x: Tensor) -> Tensor:
        """The blocks, on embedded items. [B, N, D] → [B, N, D]."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PointerHead(nn.Module):
    """Logits that point at items: c·tanh(q·k_v / √D), the keys made from the encoded items. [..., D] → [..., V].

    The clip c, in nats, keeps the policy from being certain too early.

    References:
        Bello et al. (2017), Neural combinatorial optimization, eq. 16. Kool et al. (2019), Attention, learn to solve
        routing problems!
    """

    def __init__(self, dim: int, clip: float = 10.0) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.clip = clip

    def keys(self, encoded: Tensor) -> Tensor:
        """The items' keys, computed once per context. [B, V, D]."""
        return self.key(encoded)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """x [B, K, D] or [B, K, L, D], keys [B, V, D] → [B, K, V] or [B, K, L, V]."""
        flat = self.query(x).flatten(1, -2)  # [B, K·L, D]
        scores = flat @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
        return (self.clip * torch.tanh(scores)).view(*x.shape[:-1], keys.shape[1])
