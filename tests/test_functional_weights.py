"""daps_rl.functional: weights, sampling, rewards and bounds, against hand numbers and scipy."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_rl.functional import (
    beta_elbo,
    code_perplexity,
    code_usage,
    complete_reward,
    decoder_loss,
    draw_categorical,
    effective_sample_size,
    encoding_reward,
    kl_estimate,
    target_weights,
    threshold_sample,
    weights_kl,
)

F64 = torch.float64
PROPERTY = settings(max_examples=60, deadline=None)
LARGEST_BELOW_ONE = {dtype: 1.0 - torch.finfo(dtype).eps / 2 for dtype in (torch.float32, torch.float64)}


def tensor(*rows):
    return torch.tensor(rows, dtype=F64)


@st.composite
def rewards(draw, max_abs=1e6):
    """[B, K] float64, sizes 1 … 6."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    number = st.floats(-max_abs, max_abs, allow_nan=False)
    row = st.lists(number, min_size=shape[1], max_size=shape[1])
    return tensor(*draw(st.lists(row, min_size=shape[0], max_size=shape[0])))


# Effective sample size and KL of weights


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_effective_sample_size_of_hand_numbers(scale):
    weights = tensor([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0])
    expected = torch.tensor([1.0, 4.0, 2.0, 8.0 / 3.0], dtype=F64)
    torch.testing.assert_close(effective_sample_size(scale * weights), expected)


@PROPERTY
@given(rewards(max_abs=30.0))
def test_effective_sample_size_lies_between_one_and_k(reward):
    ess = effective_sample_size(torch.softmax(reward, -1))
    assert (ess >= 1.0 - 1e-12).all()
    assert (ess <= reward.shape[-1] + 1e-12).all()


def test_weights_kl_is_the_divergence_from_uniform():
    weights = tensor([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.15, 0.05])
    by_scipy = scipy.stats.entropy(weights.numpy(), np.full((4, 4), 0.25), axis=-1)
    np.testing.assert_allclose(weights_kl(weights).numpy(), by_scipy, atol=1e-12)
    torch.testing.assert_close(weights_kl(weights)[:3], torch.tensor([math.log(4), 0.0, math.log(2)], dtype=F64))


# Target weights


def test_target_weights_of_hand_numbers():
    reward = tensor([0.0, math.log(2), math.log(5)])
    torch.testing.assert_close(target_weights(reward, 1.0), tensor([1 / 8, 2 / 8, 5 / 8]))
    roots = tensor([1.0, math.sqrt(2), math.sqrt(5)])
    torch.testing.assert_close(target_weights(reward, torch.tensor(2.0, dtype=F64)), roots / roots.sum())


@PROPERTY
@given(rewards(), st.floats(1e-3, 1e3))
def test_target_weights_agree_with_scipy_and_sum_to_one(reward, temperature):
    weights = target_weights(reward, temperature)
    by_scipy = scipy.special.softmax(reward.numpy() / temperature, axis=-1)
    np.testing.assert_allclose(weights.numpy(), by_scipy, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(reward), dtype=F64))


@PROPERTY
@given(rewards(max_abs=10.0), st.floats(-1e4, 1e4), st.floats(0.1, 10.0))
def test_target_weights_ignore_a_shift_within_each_context(reward, shift, temperature):
    shifts = shift * torch.arange(1, len(reward) + 1, dtype=F64)[:, None]
    torch.testing.assert_close(
        target_weights(reward + shifts, temperature), target_weights(reward, temperature), rtol=1e-8, atol=1e-9
    )


