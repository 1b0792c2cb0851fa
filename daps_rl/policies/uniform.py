"""Codes drawn uniformly: the prior that stands unless another is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import register_kl

from daps_rl.policies.checks import check_code_sizes
from daps_rl.policies.distribution import DiscreteCodes, SampleShape
from daps_rl.policies.factorized import FactorizedCategorical


class UniformCodes(DiscreteCodes):
    """Uniform over V^T codes: batch shape [], event shape [T]; samples are made on the device."""

    def __init__(self, num_tokens: int, vocab_size: int, device: torch.device | str | None = None) -> None:
        check_code_sizes(num_tokens, vocab_size)
        self.device = device
        super().__init__(torch.Size(), num_tokens, vocab_size)

    def sample(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws codes. [*sample_shape, T], int64."""
        shape = (*sample_shape, *self.event_shape)
        return torch.randint(self.vocab_size, shape, generator=generator, device=self.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """−T log V for every code, in nats. [..., T] → [...]."""
        return torch.full(value.shape[:-1], -self.event_shape[0] * math.log(self.vocab_size), device=value.device)

    @property
    def token_log_probs(self) -> Tensor:
        """log p of every token at every position: what a prior has whose tokens are independent. [T, V]."""
        return torch.full((self.event_shape[0], self.vocab_size), -math.log(self.vocab_size), device=self.device)

    def entropy(self) -> Tensor:
        """T log V, in nats. 0-dim."""
        return torch.full((), self.event_shape[0] * math.log(self.vocab_size), device=self.device)


class UniformPrior(nn.Module):
    """The uniform prior as a module: called without arguments, gives `UniformCodes`.

    A learned or structured prior is any module that gives, called the same way, a distribution of event shape [T].
    """

    def __init__(self, num_tokens: int, vocab_size: int) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        self._device = nn.Buffer(torch.empty(0), persistent=False)

    def forward(self) -> UniformCodes:
        return UniformCodes(self.num_tokens, self.vocab_size, self._device.device)


@register_kl(FactorizedCategorical, UniformCodes)
def _kl_factorized_uniform(q: FactorizedCategorical, p: UniformCodes) -> Tensor:
    """KL(q(·|x) ‖ p) = T log V − H(q), exact, with gradient, in nats. [B]."""
    return p.entropy() - q.entropy()
