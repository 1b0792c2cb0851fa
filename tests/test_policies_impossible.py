"""Tokens of probability 0: entropies and KLs stay exact, and their gradients finite, by enumeration in float64."""

from __future__ import annotations

import pytest
import torch
from problems import all_codes
from torch import Tensor, nn
from torch.distributions import kl_divergence

from daps_rl.agents.sb3.distributions import CodeDistribution
from daps_rl.functional import expectation, kl_estimate, tokenwise_kl
from daps_rl.objectives import GroupDistribution
from daps_rl.policies import AutoregressivePolicy, FactorizedCategorical, UniformCodes

B, T, V = 3, 2, 4
ALLOWED = torch.tensor([[True, True, False, True], [False, True, True, False]])  # [T, V]
CODES = all_codes(T, V)[:, None].expand(-1, B, -1)  # [C, B, T]


def make_logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, T, V, dtype=torch.float64, generator=generator).requires_grad_()


def masked(logits: Tensor) -> Tensor:
    return torch.where(ALLOWED, logits, -torch.inf)


def written_out(logits: Tensor, log_prior: Tensor) -> Tensor:
    """Σ_z q(z)·(log q(z) − log p(z)) over the 3 · 2 possible codes alone, for log p of every token [T, V]. [B]."""
    total = torch.zeros(B, dtype=torch.float64)
    of_tokens = [logits[:, t, ALLOWED[t]].log_softmax(-1) for t in range(T)]
    priors = [log_prior[t, ALLOWED[t]] for t in range(T)]
    for i in range(3):
        for j in range(2):
            log_q = of_tokens[0][:, i] + of_tokens[1][:, j]
            total = total + log_q.exp() * (log_q - priors[0][i] - priors[1][j])
    return total


def same_with_gradients(found: Tensor, expected: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    gradient, reference = (
        torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, expected)
    )
    torch.testing.assert_close(gradient, reference)


def test_entropy_of_a_factorised_distribution():
    logits = make_logits()
    posterior = FactorizedCategorical(masked(logits))
    exact = -written_out(logits, torch.zeros(T, V))
    same_with_gradients(posterior.entropy(), exact, logits)
    log_prob = posterior.log_prob(CODES)
    assert (log_prob == -torch.inf).sum() == B * (V**T - 6)
    same_with_gradients(expectation(log_prob, -log_prob), exact, logits)
    group = GroupDistribution(posterior, torch.Size([B, 5])).entropy()
    torch.testing.assert_close(group, exact[:, None].expand(B, 5))
    torch.testing.assert_close(CodeDistribution(posterior, (T,), exact_entropy=True).entropy(), exact)


@pytest.mark.parametrize("holes", [False, True])
def test_kl_to_a_prior_that_may_lack_the_same_tokens(holes):
    logits = make_logits()
    posterior = FactorizedCategorical(masked(logits))
    prior = torch.randn(T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_prior = (torch.where(ALLOWED, prior, -torch.inf) if holes else prior).log_softmax(-1)
    exact = written_out(logits, log_prior)
    same_with_gradients(tokenwise_kl(posterior.log_probs, log_prior), exact, logits)
    log_prob = posterior.log_prob(CODES)
    of_prior = log_prior[torch.arange(T), CODES].sum(-1)
    same_with_gradients(expectation(log_prob, kl_estimate(log_prob, of_prior)), exact, logits)


def test_kl_to_the_uniform_prior_and_to_one_that_lacks_a_token_of_the_policy():
    logits = make_logits()
    posterior = FactorizedCategorical(masked(logits))
    uniform = torch.full((T, V), 0.25, dtype=torch.float64).log()
    same_with_gradients(kl_divergence(posterior, UniformCodes(T, V)), written_out(logits, uniform), logits)
    uniform[0, 0] = -torch.inf
    assert (tokenwise_kl(posterior.log_probs, uniform) == torch.inf).all()


class Masking(nn.Linear):
    """A head that forbids token 2, whose logit has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.arange(V) == 2, -torch.inf, super().forward(x))


@pytest.mark.parametrize("options", [{"head": Masking(8, V)}, {"token_sizes": [3, 2]}])
def test_entropy_of_an_autoregressive_policy(options):
    torch.manual_seed(0)
    policy = AutoregressivePolicy((6,), T, V, embed_dim=8, num_heads=2, **options).double()
    posterior = policy(torch.rand(B, 6, dtype=torch.float64))
    log_prob = posterior.log_prob(CODES)
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(B, dtype=torch.float64))
    exact = expectation(log_prob, -log_prob)
    estimate = posterior.entropy(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, exact, atol=5e-3, rtol=0)  # five deviations of the mean
    estimate.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())
    assert (policy.transformer.embed.weight.grad != 0).any()
    drawn = posterior.draw((500,))
    assert drawn.log_prob.isfinite().all()
    torch.testing.assert_close(drawn.log_prob, posterior.log_prob(drawn.codes))
