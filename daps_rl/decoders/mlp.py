"""The MLP decoder: embedded tokens, concatenated, through dense layers."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.decoders.base import LAST_LAYER_SCALE, CodeDecoder
from daps_rl.linear import Linear


class MLPDecoder(CodeDecoder):
    """p(x|z) by dense layers: codes [..., T] → a distribution over x, batch shape [...].

    Args:
        num_tokens, vocab_size, observation_shape, and parts (likelihood, embed_dim, embed): see `CodeDecoder`.
        hidden: widths of the hidden layers; (64, 256) are the published ones.
        data_mean: mean of the likelihood's `features` of the training data, where the reconstructions start.
    """

    model_settings: ClassVar[dict[str, str]] = {"hidden": "decoder_hidden"}

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        observation_shape: tuple[int, ...],
        *,
        hidden: tuple[int, ...] = (64, 256),
        data_mean: Tensor | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(num_tokens, vocab_size, observation_shape, **parts)
        self.output_shape = self.likelihood.output_shape(self.observation_shape)
        widths = (num_tokens * self.embed_dim, *hidden, math.prod(self.output_shape))
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        *others, last = (layer for layer in layers if isinstance(layer, nn.Linear))
        for layer in others:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.weight.mul_(LAST_LAYER_SCALE * self.likelihood.output_scale)
            if data_mean is not None:
                last.bias.copy_(self.likelihood.outputs_at(data_mean).flatten())

    def outputs(self, embedded: Tensor) -> Tensor:
        return self.layers(embedded.flatten(1)).view(-1, *self.output_shape)
