"""daps_rl.agents.sb3.DAPS: the same loss as the core and TorchRL, what is paid, and how an update weighs it."""

import numpy as np
import pytest
import torch
from sb3_envs import GroupBandit, IdentityEnv, encoding_env
from sb3_models import SMALL, collected, make_grouped, make_whole, parameters
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, FactorizedPolicy
from daps_rl.functional import (
    daps_loss,
    keep_samples,
    one_sample_groups,
    solve_temperature,
    target_weights,
    weighted_likelihood_loss,
)
from daps_rl.objectives import DAPSLoss, GroupActor

F64 = torch.float64


def rollout_batch(model):
    return model._form.batch(model)


def actor_loss(model, batch, temperature, groups=None):
    """The actor's loss on some groups of a rollout, and the gradient of it in the policy."""
    caught = {}

    def instead_of_a_step(optimizer, loss, max_grad_norm):
        optimizer.zero_grad()
        loss.backward()
        caught["loss"] = loss.detach()
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daps_rl.agents.sb3.daps.descend", instead_of_a_step)
        groups = torch.arange(len(batch.log_prob)) if groups is None else groups
        weights = target_weights(batch.score, temperature, pooling=model.pooling)
        weights = weights if model.samples_per_context else one_sample_groups(weights)
        _, critic, _, approx_kl = model._step(batch, weights, groups)
    return caught["loss"] - model.vf_coef * critic, critic, approx_kl


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


class Actor(TensorDictModuleBase):
    """A TorchRL actor of ungrouped actions around a policy network."""

    in_keys, out_keys = ["observation"], ["action"]

    def __init__(self, network):
        super().__init__()
        self.network = network

    def get_dist(self, tensordict):
        return self.network(tensordict["observation"])


# Parity: one batch, three ways


@pytest.mark.parametrize("policy", [AutoregressivePolicy, FactorizedPolicy])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("policy_samples", [0, 2])
def test_groups_give_the_loss_and_gradient_of_the_core_and_of_torchrl(policy, centered, policy_samples):
    model = collected(make_grouped(policy, centered=centered, policy_samples=policy_samples))
    model.policy.double()
    batch = rollout_batch(model)
    assert batch.score.dtype == F64
    b, k = batch.score.shape
    assert (b, k) == (8, 6)
    floor = model._beta.value.double()
    temperature = model._trust_region(batch.score, floor)
    torch.manual_seed(3)  # chooses which codes to score
    loss, critic, approx_kl = actor_loss(model, batch, temperature)
    assert critic == 0.0
    assert approx_kl == pytest.approx(0.0, abs=1e-6)
    ours, network = gradients(model.policy.network), model.policy.network
    assert len(ours) > 5

    x = torch.as_tensor(model.rollout_buffer.observations[0]).double()  # [B·K, *x]
    codes = torch.as_tensor(model.rollout_buffer.actions[0]).long()
    network.zero_grad()
    log_prob = network(x).log_prob(codes).view(b, k)  # every observation encoded by itself
    tau = solve_temperature(batch.score, 0.33, floor)
    weights = target_weights(batch.score, tau)
    torch.manual_seed(3)
    kept = keep_samples(weights, policy_samples, centered=centered)
    some = log_prob if kept is None else log_prob.gather(1, kept.indices)
    core = weighted_likelihood_loss(some, weights, batch.log_prob, kept, centered=centered).mean()
    core.backward()
    torch.testing.assert_close(loss, core.detach(), rtol=1e-6, atol=1e-9)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)

    network.zero_grad()
    rollout = TensorDict(
        {
            "observation": x.view(b, k, -1),
            "action": codes.view(b, k, -1),
            "action_log_prob": batch.log_prob.view(b, k),
            "next": {"reward": batch.score.unsqueeze(-1)},
        },
        batch_size=[b, k],
    )
    options = {"centered": centered, "policy_samples": policy_samples, "functional": False}
    loss_module = DAPSLoss(GroupActor(network), temperature_floor=floor, **options)
    torch.manual_seed(3)
    torchrl = loss_module(rollout)["loss_actor"]
    torchrl.backward()
    torch.testing.assert_close(loss, torchrl.detach(), rtol=1e-6, atol=1e-9)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("minibatches", [False, True])
