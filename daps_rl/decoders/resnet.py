"""The ResNet decoder: a grid of tokens through residual blocks, then transposed convolutions up to an image."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from daps_rl.decoders.base import LAST_LAYER_SCALE, CodeDecoder
from daps_rl.decoders.resampling import initialize, make_norm, plan_resampling, spread
from daps_rl.functional.checks import check_positive_integers
from daps_rl.policies.observation import Patches


class ResidualBlock(nn.Module):
    """x + f(relu(x)), with a 3x3 and a 1x1 convolution, each normed. [N, C, h, w] → [N, C, h, w]."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        bias = norm != "batch"  # which would take it out again
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
            make_norm(norm, channels, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=bias),
            make_norm(norm, channels, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResNetDecoder(CodeDecoder):
    """p(x|z) for images by convolutions: codes [..., T] → a distribution over x, batch shape [...].

    The T tokens lie on a grid over the image, that of `Patches`: residual blocks at the grid's size, then transposed
    convolutions, each twice as large with half the channels, to the size of the image. T = 64 grows 8x8 → 32x32,
    T = 1024 grows 32x32 → 256x256. For any other size the grid is stretched first, see `plan_resampling`.

    The log-likelihood of a code depends on that code alone, with group norm or none. With batch norm, as published, and
    in train mode, it depends on all codes of the batch, so the reward of a code does, and in eval mode it is another
    number. Batch norm also counts a microbatch as the batch.

    Args:
        num_tokens, vocab_size, and parts (likelihood, embed_dim, embed): see `CodeDecoder`. The published embed_dim is
            128.
        observation_shape: (C, H, W).
        channels: of the residual blocks.
        num_blocks: residual blocks.
        norm: "group", "batch" (published) or "none".
        data_mean: mean of the training data [C, H, W], where the reconstructions start.
    Raises:
        ValueError: a size is not positive, the data are no images, or there are more tokens than pixels.
    References:
        Drolet et al. (2026), arXiv 2509.24716. Departures: group norm; no image is padded.
    """

    model_settings: ClassVar[dict[str, str]] = {
        "channels": "decoder_channels", "num_blocks": "decoder_blocks", "norm": "decoder_norm",
    }  # fmt: skip

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        observation_shape: tuple[int, ...],
        *,
        channels: int = 64,
        num_blocks: int = 2,
        norm: str = "group",
        data_mean: Tensor | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(num_tokens, vocab_size, observation_shape, **parts)
        check_positive_integers(channels=channels, num_blocks=num_blocks)
        self.grid = image_grid(num_tokens, self.observation_shape)
        doublings, self.start = plan_resampling(self.grid, self.observation_shape[1:])
        self.residual = nn.Sequential(
            nn.Conv2d(self.embed_dim, channels, 3, padding=1),
            *(ResidualBlock(channels, norm) for _ in range(num_blocks)),
            nn.ReLU(inplace=True),
        )
        outputs = self.likelihood.outputs_per_entry * self.observation_shape[0]
        self.upsample = make_upsampling(channels, outputs, doublings, norm)
        for layer in (*self.residual.modules(), *self.upsample.modules()):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                initialize(layer, math.sqrt(2.0))
        initialize(self.upsample[-1], LAST_LAYER_SCALE * self.likelihood.output_scale)
        self.start_at(data_mean)

    def outputs(self, embedded: Tensor) -> Tensor:
        grid = embedded.transpose(1, 2).unflatten(2, self.grid)  # [N, E, rows, columns]
        features = self.residual(spread(grid.contiguous(), self.start))  # [N, channels, *start]
        _, height, width = self.observation_shape
        image = self.upsample(features)[..., :height, :width]  # [N, P·C, H, W]
        return image.unflatten(1, (self.likelihood.outputs_per_entry, -1)) + self.outputs_at_start


def image_grid(num_tokens: int, observation_shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of the tokens over an image, those of the encoder's patches."""
    if len(observation_shape) != 3:
        raise ValueError(
            f"observation_shape must be (C, H, W) for a ResNetDecoder, got {observation_shape}; give images without "
            "channels one with x.unsqueeze(1), and use a SequenceDecoder for (L, D) and an MLPDecoder for (D,)."
        )
    try:
        return Patches(observation_shape, num_tokens).grid
    except ValueError as error:
        raise ValueError(
            f"num_tokens must make a grid over the image {observation_shape} with no more tokens than pixels along a "
            f"side, got {num_tokens}; lower it, take a number with more divisors, or use an MLPDecoder."
        ) from error


def make_upsampling(channels: int, outputs: int, doublings: int, norm: str) -> nn.Sequential:
    """Transposed convolutions, each twice as large with half the channels; the last gives the outputs as they are."""
    if doublings == 0:
        return nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1))
    layers: list[nn.Module] = []
    for _ in range(doublings - 1):
        fewer = max(channels // 2, outputs)
        layers += [
            nn.ConvTranspose2d(channels, fewer, 4, stride=2, padding=1, bias=norm != "batch"),
            make_norm(norm, fewer, 2),
            nn.ReLU(inplace=True),
        ]
        channels = fewer
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, outputs, 4, stride=2, padding=1))
