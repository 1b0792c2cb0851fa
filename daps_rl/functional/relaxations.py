"""Drawing of tokens: by one uniform number each, and by relaxations, which DAPS is compared with.

A relaxation draws one-hot tokens [..., V] for logits [..., V] (unnormalised log-probabilities) at a temperature τ > 0.
Its backward pass is that of something soft. All are biased but for the forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = torch.finfo(torch.float32).tiny
_LEAST = -80.0  # in nats; a token that never comes may have minus infinity, which the noise must not meet


def draw_categorical(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draws by inverting the cumulative distribution: the first token whose cumulative probability exceeds u.

    One uniform per draw in place of V Gumbel or exponential variables. A token of probability zero is never drawn.
    probs [..., V] are not negative and need not be normalised, uniform [..., n] is in [0, 1) → int64 [..., n].
    """
    cumulative = probs.cumsum(-1)
    total = cumulative[..., -1:]
    # u · total can round up to total, past the last token that has any probability.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).clamp_(max=probs.shape[-1] - 1)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` forward, exactly, and the gradient of `soft` backward. The same shape."""
    return hard + (soft - soft.detach())


def gumbel_softmax(logits: Tensor, temperature: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
    """Straight-through Gumbel-Softmax: one-hot(argmax(l + G)) forward, softmax((l + G) / τ) backward.

    References:
        Jang et al. (2017), Categorical reparameterization with Gumbel-Softmax; Maddison et al. (2017).
    """
    perturbed = logits - _exponential(logits.shape, logits, generator).log()
    soft = torch.softmax(perturbed / temperature, dim=-1)
    return straight_through(_one_hot(perturbed.argmax(-1), logits), soft)


def gumbel_rao(
    logits: Tensor, temperature: Tensor | float, num_samples: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    """Rao-Blackwellised straight-through Gumbel-Softmax (GR-MCK): the soft part averaged over noise given the token.

    The token D is drawn once. Given it, the perturbed logits are, with independent E_i ~ Exp(1) and Z = Σ exp(l),
    −log(E_D / Z) at D and −log(E_i / exp(l_i) + E_D / Z) elsewhere: num_samples draws of them are averaged.

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the straight-through Gumbel-Softmax gradient estimator.
    """
    log_probs = torch.log_softmax(logits, dim=-1)  # so that Z = 1
    token = _draw(log_probs, generator)
    hard = _one_hot(token, logits)
    exponential = _exponential((num_samples, *logits.shape), logits, generator)  # [n, ..., V]
    of_token = exponential.gather(-1, token.expand(num_samples, *token.shape).unsqueeze(-1))  # [n, ..., 1]
    with torch.no_grad():
        finite = log_probs.clamp_min(_LEAST)
        conditional = torch.where(hard.bool(), -of_token.log(), -(exponential * (-finite).exp() + of_token).log())
        noise = conditional - finite  # held fixed: the gradient is that of the logits it is added to
    soft = torch.softmax((log_probs + noise) / temperature, dim=-1).mean(0)
    return straight_through(hard, soft)


def reinmax(logits: Tensor, temperature: Tensor | float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """ReinMax: a straight-through estimator of second order (Heun's method in place of Euler's).

    With D ~ softmax(l), π₀ = softmax(l), π₁ = (D + softmax(l / τ)) / 2: the backward pass is that of
    2·softmax(l + const) at π₁ minus π₀ / 2. The temperature is of the gradient alone.

    References:
        Liu et al. (2023), Bridging discrete and backpropagation: straight-through and beyond, algorithm 2.
    """
    hard = _one_hot(_draw(torch.log_softmax(logits, dim=-1), generator), logits)
    mean = (hard + torch.softmax(logits / temperature, dim=-1)) / 2
    shift = (mean.clamp_min(_SMALLEST).log() - logits.clamp_min(_LEAST)).detach()
    soft = 2.0 * torch.softmax(shift + logits, dim=-1) - 0.5 * torch.softmax(logits, dim=-1)
    return straight_through(hard, soft)


def _exponential(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Exp(1) variables, never 0: −log(1 − u) of uniform ones, which torch draws six times as fast on a CPU."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    uniform = torch.rand(shape, generator=generator, dtype=dtype, device=like.device)  # multiples of half its epsilon
    return uniform.clamp_min_(torch.finfo(dtype).eps / 4).neg_().log1p_().neg_().to(like.dtype)


def _draw(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tokens from log-probabilities, by Gumbel noise. [..., V] → [...]."""
    return (log_probs - _exponential(log_probs.shape, log_probs, generator).log()).argmax(-1)


def _one_hot(token: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(-1, token.unsqueeze(-1), 1.0)


def tokenwise_kl(log_probs: Tensor, prior_log_probs: Tensor | float) -> Tensor:
    """Σ_t KL(q(· | z_<t, x) ‖ p_t), each term exact given the tokens before it, with gradient, in nats.

    Exact for a factorised posterior; for an autoregressive one its mean over drawn codes is KL(q ‖ p), with less
    variance than log q − log p has. The prior's tokens are independent; 0 for it gives minus the entropy.
    [..., T, V] and [T, V] → [...].
    """
    possible = log_probs > -torch.inf  # a token that may not stand here adds nothing, whatever the prior says of it
    return (log_probs.exp() * torch.where(possible, log_probs - prior_log_probs, 0.0)).sum((-2, -1))
