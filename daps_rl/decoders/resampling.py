"""From a grid of tokens to the size of the data, by factors of two: what the convolutional decoders share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = ("group", "batch", "none")
GROUPS = 8  # of channels, in a group norm; fewer where 8 does not divide them


def plan_resampling(grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The steps from a grid of tokens to (at least) the size of the data: doublings (negative: halvings), and a start.

    The grid is spread over `start` places, each of which then grows 2^doublings fold. Where size is grid · 2^n, the
    start is the grid itself. Elsewhere the grid is stretched first, by less than a factor of two where the tokens'
    patches are square, so that every token keeps a place inside the data: cropping a grid that grew too large would cut
    tokens off.
    """
    growth = min(s // g for s, g in zip(size, grid, strict=True))
    shrinkage = min(g // s for s, g in zip(size, grid, strict=True))
    doublings = growth.bit_length() - 1 if growth else 1 - shrinkage.bit_length()
    return doublings, tuple(math.ceil(s / 2.0**doublings) for s in size)


def spread(features: Tensor, start: tuple[int, ...]) -> Tensor:
    """Features at each place's nearest token. [N, C, *grid] → [N, C, *start]."""
    return features if features.shape[2:] == start else F.interpolate(features, start, mode="nearest-exact")


def make_norm(norm: str, channels: int, axes: int) -> nn.Module:
    """The normalisation of that name, for features [N, channels, ...] with one or two further axes."""
    if norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels) if axes == 2 else nn.BatchNorm1d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}; batch is the published one.")


@torch.no_grad()
def initialize(layer: nn.Module, gain: float) -> None:
    """Normal weights that give an output of RMS `gain` for an input of RMS 1, and a zero bias.

    A transposed convolution of stride s adds up, at each output, one in s^axes of its kernel's entries.
    """
    assert isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        terms = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    else:
        terms = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(terms))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
