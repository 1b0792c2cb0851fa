"""daps_rl.evaluation: mutual information of tokens and data, against enumeration."""

import math

import torch
from torch.nn import functional as F

from daps_rl.evaluation import TokenInformation, count_codes
from daps_rl.evaluation.codes import ACTIVE, marginals, token_probs
from daps_rl.policies import EndToken, FactorizedCategorical, FactorizedUntilEnd, PointCodes

T, V, N, K = 3, 4, 400, 16


def mutual_information(probs):
    """Σ_x Σ_v q(v|x)/N · log(q(v|x) / q(v)), by the definition. probs [N, T, V] → [T]."""
    joint = probs.double() / len(probs)
    frequency = joint.sum(0)
    return sum(
        torch.special.xlogy(row, row * len(probs)).sum(-1) - torch.special.xlogy(row, frequency).sum(-1)
        for row in joint
    )


def test_exact_probabilities_in_batches():
    probs = torch.softmax(2.0 * torch.randn(N, T, V), -1)
    information = TokenInformation()
    assert information.nats() is None
    for part in probs.split(150):
        information.add(part)
    torch.testing.assert_close(information.nats(), mutual_information(probs))


def test_of_a_bijection_it_is_the_logarithm_of_v():
    """Every datum's token is certain, and all V are as frequent."""
    codes = torch.arange(V).repeat(N // V)[:, None].expand(N, T)
    information = TokenInformation()
    information.add(marginals(PointCodes(codes), codes, V))
    torch.testing.assert_close(information.nats(), torch.full((T,), math.log(V), dtype=torch.float64))


def test_draws_whose_probabilities_are_known_come_close_and_not_above():
    """A position that depends on the datum strongly, weakly, and not at all."""
    logits = torch.randn(N, T, V) * torch.tensor([3.0, 0.5, 0.0])[:, None]
    posterior = FactorizedCategorical(logits)
    exact = mutual_information(posterior.log_probs.exp())
    information = TokenInformation()
    for part in logits.split(100):
        information.add_draws(torch.softmax(part, -1).expand(K, -1, -1, -1))
    got = information.nats()
    assert (got <= exact + 1e-6).all()
    assert (got > exact * 0.97 - 1e-6).all()
    assert (got > ACTIVE).tolist() == [True, True, False]


def test_noise_that_earlier_tokens_carry_is_no_information():
    """z_1 is noise and z_2 repeats it: given z_1 the second is certain, yet neither tells of the datum. z_3 does."""
    noise = torch.randint(V, (K, N))
    told = torch.arange(N) % V
    probs = torch.stack(
        (torch.full((K, N, V), 1.0 / V), F.one_hot(noise, V).float(), F.one_hot(told, V).float().expand(K, -1, -1)), 2
    )
    information = TokenInformation()
    information.add_draws(probs)
    nats = information.nats()
    assert (nats > ACTIVE).tolist() == [False, False, True]
    assert math.log(V) - 0.1 < nats[2] <= math.log(V)
    naive = TokenInformation()
    naive.add(probs.mean(0))
    assert naive.nats()[1] > 5 * ACTIVE  # the entropy of a mean of K draws would have called it active


def test_a_mixed_position_against_enumeration():
    """q(z_2|x) = Σ_{z_1} q(z_1) q(z_2|z_1, x), and draws know only q(z_2|z_1, x)."""
    table = torch.softmax(2.0 * torch.randn(2, N, V), -1)  # given z_1 in 0, 1
    exact = mutual_information(table.mean(0)[:, None]).item()
    first = torch.randint(2, (64, N))
    draws = table[first, torch.arange(N)]  # [K, N, V]
    information = TokenInformation()
    information.add_draws(draws[:, :, None])
    assert exact * 0.9 < information.nats().item() < exact


def test_posteriors_that_tell_nothing_but_draws():
    """Tokens alone, of a distribution without token probabilities: still below the truth, still above nothing."""
    logits = 3.0 * torch.randn(N, 1, V)
    posterior = FactorizedCategorical(logits)
    information = TokenInformation()
    information.add_draws(token_probs(posterior, posterior.sample((64,)), V))
    exact = mutual_information(posterior.log_probs.exp()).item()
    assert 0.8 * exact < information.nats().item() < exact


def test_count_codes():
    codes = torch.tensor([[[0, 2], [0, 1]], [[3, 2], [0, 2]]])
    assert count_codes(codes, 4).tolist() == [[3, 0, 0, 1], [0, 1, 3, 0]]


def test_rounding_makes_no_probability_negative():
    """Of an end token that may not stand yet; the entropy of a negative number is −inf."""
    torch.manual_seed(0)
    logits, codes = torch.randn(64, 4, 9), torch.zeros(64, 4, dtype=torch.int64)
    probs = marginals(FactorizedUntilEnd(logits, EndToken(8, 3)), codes, 9)
    exact = marginals(FactorizedUntilEnd(logits.double(), EndToken(8, 3)), codes, 9)
    torch.testing.assert_close(probs.double(), exact, atol=1e-6, rtol=0.0)
    information = TokenInformation()
    information.add(probs)
    assert information.nats().isfinite().all()