def test_target_weights_limits_of_the_temperature():
    reward = tensor([3.0, 1.0, 3.0, -2.0])
    torch.testing.assert_close(target_weights(reward, 1e-6), tensor([0.5, 0.0, 0.5, 0.0]))
    torch.testing.assert_close(target_weights(reward, 1e12), tensor([0.25] * 4), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (F64, F64)]
)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_target_weights_of_any_size_and_precision(dtype, result, scale):
    reward = (scale * tensor([0.0, -1.0, -2.0], [5.0, 5.0, 5.0])).to(dtype)
    weights = target_weights(reward, scale)
    assert weights.dtype == result
    expected = np.array([scipy.special.softmax([0, -1, -2]), [1 / 3] * 3])
    np.testing.assert_allclose(weights.double().numpy(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-6)


def test_target_weights_of_rewards_that_overflow_once_divided():
    weights = target_weights(torch.tensor([[2e38, 2e38, -2e38], [-2e38, -2e38, -2e38]]), 1e-3)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_target_weights_where_rewards_are_minus_infinite():
    inf = math.inf
    weights = target_weights(tensor([0.0, -inf, 0.0], [-inf, -inf, -inf], [-inf, -inf, 7.0]), 0.5)
    torch.testing.assert_close(weights, tensor([0.5, 0.0, 0.5], [1 / 3] * 3, [0.0, 0.0, 1.0]))


def test_target_weights_carry_no_gradient_from_the_reward_and_show_nan():
    assert not target_weights(tensor([1.0, 2.0]).requires_grad_(), 1.0).requires_grad
    weights = target_weights(tensor([1.0, math.nan], [1.0, 1.0]), 1.0)
    assert weights[0].isnan().all()
    torch.testing.assert_close(weights[1], tensor([0.5, 0.5])[0])


# Pooling


@PROPERTY
@given(rewards(max_abs=5.0), st.floats(0.1, 10.0), st.floats(0.1, 20.0))
def test_pooled_weights_by_hand(reward, temperature, pooling):
    weights = target_weights(reward, temperature, pooling=pooling)
    exp, count = np.exp(reward.numpy() / temperature), reward.shape[1]
    normaliser = (exp.sum(-1, keepdims=True) + pooling * exp.mean()) / (count + pooling)
    np.testing.assert_allclose(weights.numpy(), exp / normaliser / count, rtol=1e-9)
    assert weights.sum(-1).max() <= 1.0 + pooling / count + 1e-9


def test_pooled_weights_lie_between_those_of_a_group_and_of_the_batch():
    reward = tensor([0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    torch.testing.assert_close(target_weights(reward, 0.5, pooling=1e-12), target_weights(reward, 0.5))
    whole = target_weights(reward.view(1, -1), 0.5).view(3, 3) * 3
    torch.testing.assert_close(target_weights(reward, 0.5, pooling=1e12), whole)
    sums = target_weights(reward, 0.5, pooling=3.0).sum(-1)
    assert sums[0] < 1.0 < sums[2]  # all wrong, all right
    one = reward[1:2]
    torch.testing.assert_close(target_weights(one, 0.5, pooling=3.0), target_weights(one, 0.5))  # nothing to pool


def test_pooled_weights_of_a_part_are_those_of_the_batch():
    reward = torch.randn(6, 4, dtype=F64)
    whole = target_weights(reward, 0.7, pooling=2.0)
    torch.testing.assert_close(target_weights(reward[:2], 0.7, pooling=2.0, batch=reward), whole[:2])


def test_pooled_weights_of_extreme_rewards():
    inf = math.inf
    nothing = target_weights(tensor([-inf, -inf], [-inf, -inf]), 0.5, pooling=2.0)
    torch.testing.assert_close(nothing, torch.full((2, 2), 0.5, dtype=F64))
    some = target_weights(tensor([-inf, -inf], [0.0, 0.0]), 0.5, pooling=2.0)
    torch.testing.assert_close(some, tensor([0.0, 0.0], [2 / 3, 2 / 3]))
    huge = target_weights(torch.tensor([[2e38, -2e38], [-2e38, -2e38]]), 1e-3, pooling=2.0)
    torch.testing.assert_close(huge, torch.tensor([[4 / 3, 0.0], [0.0, 0.0]]))
    assert target_weights(tensor([1.0, math.nan], [1.0, 1.0]), 1.0, pooling=1.0).isnan().all()


def test_pooling_brings_the_normaliser_nearer_to_the_target_s():
    """Contexts whose codes are seldom right, each with a probability of its own: K·w against the exact q*/q."""
    generator, contexts, count, temperature = torch.Generator().manual_seed(0), 20_000, 4, 0.4
    right = 0.3 * torch.rand(contexts, 1, generator=generator, dtype=F64)
    exact = right * math.exp(1.0 / temperature) + 1.0 - right
    reward = (torch.rand(contexts, count, generator=generator, dtype=F64) < right).double()
    errors = []
    for pooling in (0.0, 2.0, 4.0):
        ratio = count * target_weights(reward, temperature, pooling=pooling)
        errors.append((ratio - (reward / temperature).exp() / exact).square().mean().item())
    assert errors[2] < errors[1] < 0.7 * errors[0]


# Sampling


@pytest.mark.parametrize("scale", [1.0, 1e-6, 300.0])
def test_draw_categorical_inverts_the_cumulative_distribution(scale):
    probs = scale * torch.tensor([0.25, 0.25, 0.5])
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.4999, 0.5001, 0.999])
    assert draw_categorical(probs, uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_draw_categorical_frequencies():
    """Chi-square of 40 000 draws in each of two rows; with a fresh seed each would fail once in 10 000 runs."""
    probs = torch.tensor([[0.5, 0.2, 0.0, 0.3], [0.01, 0.01, 0.97, 0.01]])
    uniform = torch.rand(2, 40_000, generator=torch.Generator().manual_seed(0))
    tokens = draw_categorical(probs, uniform)
    for row, drawn in zip(probs.double(), tokens, strict=True):
        counts = torch.bincount(drawn, minlength=4)
        possible = row > 0
        assert counts[~possible].sum() == 0
        assert scipy.stats.chisquare(counts[possible], 40_000 * row[possible] / row.sum()).pvalue > 1e-4


@PROPERTY
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-9, 0.1, 1.0, 3.7, 1e9]), min_size=2, max_size=9).filter(any),
    st.lists(st.floats(0.0, LARGEST_BELOW_ONE[torch.float32], width=32), max_size=5),
)
def test_draw_categorical_never_draws_a_token_of_probability_zero(probs, uniform):
    probs = torch.tensor(probs)
    boundary = [0.0, LARGEST_BELOW_ONE[torch.float32]]
    tokens = draw_categorical(probs, torch.tensor(boundary + uniform))
    assert (probs[tokens] > 0).all()
    assert tokens[0] == probs.nonzero()[0]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draw_categorical_at_the_upper_boundary(dtype):
    probs = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.3, 0.3, 0.2, 0.2], [1.0, 0.0, 0.0, 0.0]], dtype=dtype)
    uniform = torch.full((3, 1), LARGEST_BELOW_ONE[dtype], dtype=dtype)
    assert draw_categorical(probs, uniform)[:, 0].tolist() == [2, 3, 0]
    # u · total rounds up to total where total is the smallest number there is.
    smallest = torch.tensor([torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, 0.0], dtype=dtype)
    assert draw_categorical(smallest, uniform[0]).tolist() == [0]