def test_whole_batch_gives_the_loss_and_gradient_of_the_core_and_of_torchrl(minibatches):
    env = DummyVecEnv([IdentityEnv] * 2)
    model = DAPS(AutoregressivePolicy, env, n_steps=16, seed=0, device="cpu", policy_kwargs=SMALL)
    collected(model)
    model.policy.double()
    batch = rollout_batch(model)
    assert batch.score.shape == (1, 32)
    temperature = model._trust_region(batch.score, 0.0)
    network = model.policy.network
    pieces = torch.randperm(32).split(8) if minibatches else [torch.arange(32)]
    losses, parts = [], []
    for piece in pieces:
        losses.append(actor_loss(model, batch, temperature, piece)[0])
        parts.append(gradients(network))
    loss = torch.stack(losses).mean()
    ours = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    network.zero_grad()
    observations = batch.observations.double()
    log_prob = network(observations).log_prob(batch.actions.long()).view(1, -1)
    core = daps_loss(log_prob, batch.score, temperature=solve_temperature(batch.score, 0.33)).loss.mean()
    torch.testing.assert_close(loss, core.detach(), rtol=1e-6, atol=1e-9)

    rollout = TensorDict(
        {
            "observation": observations,
            "action": batch.actions.long(),
            "action_log_prob": batch.log_prob,
            "advantage": batch.score.view(-1, 1),
            "next": {"reward": torch.zeros(32, 1, dtype=F64)},
        },
        batch_size=[32],
    )
    torchrl = DAPSLoss(Actor(network), sample_dim=None, functional=False)(rollout)["loss_actor"]
    torchrl.backward()
    torch.testing.assert_close(loss, torchrl.detach(), rtol=1e-6, atol=1e-9)
    assert len(ours) > 5
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)


def test_reward_holds_the_kl_once_with_the_log_probability_of_the_drawn_codes():
    seen = {}

    class Look(BaseCallback):
        def _on_step(self):
            seen["paid"] = self.locals["rewards"].copy()
            seen["likelihood"] = np.array([info["log_likelihood"] for info in self.locals["infos"]])
            return True

    env = encoding_env(beta=0.25)
    model = make_grouped(env=env)
    kept, model.train = model.train, lambda: None
    model.learn(1, Look())
    buffer = model.rollout_buffer
    prior = 0.25 * 3 * np.log(5.0)
    np.testing.assert_allclose(seen["paid"], seen["likelihood"] - prior, rtol=1e-5)
    np.testing.assert_allclose(buffer.rewards[0], seen["paid"] - 0.25 * buffer.log_probs[0], rtol=1e-5)
    codes, x = torch.as_tensor(buffer.actions[0]), torch.as_tensor(buffer.observations[0])
    rescored = model.policy.evaluate_actions(x, codes)[1].detach()
    torch.testing.assert_close(torch.as_tensor(buffer.log_probs[0]), rescored, rtol=1e-5, atol=1e-5)
    model.train = kept
    model.train()
    assert model.temperature >= 0.25


def test_beta_is_paid_per_step_in_the_whole_batch_form():
    model = collected(make_whole(beta=0.5))
    np.testing.assert_allclose(model.rollout_buffer.rewards, 1.0 - 0.5 * model.rollout_buffer.log_probs, rtol=1e-5)
    model.train()
    assert model.temperature >= 0.5


def test_temperature_holds_the_effective_sample_size():
    model = make_grouped(env=encoding_env(beta=0.0))
    model.learn(48 * 3, log_interval=1000)
    assert model.logger.name_to_value["train/ess"] == pytest.approx(0.33, abs=0.01)
    model = make_whole(ess_fraction=0.6)
    model.learn(64)
    assert model._trust_region.ess_fraction == 0.6


def test_a_schedule_of_beta_fills_the_environments_own():
    env = encoding_env(beta=0.7)
    shared = env.beta
    model = make_grouped(env=VecMonitor(env), beta=lambda remaining: 0.1 + 0.4 * remaining)
    assert shared == pytest.approx(0.5)
    model.learn(48 * 4)
    assert shared == pytest.approx(0.1 + 0.4 * 0.25)  # at the start of the last of four rollouts
    assert model._beta.value is shared


