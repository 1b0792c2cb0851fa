"""Codes whose tokens are independent: the factorised policy, given the datum, and the uniform prior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import register_kl
from torch.nn import functional as F

from daps_rl.functional import draw_categorical, tokenwise_kl
from daps_rl.functional.checks import as_float, check_code_sizes, check_codes
from daps_rl.policies.distribution import (
    DiscreteCodes,
    IndependentSteps,
    RelaxedCodes,
    RelaxTokens,
    SampleShape,
    StepsUntilEnd,
    until_end,
)
from daps_rl.policies.masks import EndToken, check_ends
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
        return self._picked(value).sum(-2).movedim(-1, 0).reshape(value.shape[:-1])

    def token_log_prob(self, value: Tensor) -> Tensor:
        """log q(z_t|x) of each token, in nats. value [*S, B, T] → [*S, B, T], with gradient."""
        return self._picked(value).movedim(-1, 0).reshape(value.shape)

    def _picked(self, value: Tensor) -> Tensor:
        """log q(z_t|x), the codes' axis last: [*S, B, T] → [B, T, S]."""
        check_codes(value, self.event_shape[0], self.batch_shape)
        flat = value.reshape(-1, *self.batch_shape, *self.event_shape)  # [K, B, T]
        return self.log_probs.gather(-1, flat.movedim(0, -1))

    def entropy(self) -> Tensor:
        """Entropy, exact, in nats. [B]."""
        return -tokenwise_kl(self.log_probs, 0.0)


class FactorizedUntilEnd(DiscreteCodes):
    """Independent tokens up to the first end token, Π_{t ≤ end} q(z_t|x): batch shape [B], event shape [T].

    Behind the end token, the last of the V + 1 symbols, stands nothing else, with probability 1; see `EndToken`.

    Args:
        logits: unnormalised log-probabilities of the symbols while a code goes on. [B, T, V + 1].
        mask: says how short a code may be.
    """

    def __init__(self, logits: Tensor, mask: EndToken) -> None:
        self.mask = mask
        super().__init__(logits.shape[:-2], *logits.shape[-2:])
        check_ends(mask, *logits.shape[-2:])
        positions = torch.arange(logits.shape[-2], device=logits.device).unsqueeze(-1)
        allowed = mask.allowed(torch.zeros_like(positions[:, 0], dtype=torch.bool), positions)  # [T, V + 1]
        self.going_on = FactorizedCategorical(torch.where(allowed, logits, -math.inf))

    @property
    def log_survival(self) -> Tensor:
        """log-probability that a code goes on to each position. [B, T]."""
        goes_on = self.going_on.log_probs[..., :-1].logsumexp(-1)
        return F.pad(goes_on.cumsum(-1)[..., :-1], (1, 0))

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws codes. [*sample_shape, B, T], int64, without gradient."""
        return self.mask.close(self.going_on.sample(sample_shape, generator))

    @torch.no_grad()
    def steps(self, samples: int) -> StepsUntilEnd:
        """Begins K codes for each context; see `TokenSteps`."""
        log_probs = self.going_on.log_probs
        return StepsUntilEnd(log_probs if self.batch_shape else log_probs.unsqueeze(0), samples)

    @property
    def mode(self) -> Tensor:
        """Greedy code: the likeliest symbol at each position, up to the first end. [B, T]."""
        return self.mask.close(self.going_on.mode)

    def token_logits(self, value: Tensor) -> Tensor:
        """Log-probabilities of every symbol given those before it. [*S, B, T] → [*S, B, T, V + 1], with gradient."""
        return until_end(self.going_on.log_probs, self.mask.before(value))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats; -inf where anything else stands behind an end. value [*S, B, T] → [*S, B]."""
        of_tokens = self.going_on.token_log_prob(value)  # [*S, B, T]
        behind = torch.where(value == self.mask.end, 0.0, -math.inf).to(of_tokens.dtype)
        return torch.where(self.mask.before(value), behind, of_tokens).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy, exact, in nats. [B]."""
        return -self.kl(0.0)

    def kl(self, log_probs: Tensor | float) -> Tensor:
        """KL to codes that go on by these log-probabilities [T, V + 1], exact, in nats; 0 gives minus the entropy. [B].

        Each position's term counts as often as a code goes on to it.
        """
        if isinstance(log_probs, Tensor):
            log_probs = log_probs.unsqueeze(-2)
        terms = tokenwise_kl(self.going_on.log_probs.unsqueeze(-2), log_probs)  # [B, T]
        return (self.log_survival.exp() * terms).sum(-1)

    def marginals(self) -> Tensor:
        """q(z_t|x) of each position. [B, T, V + 1]."""
        tokens = self.log_survival.exp().unsqueeze(-1) * self.going_on.log_probs[..., :-1].exp()
        rest = (1.0 - tokens.sum(-1, keepdim=True)).clamp_min(0.0)  # which rounding may make less
        return torch.cat((tokens, rest), dim=-1)


def independent_codes(logits: Tensor, mask: EndToken | None) -> FactorizedCategorical | FactorizedUntilEnd:
    """Independent tokens by their logits [B, T, V], up to the end where there is a mask by which codes end."""
    return FactorizedCategorical(logits) if mask is None else FactorizedUntilEnd(logits, mask)


class FactorizedPolicy(TokenEncoder):
    """Transformer policy whose tokens are independent given the datum (the published DAPS-NA).

    The patches are encoded; T learned queries attend to them and give each token's logits (with P = T, as published,
    the patches' own positions give the logits, and there are no queries). Called on observations
    [B, *observation_shape], gives a `FactorizedCategorical` of batch shape [B] and event shape [T].

    Args:
        observation_shape, num_tokens, options: see `TokenEncoder`, whose outputs are the logits.
        vocab_size: V.
        mask: where codes end by an `EndToken`, which V counts; the distribution is then a `FactorizedUntilEnd`.
    Raises:
        ValueError: a size is not positive, or num_heads does not divide embed_dim; the mask is another.
    References:
        Drolet et al. (2026), arXiv 2509.24716, appendix.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_tokens: int,
        vocab_size: int,
        *,
        mask: EndToken | None = None,
        **options: Any,
    ) -> None:
        check_code_sizes(num_tokens, vocab_size)
        super().__init__(observation_shape, num_tokens, vocab_size, **options)
        if mask is not None:
            check_ends(mask, num_tokens, vocab_size)
        self.vocab_size, self.mask = vocab_size, mask

    def forward(self, observation: Tensor) -> FactorizedCategorical | FactorizedUntilEnd:
        return independent_codes(super().forward(observation), self.mask)


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


