"""daps_rl.objectives: trust regions alone and inside DAPSLoss; the published adaptation beside torch's AdamW."""

import copy
import math

import pytest
import scipy.special
import torch
from batches import make_batch, make_policy
from torch import nn

from daps_rl.functional import effective_sample_size, solve_temperature, solve_temperature_kl, target_weights
from daps_rl.objectives import (
    TRUST_REGIONS,
    AdaptiveTemperature,
    DAPSLoss,
    ESSTrustRegion,
    FixedTemperature,
    GroupActor,
    KLTrustRegion,
    TrustRegion,
    make_trust_region,
)

F64 = torch.float64


def rewards(seed=0, contexts=4, samples=8):
    return 5.0 * torch.randn(contexts, samples, dtype=F64, generator=torch.Generator().manual_seed(seed))


# Each by itself


def test_ess_and_kl_regions_are_the_searches():
    reward = rewards()
    assert ESSTrustRegion(0.4)(reward, 0.1) == solve_temperature(reward, 0.4, 0.1)
    assert KLTrustRegion(0.7)(reward, 0.1) == solve_temperature_kl(reward, 0.7, 0.1)


def test_fixed_temperature_or_the_floor():
    region, floor = FixedTemperature(2.0), torch.tensor(0.5)
    assert region(rewards()).item() == 2.0
    assert region(rewards(), floor).item() == 2.0
    floor.fill_(3.0)
    assert region(rewards(), floor).item() == 3.0
    assert region(rewards(), 4.0).item() == 4.0


def test_a_trust_region_by_name():
    kinds = {"ess": ESSTrustRegion, "kl": KLTrustRegion, "fixed": FixedTemperature, "adaptive": AdaptiveTemperature}
    for name, kind in kinds.items():
        assert TRUST_REGIONS[name] is kind
        assert type(make_trust_region(name, 0.4)) is kind
    assert make_trust_region("ess", 0.4).ess_fraction == make_trust_region("adaptive", 0.4).ess_fraction == 0.4
    own = nn.Identity()
    assert make_trust_region(own, 0.4) is own
    with pytest.raises(NotImplementedError):
        TrustRegion()(rewards())


# The published adaptation


def adamw_oracle(batches, *, ess_fraction, init, learning_rate, floor):
    """The temperatures of η + floor, with torch's AdamW on log η descending (ESS − target)² of each batch in turn."""
    log_eta = nn.Parameter(torch.tensor(init, dtype=F64).log())
    optimizer = torch.optim.AdamW([log_eta], lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4)
    temperatures = []
    for reward in batches:
        temperature = log_eta.exp() + floor
        temperatures.append(temperature.item())
        weights = torch.softmax(reward / temperature, -1)
        ess = (1.0 / weights.square().sum(-1)).mean()
        optimizer.zero_grad()
        (ess - ess_fraction * reward.shape[-1]).square().backward()
        optimizer.step()
    return temperatures


@pytest.mark.parametrize(("init", "learning_rate"), [(100.0, 1e-3), (3.0, 0.05)])
@pytest.mark.parametrize("floor", [0.0, 1.5])
def test_adaptive_temperature_takes_the_steps_of_adamw(init, learning_rate, floor):
    batches = [rewards(seed) for seed in range(20)]
    expected = adamw_oracle(batches, ess_fraction=0.33, init=init, learning_rate=learning_rate, floor=floor)
    region = AdaptiveTemperature(0.33, init=init, learning_rate=learning_rate).double()
    with torch.no_grad():  # as inside a loss of a user who scores without gradient
        reached = [region(reward, floor).item() for reward in batches]
    assert reached == pytest.approx(expected, rel=1e-5)
    assert abs(reached[-1] - reached[0]) > 1e-3 * init


def test_adaptive_temperature_finds_its_target_in_the_end():
    region, reward = AdaptiveTemperature(0.5, init=20.0, learning_rate=0.05), rewards().float()
    for _ in range(300):
        temperature = region(reward)
    weights = torch.tensor(scipy.special.softmax(reward.numpy() / temperature.item(), axis=-1))
    assert effective_sample_size(weights).mean().item() == pytest.approx(4.0, abs=0.1)
    start = effective_sample_size(target_weights(reward, 20.0)).mean().item()
    assert abs(start - 4.0) > 1.0


def test_adaptive_temperature_stands_still_in_evaluation():
    region = AdaptiveTemperature(0.5).eval()
    before = copy.deepcopy(region.state_dict())
    temperatures = {region(rewards()).item() for _ in range(3)}
    assert len(temperatures) == 1
    assert temperatures.pop() == pytest.approx(100.0)
    torch.testing.assert_close(region.state_dict(), before)


def test_adaptive_temperature_outlives_a_bad_batch_and_has_no_parameters():
    region = AdaptiveTemperature(0.5)
    region(torch.full((2, 4), math.nan))
    region(torch.full((2, 4), -math.inf))
    assert region(rewards()).isfinite()
    assert list(region.parameters()) == []
    assert not region(rewards().requires_grad_()).requires_grad


# Inside the loss


@pytest.mark.parametrize("region", ["ess", "kl", "fixed", "adaptive", nn.Module])
def test_every_trust_region_sets_the_loss_s_temperature(region):
    class Quarter(nn.Module):
        """A user's own: called with rewards [B, K] and a floor."""

        def forward(self, reward, floor=0.0):
            assert reward.shape == (3, 5)
            return torch.as_tensor(0.25 + floor)

    policy = make_policy()
    batch = make_batch(policy)
    reward = batch["next", "reward"][..., 0]
    own = Quarter() if region is nn.Module else region
    out = DAPSLoss(GroupActor(policy), ess_fraction=0.5, trust_region=own, temperature_floor=0.125)(batch)
    expected = {
        "ess": solve_temperature(reward, 0.5),
        "kl": solve_temperature_kl(reward, 0.5),
        "fixed": 1.0,
        "adaptive": 100.125,
        nn.Module: 0.375,
    }[region]
    assert out["temperature"].item() == pytest.approx(float(expected), rel=1e-6)
    weights = target_weights(reward, float(expected))
    assert out["ESS"].item() == pytest.approx(effective_sample_size(weights).mean().item() / 5)
    assert out["loss_actor"].isfinite()


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ESSTrustRegion(0.0), "ess_fraction must lie in"),
        (lambda: ESSTrustRegion(1.1), "ess_fraction must lie in"),
        (lambda: KLTrustRegion(0.0), "epsilon must lie in"),
        (lambda: FixedTemperature(0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: FixedTemperature(math.inf), "temperature must be positive and finite, got inf"),
        (lambda: AdaptiveTemperature(2.0), "ess_fraction must lie in"),
        (lambda: AdaptiveTemperature(init=0.0), "init and learning_rate must be positive, got 0.0 and 0.001"),
        (lambda: AdaptiveTemperature(learning_rate=-1.0), "init and learning_rate must be positive"),
        (lambda: AdaptiveTemperature(0.33)(rewards(samples=3)), "and K is 3, got 0.33"),
        (lambda: make_trust_region("trpo", 0.5), "trust_region must be one of ess, kl, fixed, adaptive"),
    ],
)
def test_impossible_trust_regions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
