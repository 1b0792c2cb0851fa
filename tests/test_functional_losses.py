"""daps_rl.functional: the encoder's losses and their gradients, by hand, finite differences and enumeration."""

import itertools
import math

import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_rl.functional import (
    daps_loss,
    keep_samples,
    mean_of_kept,
    solve_temperature,
    threshold_sample,
    weighted_likelihood_loss,
)

F64 = torch.float64
B, K, V = 3, 4, 5


def example(seed=0):
    """log_prob [B, K] (leaf), weights [B, K], reward [B, K]."""
    generator = torch.Generator().manual_seed(seed)
    log_prob = -4.0 * torch.rand(B, K, dtype=F64, generator=generator)
    weights = torch.softmax(torch.randn(B, K, dtype=F64, generator=generator), -1)
    return log_prob.requires_grad_(), weights, 5.0 * torch.randn(B, K, dtype=F64, generator=generator)


# Values and gradients


def test_loss_of_hand_numbers():
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]], dtype=F64)
    weights = torch.tensor([[0.75, 0.25], [1.0, 0.0]], dtype=F64)
    loss = weighted_likelihood_loss(log_prob, weights)
    torch.testing.assert_close(loss, torch.tensor([1.25, 3.0], dtype=F64))
    first = weighted_likelihood_loss(log_prob, weights, centered=True)
    torch.testing.assert_close(first, loss)  # on first use the ratios are 1 and add nothing
    behaviour = log_prob - torch.tensor([[2.0, 0.5], [1.0, 1.0]], dtype=F64).log()  # ratios 2, 1/2; 1, 1
    later = weighted_likelihood_loss(log_prob, weights, behaviour, centered=True)
    torch.testing.assert_close(later, torch.tensor([1.25 + 0.25, 3.0], dtype=F64))


@pytest.mark.parametrize("centered", [False, True])
def test_gradient_is_minus_the_weights(centered):
    log_prob, weights, _ = example()
    weights.requires_grad_()
    weighted_likelihood_loss(log_prob, weights, centered=centered).sum().backward()
    torch.testing.assert_close(log_prob.grad, 1.0 / K - weights if centered else -weights)
    assert weights.grad is None


@pytest.mark.parametrize("centered", [False, True])
def test_gradient_by_finite_differences(centered):
    """Through a softmax policy's logits [B, V], at codes drawn beforehand."""
    _, weights, _ = example()
    logits = torch.randn(B, V, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    codes = torch.tensor([[0, 1, 1, 4], [2, 2, 2, 2], [3, 0, 4, 1]])

    behaviour = torch.log_softmax(logits.detach(), -1).gather(-1, codes)

    def loss(logits):
        log_prob = torch.log_softmax(logits, -1).gather(-1, codes)
        return weighted_likelihood_loss(log_prob, weights, behaviour, centered=centered)

    assert torch.autograd.gradcheck(loss, logits)
    # By hand: d/dlogits = (Σ_k w_k)·p − Σ_k w_k·onehot(z_k).
    (gradient,) = torch.autograd.grad(loss(logits).sum(), logits)
    used = weights - 1.0 / K if centered else weights
    onehots = torch.nn.functional.one_hot(codes, V).double()
    expected = used.sum(-1, keepdim=True) * torch.softmax(logits.detach(), -1) - torch.einsum(
        "bk,bkv->bv", used, onehots
    )
    torch.testing.assert_close(gradient, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 50.0), st.booleans())
def test_daps_loss_weighs_by_the_softmax_of_the_reward(seed, temperature, centered):
    log_prob, _, reward = example(seed)
    reward.requires_grad_()
    terms = daps_loss(log_prob, reward, temperature=temperature, centered=centered)
    weights = torch.tensor(scipy.special.softmax(reward.detach().numpy() / temperature, axis=-1))
    torch.testing.assert_close(terms.weights, weights)
    torch.testing.assert_close(terms.effective_sample_size, 1.0 / weights.square().sum(-1))
    used = weights - 1.0 / K if centered else weights
    torch.testing.assert_close(terms.loss.detach(), -(weights * log_prob.detach()).sum(-1))
    terms.loss.sum().backward()
    torch.testing.assert_close(log_prob.grad, -used)
    assert reward.grad is None


def test_only_the_loss_carries_a_gradient():
    """Not even a temperature that asks for a gradient makes the diagnostics carry one."""
    log_prob, _, reward = example()
    temperature = torch.tensor(2.0, dtype=F64, requires_grad=True)
    terms = daps_loss(log_prob, reward.requires_grad_(), temperature=temperature)
    assert terms.loss.requires_grad
    assert not terms.weights.requires_grad
    assert not terms.effective_sample_size.requires_grad
    terms.loss.sum().backward()
    assert temperature.grad is None
    assert reward.grad is None


