"""daps_rl.functional: the temperature searches, against scipy's root finder and minimiser in float64."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from daps_rl.functional import acceptance_probability, solve_temperature, solve_temperature_kl

F64 = torch.float64
PROPERTY = settings(max_examples=60, deadline=None)
SCALES = st.floats(-8.0, 8.0).map(lambda exponent: 10.0**exponent)
FRACTIONS = st.floats(0.02, 1.0)


def oracle_weights(reward, temperature):
    """Softmax over K by scipy, in float64; a context without any finite reward is uniform."""
    reward = np.where(np.isneginf(reward).all(-1, keepdims=True), 0.0, reward)
    return scipy.special.softmax((reward - reward.max(-1, keepdims=True)) / temperature, axis=-1)


def oracle_ess(reward, temperature):
    return (1.0 / np.square(oracle_weights(reward, temperature)).sum(-1)).mean()


def oracle_kl(reward, temperature):
    weights = oracle_weights(reward, temperature)
    return (scipy.special.xlogy(weights, weights).sum(-1) + math.log(reward.shape[-1])).mean()


def attainable_ess(reward):
    """(lowest, highest) mean ESS over all temperatures: tied best codes, codes of finite reward."""
    reward = np.where(np.isneginf(reward).all(-1, keepdims=True), 0.0, reward)
    ties = (reward == reward.max(-1, keepdims=True)).sum(-1).mean()
    return ties, np.isfinite(reward).sum(-1).mean()


def root(statistic, reward, target):
    """brentq's root of statistic(reward, τ) = target, over log τ."""
    spread = np.ptp(reward[np.isfinite(reward)])
    low, high = math.log(spread) - 25.0, math.log(spread) + 25.0
    return math.exp(scipy.optimize.brentq(lambda x: statistic(reward, math.exp(x)) - target, low, high, xtol=1e-13))


@st.composite
def batches(draw):
    """Normal rewards [B, K]; contexts of one or of mixed scales, with ties and -inf now and then."""
    b, k = draw(st.integers(1, 7)), draw(st.integers(2, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    reward = generator.normal(size=(b, k))
    if draw(st.booleans()):
        reward *= 10.0 ** generator.uniform(-4, 4, (b, 1))
    if draw(st.booleans()):
        reward[generator.random((b, k)) < 0.3] = -math.inf
    if draw(st.booleans()):
        reward = np.round(reward, 1)
    return draw(SCALES) * reward


# The target is met


@PROPERTY
@given(batches(), FRACTIONS, st.sampled_from([torch.float32, F64]))
def test_ess_target_is_met_within_a_hundredth_of_k_wherever_attainable(reward, fraction, dtype):
    samples = reward.shape[-1]
    assume(fraction * samples > 1.0)
    rounded = torch.tensor(reward, dtype=dtype)
    temperature = solve_temperature(rounded, fraction)
    assert temperature.dtype == dtype
    lowest, highest = attainable_ess(rounded.double().numpy())
    reached = oracle_ess(rounded.double().numpy(), temperature.item())
    assert abs(reached - np.clip(fraction * samples, lowest, highest)) <= 0.01 * samples


@PROPERTY
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(3, 32), st.floats(0.1, 0.9), SCALES)
def test_temperature_is_brentq_s_root(seed, contexts, samples, fraction, scale):
    assume(fraction * samples > 1.2)
    reward = scale * np.random.default_rng(seed).normal(size=(contexts, samples))
    expected = root(oracle_ess, reward, fraction * samples)
    assert solve_temperature(torch.tensor(reward), fraction).item() == pytest.approx(expected, rel=1e-4)


def test_temperature_of_two_samples_by_hand():
    """Two samples a gap g apart have w = 1/(1 + e^{-g/τ}); weights 3/4 and 1/4 have ESS 1.6, and g/τ = log 3."""
    reward = torch.tensor([[0.0, 5.0], [7.0, 2.0]], dtype=F64)
    assert solve_temperature(reward, 0.8).item() == pytest.approx(5.0 / math.log(3.0), rel=1e-5)


@PROPERTY
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 32), st.floats(0.05, 0.9), SCALES)
def test_kl_temperature_meets_its_target_and_minimises_the_dual(seed, contexts, samples, share, scale):
    reward = scale * np.random.default_rng(seed).normal(size=(contexts, samples))
    epsilon = share * math.log(samples)
    temperature = solve_temperature_kl(torch.tensor(reward), epsilon).item()
    assert oracle_kl(reward, temperature) == pytest.approx(epsilon, abs=1e-4)

    def dual(log_temperature):
        tau = scale * math.exp(log_temperature)
        log_mean = scipy.special.logsumexp(reward / tau, axis=-1) - math.log(samples)
        return (tau * epsilon + tau * log_mean.mean()) / scale

    best = scipy.optimize.minimize_scalar(dual, bounds=(-20.0, 20.0), method="bounded", options={"xatol": 1e-10})
    # Near its minimum the dual is flat: rounding hides steps of log τ below about 1e-6 / curvature.
    assert dual(math.log(temperature / scale)) == pytest.approx(best.fun, rel=1e-6, abs=1e-9)
    assert temperature == pytest.approx(root(oracle_kl, reward, epsilon), rel=1e-3)


# Shape of the solution


@PROPERTY
@given(batches(), st.lists(FRACTIONS, min_size=2, max_size=5))
def test_temperature_grows_with_the_fraction(reward, fractions):
    fractions = sorted(f for f in fractions if f * reward.shape[-1] > 1.0)
    temperatures = [solve_temperature(torch.tensor(reward), fraction).item() for fraction in fractions]
    # On a plateau of the ESS (contexts of very different scales) neighbours may agree up to the search's resolution.
    assert all(low <= high * (1.0 + 1e-3) for low, high in itertools.pairwise(temperatures))