# Rewards, bounds, usage


def test_rewards_and_bounds_of_hand_numbers():
    log_likelihood, log_q, log_prior = tensor([-3.0, -5.0]), tensor([-1.0, -4.0]), tensor([-2.0, -2.0])
    torch.testing.assert_close(kl_estimate(log_q, log_prior), tensor([1.0, -2.0]))
    torch.testing.assert_close(beta_elbo(log_likelihood, tensor([1.0, -2.0]), 0.5), tensor([-3.5, -4.0]))
    torch.testing.assert_close(encoding_reward(log_likelihood, log_q, log_prior, 0.5), tensor([-3.5, -4.0]))
    beta = torch.tensor(0.5, dtype=F64)
    host = encoding_reward(log_likelihood, None, log_prior, beta)
    torch.testing.assert_close(host, tensor([-4.0, -6.0]))
    whole = encoding_reward(log_likelihood, log_q, log_prior, beta)
    torch.testing.assert_close(complete_reward(host, log_q, beta), whole)


def test_decoder_loss_is_the_unweighted_mean():
    log_likelihood = tensor([-1.0, -3.0], [0.0, -4.0], [2.0, 0.0]).requires_grad_()
    loss = decoder_loss(log_likelihood)
    torch.testing.assert_close(loss.detach(), torch.tensor([2.0, 2.0, -1.0], dtype=F64))
    loss.sum().backward()
    torch.testing.assert_close(log_likelihood.grad, torch.full((3, 2), -0.5, dtype=F64))


def test_code_usage_and_perplexity_of_hand_numbers():
    counts = torch.tensor([[3, 0, 1], [0, 0, 4]])
    assert code_usage(counts).item() == pytest.approx(0.5)
    by_scipy = np.exp([scipy.stats.entropy([3, 0, 1]), 0.0])
    np.testing.assert_allclose(code_perplexity(counts).numpy(), by_scipy)
    torch.testing.assert_close(code_perplexity(torch.full((2, 5), 9)), torch.full((2,), 5.0, dtype=F64))


# Errors

A, B = torch.zeros(2, 3), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effective_sample_size(torch.ones(3)), r"weights must be a non-empty \[B, K\].*got shape \(3,\)"),
        (lambda: weights_kl(torch.ones(2, 3, 1)), r"weights must be .*got shape \(2, 3, 1\)"),
        (lambda: target_weights(torch.ones(0, 3), 1.0), r"reward must be a non-empty .*got shape \(0, 3\)"),
        (lambda: target_weights(A, 0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: target_weights(A, math.inf), "temperature must be positive and finite, got inf"),
        (lambda: target_weights(A, math.nan), "temperature must be positive and finite, got nan"),
        (lambda: target_weights(A, 1.0, pooling=-1.0), "pooling must be >= 0 and finite, got -1.0"),
        (lambda: target_weights(A, 1.0, pooling=math.inf), "pooling must be >= 0 and finite, got inf"),
        (lambda: decoder_loss(torch.ones(3)), r"log_likelihood must be a non-empty \[B, K\]"),
        (lambda: kl_estimate(A, B), r"prior_log_prob must have the shape of action_log_prob, \(2, 3\), got \(2, 1\)"),
        (lambda: beta_elbo(A, B, 1.0), "kl must have the shape of log_likelihood"),
        (lambda: encoding_reward(A, A, B, 1.0), "prior_log_prob must have the shape"),
        (lambda: encoding_reward(A, B, B, 1.0), "prior_log_prob must have the shape of log_likelihood"),
        (lambda: encoding_reward(A, None, B, 1.0), "prior_log_prob must have the shape of log_likelihood"),
        (lambda: complete_reward(A, B, 1.0), "action_log_prob must have the shape of reward"),
    ],
)
def test_shapes_are_never_guessed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Thinning


