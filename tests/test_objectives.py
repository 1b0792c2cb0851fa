"""daps_rl.objectives: DAPSLoss beside the functional core, its keys, groups and gradients."""

import math
from typing import NamedTuple

import pytest
import torch
from batches import F64, B, D, K, T, make_batch, make_policy
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from daps_rl.functional import effective_sample_size, solve_temperature, target_weights
from daps_rl.objectives import DAPSLoss, DAPSWeights, DecoderLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy, FactorizedPolicy

POLICIES = [AutoregressivePolicy, FactorizedPolicy]
METRICS = ["ESS", "temperature", "kl_approx", "entropy"]


def make_loss(policy=None, **options):
    policy = make_policy() if policy is None else policy
    return DAPSLoss(GroupActor(policy), **{"ess_fraction": 0.5, **options}), make_batch(policy)


class Terms(NamedTuple):
    loss: torch.Tensor
    weights: torch.Tensor
    effective_sample_size: torch.Tensor


def by_hand(policy, batch, *, floor=0.0, entropy_coeff=0.0, centered=True, pooling=0.0):
    """The same loss [B] by its equation, with the target of the functional core."""
    score = batch["next", "reward"][..., 0] - entropy_coeff * batch["action_log_prob"]
    log_prob = policy(batch["observation"][:, 0]).log_prob(batch["action"].transpose(0, 1)).T
    temperature = solve_temperature(score, 0.5, floor)
    weights = target_weights(score, temperature, pooling=pooling)
    ratio = (log_prob - batch["action_log_prob"]).exp()
    loss = -(weights * log_prob).sum(-1) + (ratio - 1.0).mean(-1) * centered
    return Terms(loss, weights, effective_sample_size(weights)), temperature, log_prob


def gradients(loss, parameters):
    return torch.autograd.grad(loss, list(parameters))


# The core's numbers


@pytest.mark.parametrize("policy_class", POLICIES)
@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"centered": False}, {"entropy_coeff": 0.7}, {"temperature_floor": 9.0}, {"pooling": 2.0}],
)
def test_loss_and_gradient_are_those_of_the_functional_core(policy_class, functional, options):
    policy = make_policy(policy_class)
    loss, batch = make_loss(policy, functional=functional, **options)
    out = loss(batch)
    options = {"floor" if k == "temperature_floor" else k: v for k, v in options.items()}
    terms, temperature, log_prob = by_hand(policy, batch, **options)
    torch.testing.assert_close(out["loss_actor"], terms.loss.mean())
    torch.testing.assert_close(
        gradients(out["loss_actor"], policy.parameters()), gradients(terms.loss.mean(), policy.parameters())
    )
    torch.testing.assert_close(out["temperature"], temperature)
    torch.testing.assert_close(out["ESS"], terms.effective_sample_size.mean() / K)
    assert 1.0 / K <= out["ESS"] <= 1.0
    torch.testing.assert_close(out["entropy"], -log_prob.mean().detach())
    torch.testing.assert_close(out["kl_approx"], (batch["action_log_prob"] - log_prob).mean().detach())
    assert set(out.keys()) == {"loss_actor", *METRICS} == set(loss.out_keys)
    assert not any(out[key].requires_grad for key in METRICS)


def test_weights_of_the_whole_batch_are_used_on_every_part_of_it():
    """`DAPSWeights` once, then minibatches: their mean is the loss of the whole, with its temperature and pooling."""
    policy = make_policy()
    loss, batch = make_loss(policy, pooling=2.0)
    whole = loss(batch)
    assert loss.target(batch) is batch
    assert batch["weights"].shape == batch["temperature"].shape == (B, K)
    parts = [loss(part) for part in batch.split(1)]
    torch.testing.assert_close(torch.stack([part["loss_actor"] for part in parts]).mean(), whole["loss_actor"])
    assert all(part["temperature"] == whole["temperature"] for part in parts)
    alone = [loss(part.exclude("weights", "temperature"))["temperature"] for part in batch.split(1)]
    assert len(set(map(float, alone))) == B  # without them each part would have a temperature of its own
    by_another_name = DAPSWeights(ess_fraction=0.5, pooling=2.0)
    by_another_name.set_keys(weights="w", temperature=("target", "temperature"))
    named = by_another_name(batch.exclude("weights", "temperature"))
    assert torch.equal(named["w"], batch["weights"])
    assert torch.equal(named["target", "temperature"], batch["temperature"])
    loss.set_keys(weights="w", temperature=("target", "temperature"))
    torch.testing.assert_close(loss(named), whole)