@PROPERTY
@given(st.integers(0, 2**31), st.floats(0.3, 0.9), SCALES)
def test_temperature_scales_with_the_reward_and_ignores_its_shift(seed, fraction, scale):
    reward = torch.tensor(np.random.default_rng(seed).normal(size=(3, 8)))
    temperature = solve_temperature(reward, fraction).item()
    assert solve_temperature(scale * reward, fraction).item() == pytest.approx(scale * temperature, rel=1e-4)
    shifts = torch.tensor([[100.0], [-3.0], [0.0]])
    assert solve_temperature(reward + shifts, fraction).item() == pytest.approx(temperature, rel=1e-4)


@pytest.mark.parametrize("solve", [solve_temperature, solve_temperature_kl])
def test_floor_is_respected_and_otherwise_changes_nothing(solve):
    reward = torch.tensor([[0.0, 1.0, 3.0, 4.0]])
    free = solve(reward, 0.5)
    assert solve(reward, 0.5, floor=0.5 * free.item()) == free
    assert solve(reward, 0.5, floor=3.0 * free.item()).item() == pytest.approx(3.0 * free.item())
    shared = torch.tensor(7.0)
    assert solve(reward, 0.5, shared).item() == 7.0
    shared.fill_(11.0)
    assert solve(reward, 0.5, shared).item() == 11.0


def test_targets_out_of_reach_give_the_nearest_end():
    tied = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=F64)  # ESS is at least 3
    assert oracle_ess(tied.numpy(), solve_temperature(tied, 0.5).item()) == pytest.approx(3.0)
    lost = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], dtype=F64)  # ESS is at most 2
    assert oracle_ess(lost.numpy(), solve_temperature(lost, 0.9).item()) == pytest.approx(2.0, abs=1e-3)


# Difficult inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize(
    "reward",
    [
        [[2.0, 2.0, 2.0], [5.0, 5.0, 5.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[-math.inf] * 3, [-math.inf] * 3],
        [[-math.inf] * 3, [0.0, 1.0, 2.0]],
        [[-math.inf, 0.0, -math.inf], [-math.inf, -math.inf, 4.0]],
        [[0.0, 1e8, -1e8], [1.0, 2.0, 3.0]],
        [[1e-8, 2e-8, 0.0], [0.0, -1e-8, 3e-8]],
        [[3e38, -3e38, 0.0], [0.0, 1.0, 2.0]],
        [[1e-38, 0.0, 0.0], [0.0, 0.0, 1e-38]],
    ],
)
@pytest.mark.parametrize("solve", [solve_temperature, solve_temperature_kl])
def test_temperature_is_finite_and_positive_whatever_the_rewards(solve, reward, dtype):
    temperature = solve(torch.tensor(reward, dtype=dtype), 0.5)
    assert temperature.shape == ()
    assert temperature.dtype == (F64 if dtype == F64 else torch.float32)
    assert 0.0 < temperature.item() < math.inf
    floored = solve(torch.tensor(reward, dtype=dtype), 0.5, floor=1e30)
    assert floored.item() >= 1e30 * (1 - 1e-6)


@pytest.mark.parametrize("fraction", [0.1, 0.33, 1.0])
def test_one_sample_meets_any_target(fraction):
    assert solve_temperature(torch.tensor([[3.0], [4.0]]), fraction).item() == 1.0
    assert solve_temperature_kl(torch.tensor([[3.0]]), 0.5, floor=2.0).item() == 2.0


@pytest.mark.parametrize("solve", [solve_temperature, solve_temperature_kl])
def test_nan_shows(solve):
    reward = torch.tensor([[0.0, 1.0, 2.0], [0.0, math.nan, 2.0]])
    assert solve(reward, 0.5).isnan()
    assert solve(reward, 0.5, floor=1.0).isnan()


def test_no_gradient_flows_and_the_input_is_left_alone():
    reward = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    before = reward.detach().clone()
    assert not solve_temperature(reward, 0.5).requires_grad
    torch.testing.assert_close(reward.detach(), before, rtol=0, atol=0)


# Errors


@pytest.mark.parametrize(
    ("samples", "fraction"), [(2, 0.5), (3, 0.33), (3, 1 / 3), (8, 0.0), (8, -0.1), (8, 1.01), (8, math.nan), (1, 0.0)]
)
def test_ess_targets_that_no_weights_have_are_refused(samples, fraction):
    with pytest.raises(ValueError, match=r"ess_fraction must lie in \(1/K, 1\].*got (0|1|-0|nan)"):
        solve_temperature(torch.zeros(4, samples), fraction)


@pytest.mark.parametrize(("samples", "epsilon"), [(8, 0.0), (8, -1.0), (8, math.log(8)), (2, 0.7), (8, math.nan)])
def test_kl_targets_that_no_weights_have_are_refused(samples, epsilon):
    with pytest.raises(ValueError, match=r"epsilon must lie in \(0, log K\)"):
        solve_temperature_kl(torch.zeros(4, samples), epsilon)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("solve", [solve_temperature, solve_temperature_kl])
def test_rewards_must_be_a_matrix(solve, shape):
    with pytest.raises(ValueError, match=r"reward must be a non-empty \[B, K\]"):
        solve(torch.zeros(shape), 0.5)


def test_an_annealing_takes_what_is_worse_by_boltzmanns_factor():
    gain = torch.tensor([2.0, 0.0, -0.5, -math.inf])
    taken = acceptance_probability(gain, 0.25)
    torch.testing.assert_close(taken, torch.tensor([1.0, 1.0, math.exp(-2.0), 0.0]))
    assert acceptance_probability(gain, torch.tensor(0.0)).tolist() == [1.0, 1.0, 0.0, 0.0]
