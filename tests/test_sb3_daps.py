"""daps_rl.agents.sb3.DAPS: the same loss as the core and TorchRL, SB3's contract, and learning."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_envs import NVEC, GroupBandit, IdentityEnv, encoding_env
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, FactorizedPolicy
from daps_rl.functional import (
    daps_loss,
    solve_temperature,
    target_weights,
    thin_weights,
    thinned_likelihood_loss,
    weighted_likelihood_loss,
)
from daps_rl.objectives import DAPSLoss, GroupActor

SMALL = {"embed_dim": 16, "num_heads": 2}
F64 = torch.float64


def make_grouped(policy=AutoregressivePolicy, env=None, seed=0, **options):
    if env is None:
        env = encoding_env(seed=seed)
    if policy in (AutoregressivePolicy, FactorizedPolicy):
        options.setdefault("policy_kwargs", dict(SMALL))
    return DAPS(policy, env, seed=seed, device="cpu", **options)


def quick_env(env_id="CartPole-v1", n_envs=2, seed=0, **options):
    return make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs=options)


def make_whole(env=None, seed=0, **options):
    settings = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", **options}
    return DAPS("MlpPolicy", env or quick_env(), seed=seed, **settings)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def collected(model, steps=1):
    """The model after a rollout, before it has learnt from it."""
    kept = model.train
    model.train = lambda: None
    model.learn(steps, log_interval=1000)
    model.train = kept
    return model


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
def test_groups_give_the_loss_and_gradient_of_the_core_and_of_torchrl(policy, centered, policy_samples, monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, 0.3))  # chooses which codes to score
    model = collected(make_grouped(policy, centered=centered, policy_samples=policy_samples))
    model.policy.double()
    batch = model._batch()
    assert batch.score.dtype == F64
    b, k = batch.score.shape
    assert (b, k) == (8, 6)
    floor = model._beta.value.double()
    temperature = model._trust_region(batch.score, floor)
    losses = model._loss(batch, temperature, torch.arange(b * k))
    loss = losses.actor
    assert losses.critic == 0.0
    torch.testing.assert_close(losses.approx_kl, torch.zeros((), dtype=F64), atol=1e-6, rtol=0.0)
    model.policy.zero_grad()
    loss.backward()
    ours, network = gradients(model.policy.network), model.policy.network
    assert len(ours) > 5

    x = torch.as_tensor(model.rollout_buffer.observations[0]).double()  # [B·K, *x]
    codes = torch.as_tensor(model.rollout_buffer.actions[0]).long()
    network.zero_grad()
    log_prob = network(x).log_prob(codes).view(b, k)  # every observation encoded by itself
    tau = solve_temperature(batch.score, 0.33, floor)
    if policy_samples:
        uniform = torch.full((b, 1), 0.3, dtype=F64)
        kept = thin_weights(target_weights(batch.score, tau), policy_samples, uniform, centered=centered)
        core = weighted_likelihood_loss(log_prob.gather(1, kept.indices), kept.weights).mean()
    else:
        core = daps_loss(log_prob, batch.score, temperature=tau, centered=centered).loss.mean()
    core.backward()
    torch.testing.assert_close(loss, core, rtol=1e-6, atol=1e-9)
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
    torchrl = loss_module(rollout)["loss_actor"]
    torchrl.backward()
    torch.testing.assert_close(loss, torchrl, rtol=1e-6, atol=1e-9)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("minibatches", [False, True])
def test_whole_batch_gives_the_loss_and_gradient_of_the_core_and_of_torchrl(minibatches):
    env = DummyVecEnv([IdentityEnv] * 2)
    model = DAPS(AutoregressivePolicy, env, n_steps=16, seed=0, device="cpu", policy_kwargs=SMALL)
    collected(model)
    model.policy.double()
    batch = model._batch()
    assert batch.score.shape == (1, 32)
    temperature = model._trust_region(batch.score, 0.0)
    pieces = torch.randperm(32).split(8) if minibatches else [torch.arange(32)]
    loss = torch.stack([model._loss(batch, temperature, piece).actor for piece in pieces]).mean()
    network = model.policy.network
    network.zero_grad()
    loss.backward()
    ours = gradients(network)

    network.zero_grad()
    observations = batch.observations.double()
    log_prob = network(observations).log_prob(batch.actions.long()).view(1, -1)
    core = daps_loss(log_prob, batch.score, temperature=solve_temperature(batch.score, 0.33)).loss.mean()
    torch.testing.assert_close(loss, core, rtol=1e-6, atol=1e-9)

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
    torch.testing.assert_close(loss, torchrl, rtol=1e-6, atol=1e-9)
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
    batch = model._batch()
    assert batch.observations.shape == (24, 4)
    mine = collected(DAPS(AutoregressivePolicy, GroupBandit(), samples_per_context=6, seed=0, policy_kwargs=SMALL))
    assert mine._batch().observations.shape == (4, 4)
    rows = mine.rollout_buffer.observations[0].reshape(4, 6, 4)
    assert np.array_equal(mine._batch().observations.numpy(), rows[:, 3])


# Spaces


@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(3), spaces.MultiDiscrete(NVEC), spaces.MultiBinary(3)], ids=lambda s: str(s)[:10]
)
@pytest.mark.parametrize("policy", ["MlpPolicy", AutoregressivePolicy])
@pytest.mark.parametrize("groups", [True, False])
def test_every_discrete_space_trains_and_predicts(action_space, policy, groups):
    kwargs = SMALL if policy is AutoregressivePolicy else {}
    if groups:
        env, options = GroupBandit(action_space=action_space), {"samples_per_context": 6}
    else:
        env, options = DummyVecEnv([lambda: IdentityEnv(action_space)] * 2), {"n_steps": 16, "batch_size": 8}
    model = DAPS(policy, env, seed=0, device="cpu", policy_kwargs=dict(kwargs), **options)
    before = parameters(model)
    model.learn(64)
    assert not torch.equal(before, parameters(model))
    assert model.skipped_updates == 0
    for deterministic in (True, False):
        action, state = model.predict(np.eye(4, dtype=np.float32)[1], deterministic=deterministic)
        assert action_space.contains(action.astype(action_space.dtype) if action.shape else int(action))
        assert state is None
        batch, _ = model.predict(np.eye(4, dtype=np.float32), deterministic=deterministic)
        assert batch.shape == (4, *action_space.shape)


IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
OBSERVATIONS = {
    "dict": (
        "MultiInputPolicy",
        spaces.Dict({"a": spaces.Box(0.0, 1.0, (4,), np.float32), "b": spaces.Discrete(4)}),
        lambda index: {"a": np.eye(4, dtype=np.float32)[index], "b": index},
    ),
    "image": ("CnnPolicy", IMAGE, lambda index: np.full(IMAGE.shape, 60 * index, np.uint8)),
    "discrete": ("MlpPolicy", spaces.Discrete(4), lambda index: index),
}


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("own", [False, True])
def test_observations_of_every_kind(kind, own):
    name, space, encode = OBSERVATIONS[kind]
    env = DummyVecEnv([lambda: IdentityEnv(observation_space=space, encode=encode)])
    policy, kwargs = (AutoregressivePolicy, dict(SMALL)) if own else (name, {})
    model = DAPS(policy, env, n_steps=8, batch_size=4, n_epochs=1, seed=0, device="cpu", policy_kwargs=kwargs)
    before = parameters(model)
    model.learn(8)
    assert not torch.equal(before, parameters(model))
    observation = model.get_env().reset()
    assert model.predict(observation)[0].shape == (1, 3)
    if own and kind == "image":
        assert model.policy.network.observation_shape == (3, 40, 36)  # SB3 put the channels first


# SB3's contract


@pytest.mark.parametrize("make", [make_grouped, make_whole])
def test_save_and_load_keep_predictions_temperature_and_optimiser(make, tmp_path):
    model = make(trust_region="adaptive", policy_samples=3 if make is make_grouped else 0)
    model.learn(200)
    model.save(tmp_path / "model.zip")
    env = encoding_env(beta=0.9) if make is make_grouped else quick_env()
    back = DAPS.load(tmp_path / "model.zip", env=env, device="cpu")
    assert torch.equal(parameters(model), parameters(back))
    observation = env.reset()
    assert np.array_equal(
        model.predict(observation, deterministic=True)[0], back.predict(observation, deterministic=True)[0]
    )
    assert back.temperature == model.temperature
    assert back._trust_region.log_eta == model._trust_region.log_eta
    assert back._trust_region.count > 0
    ours, theirs = (m.policy.optimizer.state_dict()["state"] for m in (model, back))
    assert len(ours) > 0
    for key, values in ours.items():
        assert torch.equal(values["exp_avg_sq"], theirs[key]["exp_avg_sq"])
    assert (back.samples_per_context, back.policy_samples, back.n_steps, back.num_timesteps) == (
        model.samples_per_context,
        model.policy_samples,
        model.n_steps,
        model.num_timesteps,
    )
    if make is make_grouped:
        assert env.beta == pytest.approx(0.1)  # the run's own, not the new environment's
    back.learn(100, reset_num_timesteps=False)
    assert back.num_timesteps >= model.num_timesteps + 100
    alone = DAPS.load(tmp_path / "model.zip", device="cpu")  # to predict, no environment is needed
    assert np.array_equal(alone.predict(observation, deterministic=True)[0].shape, model.predict(observation)[0].shape)


@pytest.mark.parametrize("make", [make_grouped, make_whole])
def test_one_seed_twice_is_one_run(make):
    def run(seed):
        model = make(seed=seed)
        model.learn(150)
        return parameters(model)

    first = run(3)
    assert torch.equal(first, run(3))
    assert not torch.equal(first, run(4))


@pytest.mark.parametrize("make", [make_grouped, make_whole])
def test_a_callback_stops_it(make):
    class Stop(BaseCallback):
        calls = 0

        def _on_step(self):
            self.calls += 1
            return self.calls < 3

    model, callback = make(), Stop()
    before = parameters(model)
    model.learn(100_000, callback)
    assert callback.calls == 3
    assert model.num_timesteps == 3 * model.n_envs
    if make is make_whole:
        assert torch.equal(before, parameters(model))  # it stopped within the first rollout
    model = make_whole()
    model.learn(100_000, StopTrainingOnMaxEpisodes(4))
    assert model.num_timesteps < 1000


@pytest.mark.parametrize("make", [make_grouped, make_whole])
def test_callback_protocol(make):
    class Look(BaseCallback):
        seen: list = []  # noqa: RUF012  (one per test)

        def _on_rollout_start(self):
            self.seen.append("start")

        def _on_step(self):
            missing = {"rewards", "log_probs", "actions", "obs_tensor", "infos", "dones", "new_obs"} - set(self.locals)
            assert not missing
            assert len(self.locals["obs_tensor"]) == len(self.locals["rewards"]) == self.model.n_envs
            self.seen.append("step")
            return True

        def _on_rollout_end(self):
            self.seen.append("end")

        def _on_training_end(self):
            self.seen.append("over")

    look = Look()
    look.seen = []
    model = make(n_steps=2, batch_size=0)
    model.learn(2 * 2 * model.n_envs, [look])
    assert look.seen == ["start", "step", "step", "end"] * 2 + ["over"]


def test_set_env_shares_the_new_environments_beta():
    model = make_grouped()
    model.learn(48)
    other = encoding_env(beta=0.4, seed=5)
    model.set_env(other)
    assert model._beta.value is other.beta
    assert other.beta == pytest.approx(0.4)
    model.learn(48)
    assert model.temperature >= 0.4
    with pytest.raises(ValueError, match="groups of 4 and the model was made for groups of 6"):
        model.set_env(encoding_env(num_contexts=12, samples=4))
    assert model.env is other  # as before


def test_learning_rate_schedule_and_timesteps():
    model = make_whole(learning_rate=lambda remaining: 1e-3 * remaining)
    model.learn(64 * 4)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert model.num_timesteps == 256
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 320
    model.learn(64)
    assert model.num_timesteps == 64


@pytest.mark.parametrize("make", [make_grouped, make_whole])
def test_logger_and_tensorboard(make, tmp_path):
    model = make(tensorboard_log=str(tmp_path / "board"))
    model.learn(100, tb_log_name="run")
    assert list((tmp_path / "board" / "run_1").glob("events*"))
    model = make()
    model.set_logger(configure(str(tmp_path / "csv"), ["csv"]))
    model.learn(200, log_interval=1)
    header = (tmp_path / "csv" / "progress.csv").read_text().splitlines()[0].split(",")
    expected = {"train/loss", "train/temperature", "train/ess", "train/approx_kl", "train/entropy", "train/beta"}
    expected |= {"rollout/kl", "rollout/score"} if make is make_grouped else {"train/value_loss"}
    assert expected <= set(header)


def test_progress_bar():
    model = make_whole()
    model.learn(64, progress_bar=True)
    assert model.num_timesteps == 64


def test_evaluate_policy_and_monitored_groups():
    model = make_grouped(env=VecMonitor(encoding_env()))
    model.learn(48 * 3, log_interval=1)
    assert len(model.ep_info_buffer) == 100
    mean, _ = evaluate_policy(model, encoding_env(), n_eval_episodes=48, warn=False)
    assert np.isfinite(mean)


def test_the_environments_decoder_is_never_copied(tmp_path):
    env = encoding_env()
    decoder = env.decoder
    model = make_grouped(env=env)
    model.learn(100)
    model.save(tmp_path / "model.zip")
    assert model.get_env().get_attr("task")[0].decoder is decoder


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


@pytest.mark.parametrize("epochs", [1, 2])
def test_groups_used_more_than_once_keep_a_loss_with_a_minimum(epochs, monkeypatch):
    """Centred weights for one epoch, for several their form with the ratio to the policy that drew."""
    seen = []

    def watched(log_prob_of, weights, keep, **options):
        seen.append((weights, options, log_prob_of(None).detach()))
        return thinned_likelihood_loss(log_prob_of, weights, keep, **options)

    monkeypatch.setattr("daps_rl.agents.sb3.daps.thinned_likelihood_loss", watched)
    model = make_grouped(n_epochs=epochs)
    model.learn(model.n_steps * model.n_envs)
    weights, options, log_prob = seen[0]
    assert options["centered"] == (epochs == 1)
    if epochs == 1:
        assert options["behaviour_log_prob"] is None
    else:  # nothing has moved before the first step
        torch.testing.assert_close(options["behaviour_log_prob"], log_prob, atol=1e-5, rtol=1e-5)
        assert options["behaviour_log_prob"].shape == weights.shape


def test_groups_are_pooled_over_the_whole_rollout(monkeypatch):
    seen = []

    def watched(log_prob_of, weights, keep, **options):
        seen.append(weights)
        return thinned_likelihood_loss(log_prob_of, weights, keep, **options)

    monkeypatch.setattr("daps_rl.agents.sb3.daps.thinned_likelihood_loss", watched)
    model = make_grouped(pooling=3.0, batch_size=12)
    model.learn(model.n_steps * model.n_envs)
    score = model._batch().score
    assert len(seen) == 4
    torch.testing.assert_close(torch.cat(seen), target_weights(score, model.temperature, pooling=3.0))
    assert (torch.cat(seen).sum(-1) - 1.0).abs().max() > 1e-3


def test_minibatches_keep_groups_together():
    model = make_grouped(n_steps=2, batch_size=12, n_epochs=2)
    pieces = list(model._minibatches(96))
    assert [len(p) for p in pieces] == [12] * 16
    assert torch.equal(torch.cat(pieces[:8]), torch.arange(96))
    model.learn(96 * 2)
    assert model._n_updates == 32


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_context": 5}, "multiple of samples_per_context, 5, got 24"),
        ({"samples_per_context": 2}, r"ess_fraction must lie in \(1/K, 1\]"),
        ({"samples_per_context": 6, "batch_size": 10}, "batch_size must be a multiple of samples_per_context, 6"),
        ({"samples_per_context": 6, "beta": -1.0}, "beta must be >= 0"),
        ({"samples_per_context": 6, "trust_region": "no"}, "trust_region must be one of"),
        ({"n_epochs": 0}, "n_epochs must be >= 1"),
        ({"policy_samples": 2}, "policy_samples needs groups of actions"),
        ({"pooling": 2.0}, "pooling needs groups"),
        ({"samples_per_context": 6, "policy_samples": 7}, "policy_samples must be a whole number in 0 … K = 6"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        DAPS("MlpPolicy", GroupBandit(), device="cpu", **options)


def test_environments_that_do_not_fit():
    with pytest.raises(ValueError, match="must be Discrete, MultiDiscrete or MultiBinary"):
        DAPS("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match="must share an observation"):
        DAPS("MlpPolicy", GroupBandit(shared=False), samples_per_context=6, device="cpu").learn(24)
    env = DummyVecEnv([lambda: Constant(quick_env(n_envs=1).envs[0])] * 4)
    with pytest.raises(ValueError, match="episodes of one step"):
        DAPS("MlpPolicy", env, samples_per_context=4, device="cpu").learn(4)
    with pytest.raises(ValueError, match="norm_reward=False"):
        DAPS("MlpPolicy", VecNormalize(quick_env()), beta=0.1, device="cpu")
    with pytest.raises(ValueError, match="the environment has groups of 6"):
        DAPS("MlpPolicy", encoding_env(), samples_per_context=3, device="cpu")


class Constant(Monitor):
    """Always the same observation."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return np.zeros_like(observation), info