@pytest.mark.parametrize("sample_dim", [None, 0, 1])
def test_weights_of_batches_of_any_shape_lie_where_the_actions_do(sample_dim):
    policy = make_policy()
    batch = torch.stack((make_batch(policy), make_batch(policy, seed=7)), 2)  # [B, K, 2]
    batch = batch.transpose(0, 1) if sample_dim == 0 else batch
    weights = DAPSWeights(ess_fraction=0.5, sample_dim=sample_dim)(batch)["weights"]
    assert weights.shape == batch.batch_size
    if sample_dim is None:  # ratios, 1 on average over the whole batch
        torch.testing.assert_close(weights.mean(), torch.ones((), dtype=F64))
    else:
        torch.testing.assert_close(weights.sum(sample_dim), torch.ones(B, 2, dtype=F64))


def test_processes_share_a_temperature_and_the_pooling():
    policy = make_policy()
    batch = make_batch(policy)
    whole = DAPSWeights(ess_fraction=0.5, pooling=2.0)(batch.clone())
    scores = batch["next", "reward"][..., 0]
    part = DAPSWeights(ess_fraction=0.5, pooling=2.0, gather=lambda own: scores)(batch[:1].clone())
    assert torch.equal(part["weights"], whole["weights"][:1])
    assert torch.equal(part["temperature"], whole["temperature"][:1])


def test_pooling_needs_centred_weights():
    with pytest.raises(ValueError, match="pooling needs groups and centred weights"):
        make_loss(centered=False, pooling=3.0)
    with pytest.raises(ValueError, match="pooling needs groups and centred weights"):
        DAPSWeights(sample_dim=None, pooling=3.0)


def test_what_the_batch_lacks_is_named():
    loss, batch = make_loss()
    with pytest.raises(KeyError, match=r"DAPS reads 'action_log_prob'.*return_log_prob=True"):
        loss(batch.exclude("action_log_prob"))
    with pytest.raises(KeyError, match=r"DAPS reads 'temperature'.*DAPSWeights, which writes both"):
        loss(loss.target(batch).exclude("temperature"))
    with pytest.raises(KeyError, match=r"DAPS reads 'action', and .*set_keys\(action=...\)"):
        loss(batch.exclude("action"))
    with pytest.raises(KeyError, match=r"DAPS reads 'observation', and .*GroupActor\(in_key=...\)"):
        GroupActor(make_policy())(batch.exclude("observation"))
    for key in ("action", "observation"):
        with pytest.raises(
            KeyError, match=f"DAPS reads '{key}', and the batch does not have it; name it with set_keys"
        ):
            DecoderLoss(nn.Identity())(batch.exclude(key))


@pytest.mark.parametrize("make", [DAPSWeights, lambda **options: make_loss(**options)])
def test_a_floor_that_no_temperature_can_have_is_refused(make):
    for floor in (-1.0, torch.tensor(math.nan), math.inf):
        with pytest.raises(ValueError, match=r"temperature_floor must be >= 0 and finite, got (-1\.0|nan|inf); pass β"):
            make(temperature_floor=floor)
    with pytest.raises(ValueError, match=r"temperature_floor must be a number or a 0-dim tensor, got shape \(2,\)"):
        make(temperature_floor=torch.ones(2))


def test_gradient_reaches_the_actor_alone():
    class Learned(nn.Module):
        """A trust region with a parameter."""

        def __init__(self):
            super().__init__()
            self.log_temperature = nn.Parameter(torch.zeros(()))

        def forward(self, reward, floor=0.0):
            return self.log_temperature.exp() + floor

    policy = make_policy()
    loss, batch = make_loss(policy, trust_region=Learned())
    for key in ("action_log_prob", ("next", "reward")):
        batch[key] = batch[key].requires_grad_()
    out = loss(batch)
    out["loss_actor"].backward()
    assert all(p.grad.any() for p in policy.parameters())
    assert loss.target.trust_region.log_temperature.grad is None
    assert batch["action_log_prob"].grad is None
    assert batch["next", "reward"].grad is None
    assert not any(out[key].requires_grad for key in METRICS)


