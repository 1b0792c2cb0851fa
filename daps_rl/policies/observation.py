"""From a datum to a sequence of embedded patches or items: the x-side of every policy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.functional.checks import check_transformer_sizes, in_full_precision
from daps_rl.linear import Linear
from daps_rl.policies.layers import CrossAttention, EncoderBlock, sinusoidal_positions


class Patches(nn.Module):
    """Cuts observations into P patches, padding with zeros where the sizes do not divide.

    Images [B, C, H, W] are cut into the most nearly square grid of num_patches = P patches; vectors [B, D] into P
    pieces; sequences [B, L, D] into P stretches of time. More patches than entries raise a ValueError.
    """

    def __init__(self, observation_shape: tuple[int, ...], num_patches: int) -> None:
        super().__init__()
        self.observation_shape, self.num_patches = tuple(observation_shape), num_patches
        if not 1 <= len(self.observation_shape) <= 3:
            raise ValueError(
                f"observation_shape must be (C, H, W), (L, D) or (D,), got {self.observation_shape}; "
                "pass an encoder of your own for other observations."
            )
        if num_patches < 1:
            raise ValueError(f"num_patches must be >= 1, got {num_patches}; as many as tokens is the published choice.")
        channels, height, width = self._plane(torch.empty(1, *self.observation_shape, device="meta")).shape[1:]
        counts = [rows for rows in range(1, num_patches + 1) if num_patches % rows == 0]
        rows = min(counts, key=lambda r: abs(math.log((height / r) / (width / (num_patches // r)))))  # nearly squares
        self.grid = (rows, num_patches // rows)
        if rows > height or self.grid[1] > width:
            raise ValueError(
                f"num_patches must be at most the number of pieces of an observation {self.observation_shape}, "
                f"got {num_patches}; lower it."
            )
        self.patch_shape = (math.ceil(height / self.grid[0]), math.ceil(width / self.grid[1]))

        self.patch_dim = channels * math.prod(self.patch_shape)  # entries of one patch

    def _plane(self, observation: Tensor) -> Tensor:
        """What is cut, [B, C, H, W]: vectors [B, 1, 1, D] and sequences [B, D, 1, L] are one row high."""
        if len(self.observation_shape) == 3:
            return observation
        return (observation.transpose(1, 2) if observation.ndim == 3 else observation.unsqueeze(1)).unsqueeze(2)

    def forward(self, observation: Tensor) -> Tensor:
        """[B, *observation_shape] → [B, P, patch_dim]."""
        plane = self._plane(observation)
        (rows, columns), (height, width) = self.grid, self.patch_shape
        pad_height, pad_width = rows * height - plane.shape[-2], columns * width - plane.shape[-1]
        if pad_height or pad_width:
            plane = F.pad(plane, (0, pad_width, 0, pad_height))
        patches = plane.unfold(2, height, height).unfold(3, width, width)  # [B, C, rows, columns, height, width]
        return patches.permute(0, 2, 3, 1, 4, 5).reshape(len(plane), self.num_patches, self.patch_dim)


class ItemEncoder(nn.Module):
    """Transformer over a set of items: permuting them permutes what comes out. [B, N, F] → [B, N, D].

    Instead of the patch transformer: `AutoregressivePolicy(..., encoder=ItemEncoder(2, 64))` for two features an item.
    `features` may also be a module that embeds the items.
    """

    def __init__(
        self,
        features: int | nn.Module,
        embed_dim: int,
        *,
        num_heads: int = 4,
        num_layers: int = 3,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        check_transformer_sizes(embed_dim, num_heads, num_layers)
        self.embed = features if isinstance(features, nn.Module) else Linear(features, embed_dim)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, items: Tensor) -> Tensor:
        return self.mix(self.embed(self.cast(items)))

    def cast(self, x: Tensor) -> Tensor:
        """Numbers in the parameters' own type, whatever the data's is; other data as they are."""
        return x.to(self.norm.weight.dtype) if x.is_floating_point() else x

    def mix(self, x: Tensor) -> Tensor:
        """The blocks, on embedded items. [B, N, D] → [B, N, D]."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ObservationEncoder(ItemEncoder):
    """Transformer over num_patches = P patches of an observation. [B, *observation_shape] → [B, P, embed_dim].

    The other sizes are those of `ItemEncoder`.
    """

    def __init__(self, observation_shape: tuple[int, ...], *, num_patches: int, embed_dim: int, **sizes: Any) -> None:
        patches = Patches(observation_shape, num_patches)
        super().__init__(patches.patch_dim, embed_dim, **sizes)
        self.patches = patches
        self.positions = nn.Buffer(sinusoidal_positions(num_patches, embed_dim), persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        shape = self.patches.observation_shape
        if tuple(observation.shape[1:]) != shape or not torch.is_floating_point(observation):
            raise ValueError(
                f"observation must be a floating-point batch of shape [B, {', '.join(map(str, shape))}], "
                f"got {observation.dtype} of shape {tuple(observation.shape)}; reshape or convert it."
            )
        return self.mix(self.embed(self.patches(self.cast(observation))) + self.positions)


class TokenQueries(nn.Module):
    """T learned queries that attend to an encoded context. [B, P, D] → [B, T, D]."""

    def __init__(self, num_tokens: int, dim: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, dim))
        self.cross = CrossAttention(dim, num_heads)

    def forward(self, encoded: Tensor) -> Tensor:
        queries = self.queries.expand(encoded.shape[0], -1, -1)
        return F.layer_norm(self.cross(queries, self.cross.keys_values(encoded)), encoded.shape[-1:])