def test_half_precision_is_added_up_in_float32():
    log_prob = torch.full((1, 512), -3.0, dtype=torch.bfloat16)
    loss = weighted_likelihood_loss(log_prob, torch.full((1, 512), 1.0 / 512, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(3.0)


# Codes that do not count


def test_zero_weight_makes_an_impossible_code_harmless():
    log_prob = torch.tensor([[-1.0, -math.inf, -2.0]], dtype=F64, requires_grad=True)
    reward = torch.tensor([[0.0, -math.inf, 0.0]], dtype=F64)
    terms = daps_loss(log_prob, reward, temperature=1.0)
    assert terms.loss.item() == pytest.approx(1.5)
    terms.loss.sum().backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([[-0.5, 0.0, -0.5]], dtype=F64))


def test_zero_weight_gives_no_nan_upstream_of_the_log_probability():
    logits = torch.tensor([0.3, -math.inf, 1.0], dtype=F64, requires_grad=True)
    log_prob = torch.log_softmax(logits, -1)[torch.tensor([[0, 1, 2]])]
    weights = torch.tensor([[0.5, 0.0, 0.5]], dtype=F64)
    (gradient,) = torch.autograd.grad(weighted_likelihood_loss(log_prob, weights).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[1] == 0.0


# Expectation over everything a bandit could draw


def bandit_gradients(*, centered, samples=2):
    """Each K-tuple's probability and its gradient with respect to the logits, on-policy. [n], [n, V]."""
    logits = torch.tensor([0.4, -0.3, 1.0], dtype=F64, requires_grad=True)
    rewards = torch.tensor([1.0, 3.0, 0.5], dtype=F64)
    probs = torch.softmax(logits.detach(), -1)
    chances, gradients = [], []
    for codes in itertools.product(range(3), repeat=samples):
        codes = torch.tensor([codes])
        log_prob = torch.log_softmax(logits, -1)[codes]
        loss = daps_loss(log_prob, rewards[codes], temperature=0.7, centered=centered).loss
        gradients.append(torch.autograd.grad(loss.sum(), logits)[0])
        chances.append(probs[codes].prod())
    return torch.stack(chances), torch.stack(gradients)


@pytest.mark.parametrize("samples", [2, 3])
def test_centring_keeps_the_expected_gradient_and_shrinks_its_variance(samples):
    chances, plain = bandit_gradients(centered=False, samples=samples)
    _, centered = bandit_gradients(centered=True, samples=samples)
    assert chances.sum().item() == pytest.approx(1.0)
    expected = chances @ plain
    torch.testing.assert_close(chances @ centered, expected)
    assert expected.norm() > 0.01
    spread_plain, spread_centered = (chances @ (g - expected).square().sum(-1) for g in (plain, centered))
    assert spread_centered < spread_plain


@pytest.mark.parametrize("centered", [False, True])
def test_expected_step_raises_the_best_code_and_lowers_the_worst(centered):
    chances, gradients = bandit_gradients(centered=centered)
    step = -(chances @ gradients)
    assert step[1] > 0 > step[2]


def test_a_constant_reward_gives_no_step_in_expectation():
    """The fixed point: with rewards flat within the group, uniform weights leave an on-policy learner where it is."""
    _, _, reward = example()
    flat = torch.full_like(reward, 2.5)
    temperature = solve_temperature(flat, 0.5, floor=0.1)
    log_prob, *_ = example()
    daps_loss(log_prob, flat, temperature=temperature, centered=True).loss.sum().backward()
    torch.testing.assert_close(log_prob.grad, torch.zeros(B, K, dtype=F64), atol=1e-12, rtol=0)


# Errors


@pytest.mark.parametrize(
    ("log_prob", "other", "message"),
    [
        ((2, 3), (2, 1), r"must have the shape of log_prob, \(2, 3\), got \(2, 1\)"),
        ((2, 3), (3,), "must have the shape of log_prob"),
        ((2, 3, 1), (2, 3, 1), r"must be a non-empty \[B, K\] tensor"),
        ((3,), (3,), r"must be a non-empty \[B, K\] tensor"),
    ],
)
def test_shapes_are_never_guessed(log_prob, other, message):
    with pytest.raises(ValueError, match=message):
        weighted_likelihood_loss(torch.zeros(log_prob), torch.zeros(other))
    with pytest.raises(ValueError, match=message):
        daps_loss(torch.zeros(log_prob), torch.zeros(other), temperature=1.0)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got -1\.0"):
        daps_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=-1.0)


# Later uses of a batch


def test_the_least_loss_on_later_uses_is_where_the_target_is():
    """By descent, from far away: every sample's ratio comes to K times its weight; the loss is bounded below."""
    torch.manual_seed(0)
    weights = (3.0 * torch.randn(B, K, dtype=F64)).softmax(-1)
    behaviour = torch.randn(B, K, dtype=F64)
    log_prob = torch.nn.Parameter(behaviour + 3.0 * torch.randn(B, K, dtype=F64))
    descent = torch.optim.LBFGS([log_prob], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        loss = weighted_likelihood_loss(log_prob, weights, behaviour, centered=True).sum()
        loss.backward()
        return loss

    descent.step(closure)
    torch.testing.assert_close((log_prob - behaviour).exp().detach(), K * weights, atol=1e-4, rtol=1e-2)
    least = (-weights * (behaviour + (K * weights).log())).sum()
    torch.testing.assert_close(closure().detach(), least, atol=1e-6, rtol=1e-6)


def test_later_uses_in_float64_by_finite_differences():
    torch.manual_seed(1)
    weights, behaviour = torch.rand(B, K, dtype=F64).softmax(-1), torch.randn(B, K, dtype=F64)
    log_prob = torch.randn(B, K, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q: weighted_likelihood_loss(q, weights, behaviour, centered=True), (log_prob,)
    )
    with pytest.raises(ValueError, match="behaviour_log_prob"):
        weighted_likelihood_loss(log_prob, weights, behaviour[:, 1:], centered=True)


def test_a_code_that_nothing_could_draw_does_not_count():
    weights, behaviour = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[-1.0, -2.0, -math.inf]])
    log_prob = torch.tensor([[-1.0, -2.0, -math.inf]], requires_grad=True)
    loss = weighted_likelihood_loss(log_prob, weights, behaviour, centered=True)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([1.5]))
    torch.testing.assert_close(log_prob.grad, torch.tensor([[1 / 3 - 0.5, 1 / 3 - 0.5, 0.0]]))