# Learning


@pytest.mark.parametrize("policy", ["MlpPolicy", AutoregressivePolicy])
def test_groups_learn_the_bandit(policy):
    """The best codes are worth 1; a random agent gets about 0.36."""
    kwargs = dict(SMALL) if policy is AutoregressivePolicy else {}
    env = GroupBandit(num_contexts=16, samples=8)
    model = DAPS(policy, env, samples_per_context=8, learning_rate=5e-3, seed=0, device="cpu", policy_kwargs=kwargs)
    score = lambda: evaluate_policy(model, GroupBandit(), n_eval_episodes=200, deterministic=False, warn=False)[0]  # noqa: E731
    assert score() < 0.5
    model.learn(128 * 120, log_interval=1000)
    assert score() > 0.97


def test_context_free_bandit_with_all_environments_in_one_group():
    env = GroupBandit(num_contexts=1, samples=32, observation=lambda index: np.zeros((len(index), 1), np.float32))
    env.draw = lambda: setattr(env, "index", np.full(32, 3)) or env.observation(env.index)
    model = DAPS("MlpPolicy", env, samples_per_context=32, learning_rate=5e-3, seed=0, device="cpu")
    model.learn(32 * 150, log_interval=1000)
    action, _ = model.predict(np.zeros(1, np.float32), deterministic=True)
    assert action.tolist() == [3 % n for n in NVEC]


