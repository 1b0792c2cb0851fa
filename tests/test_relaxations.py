"""Relaxations: right draws forward, the gradient that the papers state backward."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from daps_rl.functional import gumbel_rao, gumbel_softmax, reinmax, straight_through, tokenwise_kl
from daps_rl.policies import AutoregressivePolicy, FactorizedPolicy
from daps_rl.priors import UniformCodes

RELAXATIONS = {
    "gumbel": lambda logits, generator: gumbel_softmax(logits, 0.7, generator),
    "rao": lambda logits, generator: gumbel_rao(logits, 0.7, 5, generator),
    "reinmax": lambda logits, generator: reinmax(logits, 1.3, generator),
}
each = pytest.mark.parametrize("relax", RELAXATIONS.values(), ids=RELAXATIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_straight_through_is_exact_forward_and_soft_backward():
    hard, soft = torch.tensor([0.0, 1.0]), torch.tensor([0.3, 0.1], requires_grad=True)
    out = straight_through(hard, soft)
    assert out.tolist() == [0.0, 1.0]
    (out * torch.tensor([2.0, 5.0])).sum().backward()
    assert soft.grad.tolist() == [2.0, 5.0]


@each
def test_tokens_are_one_hot_and_drawn_from_the_softmax(relax):
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    drawn = relax(logits.expand(20_000, 4), seeded())
    assert ((drawn == 0) | (drawn == 1)).all()
    assert (drawn.sum(-1) == 1).all()
    # Standard error of a frequency is at most 0.0036.
    torch.testing.assert_close(drawn.mean(0), torch.softmax(logits, -1), atol=0.015, rtol=0)


@each
def test_tokens_of_probability_zero_never_come_and_leave_gradients_finite(relax):
    logits = torch.tensor([0.0, -math.inf, 1.0, -200.0]).expand(500, 4).clone().requires_grad_()
    drawn = relax(logits, seeded())
    assert drawn[:, [1, 3]].sum() == 0
    (drawn * torch.randn(500, 4, generator=seeded(1))).sum().backward()
    assert logits.grad.isfinite().all()


def test_gumbel_gradient_is_that_of_the_tempered_softmax_at_the_noise_it_drew():
    logits = torch.randn(6, 5, dtype=torch.float64, generator=seeded(3))
    weight = torch.randn(6, 5, dtype=torch.float64, generator=seeded(4))
    one = logits.clone().requires_grad_()
    (gumbel_softmax(one, 0.5, seeded(7)) * weight).sum().backward()
    noise = -(-torch.log1p(-torch.rand(6, 5, dtype=torch.float64, generator=seeded(7)))).log()
    other = logits.clone().requires_grad_()
    (torch.softmax((other + noise) / 0.5, -1) * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_rao_averages_the_gumbel_gradient_given_the_token():
    # The law of total expectation: GR-MCK and plain Gumbel have the same mean gradient, and GR-MCK less variance.
    logits, n = torch.tensor([0.4, -0.3, 0.1]), 40_000
    weight = torch.tensor([1.0, -2.0, 0.5])

    def gradients(relax):
        leaf = logits.expand(n, 3).clone().requires_grad_()
        (relax(leaf) * weight).sum().backward()
        return leaf.grad

    plain = gradients(lambda leaf: gumbel_softmax(leaf, 0.6, seeded(1)))
    rao = gradients(lambda leaf: gumbel_rao(leaf, 0.6, 10, seeded(2)))
    error = 4 * plain.std(0) / math.sqrt(n)
    assert ((plain.mean(0) - rao.mean(0)).abs() < 2 * error).all()
    assert (rao.var(0) < 0.9 * plain.var(0)).all()


def test_rao_noise_is_gumbel_noise_given_its_argmax():
    # With the token drawn as it is, the conditional noise must have the unconditional law: mean of the Gumbel, 0.5772.
    logits = torch.tensor([1.2, 0.0, -0.7], dtype=torch.float64)
    seen = []
    original = torch.softmax
    torch.softmax = lambda x, dim: seen.append(x) or original(x, dim)
    try:
        gumbel_rao(logits.expand(50_000, 3), 1.0, 1, seeded(5))
    finally:
        torch.softmax = original
    noise = seen[0][0] - torch.log_softmax(logits, -1)
    torch.testing.assert_close(noise.mean(0), torch.full((3,), 0.5772, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.var(0), torch.full((3,), math.pi**2 / 6, dtype=torch.float64), atol=0.06, rtol=0)


def test_reinmax_gradient_is_the_papers():
    # Algorithm 2 written out: 2·J(π₁)ᵀg − J(π₀)ᵀg / 2 with J(π) = diag(π) − ππᵀ.
    logits = torch.randn(4, 5, dtype=torch.float64, generator=seeded(3))
    weight = torch.randn(4, 5, dtype=torch.float64, generator=seeded(4))
    leaf = logits.clone().requires_grad_()
    drawn = reinmax(leaf, 1.0, seeded(8))
    (drawn * weight).sum().backward()
    first = torch.softmax(logits, -1)
    mean = (first + drawn.detach()) / 2

    def through(p):
        return p * weight - p * (p * weight).sum(-1, keepdim=True)

    torch.testing.assert_close(leaf.grad, 2 * through(mean) - 0.5 * through(first))


def test_reinmax_is_exact_for_quadratic_rewards_where_straight_through_is_not():
    # f(one-hot) quadratic: the second-order estimator's mean gradient equals that of E f, by enumeration.
    logits = torch.tensor([0.8, -0.5, 0.2], dtype=torch.float64)
    target = torch.tensor([0.9, -0.2, 0.4], dtype=torch.float64)

    def reward(z):
        return -((z - target) ** 2).sum(-1)

    leaf = logits.clone().requires_grad_()
    (torch.softmax(leaf, -1) * reward(torch.eye(3, dtype=torch.float64))).sum().backward()
    many = logits.expand(200_000, 3).clone().requires_grad_()
    reward(reinmax(many, 1.0, seeded(1))).sum().backward()
    error = 5 * many.grad.std(0) / math.sqrt(len(many))
    assert ((many.grad.mean(0) - leaf.grad).abs() < error).all()


def test_tokenwise_kl_is_torchs():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=seeded())
    prior = torch.randn(4, 5, dtype=torch.float64, generator=seeded(1)).log_softmax(-1)
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=prior.expand_as(logits))).sum(-1)
    torch.testing.assert_close(tokenwise_kl(logits.log_softmax(-1), prior), expected)
    masked = torch.where(torch.arange(5) == 2, -math.inf, logits).log_softmax(-1)
    assert tokenwise_kl(masked, prior).isfinite().all()


def test_exact_kl_of_a_factorized_posterior_is_registered():
    torch.manual_seed(0)
    posterior = FactorizedPolicy((6,), 3, 4, embed_dim=8, num_heads=2)(torch.rand(2, 6))
    grid = torch.cartesian_prod(*[torch.arange(4)] * 3)[:, None].expand(-1, 2, -1)
    log_prob = posterior.log_prob(grid)
    expected = (log_prob.exp() * (log_prob + 3 * math.log(4))).sum(0)
    torch.testing.assert_close(kl_divergence(posterior, UniformCodes(3, 4)), expected)


@pytest.mark.parametrize("cls", [AutoregressivePolicy, FactorizedPolicy])
def test_relaxed_codes_carry_the_log_probabilities_of_their_own_prefixes(cls):
    torch.manual_seed(0)
    policy = cls((6,), 3, 4, embed_dim=8, num_heads=2)
    posterior = policy(torch.rand(2, 6))
    drawn = posterior.relaxed_sample(lambda logits: gumbel_softmax(logits, 1.0), 5)
    assert drawn.one_hot.shape == drawn.log_probs.shape == (2, 5, 3, 4)
    codes = drawn.one_hot.argmax(-1)
    chosen = (drawn.log_probs * drawn.one_hot).sum((-2, -1))
    torch.testing.assert_close(chosen, posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1))


def test_an_early_token_feels_what_the_late_ones_lead_to():
    # The gradient runs through every drawn token: a reward of the last one alone reaches the start embedding's logits.
    torch.manual_seed(0)
    policy = AutoregressivePolicy((6,), 3, 4, embed_dim=8, num_heads=2)
    drawn = policy(torch.rand(2, 6)).relaxed_sample(lambda logits: gumbel_softmax(logits, 1.0), 2)
    first = drawn.log_probs[:, :, 0]
    (gradient,) = torch.autograd.grad(
        (drawn.one_hot[:, :, 2] * torch.randn(4)).sum(), policy.transformer.embed.weight, retain_graph=True
    )
    assert gradient.abs().sum() > 0
    assert first.requires_grad
