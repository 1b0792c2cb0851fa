"""daps_rl.policies: every policy's distribution against the enumeration of all V^T codes."""

import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import Categorical, Independent

from daps_rl.functional import kl_estimate
from daps_rl.policies import AutoregressivePolicy, FactorizedCategorical, FactorizedPolicy, draw, score_drawn
from daps_rl.priors import UniformCodes

F64 = torch.float64
B, T, V, P = 2, 3, 4, 6
SHAPE = (1, 6, 6)
SIZES = {"embed_dim": 16, "num_heads": 2}
CROSS = {"aligned_patches": False, **SIZES}  # as published: the code reads the datum by cross-attention alone
ALIGNED = {"aligned_patches": True, **SIZES}
KINDS = {
    "autoregressive": lambda: AutoregressivePolicy(SHAPE, T, V, **CROSS),
    "autoregressive-two-layers": lambda: AutoregressivePolicy(SHAPE, T, V, num_layers=1, num_code_layers=2, **CROSS),
    "autoregressive-patches": lambda: AutoregressivePolicy(SHAPE, T, V, num_patches=P, **CROSS),
    "autoregressive-own-encoder": lambda: AutoregressivePolicy(SHAPE, T, V, encoder=own_encoder(), **CROSS),
    "aligned": lambda: AutoregressivePolicy(SHAPE, T, V, **ALIGNED),
    "aligned-patches": lambda: AutoregressivePolicy(SHAPE, T, V, num_patches=P, **ALIGNED),
    "aligned-own-encoder": lambda: AutoregressivePolicy(SHAPE, T, V, encoder=own_encoder(), **ALIGNED),
    "factorized": lambda: FactorizedPolicy(SHAPE, T, V, **SIZES),
    "factorized-patches": lambda: FactorizedPolicy(SHAPE, T, V, num_patches=P, **SIZES),
    "factorized-own-encoder": lambda: FactorizedPolicy(SHAPE, T, V, encoder=own_encoder(), **SIZES),
}
AUTOREGRESSIVE = [kind for kind in KINDS if not kind.startswith("factorized")]
FACTORIZED = [kind for kind in KINDS if kind.startswith("factorized")]


def own_encoder():
    """[B, 1, 6, 6] → [B, 5, 16]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5 * 16), nn.Unflatten(1, (5, 16)))


def make_policy(kind):
    """In float64, with weights large enough that tokens' probabilities differ, by datum and by the tokens before."""
    torch.manual_seed(1)
    policy = KINDS[kind]().double()
    for name, parameter in policy.named_parameters():
        if name.endswith(("embed.weight", "cross.out.weight")):
            nn.init.normal_(parameter, std=1.0)
        elif name.endswith("head.weight"):
            nn.init.normal_(parameter, std=0.4)
    return policy


def data(count=B):
    return 2.0 * torch.randn(count, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(1))


def all_codes():
    """[V^T, T], in the order of a [V, V, V] table."""
    return torch.cartesian_prod(*[torch.arange(V)] * T)


def table(distribution):
    """log q of every code, [B, V, V, V]."""
    codes = all_codes()[:, None].expand(-1, *distribution.batch_shape, -1)  # [V^T, B, T]
    return distribution.log_prob(codes).T.reshape(-1, *[V] * T).detach()


def conditional_entropy_sums(log_table):
    """Σ_t H(q(· | z_<t)) of every code by marginals of the table. [B, V, V, V] → the same shape."""
    probs = log_table.exp()
    total = torch.zeros_like(probs)
    for t in range(T):
        later = tuple(range(t + 2, T + 1))
        joint = probs.sum(later, keepdim=True) if later else probs  # q(z_1 … z_t+1)
        conditional = joint / joint.sum(t + 1, keepdim=True)
        total = total + torch.special.entr(conditional).sum(t + 1, keepdim=True)
    return total


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# One distribution, however it is looked at