def uniform_codes(
    num_tokens: int, vocab_size: int, mask: EndToken | None, device: torch.device | str | None = None
) -> UniformCodes | FactorizedUntilEnd:
    """Codes of which each symbol that the mask allows is as likely at each position: batch shape [], event shape [T].

    A code of L tokens that ends costs (L + 1)·log(V + 1) nats; of T tokens, or of the fewest, less.
    """
    if mask is None:
        return UniformCodes(num_tokens, vocab_size, device)
    return FactorizedUntilEnd(torch.zeros(num_tokens, vocab_size, device=device), mask)


class UniformPrior(nn.Module):
    """The uniform prior as a module: called without arguments, gives `UniformCodes`; where codes end, `uniform_codes`.

    A learned or structured prior is any module that gives, called the same way, a distribution of event shape [T].
    """

    def __init__(self, num_tokens: int, vocab_size: int, mask: EndToken | None = None) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        if mask is not None:
            check_ends(mask, num_tokens, vocab_size)
        self.num_tokens, self.vocab_size, self.mask = num_tokens, vocab_size, mask
        self._device = nn.Buffer(torch.empty(0), persistent=False)

    def forward(self) -> UniformCodes | FactorizedUntilEnd:
        return uniform_codes(self.num_tokens, self.vocab_size, self.mask, self._device.device)


@register_kl(FactorizedCategorical, UniformCodes)
def _kl_factorized_uniform(q: FactorizedCategorical, p: UniformCodes) -> Tensor:
    """KL(q(·|x) ‖ p) = T log V − H(q), exact, with gradient, in nats. [B]."""
    return p.entropy() - q.entropy()


@register_kl(FactorizedCategorical, FactorizedCategorical)
def _kl_factorized(q: FactorizedCategorical, p: FactorizedCategorical) -> Tensor:
    """KL(q(·|x) ‖ p), exact, with gradient, in nats. [B]."""
    return tokenwise_kl(q.log_probs, p.log_probs)


@register_kl(FactorizedUntilEnd, FactorizedUntilEnd)
def _kl_until_end(q: FactorizedUntilEnd, p: FactorizedUntilEnd) -> Tensor:
    """KL(q(·|x) ‖ p), exact, with gradient, in nats. [B]."""
    return q.kl(p.going_on.log_probs)