# Some of the samples


@pytest.mark.parametrize("keep", [0, K])
def test_keeping_all_is_nothing_to_choose(keep):
    _, weights, values = example()
    assert keep_samples(weights, keep) is None
    torch.testing.assert_close(mean_of_kept(values, None), values.mean())


def on_a_grid(log_prob, weights, behaviour, keep, *, centered, points=400):
    """The loss of some samples for each of `points` uniforms. [points, B]."""
    size = (weights - 1.0 / K).abs().clamp(min=0.5 / K) if centered else weights.abs()
    for i in range(points):
        kept = threshold_sample(size, keep, torch.full((B, 1), (i + 0.5) / points, dtype=F64))
        yield weighted_likelihood_loss(log_prob.gather(1, kept.indices), weights, behaviour, kept, centered=centered)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("keep", [1, 3])
def test_some_samples_give_the_loss_of_all_and_its_gradient_on_average(keep, centered, moved):
    """On first use and on later ones, when the policy is another than the one that drew."""
    log_prob, weights, values = example()
    behaviour = log_prob.detach() + (0.1 * values if moved else 0.0)
    whole = weighted_likelihood_loss(log_prob, weights, behaviour, centered=centered)
    losses = list(on_a_grid(log_prob, weights, behaviour, keep, centered=centered))
    mean = torch.stack(losses).mean(0)
    torch.testing.assert_close(mean, whole, rtol=0.0, atol=2e-2)
    gradients = [torch.autograd.grad(value.sum(), log_prob)[0] for value in (mean, whole)]
    torch.testing.assert_close(*gradients, rtol=0.0, atol=1e-2)
    assert torch.stack(losses).std(0).min() > 0.0


def test_a_sample_of_no_centred_weight_still_counts_by_its_ratio():
    """It is kept seldom, but never so seldom that its ratio is multiplied by much."""
    _, weights, _ = example()
    weights[:, 0] = 0.25 + 1e-9
    weights[:, 1:] *= 0.75 / weights[:, 1:].sum(-1, keepdim=True)
    behaviour = torch.zeros(B, K, dtype=F64)
    losses = torch.stack(list(on_a_grid(behaviour + 0.5, weights, behaviour, 2, centered=True, points=50)))
    assert losses.abs().max() < 5.0


def test_samples_are_kept_by_what_their_terms_can_weigh():
    weights = torch.tensor([0.25, 0.5, 0.25, 0.0], dtype=F64).expand(20_000, -1)
    for centered, expected in ((False, [0.5, 1.0, 0.5, 0.0]), (True, [1 / 3, 2 / 3, 1 / 3, 2 / 3])):
        kept = keep_samples(weights, 2, centered=centered, generator=torch.Generator().manual_seed(0))
        share = kept.indices.flatten().bincount(minlength=K) / 20_000
        torch.testing.assert_close(share.double(), torch.tensor(expected, dtype=F64), rtol=0.0, atol=0.02)


def test_means_of_some_are_means_of_all_by_their_probabilities():
    """Over many contexts with the same weights: large ones are kept more often, and count for less."""
    weights = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=F64).expand(20_000, -1)
    values = torch.tensor([4.0, 1.0, -2.0, 3.0], dtype=F64).expand(20_000, -1)
    kept = keep_samples(weights, 2, generator=torch.Generator().manual_seed(0))
    some = values.gather(1, kept.indices)
    assert some.mean().item() > 2.0
    assert mean_of_kept(some, kept).item() == pytest.approx(1.5, abs=0.05)


def test_the_global_generator_chooses_where_none_is_given():
    weights = torch.rand(50, K)
    torch.manual_seed(3)
    first = keep_samples(weights, 2).indices
    torch.manual_seed(3)
    assert torch.equal(keep_samples(weights, 2).indices, first)
    assert not torch.equal(keep_samples(weights, 2).indices, first)


@pytest.mark.parametrize("keep", [-1, 5, 1.5])
def test_no_more_samples_are_kept_than_there_are(keep):
    _, weights, _ = example()
    with pytest.raises(ValueError, match="policy_samples must be a whole number in 0 … K = 4"):
        keep_samples(weights, keep)
