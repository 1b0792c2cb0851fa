"""daps_rl.agents.sb3.DAPS: every space, SB3's contract, refusals, and learning."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_envs import NVEC, GroupBandit, IdentityEnv, encoding_env
from sb3_models import SMALL, make_grouped, make_whole, parameters, quick_env
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy
from daps_rl.envs import EncodingVecEnv

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


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_context": 5}, "multiple of samples_per_context, 5, got 24"),
        ({"samples_per_context": 2}, r"ess_fraction must lie in \(1/K, 1\]"),
        ({"samples_per_context": 0}, "must be a multiple of samples_per_context, 0, got"),
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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"clip_range": 0.2}, "no option 'clip_range'; here it is ess_fraction, the size of the trust region"),
        ({"ent_coef": 0.01}, "no option 'ent_coef'; here it is beta"),
        ({"nonsense": 1}, "no option 'nonsense'; here it is not known"),
    ],
)
def test_options_of_ppo_are_told_by_their_name_here(option, message):
    with pytest.raises(TypeError, match=message):
        DAPS("MlpPolicy", GroupBandit(), samples_per_context=6, device="cpu", **option)


def test_environments_that_do_not_fit():
    with pytest.raises(ValueError, match="must be Discrete, MultiDiscrete or MultiBinary"):
        DAPS("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match="must share an observation"):
        DAPS("MlpPolicy", GroupBandit(shared=False), samples_per_context=6, device="cpu").learn(24)
    with pytest.raises(ValueError, match="norm_reward=False"):
        DAPS("MlpPolicy", VecNormalize(quick_env()), beta=0.1, device="cpu")
    with pytest.raises(ValueError, match="the environment has groups of 6"):
        DAPS("MlpPolicy", encoding_env(), samples_per_context=3, device="cpu")


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
    model = DAPS("MlpPolicy", env, samples_per_context=4, ess_fraction=0.5, device="cpu").learn(24)
    groups = model.rollout_buffer.observations.reshape(2, 4, 2)
    assert (groups == groups[:, :1]).all()
    assert (groups[0] != groups[1]).any()


@pytest.mark.parametrize("kind", ["one step", "whole batch"])
def test_ordinary_environments_go_on_from_where_a_saved_model_stood(kind, tmp_path):
    """CartPole in the middle of an episode too."""

    def make():
        if kind == "whole batch":
            return make_whole()
        return DAPS("MlpPolicy", DummyVecEnv([IdentityEnv] * 8), samples_per_context=4, seed=0, device="cpu")

    n = 5 * make().n_steps * make().n_envs
    straight, model = make().learn(2 * n), make().learn(n)
    model.save(tmp_path / "model.zip", random_state=True)
    torch.rand(3), np.random.rand(3)
    env = quick_env(seed=5) if kind == "whole batch" else DummyVecEnv([IdentityEnv] * 8)
    back = DAPS.load(tmp_path / "model.zip", env=env, device="cpu").learn(n, reset_num_timesteps=False)
    assert torch.equal(parameters(back), parameters(straight))
    assert not torch.equal(parameters(model), parameters(straight))


@pytest.mark.parametrize("algorithm", [DAPS, PPO])
@pytest.mark.parametrize("ours", [True, False])
def test_no_learn_starts_over_with_the_contexts_of_the_last(algorithm, ours):
    class Context(IdentityEnv):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.random(4).astype(np.float32), {}

    options = {"n_steps": 2, "batch_size": 16}
    if ours:
        data = torch.rand(10_000, 12, generator=torch.Generator().manual_seed(0))
        env = EncodingVecEnv(data, num_contexts=2, samples_per_context=4, num_tokens=2, vocab_size=3)
    else:
        env = DummyVecEnv([Context] * 8)
        options |= {"samples_per_context": 4} if algorithm is DAPS else {}
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **options)
    seen = []
    for reset in (True, True, False, True):
        model.learn(16, reset_num_timesteps=reset)
        seen.append(model.rollout_buffer.observations.reshape(16, -1).copy())
    different = np.unique(np.concatenate(seen), axis=0)
    assert len(different) == 4 * len(np.unique(seen[0], axis=0))


def test_a_networks_factory_belongs_to_code_policy():
    env = GroupBandit()
    with pytest.raises(ValueError, match="CodePolicy"):
        PPO(AutoregressivePolicy, env, policy_kwargs={"network": lambda *_: None}, device="cpu")