def test_groups_and_the_policy_that_encodes_each_observation_agree():
    """A policy of SB3's own reads all B·K observations; one of ours reads B."""
    env = GroupBandit()
    model = collected(DAPS("MlpPolicy", env, samples_per_context=6, seed=0, device="cpu"))
    batch = rollout_batch(model)
    assert batch.observations.shape == (24, 4)
    mine = collected(DAPS(AutoregressivePolicy, GroupBandit(), samples_per_context=6, seed=0, policy_kwargs=SMALL))
    assert rollout_batch(mine).observations.shape == (4, 4)
    rows = mine.rollout_buffer.observations[0].reshape(4, 6, 4)
    assert np.array_equal(rollout_batch(mine).observations.numpy(), rows[:, 3])


# Updates


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    model = collected(make_grouped())
    before = parameters(model)
    model.rollout_buffer.rewards[0, 0] = np.nan
    model.train()
    assert model.skipped_updates == 1
    assert torch.equal(before, parameters(model))
    assert model.logger.name_to_value["train/skipped_updates"] == 1


def test_rewards_of_minus_infinity_are_weighed_as_nothing():
    model = collected(make_grouped(env=encoding_env(beta=0.0)))
    before = parameters(model)
    model.rollout_buffer.rewards[0, ::2] = -np.inf
    model.train()
    assert model.skipped_updates == 0
    assert not torch.equal(before, parameters(model))
    assert parameters(model).isfinite().all()


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_another_environments_rewards_must_be_numbers(bad, groups):
    """-inf forbids an action where actions are compared with each other; returns and a critic cannot bear it."""

    class Bad(IdentityEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, bad if action[0] == 0 else reward, *rest

    options = {"samples_per_context": 8, "learning_rate": 2e-2} if groups else {"n_steps": 8, "batch_size": 16}
    model = DAPS("MlpPolicy", DummyVecEnv([Bad] * 8), seed=0, device="cpu", **options)
    if groups and bad == -np.inf:
        model.learn(8 * 60)
        assert model.skipped_updates == 0
        assert not (model.rollout_buffer.actions[..., 0] == 0).any()
    else:
        also = r" \(or -inf, for what must not be\)" if groups else ""
        with pytest.raises(ValueError, match=f"rewards must be finite{also}, got NaN or infinite"):
            model.learn(8 * 8)
    assert parameters(model).isfinite().all()


def test_rewards_that_are_all_minus_infinity_are_said():
    model = collected(make_grouped())
    model.rollout_buffer.rewards[:] = -np.inf
    with pytest.warns(UserWarning, match="all rewards of a rollout are -inf"):
        model.train()
    assert parameters(model).isfinite().all()


def watched_losses(monkeypatch):
    """What each call of the likelihood loss in a model's updates was given."""
    seen = []

    def watched(log_prob, weights, behaviour, kept=None, **options):
        seen.append((log_prob.detach(), weights, behaviour))
        return weighted_likelihood_loss(log_prob, weights, behaviour, kept, **options)

    monkeypatch.setattr("daps_rl.agents.sb3.daps.weighted_likelihood_loss", watched)
    return seen


def test_groups_used_more_than_once_keep_the_policy_that_drew_them(monkeypatch):
    seen = watched_losses(monkeypatch)
    model = make_grouped(n_epochs=2)
    model.learn(model.n_steps * model.n_envs)
    (first, weights, drawn), (second, same, still) = seen
    torch.testing.assert_close(first, drawn, atol=1e-5, rtol=1e-5)  # nothing has moved before the first step
    assert (second - drawn).abs().max() > 1e-4
    assert torch.equal(drawn, still)
    assert torch.equal(weights, same)


def test_groups_are_pooled_over_the_whole_rollout(monkeypatch):
    seen = watched_losses(monkeypatch)
    model = make_grouped(pooling=3.0, batch_size=12)
    model.learn(model.n_steps * model.n_envs)
    score, weights = rollout_batch(model).score, torch.cat([given for _, given, _ in seen])
    assert len(seen) == 4
    torch.testing.assert_close(weights, target_weights(score, model.temperature, pooling=3.0))
    assert (weights.sum(-1) - 1.0).abs().max() > 1e-3


def test_minibatches_keep_groups_together():
    model = make_grouped(n_steps=2, batch_size=12, n_epochs=2)
    model.learn(96)
    pieces = list(model._minibatches(rollout_batch(model)))
    assert [len(p) for p in pieces] == [2] * 16  # groups of six
    assert torch.equal(torch.cat(pieces[:8]), torch.arange(16))
    model.learn(96)
    assert model._n_updates == 32
