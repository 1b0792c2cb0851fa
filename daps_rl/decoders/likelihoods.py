"""Likelihoods: what a decoder network's outputs mean as a distribution over a datum."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal
from torch.nn import functional as F

from daps_rl.decoders.gaussian import DiagonalGaussian
from daps_rl.functional.checks import as_float
from daps_rl.policies.distribution import SampleShape

VARIANCE = 0.25
MIN_VARIANCE, MAX_VARIANCE = 1e-3, 1.0


class Likelihood(nn.Module):
    """Base of the likelihoods: a network's outputs [..., P, *observation_shape] become a distribution over x.

    The distribution has batch shape [...] and event shape observation_shape; its `mean` is the reconstruction.
    A likelihood of your own sets `outputs_per_entry` (P) and writes `forward`; `output_scale` and `outputs_at` say
    where a decoder starts.
    """

    outputs_per_entry = 1
    output_scale = 1.0  # how far an output must move to change the likelihood by about a nat
    model_settings: ClassVar[tuple[str, ...] | None] = ()
    """Settings of a model that its constructor takes, by name; None where these are not enough to make one."""

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        """outputs [..., P, *observation_shape], event_dims = len(observation_shape)."""
        raise NotImplementedError

    def outputs_at(self, mean: Tensor) -> Tensor:
        """Outputs whose distribution is centred on the data's mean: where a decoder starts. [*x] → [P, *x]."""
        return torch.zeros(self.outputs_per_entry, *mean.shape)

    def output_shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a network's outputs for one datum, (P, *observation_shape) unless a likelihood says otherwise."""
        return (self.outputs_per_entry, *observation_shape)

    def features(self, x: Tensor) -> Tensor:
        """What the mean is taken of that a decoder starts at: the data themselves. [N, *x] → [N, ...]."""
        return x


class IndependentBits(Independent):
    """Independent Bernoulli variables by their logits, whose log_prob makes no tensor of the data's size but one.

    Made from logits [*batch_shape, *event_shape] and the number of axes of an event.
    """

    def __init__(self, logits: Tensor, event_dims: int) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), event_dims, validate_args=False)

    def expand(self, batch_shape: SampleShape, _instance: Distribution | None = None) -> IndependentBits:
        """The same distribution with a larger batch shape."""
        dims = self.reinterpreted_batch_ndims
        return IndependentBits(self.base_dist.logits.expand(torch.Size(batch_shape) + self.event_shape), dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_i x_i·l_i − log(1 + exp l_i), in nats; value is broadcast against [*batch_shape, *event_shape]."""
        dims, logits = self.reinterpreted_batch_ndims, as_float(self.base_dist.logits)
        if not dims or value.shape[-dims:] != self.event_shape:
            return super().log_prob(value)
        with torch.autocast(value.device.type, enabled=False):
            logits, value = logits.flatten(-dims), value.to(logits.dtype).flatten(-dims)
            if value.ndim == logits.ndim > 1 and value.shape[-2] == 1:  # a datum and its K codes
                products = (logits @ value.mT).squeeze(-1)
            else:
                products = torch.linalg.vecdot(*torch.broadcast_tensors(logits, value))
            return products - F.softplus(logits).sum(-1)


class BernoulliLikelihood(Likelihood):
    """For data in {0, 1} (values between are scored by the same formula, as a relaxation): one logit an entry."""

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        return IndependentBits(outputs.squeeze(-event_dims - 1), event_dims)

    def outputs_at(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=0.02).unsqueeze(0)


class GaussianLikelihood(Likelihood):
    """Diagonal Gaussian with learned mean and log-variance; the variance is clamped, see `DiagonalGaussian`.

    A tight lower bound keeps the likelihood finite, an infinite upper one is none; 0 < min_variance < max_variance.
    """

    outputs_per_entry = 2
    model_settings = ("min_variance", "max_variance")

    def __init__(self, min_variance: float = MIN_VARIANCE, max_variance: float = MAX_VARIANCE) -> None:
        super().__init__()
        self.bounds = check_variances(min_variance, max_variance)

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        return DiagonalGaussian(outputs, self.bounds, event_dims)

    def outputs_at(self, mean: Tensor) -> Tensor:
        return torch.stack((mean, torch.zeros_like(mean).clamp(*self.bounds)))


def check_variances(min_variance: float, max_variance: float) -> tuple[float, float]:
    """Their logarithms; ValueError unless 0 < min_variance < max_variance."""
    if not 0.0 < min_variance < max_variance:
        raise ValueError(
            f"variances must satisfy 0 < min_variance < max_variance, got {min_variance} and {max_variance}; "
            "the published clamp for standardised images is 0.01 to 1."
        )
    return math.log(min_variance), math.log(max_variance)


def check_variance(variance: float) -> float:
    """The deviation of a fixed variance; ValueError unless it is positive."""
    if not variance > 0.0:
        raise ValueError(f"variance must be positive, got {variance}; the published one for motion is 0.25.")
    return math.sqrt(variance)


class FixedGaussianLikelihood(Likelihood):
    """Gaussian with one fixed, positive variance for every entry: squared error, in nats."""

    model_settings = ("variance",)

    def __init__(self, variance: float = VARIANCE) -> None:
        super().__init__()
        self.variance, self.output_scale = variance, check_variance(variance)

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        mean = outputs.squeeze(-event_dims - 1)
        normal = Normal(mean, torch.full_like(mean, math.sqrt(self.variance)), validate_args=False)
        return Independent(normal, event_dims, validate_args=False)

    def outputs_at(self, mean: Tensor) -> Tensor:
        return mean.unsqueeze(0)


class _IntegerCategorical(Categorical):
    """Categorical over the integers 0 … C-1, with the mean that torch leaves undefined."""

    @property
    def mean(self) -> Tensor:
        """Σ_c c·p(c)."""
        classes = torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)
        return (self.probs * classes).sum(-1)


class CategoricalLikelihood(Likelihood):
    """For integer data in 0 … C-1: num_classes = C logits an entry."""

    model_settings = None  # C is no setting of a run

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {num_classes}; use BernoulliLikelihood for bits.")
        self.outputs_per_entry = num_classes

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        logits = outputs.movedim(-event_dims - 1, -1)
        return Independent(_IntegerCategorical(logits=logits, validate_args=False), event_dims, validate_args=False)
