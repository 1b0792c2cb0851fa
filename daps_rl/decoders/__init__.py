"""Decoders p(x|z): networks, and the likelihoods that give their outputs a meaning."""

from torch import nn

from daps_rl.decoders.base import CodeDecoder as CodeDecoder
from daps_rl.decoders.columns import ColumnsLikelihood as ColumnsLikelihood
from daps_rl.decoders.columns import FixedColumnsLikelihood as FixedColumnsLikelihood
from daps_rl.decoders.likelihoods import BernoulliLikelihood as BernoulliLikelihood
from daps_rl.decoders.likelihoods import CategoricalLikelihood as CategoricalLikelihood
from daps_rl.decoders.likelihoods import FixedGaussianLikelihood as FixedGaussianLikelihood
from daps_rl.decoders.likelihoods import GaussianLikelihood as GaussianLikelihood
from daps_rl.decoders.likelihoods import Likelihood as Likelihood
from daps_rl.decoders.mlp import MLPDecoder as MLPDecoder
from daps_rl.decoders.resnet import ResNetDecoder as ResNetDecoder
from daps_rl.decoders.reward import RewardDecoder as RewardDecoder
from daps_rl.decoders.reward import RewardDistribution as RewardDistribution
from daps_rl.decoders.sequence import SequenceDecoder as SequenceDecoder
from daps_rl.decoders.strokes import StrokeDecoder as StrokeDecoder
from daps_rl.decoders.strokes import StrokeRenderer as StrokeRenderer

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "fixed_gaussian": FixedGaussianLikelihood,
    "categorical": CategoricalLikelihood,
    "columns": ColumnsLikelihood,
    "fixed_columns": FixedColumnsLikelihood,
}

DECODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPDecoder,
    "resnet": ResNetDecoder,
    "sequence": SequenceDecoder,
    "strokes": StrokeDecoder,
}
"""Decoders by name. One that is no `CodeDecoder` is made from the sizes and a likelihood alone."""


def suitable_decoder(observation_shape: tuple[int, ...], columns: tuple[str, ...] = ()) -> str:
    """The name of the decoder that suits data of that shape, whose last axis holds such columns."""
    if len(observation_shape) == 2 and columns and all(text.startswith("category") for text in columns):
        return "sequence"  # texts: a token says a few symbols that are side by side
    image = len(observation_shape) == 3
    return "resnet" if image and (observation_shape[0] >= 3 or min(observation_shape[1:]) >= 64) else "mlp"