def test_functional_loss_gives_its_parameters_and_the_plain_one_leaves_the_actor_whole():
    policy = make_policy()
    assert {id(p) for p in make_loss(policy, functional=True)[0].parameters()} == {id(p) for p in policy.parameters()}
    plain, _ = make_loss(policy, functional=False)
    assert plain.actor_network.policy is policy
    assert "actor_network_params" not in dict(plain.named_modules())
    assert [id(p) for p in plain.parameters()] == [id(p) for p in policy.parameters()]


def test_entropy_coeff_changes_the_score_not_the_terms():
    policy = make_policy()
    plain, batch = make_loss(policy)
    with_entropy, _ = make_loss(policy, entropy_coeff=0.7)
    shifted = batch.clone()
    shifted["next", "reward"] -= 0.7 * batch["action_log_prob"].unsqueeze(-1)
    torch.testing.assert_close(with_entropy(batch), plain(shifted))
    assert not torch.isclose(with_entropy(batch)["loss_actor"], plain(batch)["loss_actor"])


# Keys and calls


def test_set_keys():
    policy = make_policy()
    plain, batch = make_loss(policy)
    renamed = TensorDict(
        {
            "x": batch["observation"],
            "z": batch["action"],
            "nested": {"log_q": batch["action_log_prob"]},
            "next": {"score": batch["next", "reward"]},
        },
        batch_size=[B, K],
    )
    loss = DAPSLoss(GroupActor(policy, in_key="x"), ess_fraction=0.5)
    loss.set_keys(action="z", sample_log_prob=("nested", "log_q"), reward="score")
    assert loss.in_keys == ["x", "z", ("nested", "log_q"), ("next", "score")]
    torch.testing.assert_close(loss(renamed), plain(batch))
    with pytest.raises(ValueError):
        loss.set_keys(value="v")


@pytest.mark.parametrize("functional", [True, False])
def test_keyword_tensors_stand_in_for_a_tensordict(functional):
    loss, batch = make_loss(functional=functional)
    assert loss.in_keys == ["observation", "action", "action_log_prob", ("next", "reward")]
    out = loss(
        observation=batch["observation"],
        action=batch["action"],
        action_log_prob=batch["action_log_prob"],
        next_reward=batch["next", "reward"],
    )
    assert len(out) == 5
    torch.testing.assert_close(out, tuple(loss(batch)[key] for key in loss.out_keys))


def test_the_batch_is_left_as_it_came():
    loss, batch = make_loss()
    before = batch.clone()
    loss(batch)
    assert (batch == before).all()
    assert set(batch.keys(True)) == set(before.keys(True))


# Groups


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reduction_over_groups(reduction):
    policy = make_policy()
    loss, batch = make_loss(policy, reduction=reduction)
    terms, *_ = by_hand(policy, batch)
    expected = {"mean": terms.loss.mean(), "sum": terms.loss.sum(), "none": terms.loss}[reduction]
    torch.testing.assert_close(loss(batch)["loss_actor"], expected)


@pytest.mark.parametrize("squeezed", [True, False])
def test_rewards_with_and_without_their_last_axis(squeezed):
    loss, batch = make_loss()
    expected = loss(batch)
    if squeezed:
        batch["next", "reward"] = batch["next", "reward"][..., 0]
    torch.testing.assert_close(loss(batch), expected)


@pytest.mark.parametrize("functional", [True, False])
def test_a_time_dimension_behind_the_group(functional):
    policy = make_policy(AutoregressivePolicy)
    loss, batch = make_loss(policy, functional=functional)
    torch.testing.assert_close(loss(batch.unsqueeze(-1)), loss(batch))
    two_steps = torch.stack((batch, make_batch(policy, seed=7)), 2)
    assert two_steps.batch_size == (B, K, 2)
    side_by_side = torch.cat((batch, make_batch(policy, seed=7)), 0)
    torch.testing.assert_close(loss(two_steps), loss(side_by_side))


def test_samples_along_another_dimension():
    policy = make_policy()
    loss, batch = make_loss(policy)
    actor = TensorDictModule(lambda x: x, in_keys=["observation"], out_keys=["observation"])
    actor.get_dist = lambda td: FlatDistribution(policy, td)
    front = DAPSLoss(actor, ess_fraction=0.5, sample_dim=0, functional=False)
    torch.testing.assert_close(front(batch.transpose(0, 1)), loss(batch))


