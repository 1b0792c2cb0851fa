"""Tokens as the points of a lattice: the decoder reads their coordinates, the policy is a discretised Gaussian on them.

With a free table of V vectors, the few tokens that a policy happens to use first are the only ones whose vectors learn
to mean something, and most of the vocabulary is never taken up. On a lattice what is learned of a token is learned of
its neighbours, and nearly all of it is used, as with finite scalar quantisation, whose lattice it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST_AXIS = 8  # levels; longer axes are split where the vocabulary allows
LOG_PRECISIONS = (-6.0, 6.0)  # of the discretised Gaussian, whose coordinates lie in [-1, 1]


def lattice_levels(vocab_size: int) -> tuple[int, ...]:
    """Levels of the axes of a lattice of exactly V points, the longest first: few axes, of at most 8 levels if need be.

    256 gives (8, 8, 4), 16 (4, 4), 1000 (8, 5, 5, 5), and a prime number is an axis by itself.
    """
    factors, rest = [], vocab_size
    for prime in range(2, math.isqrt(vocab_size) + 1):
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
    factors += [rest] if rest > 1 else []
    if vocab_size <= LONGEST_AXIS:
        return (vocab_size,)
    number = 1 if len(factors) == 1 else max(2, math.ceil(math.log(vocab_size, LONGEST_AXIS)))
    while True:
        axes = [1] * min(number, len(factors))
        for factor in sorted(factors, reverse=True):
            axes[axes.index(min(axes))] *= factor
        if max(axes) <= max(LONGEST_AXIS, *factors) or number >= len(factors):
            return tuple(sorted(axes, reverse=True))
        number += 1


class LatticeEmbedding(nn.Module):
    """V token vectors that are linear in the coordinates of a lattice in [-1, 1]^d. Integers [...] → [..., E].

    Instead of an `nn.Embedding`: `MLPDecoder(..., embed=LatticeEmbedding(256, 64))`.

    Args:
        vocab_size: V.
        embed_dim: E.
        levels: of each axis, at least two; their product is V. `lattice_levels(V)` if None.
    References:
        Mentzer et al. (2024), Finite scalar quantization: the lattice and the projection, without the rounding.
    """

    def __init__(self, vocab_size: int, embed_dim: int, levels: Sequence[int] | None = None) -> None:
        super().__init__()
        levels = lattice_levels(vocab_size) if levels is None else tuple(levels)
        if math.prod(levels) != vocab_size or min(levels, default=0) < 2:
            raise ValueError(
                f"levels must be >= 2 each and multiply to vocab_size = {vocab_size}, got {tuple(levels)}; leave them "
                f"out for {lattice_levels(vocab_size)}."
            )
        axes = [torch.linspace(-1.0, 1.0, count) for count in levels]
        self.coordinates = nn.Buffer(torch.cartesian_prod(*axes).view(vocab_size, -1), persistent=False)  # [V, d]
        self.project = nn.Linear(len(levels), embed_dim)

    @property
    def weight(self) -> Tensor:
        """The tokens' vectors. [V, E]."""
        return self.project(self.coordinates)

    def forward(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.weight)


class LatticeHead(nn.Module):
    """Logits of a Gaussian on a lattice: −Σ_i p_i·(m_i − g_vi)², m and log p linear in h. [..., D] → [..., V].

    Of the decoder's embedding only the lattice is read. The deviation is that at the start, in each coordinate.
    """

    def __init__(self, dim: int, embedding: LatticeEmbedding, deviation: float = 0.25) -> None:
        super().__init__()
        axes = embedding.coordinates.shape[1]
        self.mean, self.log_precision = nn.Linear(dim, axes), nn.Linear(dim, axes)
        nn.init.zeros_(self.log_precision.weight)
        nn.init.constant_(self.log_precision.bias, -math.log(2.0 * deviation**2))
        points = embedding.coordinates
        self.features = nn.Buffer(torch.cat((points, -points.square()), dim=-1), persistent=False)  # [V, 2d]

    def forward(self, x: Tensor) -> Tensor:
        precision = self.log_precision(x).clamp(*LOG_PRECISIONS).exp()  # [..., d]
        natural = torch.cat((2.0 * precision * self.mean(x), precision), dim=-1)  # −p·m² is the same for all tokens
        return F.linear(natural, self.features)
