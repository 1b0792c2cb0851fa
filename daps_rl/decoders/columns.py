"""The likelihood of data whose last axis holds columns of several kinds: the product of a distribution each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.nn import functional as F

from daps_rl.columns import Column, Columns
from daps_rl.decoders.gaussian import DiagonalGaussian
from daps_rl.decoders.likelihoods import (
    MAX_VARIANCE,
    MIN_VARIANCE,
    VARIANCE,
    Likelihood,
    check_variance,
    check_variances,
)

FREQUENCY = 0.02  # of a yes, or of a category: where a decoder starts, at least


class ColumnsLikelihood(Likelihood):
    """For data of several columns, see `daps_rl.columns.Columns`: numbers Gaussian, yes-no Bernoulli, categories.

    What is not there, as its flag says, counts for nothing: log p(x|z) is of the flags and of what is there.

    Args:
        column_kinds: the texts that `Columns` takes.
        min_variance, max_variance: bounds of the learned variance of each number, see `GaussianLikelihood`.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("column_kinds", "min_variance", "max_variance")
    bounds: tuple[float, float] | None  # of the log-variance; None where the variance is fixed
    deviation = 1.0

    def __init__(
        self, column_kinds: Sequence[str], min_variance: float = MIN_VARIANCE, max_variance: float = MAX_VARIANCE
    ) -> None:
        super().__init__()
        self.columns, self.bounds = Columns(column_kinds), check_variances(min_variance, max_variance)

    @property
    def widths(self) -> list[int]:
        """How many outputs each column takes: mean and log-variance, or the mean alone, of a number; logits."""
        learned = {"number": 1 if self.bounds is None else 2}
        return [column.categories or column.width * learned.get(column.kind, 1) for column in self.columns.columns]

    def output_shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(1, *x without its last axis, the sum of `widths`)."""
        if observation_shape[-1:] != (self.columns.width,):
            raise ValueError(
                f"observation_shape must end in {self.columns.width}, what the columns make, got {observation_shape}; "
                "make data and columns fit."
            )
        return (1, *observation_shape[:-1], sum(self.widths))

    def features(self, x: Tensor) -> Tensor:
        return self.columns(x)

    def outputs_at(self, mean: Tensor) -> Tensor:
        sizes, parts = [column.categories or column.width for column in self.columns.columns], []
        for column, part in zip(self.columns.columns, mean.split(sizes, dim=-1), strict=True):
            if column.kind == "number":
                parts.append(part)
                if self.bounds is not None:
                    parts.append(torch.zeros_like(part).clamp(*self.bounds))
            else:
                parts.append(torch.logit(part, FREQUENCY) if column.kind == "yes-no" else part.clamp(FREQUENCY).log())
        return torch.cat(parts, dim=-1).unsqueeze(0)

    def forward(self, outputs: Tensor, event_dims: int) -> Distribution:
        return ColumnsDistribution(outputs.squeeze(-event_dims - 1), self, event_dims)


class FixedColumnsLikelihood(ColumnsLikelihood):
    """The same with one fixed, positive variance for every number: squared error, in nats."""

    model_settings: ClassVar[tuple[str, ...]] = ("column_kinds", "variance")

    def __init__(self, column_kinds: Sequence[str], variance: float = VARIANCE) -> None:
        super().__init__(column_kinds)
        self.bounds, self.deviation = None, check_variance(variance)
        self.output_scale = min(1.0, self.deviation)


class ColumnsDistribution(Distribution):
    """p(x|z) of data of several columns, from a decoder's outputs [*batch_shape, *x without its last axis, O].

    Its `mean` is the reconstruction: a number's mean, a yes-no's probability, and a category's most probable value.
    """

    def __init__(self, outputs: Tensor, likelihood: ColumnsLikelihood, event_dims: int) -> None:
        self.outputs, self.likelihood, self.event_dims = outputs, likelihood, event_dims
        batch = outputs.shape[: outputs.ndim - event_dims]
        shape = torch.Size([*outputs.shape[len(batch) : -1], likelihood.columns.width])
        super().__init__(batch, shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Summed over all that is there, in nats; value is broadcast against [*batch_shape, *x]. [*batch_shape]."""
        return self.column_log_probs(value).sum(-1)

    def column_log_probs(self, value: Tensor) -> Tensor:
        """log p of each column, summed over the other axes of the datum, in nats. [*batch_shape, columns]."""
        sums = []
        for column, outputs in self.parts():
            terms = column.where_given(value, self._terms(column, outputs, column.of(value)))
            sums.append(terms.flatten(-self.event_dims).sum(-1))
        return torch.stack(sums, dim=-1)

    @property
    def mean(self) -> Tensor:
        """[*batch_shape, *x]."""
        means = []
        for column, outputs in self.parts():
            if column.kind == "number":
                means.append(outputs[..., : column.width])
            elif column.kind == "yes-no":
                means.append(outputs.sigmoid())
            else:
                means.append(outputs.argmax(-1, keepdim=True).to(outputs.dtype))
        return torch.cat(means, dim=-1)

    def parts(self) -> Iterator[tuple[Column, Tensor]]:
        """Yields each column with its outputs, [*batch_shape, *x without its last axis, those of the column]."""
        return zip(self.likelihood.columns.columns, self.outputs.split(self.likelihood.widths, dim=-1), strict=True)

    def _terms(self, column: Column, outputs: Tensor, value: Tensor) -> Tensor:
        """log p of every entry. outputs [..., its width of outputs], value [..., width] → [..., width]."""
        if column.kind == "yes-no":
            return value * outputs - F.softplus(outputs)
        if column.kind == "category":
            log_probs = outputs.log_softmax(-1)
            index, _ = torch.broadcast_tensors(value.long(), log_probs[..., :1])
            return log_probs.expand(*index.shape[:-1], -1).gather(-1, index)
        if self.likelihood.bounds is None:
            return Normal(outputs, self.likelihood.deviation, validate_args=False).log_prob(value)
        both = torch.stack(outputs.chunk(2, dim=-1), dim=-1)
        return DiagonalGaussian(both, self.likelihood.bounds, event_dims=0).log_prob(value)
