"""Codes whose tokens are independent: the factorised policy, given the datum, and the uniform prior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import register_kl

from daps_rl.functional import draw_categorical, tokenwise_kl
from daps_rl.functional.checks import as_float, check_code_sizes, check_codes
from daps_rl.policies.distribution import DiscreteCodes, IndependentSteps, RelaxedCodes, RelaxTokens, SampleShape
from daps_rl.policies.observation import TokenEncoder


class FactorizedCategorical(DiscreteCodes):
    """q(z|x) = Π_t q(z_t|x): batch shape [B], event shape [T].

    Args:
        logits: unnormalised log-probabilities. [B, T, V].
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = torch.log_softmax(as_float(logits), dim=-1)
        super().__init__(logits.shape[:-2], *logits.shape[-2:])

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws codes. [*sample_shape, B, T], int64, without gradient."""
        probs = self.log_probs.exp()  # [B, T, V]
        shape = (*probs.shape[:-1], torch.Size(sample_shape).numel())
        uniform = torch.rand(shape, generator=generator, device=probs.device, dtype=probs.dtype)
        tokens = draw_categorical(probs, uniform)  # [B, T, K]
        return tokens.movedim(-1, 0).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def steps(self, samples: int) -> IndependentSteps:
        """Begins K codes for each context; see `TokenSteps`."""
        return IndependentSteps(self.log_probs if self.batch_shape else self.log_probs.unsqueeze(0), samples)

    @property
    def token_log_probs(self) -> Tensor:
        """log p of every token at every position, where there is no batch shape; see `UniformCodes`. [T, V]."""
        return self.log_probs

    def relaxed_sample(self, relax: RelaxTokens, num_samples: int = 1) -> RelaxedCodes:
        """Draws K codes per context with a gradient to the logits. One-hot [B, K, T, V]."""
        log_probs = self.log_probs.unsqueeze(1).expand(-1, num_samples, -1, -1)
        return RelaxedCodes(relax(log_probs), log_probs)

    @property
    def mode(self) -> Tensor:
        """The likeliest code. [B, T]."""
        return self.log_probs.argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats. value [*S, B, T] → [*S, B], with gradient."""
        check_codes(value, self.event_shape[0], self.batch_shape)
        flat = value.reshape(-1, *self.batch_shape, *self.event_shape)  # [K, B, T]
        picked = self.log_probs.gather(-1, flat.movedim(0, -1))  # [B, T, K]
        return picked.sum(-2).movedim(-1, 0).reshape(value.shape[:-1])

    def entropy(self) -> Tensor:
        """Entropy, exact, in nats. [B]."""
        return -tokenwise_kl(self.log_probs, 0.0)


class FactorizedPolicy(TokenEncoder):
    """Transformer policy whose tokens are independent given the datum (the published DAPS-NA).

    The patches are encoded; T learned queries attend to them and give each token's logits (with P = T, as published,
    the patches' own positions give the logits, and there are no queries). Called on observations
    [B, *observation_shape], gives a `FactorizedCategorical` of batch shape [B] and event shape [T].

    Args:
        observation_shape, num_tokens, options: see `TokenEncoder`, whose outputs are the logits.
        vocab_size: V.
    Raises:
        ValueError: a size is not positive, or num_heads does not divide embed_dim.
    References:
        Drolet et al. (2026), arXiv 2509.24716, appendix.
    """

    def __init__(self, observation_shape: tuple[int, ...], num_tokens: int, vocab_size: int, **options: Any) -> None:
        check_code_sizes(num_tokens, vocab_size)
        super().__init__(observation_shape, num_tokens, vocab_size, **options)
        self.vocab_size = vocab_size

    def forward(self, observation: Tensor) -> FactorizedCategorical:
        return FactorizedCategorical(super().forward(observation))


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

    def steps(self, samples: int) -> IndependentSteps:
        """Begins K codes; see `TokenSteps`."""
        return IndependentSteps(self.token_log_probs.unsqueeze(0), samples)

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


@register_kl(FactorizedCategorical, FactorizedCategorical)
def _kl_factorized(q: FactorizedCategorical, p: FactorizedCategorical) -> Tensor:
    """KL(q(·|x) ‖ p), exact, with gradient, in nats. [B]."""
    return tokenwise_kl(q.log_probs, p.log_probs)
