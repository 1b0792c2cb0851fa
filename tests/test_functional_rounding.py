"""What float32 makes of rewards of any size: equal ones say nothing, and others say the same at every scale."""

from __future__ import annotations

import pytest
import torch

from daps_rl.agents.policy_gradient import RewardScale
from daps_rl.envs.classification import ClassificationBandit
from daps_rl.functional import (
    effective_sample_size,
    leave_one_out_advantage,
    solve_temperature,
    solve_temperature_kl,
    standardized_reward,
    target_weights,
    threshold_sample,
)
from daps_rl.optim import adaptive_clip_

EPS = torch.finfo(torch.float32).eps
scales = pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])


def equal_but_for_rounding(scale: float, samples: int) -> torch.Tensor:
    """Rewards [B, K] in float32, those of a context within two units of the last place."""
    generator = torch.Generator().manual_seed(0)
    reward = scale * (0.5 + torch.rand(200, 1, generator=generator))
    return reward * (1.0 + EPS * torch.randint(-1, 2, (200, samples), generator=generator))


@scales
@pytest.mark.parametrize("samples", [2, 3, 7, 24])
def test_rewards_that_differ_by_rounding_alone_say_nothing(scale, samples):
    for reward in (equal_but_for_rounding(scale, samples), equal_but_for_rounding(scale, 1).expand(-1, samples)):
        assert torch.equal(standardized_reward(reward), torch.zeros(200, samples))
        assert torch.equal(leave_one_out_advantage(reward), torch.zeros(200, samples))
        for temperature in (solve_temperature(reward, 0.6), solve_temperature_kl(reward, 0.1)):
            assert temperature == 1.0
            torch.testing.assert_close(target_weights(reward, temperature), torch.full((200, samples), 1.0 / samples))


@scales
def test_other_groups_of_the_batch_are_weighed_as_without_them(scale):
    reward = scale * torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    equal = equal_but_for_rounding(scale, 6)[:3]
    equal[0, 0] = -torch.inf  # the others of this group are equal
    both = torch.cat((reward, equal))
    temperature = solve_temperature(reward, 0.5)
    weights = target_weights(both, temperature)
    assert torch.equal(weights[:5], target_weights(reward, temperature))
    torch.testing.assert_close(weights[5], torch.tensor([0.0, 0.2, 0.2, 0.2, 0.2, 0.2]))
    torch.testing.assert_close(weights[6:], torch.full((2, 6), 1.0 / 6.0))


@scales
def test_rewards_that_differ_say_the_same_at_every_scale(scale):
    reward = scale * torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    exact = reward.double()
    centered = exact - exact.mean(-1, keepdim=True)
    deviation = (centered.square().sum(-1, keepdim=True) / 7.0).sqrt()
    torch.testing.assert_close(standardized_reward(reward).double(), centered / deviation, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        leave_one_out_advantage(reward).double(), centered * (8 / 7), atol=1e-6 * scale, rtol=1e-5
    )
    weights = torch.softmax(exact / solve_temperature(reward, 0.33).double(), -1)
    assert effective_sample_size(weights).mean().item() == pytest.approx(0.33 * 8, rel=1e-4)


@scales
def test_a_critics_rewards_are_of_unit_size_and_equal_ones_stay_small(scale):
    reward = scale * (3.0 + torch.randn(32, 8, generator=torch.Generator().manual_seed(3)))
    scaled = RewardScale()(reward)
    assert scaled.mean().abs() < 1e-4
    assert scaled.std().item() == pytest.approx(1.0, rel=1e-2)
    equal = RewardScale()
    for _ in range(50):
        assert equal(equal_but_for_rounding(scale, 7)[:1]).abs().max() < 1e-2


@scales
def test_a_column_of_one_value_stays_near_zero_and_the_others_are_standardised(scale):
    generator = torch.Generator().manual_seed(4)
    features = scale * torch.rand(100, 3, generator=generator)
    features[:, 1] = 0.3 * scale
    problem = ClassificationBandit(features, torch.arange(100) % 2)
    features[problem._rows["test"], 1] += scale  # of which training has seen nothing
    splits = ClassificationBandit(features, torch.arange(100) % 2).splits()
    assert splits.train[:][:, 1].abs().max() <= 4 * EPS * scale
    torch.testing.assert_close(splits.test[:][:, 1], torch.full((20,), scale))
    for column in (0, 2):
        assert splits.train[:][:, column].std().item() == pytest.approx(1.0, rel=1e-4)


@scales
def test_the_choice_of_samples_and_the_clip_of_gradients_have_no_scale(scale):
    size, uniform = torch.tensor([[1.0, 2.0, 0.5, 4.0]]), torch.tensor([[0.3]])
    kept, reference = threshold_sample(scale * size, 2, uniform), threshold_sample(size, 2, uniform)
    assert torch.equal(kept.indices, reference.indices)
    torch.testing.assert_close(kept.probability, reference.probability)
    weight = torch.nn.Parameter(torch.full((2, 4), scale))  # each row 2·scale long
    weight.grad = scale * torch.tensor([[8.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]])
    adaptive_clip_([weight], 1.0)
    longest = max(2.0 * scale, 1e-3)  # weights shorter than 1e-3 count as that long
    torch.testing.assert_close(weight.grad[:, 0], torch.tensor([8.0, 0.5]).mul(scale).clamp(max=longest))


@scales
def test_a_forbidden_code_does_not_count_where_the_others_are_standardised(scale):
    reward = scale * torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    some = reward.clone()
    some[:, [1, 4, 6]] = -torch.inf
    rest = standardized_reward(reward[:, [0, 2, 3, 5, 7]])
    torch.testing.assert_close(standardized_reward(some)[:, [0, 2, 3, 5, 7]], rest, atol=1e-5, rtol=1e-5)
    assert (standardized_reward(some)[:, [1, 4, 6]] == -torch.inf).all()
    some[:, 1:] = -torch.inf
    assert torch.equal(standardized_reward(some)[:, 0], torch.zeros(50))