def test_probabilities_of_all_codes_sum_to_one(kind):
    log_table = table(make_policy(kind)(data()))
    torch.testing.assert_close(log_table.exp().sum((1, 2, 3)), torch.ones(B, dtype=F64), rtol=1e-9, atol=0)
    assert log_table.exp().std() > 0.5 / V**T  # far from uniform, or the tests below could not tell


def test_sample_frequencies_are_the_probabilities(kind):
    """Chi-square of 20 000 draws per context; with a fresh seed each test would fail once in 5 000 runs."""
    distribution = make_policy(kind)(data())
    codes = distribution.sample((20_000,), generator=torch.Generator().manual_seed(3))
    expected = 20_000 * table(distribution).exp().flatten(1)
    flat = (codes * torch.tensor([V * V, V, 1])).sum(-1)  # [20000, B]
    for b in range(B):
        counts = torch.bincount(flat[:, b], minlength=V**T)
        common = expected[b] >= 5.0
        pooled_counts = [*counts[common].tolist(), counts[~common].sum().item()]
        pooled = [*expected[b, common].tolist(), expected[b, ~common].sum().item()]
        if pooled[-1] < 5.0:
            pooled_counts[-2:], pooled[-2:] = [sum(pooled_counts[-2:])], [sum(pooled[-2:])]
        assert scipy.stats.chisquare(pooled_counts, pooled).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sampled_log_probability_is_the_rescored_one(kind, dtype):
    distribution = make_policy(kind).to(dtype)(data().to(dtype))
    codes, log_prob = draw(distribution, (50, 2))
    assert codes.shape == (50, 2, B, T)
    assert log_prob.dtype == dtype
    assert (codes == 0).any()
    torch.testing.assert_close(
        log_prob, distribution.log_prob(codes).detach(), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12
    )


def test_mode_is_greedy(kind):
    distribution = make_policy(kind)(data(12))
    probs = table(distribution).exp()
    rows = torch.arange(12)
    first = probs.sum((2, 3)).argmax(-1)
    second = probs[rows, first].sum(-1).argmax(-1)
    third = probs[rows, first, second].argmax(-1)
    assert torch.equal(distribution.mode, torch.stack((first, second, third), -1))
    assert len(distribution.mode.unique(dim=0)) > 1


def test_shared_encodings_score_k_codes_as_k_separate_calls_do(kind, monkeypatch):
    policy, x = make_policy(kind), data()
    codes = policy(x).sample((5,))
    together = policy(x).log_prob(codes)
    separate = torch.stack([policy(x).log_prob(one) for one in codes])
    assert together.shape == (5, B)
    torch.testing.assert_close(together, separate)
    alone = torch.stack([policy(x[b : b + 1]).log_prob(codes[:, b : b + 1])[:, 0] for b in range(B)], -1)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(policy(x).log_prob(codes[:4].view(2, 2, B, T)), together[:4].view(2, 2, B))
    monkeypatch.setattr("daps_rl.policies.code_transformer.CPU_TOKENS", 1)
    torch.testing.assert_close(policy(x).log_prob(codes), together)


def test_different_contexts_give_different_distributions(kind):
    log_table = table(make_policy(kind)(data()))
    assert (log_table[0] - log_table[1]).abs().max() > 0.05


