"""What a posterior costs in nats, and how much its codes tell of the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence
from torch.nn import functional as F

from daps_rl.functional import expectation, kl_estimate, tokenwise_kl
from daps_rl.functional.checks import as_float
from daps_rl.policies import FactorizedCategorical, FactorizedUntilEnd

SCORED_AT_ONCE = 8192  # codes, by a posterior
ACTIVE = 0.01  # nats that a position's token tells of the datum, above which it counts as active


def kl_and_entropy(posterior: Distribution, prior: Distribution, codes: Tensor) -> dict[str, Tensor | None]:
    """KL(q(·|x) ‖ p) and the entropy of q(·|x), in nats, [B] each, without bias from codes drawn from it.

    Token by token where posterior and prior allow: each token's term is then exact given the tokens before it. The KL
    is exact where torch knows the pair; else both are the distribution's own, or estimates from −log q. Codes are
    [B, T], or continuous [B, T, E]; the prior has no batch shape. None for a posterior without log-probabilities.
    """
    exact = isinstance(posterior, FactorizedUntilEnd)  # says both itself
    log_probs = None if exact else conditional_log_probs(posterior, codes)
    kl, entropy = defined(lambda: kl_divergence(posterior, prior)), None
    if log_probs is not None:
        entropy = -tokenwise_kl(log_probs, torch.zeros_like(log_probs[0]))
        if kl is None and hasattr(prior, "token_log_probs"):
            kl = tokenwise_kl(log_probs, prior.token_log_probs)
        elif kl is None and (given := conditional_log_probs(prior, codes)) is not None:
            kl = tokenwise_kl(log_probs, given)
    if kl is None:
        kl = defined(lambda: kl_estimate(posterior.log_prob(codes), prior.log_prob(codes)))
    for quantity in (posterior.entropy, lambda: -posterior.log_prob(codes)):
        entropy = defined(quantity) if entropy is None else entropy
    return {"kl": kl, "entropy": entropy}


def defined(quantity: Callable[[], Tensor]) -> Tensor | None:
    """What a distribution says of itself, or None where it says that it is not defined."""
    try:
        return quantity()
    except NotImplementedError:
        return None


def conditional_log_probs(posterior: Distribution, codes: Tensor) -> Tensor | None:
    """log q of every token given those drawn before it, [..., B, T, V]; None where the posterior does not tell."""
    token_logits = getattr(posterior, "token_logits", None)
    return None if token_logits is None else torch.log_softmax(as_float(token_logits(codes)), dim=-1)


def marginals(posterior: Distribution, codes: Tensor, vocab_size: int) -> Tensor | None:
    """q(z_t|x) of each position, [B, T, V], where it has a closed form: independent tokens, and point masses."""
    if isinstance(posterior, FactorizedCategorical):
        return posterior.log_probs.exp()
    if isinstance(posterior, FactorizedUntilEnd):
        return posterior.marginals()
    point = defined(lambda: posterior.log_prob(codes)) is None
    return F.one_hot(codes, vocab_size).float() if point else None


def token_probs(posterior: Distribution, codes: Tensor, vocab_size: int) -> Tensor:
    """q(z_t|x) of each position as drawn codes tell it: given the tokens before, or, without those, the token itself.

    Codes [K, B, T] give [K, B, T, V], whose mean over K is unbiased.
    """
    log_probs = conditional_log_probs(posterior, codes)
    return F.one_hot(codes, vocab_size).float() if log_probs is None else log_probs.exp()


class AllCodes:
    """Every code [M, T] of a small code space, decoded once: means over q(z|x) without sampling.

    `at_once` is how many entries of [M, B, *x] may be in memory.
    """

    def __init__(self, decoder: Callable[[Tensor], Distribution], prior: Distribution, codes: Tensor, at_once: int):
        self.codes, self.prior_log_prob = codes[:, None], prior.log_prob(codes)[:, None]  # [M, 1, T], [M, 1]
        self.decoded = decoder(self.codes)
        self.at_once = at_once

    def expectations(self, posterior: Distribution, x: Tensor) -> dict[str, Tensor | None]:
        """Log-likelihood, KL and entropy over all codes weighted by q(z|x), in nats, [B] each, exact. x [B, *x].

        Empty for a posterior without log-probabilities.
        """
        parts = self.codes.expand(-1, len(x), -1).split(max(1, SCORED_AT_ONCE // len(x)))
        log_prob = defined(lambda: torch.cat([posterior.log_prob(part) for part in parts]))  # [M, B]
        if log_prob is None:
            return {}
        size = max(1, self.at_once // (len(self.codes) * x[0].numel()))
        log_likelihood = torch.cat([self.decoded.log_prob(part) for part in x.split(size)], dim=1)
        return {
            "log_likelihood": expectation(log_prob, log_likelihood.to(log_prob.dtype)),
            "kl": expectation(log_prob, kl_estimate(log_prob, self.prior_log_prob.expand_as(log_prob))),
            "entropy": expectation(log_prob, -log_prob),
        }


class TokenInformation:
    """Mutual information I(z_t; x) of each position's token and the datum, over a split.

    I = H(E_x q(z_t|x)) − E_x H(q(z_t|x)). Where q(z_t|x) is known only as the mean of K draws, the entropy of that
    mean is too small, and noise would look like information. Each draw's entropy is therefore taken against the mean
    of the datum's other draws, and of one more from the split's frequencies so far (so that nothing has probability
    0). Such a cross-entropy is in expectation never smaller: I comes out too small rather than too large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0  # Σ_x q(z_t|x), [T, V]
        self.conditional: Tensor | float = 0.0  # Σ_x H(z_t|x), [T]

    def add(self, exact: Tensor) -> None:
        """Takes in q(z_t|x) of a batch. [B, T, V]."""
        self._add(exact.double(), torch.special.entr(exact.double()))

    def add_draws(self, probs: Tensor) -> None:
        """Takes in `token_probs` of a batch. [K, B, T, V]."""
        probs = probs.double()
        mean = probs.mean(0)  # [B, T, V]
        frequency = (self.total + mean.sum(0)) / (self.count + mean.shape[0])  # [T, V]
        others = (probs.sum(0) - probs + frequency) / probs.shape[0]
        self._add(mean, -torch.special.xlogy(probs, others.clamp_min(torch.finfo(others.dtype).tiny)).mean(0))

    def _add(self, mean: Tensor, entropy: Tensor) -> None:
        """Both [B, T, V]."""
        self.count += mean.shape[0]
        self.total = self.total + mean.sum(0)
        self.conditional = self.conditional + entropy.sum((0, -1))

    def nats(self) -> Tensor | None:
        """I(z_t; x), [T]; None before any data."""
        if not isinstance(self.total, Tensor):
            return None
        return torch.special.entr(self.total / self.count).sum(-1) - self.conditional / self.count


def count_codes(codes: Tensor, vocab_size: int) -> Tensor:
    """How often each position used each code. codes [..., T] → [T, V], int64."""
    tokens = codes.reshape(-1, codes.shape[-1])
    offsets = torch.arange(tokens.shape[1], device=tokens.device) * vocab_size
    flat = (tokens + offsets).flatten()
    # Not bincount: that one asks a GPU for the largest entry, and waits.
    counts = torch.zeros(tokens.shape[1] * vocab_size, dtype=torch.int64, device=tokens.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat)).view(-1, vocab_size)
