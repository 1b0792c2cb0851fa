"""The sequence decoder: a transformer over the tokens, then convolutions in time to the length of the data."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from daps_rl.decoders.base import LAST_LAYER_SCALE, CodeDecoder
from daps_rl.decoders.resampling import initialize, make_norm, plan_resampling, spread
from daps_rl.functional.checks import check_positive_integers, check_transformer_sizes
from daps_rl.linear import Linear
from daps_rl.policies.layers import EncoderBlock, sinusoidal_positions


class SequenceDecoder(CodeDecoder):
    """p(x|z) for sequences [L, D]: codes [..., T] → a distribution over x, batch shape [...].

    A pre-LN transformer over the T tokens, then convolutions of stride two in time: transposed ones up to a longer
    sequence, ordinary ones down to a shorter one. Lengths that are no T · 2^n: see `plan_resampling`.

    Args:
        num_tokens, vocab_size, and parts (likelihood, embed): see `CodeDecoder`. The published likelihood for motion
            has a fixed variance.
        observation_shape: (L, D).
        embed_dim: of a token, and width of the transformer.
        channels: of the convolutions between the first and the last.
        num_blocks: of the transformer.
        num_heads: attention heads; divides embed_dim.
        mlp_ratio: width of the feed-forward layers over embed_dim.
        norm: of the convolutions but the last: "group", "batch" or "none"; see `ResNetDecoder`.
        data_mean: mean of the likelihood's `features` of the training data, where the reconstructions start.
    Raises:
        ValueError: a size is not positive, num_heads does not divide embed_dim, or the data are no sequences.
    References:
        Drolet et al. (2026), arXiv 2509.24716. Departures: GELU, sinusoids as in our policies, group norm, and the norm
        before the rectifier.
    """

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        observation_shape: tuple[int, ...],
        *,
        embed_dim: int = 128,
        channels: int = 64,
        num_blocks: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        norm: str = "group",
        data_mean: Tensor | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(num_tokens, vocab_size, observation_shape, embed_dim=embed_dim, **parts)
        check_positive_integers(channels=channels)
        check_transformer_sizes(embed_dim, num_heads, num_blocks)
        if len(self.observation_shape) != 2:
            raise ValueError(
                f"observation_shape must be (L, D) for a SequenceDecoder, got {self.observation_shape}; use a "
                "ResNetDecoder for images (C, H, W) and an MLPDecoder for (D,)."
            )
        self.positions = nn.Buffer(sinusoidal_positions(num_tokens, embed_dim), persistent=False)
        self.blocks = nn.Sequential(*(EncoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(embed_dim)
        doublings, self.start = plan_resampling((num_tokens,), self.observation_shape[:1])
        self.resample = make_time_resampling(embed_dim, channels, doublings, norm)
        self.head = Linear(embed_dim, math.prod(self.likelihood.output_shape(self.observation_shape)[::2]))
        initialize(self.head, LAST_LAYER_SCALE * self.likelihood.output_scale)
        self.start_at(data_mean)

    def outputs(self, embedded: Tensor) -> Tensor:
        tokens = self.norm(self.blocks(embedded + self.positions))  # [N, T, E]
        features = self.resample(spread(tokens.transpose(1, 2), self.start))  # [N, E, at least L]
        sequence = self.head(features[..., : self.observation_shape[0]].transpose(1, 2))  # [N, L, P·D]
        return sequence.unflatten(2, (self.likelihood.outputs_per_entry, -1)).transpose(1, 2) + self.outputs_at_start


def make_time_resampling(embed_dim: int, channels: int, doublings: int, norm: str) -> nn.Sequential:
    """Convolutions of stride two in time; the last one gives embed_dim channels as they are. Empty for 0 doublings."""
    layers: list[nn.Module] = []
    width, conv = embed_dim, nn.ConvTranspose1d if doublings > 0 else nn.Conv1d
    for step in range(abs(doublings), 0, -1):
        outputs = channels if step > 1 else embed_dim
        layers.append(conv(width, outputs, 4, stride=2, padding=1, bias=step == 1 or norm != "batch"))
        initialize(layers[-1], math.sqrt(2.0) if step > 1 else 1.0)
        if step > 1:
            layers += [make_norm(norm, outputs, 1), nn.ReLU(inplace=True)]
        width = outputs
    return nn.Sequential(*layers)
