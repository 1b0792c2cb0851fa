"""daps_rl.functional.bounds: the importance-weighted bound by enumeration, and the two bounds it lies between."""

import itertools
import math

import numpy as np
import pytest
import torch

from daps_rl.functional import beta_elbo, encoding_reward, importance_weighted_bound, kl_estimate
from daps_rl.functional.bounds import in_bits

F64 = torch.float64
V = 4  # codes of one token


def model(seed=0):
    """log p(x|z), log q(z|x) and log p(z) of one datum, for each of the V codes. float64 [V] each."""
    generator = torch.Generator().manual_seed(seed)
    log_likelihood = 2.0 * torch.randn(V, dtype=F64, generator=generator) - 3.0
    log_q = torch.log_softmax(torch.randn(V, dtype=F64, generator=generator), -1)
    return log_likelihood, log_q, torch.full((V,), -math.log(V), dtype=F64)


def bound_of(codes, log_likelihood, log_q, log_prior):
    return importance_weighted_bound(log_likelihood[codes], log_q[codes], log_prior[codes])


def expected_bound(samples, log_likelihood, log_q, log_prior):
    """E of the bound, by all V^K tuples of draws, in one call."""
    codes = torch.tensor(list(itertools.product(range(V), repeat=samples)))  # [V^K, K]
    return (log_q[codes].sum(-1).exp() * bound_of(codes, log_likelihood, log_q, log_prior)).sum()


def test_hand_numbers():
    """Weights p(x|z)·p(z)/q(z|x) of 2 and 6 in the first row, 1 and 1 in the second."""
    log_likelihood = torch.tensor([[8.0, 6.0], [4.0, 2.0]], dtype=F64).log()
    log_q = torch.tensor([[1.0, 0.25], [1.0, 0.5]], dtype=F64).log()
    log_prior = torch.full((2, 2), 0.25, dtype=F64).log()
    bound = importance_weighted_bound(log_likelihood, log_q, log_prior)
    torch.testing.assert_close(bound, torch.tensor([4.0, 1.0], dtype=F64).log())


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_expectation_by_enumeration(samples):
    """Against numpy, one tuple of codes at a time."""
    terms = model()
    log_likelihood, log_q, log_prior = (term.numpy() for term in terms)
    weight = np.exp(log_likelihood + log_prior - log_q)
    by_hand = sum(
        np.prod(np.exp(log_q[list(codes)])) * np.log(np.mean(weight[list(codes)]))
        for codes in itertools.product(range(V), repeat=samples)
    )
    assert expected_bound(samples, *terms).item() == pytest.approx(by_hand, abs=1e-12)


def test_it_grows_from_the_elbo_towards_the_evidence():
    log_likelihood, log_q, log_prior = terms = model()
    elbo = (log_q.exp() * beta_elbo(log_likelihood, kl_estimate(log_q, log_prior), 1.0)).sum()
    evidence = torch.logsumexp(log_likelihood + log_prior, 0)
    bounds = [expected_bound(samples, *terms) for samples in (1, 2, 3, 5)]
    torch.testing.assert_close(bounds[0], elbo)
    assert all(low < high for low, high in itertools.pairwise([*bounds, evidence]))


def test_with_the_true_posterior_every_draw_gives_the_evidence():
    log_likelihood, _, log_prior = model()
    evidence = torch.logsumexp(log_likelihood + log_prior, 0)
    codes = torch.tensor([[0, 3, 3], [1, 2, 0]])
    bound = bound_of(codes, log_likelihood, log_likelihood + log_prior - evidence, log_prior)
    torch.testing.assert_close(bound, evidence.expand(2))


def test_impossible_data_and_large_numbers():
    """A code of likelihood 0 counts as 0; nothing overflows."""
    zeros = torch.zeros(1, 2, dtype=F64)
    bound = importance_weighted_bound(torch.tensor([[-math.inf, 5000.0]], dtype=F64), zeros, zeros)
    assert bound.item() == pytest.approx(5000.0 - math.log(2.0))
    assert importance_weighted_bound(zeros - math.inf, zeros, zeros).item() == -math.inf


@pytest.mark.parametrize(("shape", "other"), [((3,), (3,)), ((2, 3), (2, 1)), ((2, 3, 1), (2, 3, 1))])
def test_shapes_are_checked(shape, other):
    with pytest.raises(ValueError, match="shape"):
        importance_weighted_bound(torch.zeros(shape), torch.zeros(other), torch.zeros(shape))


def test_the_two_halves_of_a_reward():
    """What an env pays, less β·log q, is the encoding reward."""
    log_likelihood, log_q, log_prior = model()
    completed = encoding_reward(log_likelihood, None, log_prior, 0.3) - 0.3 * log_q
    torch.testing.assert_close(completed, encoding_reward(log_likelihood, log_q, log_prior, 0.3))


def test_nats_in_bits():
    assert in_bits(math.log(8.0)) == pytest.approx(3.0)
    torch.testing.assert_close(in_bits(torch.tensor([0.0, math.log(2.0)])), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)])
def test_a_weight_of_zero_asks_nothing_of_the_prior(zero):
    """Also where that holds a code impossible; a weight above makes such a code -inf, and never NaN."""
    log_likelihood, log_q = torch.tensor([-3.0, -4.0]), torch.tensor([-1.0, -1.0])
    log_p = torch.tensor([-math.inf, -2.0])
    for action_log_prob in (None, log_q):
        reward = encoding_reward(log_likelihood, action_log_prob, log_p, zero, rate_weight=zero)
        assert torch.equal(reward, log_likelihood)
        assert encoding_reward(log_likelihood, action_log_prob, log_p, 0.5)[0] == -math.inf
        assert encoding_reward(log_likelihood, action_log_prob, log_p, zero, rate_weight=0.5)[0] == -math.inf
