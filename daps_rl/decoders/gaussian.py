"""A diagonal Gaussian whose log-density keeps nothing but its inputs, and whose bounds on the variance let go again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Independent, Normal

ENTRIES_AT_A_TIME = 2**20  # what the intermediate results of a log-density hold at most, or one row's


class DiagonalGaussian(Independent):
    """N(mean, diag exp(log_variance)) with a clamped log-variance, from a decoder's outputs.

    An `Independent(Normal)` whose base is made when it is asked for. In training its log_prob keeps mean, log-variance
    and x alone for the backward pass, where that one's keeps four further tensors of the data's size per code.

    A hard clamp has no gradient beyond its bounds: a variance that starts there would never come back. Here the
    gradient at the bound is passed on where descending it leads back inside, and is zero where it leads further out.
    So log_prob is to be part of a loss that is minimised, with a minus.

    Args:
        outputs: mean and log-variance [..., 2, *event_shape]; an event has event_dims axes.
        bounds: (low, high) of the log-variance.
    References:
        Ballé et al. (2018), Variational image compression with a scale hyperprior: the bound's gradient, as in their
        code (`identity_if_towards`).
    """

    def __init__(self, outputs: Tensor, bounds: tuple[float, float], event_dims: int) -> None:
        self.outputs, self.bounds, self.reinterpreted_batch_ndims = outputs, bounds, event_dims
        batch_dims = outputs.ndim - event_dims - 1
        shapes = outputs.shape[:batch_dims], outputs.shape[batch_dims + 1 :]
        Distribution.__init__(self, *shapes, validate_args=False)  # without a base: see `base_dist`

    @property
    def base_dist(self) -> Normal:
        """Clamped."""
        deviation = (0.5 * self.outputs.select(len(self.batch_shape), 1).clamp(*self.bounds)).exp()
        return Normal(self.mean, deviation, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """[*batch_shape, *event_shape]."""
        return self.outputs.select(len(self.batch_shape), 0)

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(value), in nats; value is broadcast against [*batch_shape, *event_shape]. [*batch_shape]."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        batch = shape[: len(shape) - len(self.event_shape)]
        outputs, value = self.outputs.expand(*batch, 2, *self.event_shape), value.expand(shape)  # views: no copies
        if not batch:
            return _LogDensity.apply(outputs[None], value[None], self.bounds, 1)[0]
        return _LogDensity.apply(outputs, value, self.bounds, len(batch))


class _LogDensity(torch.autograd.Function):
    """Outputs [N, ..., 2, *x] and values [N, ..., *x] → log-densities [N, ...], a few rows of N at a time."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, value: Tensor, bounds: tuple[float, float], batch_dims: int) -> Tensor:
        ctx.save_for_backward(outputs, value)
        ctx.bounds, ctx.batch_dims = bounds, batch_dims
        rows, entries = _rows_at_a_time(value), math.prod(value.shape[batch_dims:])
        sums = []
        for out, x in zip(outputs.split(rows), value.split(rows), strict=True):
            mean, raw = out.unbind(batch_dims)
            log_variance = raw.clamp(*bounds)
            terms = (x - mean).square_().mul_(log_variance.neg().exp_()).add_(log_variance)
            sums.append(terms.reshape(*terms.shape[:batch_dims], entries).sum(-1))
        return torch.cat(sums).add_(entries * math.log(2.0 * math.pi)).mul_(-0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        outputs, value = ctx.saved_tensors
        low, high = ctx.bounds
        rows, batch_dims = _rows_at_a_time(value), ctx.batch_dims
        grad = grad.reshape(*grad.shape, *[1] * (value.ndim - batch_dims))
        grad_outputs = torch.empty_like(outputs)
        pieces = (tensor.split(rows) for tensor in (outputs, value, grad, grad_outputs))
        for out, x, upstream, grad_out in zip(*pieces, strict=True):
            mean, raw = out.unbind(batch_dims)
            error = x - mean
            by_mean = error * raw.clamp(low, high).neg_().exp_()
            by_log_variance = error.mul_(by_mean).sub_(1.0).mul_(0.5 * upstream)
            outwards = ((raw > high) & (by_log_variance < 0.0)) | ((raw < low) & (by_log_variance > 0.0))
            grad_out.select(batch_dims, 0).copy_(by_mean.mul_(upstream))
            grad_out.select(batch_dims, 1).copy_(by_log_variance.masked_fill_(outwards, 0.0))
        grad_value = grad_outputs.select(batch_dims, 0).neg() if ctx.needs_input_grad[1] else None
        return grad_outputs, grad_value, None, None


def _rows_at_a_time(value: Tensor) -> int:
    """Rows of the first axis that make about `ENTRIES_AT_A_TIME` entries, at least one."""
    return max(1, ENTRIES_AT_A_TIME // max(1, math.prod(value.shape[1:])))