class FlatDistribution:
    """Scores codes of any batch shape, each with an encoding of its own."""

    def __init__(self, policy, batch):
        self.policy, self.x = policy, batch["observation"]

    def log_prob(self, codes):
        return self.policy(self.x.reshape(-1, D)).log_prob(codes.reshape(-1, T)).view(codes.shape[:-1])


def test_the_floor_is_one_shared_value():
    beta = torch.tensor(0.5)
    loss, batch = make_loss(temperature_floor=beta)
    assert loss(batch)["temperature"].item() > 1.0
    beta.fill_(50.0)
    assert loss.temperature_floor is beta
    assert loss(batch)["temperature"].item() == 50.0
    assert loss.to(F64)(batch)["temperature"].item() == 50.0


# Nothing is drawn


def test_actions_are_scored_as_stored():
    loss, batch = make_loss(make_policy(AutoregressivePolicy))
    expected, state = loss(batch), torch.get_rng_state()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        torch.testing.assert_close(loss(batch), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("where", ["[B, K]", "[2, B, K]", "[B, K, 2]"])
@pytest.mark.parametrize("generic", [False, True])
def test_some_of_the_actions_stand_for_all_of_a_group_wherever_it_lies(where, generic, monkeypatch):
    """The mean over the uniforms that choose them is the whole loss; ESS and temperature are those of all."""
    policy = make_policy()
    one, other = make_batch(policy), make_batch(policy, seed=1)
    batch = {"[B, K]": one, "[2, B, K]": torch.stack((one, other)), "[B, K, 2]": torch.stack((one, other), dim=2)}[
        where
    ]
    dim = 2 if where == "[2, B, K]" else 1
    group = GroupActor(policy, sample_dim=dim)

    class Generic(nn.Module):
        """The same actor, of another class."""

        in_keys, out_keys = group.in_keys, group.out_keys

        def __init__(self):
            super().__init__()
            self.group = group

        def get_dist(self, tensordict):
            return self.group.get_dist(tensordict)

    options = {"ess_fraction": 0.5, "sample_dim": dim, "reduction": "none", "centered": True}
    actor = Generic() if generic else group
    whole = DAPSLoss(actor, **options)(batch)
    some_of = DAPSLoss(actor, **options, policy_samples=2)
    losses = []
    for i in range(200):
        uniform = (i + 0.5) / 200
        monkeypatch.setattr(
            "daps_rl.functional.weights.torch.rand", lambda *shape, u=uniform, **_: torch.full(shape, u, dtype=F64)
        )
        some = some_of(batch)
        losses.append(some["loss_actor"].detach())
    assert torch.stack(losses).std(0).min() > 5e-2
    torch.testing.assert_close(torch.stack(losses).mean(0), whole["loss_actor"].detach(), rtol=0.0, atol=5e-2)
    for name in ("ESS", "temperature"):
        torch.testing.assert_close(some[name], whole[name])


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_dim": -1}, "sample_dim counts from the front and must be >= 0, got -1"),
        ({"policy_samples": -1}, "policy_samples must be >= 0, and 0 without groups"),
        ({"policy_samples": 2, "sample_dim": None}, "policy_samples must be >= 0, and 0 without groups"),
        ({"reduction": "avg"}, "reduction must be mean, sum or none, got 'avg'"),
        ({"ess_fraction": 0.0}, "ess_fraction must lie in"),
        ({"ess_fraction": 1.5}, "ess_fraction must lie in"),
        ({"trust_region": "trpo"}, "trust_region must be one of ess, kl, fixed, adaptive or a module, got 'trpo'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**options)
    with pytest.raises(TypeError):
        make_loss(temperature=1.0)


def test_batches_without_groups_are_refused():
    loss, batch = make_loss(ess_fraction=0.15)
    with pytest.raises(ValueError, match=r"ess_fraction must lie in \(1/K, 1\] and K is 5, got 0.15"):
        loss(batch)
    loss, batch = make_loss()
    with pytest.raises(ValueError, match=r"along dimension 1, got a batch of shape \(15,\)"):
        loss(batch.reshape(-1))
    batch["next", "reward"] = torch.zeros(B, K, 2, dtype=F64)
    with pytest.raises(ValueError, match="reward must have the shape of log_prob"):
        loss(batch)
