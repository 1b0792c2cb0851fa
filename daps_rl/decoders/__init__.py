"""Decoders p(x|z): networks, and the likelihoods that give their outputs a meaning."""

from torch import nn

from daps_rl.decoders.base import CodeDecoder
from daps_rl.decoders.likelihoods import (
    LIKELIHOODS,
    BernoulliLikelihood,
    CategoricalLikelihood,
    FixedGaussianLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from daps_rl.decoders.mlp import MLPDecoder
from daps_rl.decoders.resnet import ResNetDecoder
from daps_rl.decoders.reward import RewardDecoder, RewardDistribution
from daps_rl.decoders.sequence import SequenceDecoder
from daps_rl.decoders.strokes import StrokeDecoder, StrokeRenderer

__all__ = [
    "DECODERS",
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "CodeDecoder",
    "FixedGaussianLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "MLPDecoder",
    "ResNetDecoder",
    "RewardDecoder",
    "RewardDistribution",
    "SequenceDecoder",
    "StrokeDecoder",
    "StrokeRenderer",
    "suitable_decoder",
]

DECODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPDecoder,
    "resnet": ResNetDecoder,
    "sequence": SequenceDecoder,
    "strokes": StrokeDecoder,
}
"""Decoders by name. One that is no `CodeDecoder` is made from the sizes and a likelihood alone."""


def suitable_decoder(observation_shape: tuple[int, ...]) -> str:
    """The name of the decoder that suits data of that shape."""
    image = len(observation_shape) == 3
    return "resnet" if image and (observation_shape[0] >= 3 or min(observation_shape[1:]) >= 64) else "mlp"