def grid(points: int) -> torch.Tensor:
    """The middles of as many equal parts of [0, 1). [points, 1]."""
    return ((torch.arange(points, dtype=F64) + 0.5) / points)[:, None]


def thin(weights, keep, uniform):
    """The samples kept by the size of their weights, and the weights that stand for all. [B, M]."""
    kept = threshold_sample(weights.abs(), keep, uniform)
    return kept, weights.gather(1, kept.indices) / kept.probability


def thinned_everywhere(row: torch.Tensor, keep: int, points: int = 4001) -> torch.Tensor:
    """A context's K weights as each of `points` uniforms leaves them. [K] → [points, K]."""
    kept, weights = thin(row.expand(points, -1), keep, grid(points))
    return torch.zeros(points, len(row), dtype=F64).scatter_add(1, kept.indices, weights)


signed_rows = st.lists(st.floats(-1.0, 1.0).filter(lambda w: w == 0.0 or abs(w) > 1e-3), min_size=1, max_size=8)


@PROPERTY
@given(signed_rows, st.data())
def test_thinned_weights_are_the_weights_on_average(row, data):
    weights = torch.tensor(row, dtype=F64)
    keep = data.draw(st.integers(1, len(row)))
    kept, _ = thin(weights.expand(4001, -1), keep, grid(4001))
    assert kept.indices.shape == kept.probability.shape == (4001, keep)
    assert ((kept.indices >= 0) & (kept.indices < len(row))).all()
    mean = thinned_everywhere(weights, keep).mean(0)
    # A sample is there in one interval of uniforms, or in two; each end is off by a part of the grid at most.
    torch.testing.assert_close(mean, weights, rtol=0.0, atol=4 * weights.abs().sum().item() / 4001 + 1e-9)


def test_samples_are_kept_once_and_large_weights_as_they_are():
    weights = tensor([0.5, -0.3, 0.1, 0.05, -0.04, 0.01])
    kept, thinned = thin(weights.expand(101, -1), 3, grid(101))
    assert all(len(set(row)) == 3 for row in kept.indices.tolist())
    assert ((kept.indices == 0) & (thinned == 0.5)).any(1).all()
    assert ((kept.indices == 1) & (thinned == -0.3)).any(1).all()
    rest = thinned[kept.indices > 1]
    torch.testing.assert_close(rest.abs(), torch.full_like(rest, 0.2))  # one place for what weighs 0.2 in all


def test_keeping_all_is_exact_and_equal_weights_are_kept_equally():
    weights = torch.randn(5, 4, dtype=F64)
    kept, thinned = thin(weights, 4, torch.rand(5, 1, dtype=F64))
    torch.testing.assert_close(thinned, weights)
    assert torch.equal(kept.indices, torch.arange(4).expand(5, 4))
    nothing, thinned = thin(torch.zeros(1000, 4), 2, torch.linspace(0.0, 0.999, 1000)[:, None])
    assert torch.equal(thinned, torch.zeros(1000, 2))
    assert (nothing.indices.flatten().bincount(minlength=4) - 500).abs().max() <= 3


def test_thinning_changes_the_weights_less_than_other_schemes_without_bias():
    weights = torch.softmax(2.0 * torch.randn(200, 8, dtype=F64), -1)
    centred = weights - 1 / 8
    change = {"threshold": 0.0, "uniform": 0.0, "in proportion": 0.0}
    for row in centred:
        change["threshold"] += (thinned_everywhere(row, 3, 301) - row).square().sum(-1).mean().item()
        change["uniform"] += ((8 / 3 - 1) * row.square()).sum().item()  # variance of 8/3 w at a probability of 3/8
        share = row.abs() / row.abs().sum()  # three draws with replacement
        change["in proportion"] += ((row.square() / share - row.square()) / 3).sum().item()
    assert change["threshold"] < 0.8 * min(change["uniform"], change["in proportion"])


@pytest.mark.parametrize("keep", [0, 5])
def test_as_many_as_there_are_can_be_kept(keep):
    with pytest.raises(ValueError, match="keep must lie in 1 … K = 4"):
        threshold_sample(torch.rand(2, 4), keep, torch.rand(2, 1))
