"""Decoders p(x|z): networks, and the likelihoods that give their outputs a meaning."""

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
]