def make_readout(num_tokens: int, num_patches: int, dim: int, num_heads: int, *, own_encoder: bool) -> nn.Module:
    """Brings P encoded patches to T positions: as they are where P = T, else through learned queries."""
    as_they_are = num_patches == num_tokens and not own_encoder
    return nn.Identity() if as_they_are else TokenQueries(num_tokens, dim, num_heads)


class TokenEncoder(nn.Module):
    """Transformer from an observation to one vector per token. [B, *observation_shape] → [B, T, outputs].

    The patches are encoded and brought to T positions (see `make_readout`); a linear layer gives the outputs.

    Args:
        observation_shape: shape of one observation: (C, H, W), (L, D) or (D,).
        num_tokens: T.
        outputs: size of a token's vector.
        embed_dim, num_heads, num_layers: width D of the transformer, attention heads (they divide D), and blocks.
        mlp_ratio: width of the feed-forward layers over embed_dim.
        num_patches: patches of the observation; T if None, as published. With an encoder of one's own, how many it
            gives, where that is T, in the order of the tokens.
        encoder: instead of the patch transformer, any module [B, *observation_shape] → [B, P, embed_dim].
        head: instead of the linear layer, any module [..., embed_dim] → [..., outputs], such as `LatticeHead`.
    Raises:
        ValueError: a size is not positive, or num_heads does not divide embed_dim.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_tokens: int,
        outputs: int,
        *,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        mlp_ratio: float = 6.0,
        num_patches: int | None = None,
        encoder: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_transformer_sizes(embed_dim, num_heads, num_layers)
        self.observation_shape, self.num_tokens = tuple(observation_shape), num_tokens
        unknown = encoder is not None and num_patches is None  # how many an encoder of one's own gives
        num_patches = num_tokens if num_patches is None else num_patches
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "num_layers": num_layers}
        self.encoder = encoder or ObservationEncoder(
            observation_shape, num_patches=num_patches, mlp_ratio=mlp_ratio, **sizes
        )
        self.readout = make_readout(num_tokens, num_patches, embed_dim, num_heads, own_encoder=unknown)
        self.head = head or Linear(embed_dim, outputs)

    def forward(self, observation: Tensor) -> Any:
        return in_full_precision(self.head, self.readout(self.encoder(observation)))