def test_same_generator_same_codes(kind):
    distribution = make_policy(kind)(data())
    first, again, other = (distribution.sample((6,), generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Entropy and KL


@pytest.mark.parametrize("kind", FACTORIZED, indirect=True)
def test_entropy_of_a_factorised_policy_is_exact(kind):
    distribution = make_policy(kind)(data())
    probs = table(distribution).exp()
    expected = torch.special.entr(probs).sum((1, 2, 3))
    torch.testing.assert_close(distribution.entropy().detach(), expected)
    logits = distribution.log_probs.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: FactorizedCategorical(x).entropy(), logits)


@pytest.mark.parametrize("kind", AUTOREGRESSIVE, indirect=True)
def test_entropy_of_an_autoregressive_policy_is_an_unbiased_estimate(kind):
    """Within 4.5 standard errors, known by enumeration; with a fresh seed it would fail once in 70 000 runs."""
    samples = 4_000
    distribution = make_policy(kind)(data())
    log_table = table(distribution)
    terms = conditional_entropy_sums(log_table)
    exact = torch.special.entr(log_table.exp()).sum((1, 2, 3))
    torch.testing.assert_close((log_table.exp() * terms).sum((1, 2, 3)), exact)
    variance = (log_table.exp() * terms.square()).sum((1, 2, 3)) - exact.square()
    estimate = distribution.entropy(samples, generator=torch.Generator().manual_seed(4)).detach()
    assert ((estimate - exact).abs() < 4.5 * (variance / samples).sqrt() + 1e-12).all()


def test_kl_to_the_uniform_prior_is_estimated_without_bias(kind):
    """Within 4.5 standard errors, known by enumeration; with a fresh seed it would fail once in 70 000 runs."""
    samples = 8_000
    distribution, prior = make_policy(kind)(data()), UniformCodes(T, V)
    log_table = table(distribution)
    ratio = log_table + T * math.log(V)
    exact = (log_table.exp() * ratio).sum((1, 2, 3))
    variance = (log_table.exp() * ratio.square()).sum((1, 2, 3)) - exact.square()
    torch.manual_seed(2)
    codes, log_prob = draw(distribution, (samples,))
    estimate = kl_estimate(log_prob, prior.log_prob(codes)).mean(0)
    assert ((estimate - exact).abs() < 4.5 * (variance / samples).sqrt()).all()
    assert (exact > 0.1).all()


# Causality and tokens


@pytest.mark.parametrize("kind", AUTOREGRESSIVE, indirect=True)
def test_no_token_sees_itself_or_those_after_it(kind):
    distribution = make_policy(kind)(data())
    codes = distribution.sample()
    before = distribution.token_logits(codes)
    for t in range(T):
        changed = codes.clone()
        changed[:, t] = (changed[:, t] + 1) % V
        after = distribution.token_logits(changed)
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], rtol=0, atol=1e-12)
        if t + 1 < T:
            assert ((after - before)[:, t + 1 :].abs().amax((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("kind", AUTOREGRESSIVE, indirect=True)
def test_token_zero_is_a_token_like_any_other(kind):
    """Renaming the tokens everywhere in the network renames them in the codes, token 0 included."""
    policy, x = make_policy(kind), data()
    before = table(policy(x))
    net, order = policy.transformer, torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter in (net.embed.weight, net.head.weight, net.head.bias):
            parameter.copy_(parameter[order].clone())
    renamed = before[:, order][:, :, order][:, :, :, order]
    torch.testing.assert_close(table(policy(x)), renamed)
    assert (before - renamed).abs().max() > 0.1


# Tokens of different sizes

TOKEN_SIZES = (2, 4, 1)


def make_sized(token_sizes=TOKEN_SIZES):
    torch.manual_seed(1)
    policy = AutoregressivePolicy(SHAPE, T, V, token_sizes=token_sizes, **ALIGNED).double()
    nn.init.normal_(policy.transformer.head.weight, std=0.4)
    return policy


def test_tokens_above_a_positions_size_have_probability_zero_and_the_rest_sum_to_one():
    distribution = make_sized()(data())
    probs = table(distribution).exp()
    assert (probs[:, 2:] == 0).all()
    assert (probs[:, :, :, 1:] == 0).all()
    torch.testing.assert_close(probs[:, :2, :, :1].sum((1, 2, 3)), torch.ones(B, dtype=F64), rtol=1e-9, atol=0)
    assert probs[:, :2, :, 0].min() > 0
    codes, log_prob = distribution.draw((2_000,), torch.Generator().manual_seed(1))
    assert codes.amax((0, 1)).tolist() == [1, 3, 0]
    torch.testing.assert_close(log_prob, distribution.log_prob(codes).detach(), rtol=0, atol=1e-12)
    assert (distribution.mode < torch.tensor(TOKEN_SIZES)).all()


def test_entropy_and_its_gradient_are_finite_with_tokens_of_different_sizes():
    """Within 4.5 standard errors, known by enumeration."""
    policy, samples = make_sized(), 4_000
    distribution = policy(data())
    log_table = table(distribution)
    exact = torch.special.entr(log_table.exp()).sum((1, 2, 3))
    estimate = distribution.entropy(samples, torch.Generator().manual_seed(2))
    probs = log_table.exp()
    conditionals = [probs.sum((2, 3)), probs.sum(3) / probs.sum((2, 3))[..., None]]  # the last token is certain
    terms = torch.special.entr(conditionals[0]).sum(1)[:, None] + torch.special.entr(conditionals[1].nan_to_num()).sum(
        2
    )
    variance = (probs.sum((2, 3)) * terms.square()).sum(1) - exact.square()
    assert ((estimate - exact).abs() < 4.5 * (variance / samples).clamp_min(0).sqrt() + 1e-9).all()
    assert (exact > 0.5).all()
    (estimate.sum() + distribution.log_prob(distribution.sample((3,))).sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())
    assert policy.transformer.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sizes", [(2, 4), (2, 5, 1), (0, 4, 1)])
def test_token_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match=r"token_sizes must be 3 numbers in 1 … 4 .*got \["):
        make_sized(sizes)


# The standard interface


def test_shapes_and_support(kind):
    distribution = make_policy(kind)(data())
    assert distribution.batch_shape == (B,)
    assert distribution.event_shape == (T,)
    codes = distribution.sample((7,))
    assert codes.dtype == torch.int64
    assert codes.shape == (7, B, T)
    assert distribution.sample().shape == (B, T)
    assert distribution.support.check(codes).all()
    assert not distribution.support.check(torch.full((B, T), V)).any()
    assert not distribution.support.check(torch.full((B, T), -1)).any()
    assert distribution.entropy().shape == (B,)


def test_gradient_flows_through_log_prob_alone_and_reaches_every_parameter(kind):
    policy = make_policy(kind)
    distribution = policy(data())
    codes, log_prob = draw(distribution, (4,))
    assert not log_prob.requires_grad
    assert not codes.requires_grad
    distribution.log_prob(codes).sum().backward()
    untouched = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_a_plain_distribution_is_drawn_and_scored_like_those_that_score_their_draws():
    plain = Independent(Categorical(logits=torch.randn(B, T, V, requires_grad=True)), 1)
    for posterior in (plain, make_policy("autoregressive")(data())):
        drawn = draw(posterior, (5,))
        assert drawn.codes.shape == (5, B, T)
        assert not drawn.log_prob.requires_grad
        some = score_drawn(posterior, drawn.codes[:2], drawn.log_prob[:2])
        assert some.requires_grad
        torch.testing.assert_close(some.detach(), drawn.log_prob[:2])


def test_the_encoder_runs_once_for_sampling_and_scoring(kind):
    policy, calls = make_policy(kind), []
    policy.encoder.register_forward_hook(lambda *_: calls.append(1))
    distribution = policy(data())
    distribution.log_prob(distribution.sample((5,)))
    distribution.entropy()
    assert distribution.mode.shape == (B, T)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "codes",
    [torch.zeros(B, T), torch.zeros(B, T, dtype=torch.int32), torch.zeros(B, T + 1).long(), torch.zeros(T).long()],
)
def test_codes_of_the_wrong_kind_are_refused(kind, codes):
    with pytest.raises(ValueError, match=rf"codes must be int64 of shape \[\.\.\., {B}, {T}\].*got torch\."):
        make_policy(kind)(data()).log_prob(codes)


def test_tokens_of_no_probability_leave_entropy_and_gradient_finite():
    logits = torch.randn(4, 2, 5).masked_fill(torch.tensor([0, 0, 0, 1, 1]).bool(), -torch.inf).requires_grad_()
    entropy = FactorizedCategorical(logits).entropy()
    torch.testing.assert_close(entropy, FactorizedCategorical(logits[..., :3]).entropy())
    entropy.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[..., :3].abs().max() > 0.0