def test_frozen_lake_is_solved():
    """A random agent reaches the goal in 1.5 % of its episodes."""
    env = quick_env("FrozenLake-v1", n_envs=1, is_slippery=False)
    model = DAPS("MlpPolicy", env, seed=0, device="cpu")
    model.learn(8_000)
    mean, _ = evaluate_policy(model, quick_env("FrozenLake-v1", n_envs=1, is_slippery=False), n_eval_episodes=20)
    assert mean == 1.0


@pytest.mark.slow
def test_cartpole_reaches_475():
    """A random agent gets about 22."""
    model = DAPS("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    model.learn(60_000)
    assert evaluate_policy(model, quick_env(n_envs=1, seed=1000), n_eval_episodes=20)[0] >= 475.0


def test_ordinary_environments_of_one_context_draw_alike():
    class Context(gym.Env):
        observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        action_space = spaces.MultiDiscrete([3, 3])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.random(2).astype(np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), float(action.sum()), True, False, {}

    env = VecMonitor(DummyVecEnv([Context] * 8))
    DAPS("MlpPolicy", env, samples_per_context=4, ess_fraction=0.5, device="cpu").learn(24)


def test_a_networks_factory_belongs_to_code_policy():
    env = GroupBandit()
    with pytest.raises(ValueError, match="CodePolicy"):
        PPO(AutoregressivePolicy, env, policy_kwargs={"network": lambda *_: None}, device="cpu")
