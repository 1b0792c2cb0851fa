"""Rewards, bounds and how much of a code is used.

Log-probabilities, rewards and KLs are in nats; what goes in together is of one shape, else a ValueError is raised, and
the result has that shape where nothing else is said.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from daps_rl.functional.checks import check_matrix, check_same_shape
from daps_rl.functional.verdicts import VerdictTerms

Number = TypeVar("Number", float, Tensor)


def kl_estimate(action_log_prob: Tensor, prior_log_prob: Tensor) -> Tensor:
    """One-sample estimate of KL(q(·|x) ‖ p): log q(z|x) − log p(z) of a code z drawn from q. Unbiased."""
    check_same_shape(action_log_prob=action_log_prob, prior_log_prob=prior_log_prob)
    return action_log_prob - prior_log_prob


def beta_elbo(log_likelihood: Tensor, kl: Tensor, beta: Tensor | float) -> Tensor:
    """log p(x|z) − β·KL(q(·|x) ‖ p), exact or estimated: one sample of the β-ELBO, whose mean is the objective."""
    check_same_shape(log_likelihood=log_likelihood, kl=kl)
    return log_likelihood - _weighed(beta, kl)


def _weighed(weight: Tensor | float, nats: Tensor) -> Tensor:
    """Nats times a weight; one of 0 leaves out what is infinite too, as of a code that the prior holds impossible."""
    return torch.where(nats.isinf() & (weight == 0), 0.0, weight * nats)


def encoding_reward(
    log_likelihood: Tensor,
    action_log_prob: Tensor | None,
    prior_log_prob: Tensor,
    beta: Tensor | float,
    verdicts: VerdictTerms | None = None,
    rate_weight: Tensor | float = 0.0,
    price: Tensor | None = None,
) -> Tensor:
    """The bandit's reward; larger is better.

    R(x, z) = log p(x|z) + Σ_j w_j·v_j(x, z) − β·(log q(z|x) − log p(z)) + λ·log p(z).

    The one place where what a code is worth is put together, in nats. An environment that does not see log q hands None
    for it and gets the rest with + β·log p(z), which `complete_reward` completes, once, where log q is known.

    Args:
        log_likelihood: log p(x|z), or any other score of the code, in nats. Any shape.
        action_log_prob: log q(z|x) with which the code was drawn; or None.
        prior_log_prob: log p(z).
        beta: weight of the KL to the prior.
        verdicts: what else the code is worth: scores v [J, ...] and their weights w [J]; nothing if None.
        rate_weight: λ, in nats of log-likelihood per nat of the code's length −log p(z) as a coder writes it.
        price: what its tokens cost, the number of them times a price; nothing if None.
    """
    if price is not None:
        check_same_shape(log_likelihood=log_likelihood, price=price)
        log_likelihood = log_likelihood - price
    if verdicts is not None:
        scores, weights = (value.to(log_likelihood) for value in verdicts)
        check_same_shape(log_likelihood=log_likelihood, **{f"verdict {j}": v for j, v in enumerate(scores)})
        log_likelihood = log_likelihood + (weights.view(-1, *[1] * log_likelihood.ndim) * scores).sum(0)
    check_same_shape(log_likelihood=log_likelihood, prior_log_prob=prior_log_prob)
    if isinstance(rate_weight, Tensor) or rate_weight:
        log_likelihood = log_likelihood + _weighed(rate_weight, prior_log_prob)
    if action_log_prob is None:
        return log_likelihood + _weighed(beta, prior_log_prob)
    return beta_elbo(log_likelihood, kl_estimate(action_log_prob, prior_log_prob), beta)


def complete_reward(reward: Tensor, action_log_prob: Tensor, beta: Tensor | float) -> Tensor:
    """Completes a reward that an environment gave without seeing log q, log p(x|z) + β·log p(z): minus β·log q(z|x).

    The result is `encoding_reward`, where beta is the environment's own at that step.
    """
    check_same_shape(reward=reward, action_log_prob=action_log_prob)
    return reward - beta * action_log_prob


def importance_weighted_bound(log_likelihood: Tensor, action_log_prob: Tensor, prior_log_prob: Tensor) -> Tensor:
    """Importance-weighted bound, log (1/K) Σ_k p(x|z_k) p(z_k) / q(z_k|x) with z_k drawn from q(·|x), in nats.

    In expectation between the ELBO (K = 1) and log p(x), which it reaches as K grows: the nearer, the better the codes
    cover the posterior of the model. [B, K] each → [B] (Burda, Grosse, Salakhutdinov, 2016, Importance weighted
    autoencoders, eq. 8).
    """
    check_matrix("log_likelihood", log_likelihood)
    log_weights = encoding_reward(log_likelihood, action_log_prob, prior_log_prob, 1.0)
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def in_bits(nats: Number) -> Number:
    """Nats in bits: −log p(z) so is what a coder needs for z in a file."""
    return nats / math.log(2.0)


def optimality_gap(reward: Tensor, best: Tensor) -> Tensor:
    """(best − reward) / |best|: how far a decision is from the best one, as a share of its reward; 0 at the best."""
    check_same_shape(reward=reward, best=best)
    return (best - reward) / best.abs()


def expectation(log_prob: Tensor, values: Tensor) -> Tensor:
    """Σ_z q(z)·f(z) over all values of z, enumerated; what is impossible counts nothing, whatever f says there.

    Args:
        log_prob: log q(z) of each of the M values of z, in nats. [M, ...].
        values: f(z). The same shape.
    Returns:
        [...], in the unit of f.
    """
    check_same_shape(log_prob=log_prob, values=values)
    prob = log_prob.exp()
    return (prob * torch.where(prob > 0, values, 0.0)).sum(0)


def code_usage(counts: Tensor) -> Tensor:
    """Share of the V codes that a position used at least once in a split, averaged over positions. [T, V] → []."""
    return (counts > 0).float().mean()


def code_perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of each position's codes over a whole split: 1 (one code) … V (all alike). [T, V] → [T]."""
    frequency = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(frequency).sum(-1).exp()
