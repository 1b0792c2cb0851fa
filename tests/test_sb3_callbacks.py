"""DecoderCallback and KLRewardCallback with PPO, A2C and DAPS, and what of them the model's zip brings back."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_envs import GroupBandit, IdentityEnv, encoding_env, make_decoder
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, DecoderCallback, KLRewardCallback, load_decoder
from daps_rl.envs import KLReward
from daps_rl.functional import decoder_loss

SMALL = {"embed_dim": 16, "num_heads": 2}


def make_model(kind, env, **options):
    settings = {"seed": 0, "device": "cpu", "policy_kwargs": dict(SMALL), **options}
    if kind is PPO:
        settings |= {"n_steps": 2, "batch_size": 48, "n_epochs": 1}
    if kind is A2C:
        settings |= {"n_steps": 2}
    return kind(AutoregressivePolicy, env, **settings)


def callbacks_for(kind, decoder_callback, beta=None):
    return [decoder_callback] if kind is DAPS else [decoder_callback, KLRewardCallback(beta)]


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Rewards(BaseCallback):
    """Keeps the rewards as the environment gave them, and the log-probabilities."""

    def __init__(self):
        super().__init__()
        self.given, self.log_probs = [], []

    def _on_step(self):
        self.given.append(self.locals["rewards"].copy())
        self.log_probs.append(self.locals["log_probs"].numpy())
        return True


def learning_env(learning_rate=1e-2):
    """An environment that trains its decoder itself."""
    decoder = make_decoder()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=learning_rate)
    return encoding_env(beta=0.01, decoder=decoder, decoder_optimizer=optimizer)


# The decoder


@pytest.mark.parametrize("kind", [DAPS, PPO, A2C])
@pytest.mark.parametrize("monitored", [False, True])
@pytest.mark.parametrize("env_learns", [False, True])
def test_the_very_decoder_of_the_environment_learns(kind, monitored, env_learns):
    env = learning_env() if env_learns else encoding_env(beta=0.01)
    decoder, before = env.decoder, weights(env.decoder)
    model = make_model(kind, VecMonitor(env) if monitored else env)
    callback = DecoderCallback(learning_rate=1e-2)
    model.learn(48 * 40, callbacks_for(kind, callback))
    assert callback.decoder is decoder is env.task.decoder
    assert not torch.equal(before, weights(decoder))
    logged = model.logger.name_to_value
    assert logged == {} or logged["train/decoder_loss"] == -logged["rollout/log_likelihood"]
    assert callback.loss < 8.0  # untrained 12·log 2 = 8.3 nats per datum; the data's own mean gives 8.15
    assert callback.skipped == 0


@pytest.mark.parametrize("decoder_samples", [0, 2])
def test_one_update_is_the_decoders_loss_on_the_steps_codes(decoder_samples):
    env = encoding_env()
    reference = copy.deepcopy(env.decoder)
    seen = {}

    class Keep(BaseCallback):
        def _on_step(self):
            seen.update(x=self.locals["obs_tensor"].clone(), z=torch.as_tensor(self.locals["actions"]))
            return True

    optimizer = torch.optim.SGD(env.decoder.parameters(), lr=0.1)
    make_model(DAPS, env).learn(1, [Keep(), DecoderCallback(optimizer=optimizer, decoder_samples=decoder_samples)])
    log_likelihood = reference(seen["z"].long()).log_prob(seen["x"]).view(-1, env.samples_per_context)  # [B, K]
    loss = decoder_loss(log_likelihood[:, : decoder_samples or None]).mean()
    loss.backward()
    for ours, theirs in zip(env.decoder.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-6)


def test_an_environment_that_trains_its_decoder_is_not_joined_by_a_second_update(tmp_path):
    def run(callback):
        env = learning_env()
        model = make_model(DAPS, env)
        model.learn(48 * 4, callback)
        return model, env

    (_, alone), (model, env) = run(None), run(DecoderCallback())
    assert torch.equal(weights(alone.decoder), weights(env.decoder))
    model.save(tmp_path / "model.zip")
    fresh = learning_env()
    again = DecoderCallback()
    again.init_callback(DAPS.load(tmp_path / "model.zip", env=fresh, device="cpu"))
    assert torch.equal(weights(fresh.decoder), weights(env.decoder))
    assert again.optimizer.state_dict()["state"][0]["step"] == 4


def test_the_decoders_learning_leaves_the_policy_alone():
    """With the decoder's learning rate at 0 the policy's run is the same as without the callback."""

    def run(callback):
        model = make_model(DAPS, encoding_env())
        model.learn(48 * 3, callback)
        return weights(model.policy)

    torch.testing.assert_close(run(DecoderCallback(learning_rate=0.0, weight_decay=0.0)), run(None), rtol=0, atol=0)
    assert not torch.equal(run(DecoderCallback(learning_rate=0.1)), run(None))


def test_updates_that_are_not_finite_are_skipped():
    env = encoding_env()
    callback = DecoderCallback()
    model = make_model(DAPS, env)
    model.learn(48, callback)
    before = weights(env.decoder)
    env.decoder.register_forward_hook(lambda module, args, out: _broken(out))
    model.train = lambda: None
    model.learn(48, callback)
    assert callback.skipped == 1
    assert torch.equal(before, weights(env.decoder))


def _broken(distribution):
    log_prob = distribution.log_prob
    distribution.log_prob = lambda x: log_prob(x) * torch.tensor(float("nan"))
    return distribution


def test_learning_rate_schedule_of_the_decoder():
    callback = DecoderCallback(learning_rate=lambda remaining: 0.01 * remaining)
    make_model(DAPS, encoding_env()).learn(48 * 4, callback)
    assert callback.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.25)


# β in the reward


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_stored_reward_is_the_given_one_minus_beta_log_prob(kind):
    env, rewards = encoding_env(beta=0.3), Rewards()
    model = make_model(kind, env, gamma=0.0, gae_lambda=0.0)
    model.train = lambda: None
    model.learn(48 * 2, [rewards, KLRewardCallback()])
    expected = np.stack(rewards.given) - 0.3 * np.stack(rewards.log_probs)
    np.testing.assert_allclose(model.rollout_buffer.rewards, expected, rtol=1e-5)
    assert np.abs(expected - np.stack(rewards.given)).min() > 0.1


@pytest.mark.parametrize(
    "beta", [0.2, torch.tensor(0.2), lambda remaining: 0.2 * remaining], ids=["number", "tensor", "schedule"]
)
def test_beta_fills_the_environments_own(beta):
    env = encoding_env(beta=0.9)
    model = make_model(PPO, env)
    model.learn(96 * 2, KLRewardCallback(beta))
    assert env.beta == pytest.approx(0.1 if callable(beta) else 0.2)


def test_beta_of_the_environment_moves_while_it_is_read():
    env = encoding_env(beta=0.5)

    class Decay(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            env.beta.mul_(0.5)

    model = make_model(A2C, env)
    callback = KLRewardCallback()
    model.learn(96 * 3, [Decay(), callback])
    assert env.beta == pytest.approx(0.0625)
    assert callback.value is env.beta


def test_environments_without_beta_get_an_entropy_reward():
    env, rewards = DummyVecEnv([IdentityEnv] * 2), Rewards()
    model = make_model(A2C, env)
    model.train = lambda: None
    model.learn(4, [rewards, KLRewardCallback(0.5)])
    np.testing.assert_allclose(
        model.rollout_buffer.rewards, np.stack(rewards.given) - 0.5 * np.stack(rewards.log_probs), rtol=1e-5
    )


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="completed already by KLRewardCallback, and DAPS"):
        make_model(DAPS, encoding_env()).learn(48, KLRewardCallback())
    with pytest.raises(ValueError, match="no beta of its own"):
        make_model(PPO, GroupBandit()).learn(48, KLRewardCallback())
    with pytest.raises(ValueError, match="norm_reward=False"):
        make_model(PPO, VecNormalize(encoding_env())).learn(48, KLRewardCallback())
    with pytest.raises(ValueError, match="beta must be >= 0"):
        make_model(PPO, encoding_env()).learn(48, KLRewardCallback(-0.1))
    with pytest.raises(ValueError, match="no decoder to train"):
        make_model(PPO, GroupBandit()).learn(48, DecoderCallback())
    with pytest.raises(ValueError, match="not the one that the environment scores with"):
        make_model(PPO, encoding_env()).learn(48, DecoderCallback(make_decoder()))
    optimizer = torch.optim.SGD(make_decoder().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="trains the decoder already"):
        make_model(PPO, learning_env()).learn(48, DecoderCallback(optimizer=optimizer))
    with pytest.raises(ValueError, match="norm_obs=False"):
        make_model(PPO, VecNormalize(encoding_env(), norm_reward=False)).learn(48, DecoderCallback())
    with pytest.raises(ValueError, match="holds no decoder"):
        load_decoder(make_model(PPO, encoding_env()), make_decoder())
    PPO("MlpPolicy", VecNormalize(encoding_env(), norm_reward=False), n_steps=2, batch_size=8).learn(
        48, KLRewardCallback()
    )


# Saved and restored with the model


@pytest.mark.parametrize("kind", [DAPS, PPO, A2C])
def test_decoder_optimiser_and_beta_come_back_with_plain_save_and_load(kind, tmp_path):
    env = encoding_env(beta=0.3)
    model, callback = make_model(kind, env), DecoderCallback(learning_rate=1e-2)
    model.learn(48 * 6, callbacks_for(kind, callback))
    model.save(tmp_path / "model.zip")
    assert model.get_env().get_attr("task")[0].decoder is callback.decoder  # saving put no copy in its place

    fresh = encoding_env(beta=0.8, seed=7)
    back = kind.load(tmp_path / "model.zip", env=fresh, device="cpu")
    again = DecoderCallback(learning_rate=2e-2)
    for one in callbacks_for(kind, again):
        one.init_callback(back)
    assert again.decoder is fresh.decoder
    assert torch.equal(weights(fresh.decoder), weights(callback.decoder))
    ours, theirs = callback.optimizer.state_dict()["state"], again.optimizer.state_dict()["state"]
    assert len(ours) == len(theirs) > 0
    for key, values in ours.items():
        assert torch.equal(values["exp_avg"], theirs[key]["exp_avg"])
        assert values["step"] == theirs[key]["step"] == 6
    assert again.optimizer.param_groups[0]["lr"] == 2e-2  # the new callback's own
    assert fresh.beta == pytest.approx(0.3)
    before = weights(fresh.decoder)
    back.learn(96, callbacks_for(kind, again), reset_num_timesteps=False)
    assert not torch.equal(before, weights(fresh.decoder))
    assert again.optimizer.state_dict()["state"][0]["step"] == 8

    alone = load_decoder(kind.load(tmp_path / "model.zip", device="cpu"), make_decoder(seed=3))
    assert torch.equal(weights(alone), weights(callback.decoder))
    kind.load(tmp_path / "model.zip", device="cpu").save(tmp_path / "twice.zip")  # never attached, still kept
    alone = load_decoder(kind.load(tmp_path / "twice.zip", device="cpu"), make_decoder(seed=4))
    assert torch.equal(weights(alone), weights(callback.decoder))


def test_a_run_that_is_saved_and_loaded_goes_on_as_one_that_was_not(tmp_path):
    def start():
        env = encoding_env()
        model = make_model(DAPS, env)
        model.learn(48 * 4, DecoderCallback())
        return env, model

    def go_on(env, model):
        torch.manual_seed(5)
        env.seed(5)
        model.set_env(env)
        model.learn(48 * 4, DecoderCallback(), reset_num_timesteps=False)
        return torch.cat((weights(model.policy), weights(env.decoder)))

    env, model = start()
    model.save(tmp_path / "model.zip")
    straight = go_on(env, model)
    fresh = encoding_env(seed=9)
    loaded = go_on(fresh, DAPS.load(tmp_path / "model.zip", env=fresh, device="cpu"))
    torch.testing.assert_close(loaded, straight, rtol=0, atol=0)


@pytest.mark.parametrize("monitored", [False, True])
def test_twice_n_steps_are_n_saved_loaded_and_n_more(monitored, tmp_path):
    """Bit for bit, in an environment made anew and with other random numbers drawn between."""

    def start(**options):
        env = encoding_env(**options)
        return env, VecMonitor(env) if monitored else env

    def steps(model, count, decoder, **options):
        model.learn(48 * count, DecoderCallback(), **options)
        return torch.cat((weights(model.policy), weights(decoder)))

    env, wrapped = start()
    straight = steps(make_model(DAPS, wrapped, policy_samples=2), 6, env.decoder)
    env, wrapped = start()
    model = make_model(DAPS, wrapped, policy_samples=2)
    halfway = steps(model, 3, env.decoder)
    model.save(tmp_path / "model.zip", random_state=True)
    env, wrapped = start(seed=9)
    torch.rand(7), np.random.rand(7)
    back = DAPS.load(tmp_path / "model.zip", env=wrapped, device="cpu")
    assert torch.equal(steps(back, 3, env.decoder, reset_num_timesteps=False), straight)
    assert not torch.equal(halfway, straight)
    back.save(tmp_path / "plain.zip")  # without what was asked for once
    assert DAPS.load(tmp_path / "plain.zip")._state is None


def test_a_decoder_of_another_make_is_refused(tmp_path):
    model = make_model(PPO, encoding_env())
    model.learn(96, DecoderCallback())
    model.save(tmp_path / "model.zip")
    other = encoding_env()
    other.task.decoder = torch.nn.Linear(2, 2)
    back = PPO.load(tmp_path / "model.zip", env=other, device="cpu")
    with pytest.raises(ValueError, match="of another make"):
        DecoderCallback().init_callback(back)


def test_models_without_callbacks_save_as_before(tmp_path):
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1"), n_steps=8, batch_size=8, device="cpu")
    model.learn(8)
    model.save(tmp_path / "model.zip")
    assert not hasattr(PPO.load(tmp_path / "model.zip"), "_daps_rl_callbacks")


def test_a_frozen_decoder_is_refused():
    env = gym.make("daps_rl/Encoding-v0")
    with pytest.raises(ValueError, match="no parameters to train"):
        PPO("MlpPolicy", env, n_steps=4, batch_size=4, device="cpu").learn(4, DecoderCallback())


class IntegerRewards(GroupBandit):
    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards.astype(np.int64), dones, infos


def test_the_kl_is_never_rounded_away():
    with pytest.raises(ValueError, match=r"int64.*give floats"):
        DAPS("MlpPolicy", IntegerRewards(), samples_per_context=6, beta=0.1, device="cpu").learn(24)


def test_one_callback_serves_many_calls_of_learn():
    model = PPO("MlpPolicy", encoding_env(beta=0.1), n_steps=1, batch_size=8, device="cpu")
    callbacks = [DecoderCallback(), KLRewardCallback()]
    for reset in (True, True, False):
        model.learn(model.n_envs, callback=callbacks, reset_num_timesteps=reset)
    assert model.num_timesteps == 2 * model.n_envs


def test_a_decoder_is_never_trained_twice():
    model = PPO("MlpPolicy", encoding_env(beta=0.1), n_steps=1, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="two DecoderCallbacks"):
        model.learn(8, callback=[DecoderCallback(), DecoderCallback()])


def test_the_reward_is_never_completed_twice():
    def completed():
        return DummyVecEnv([lambda: KLReward(gym.make("daps_rl/Encoding-v0", beta=0.1), lambda x, z: 0.0)])

    with pytest.raises(ValueError, match="completed already by KLReward, and DAPS would"):
        DAPS("MlpPolicy", completed(), n_steps=8, device="cpu")
    model = PPO("MlpPolicy", completed(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="completed already by KLReward, and KLRewardCallback would"):
        model.learn(8, KLRewardCallback())


@pytest.mark.parametrize("make", [lambda: encoding_env(beta=0.1), lambda: GroupBandit()], ids=["ours", "another"])
def test_one_completes_the_reward_at_a_time(make):
    env = make()
    model = PPO("MlpPolicy", env, n_steps=1, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="completed already by KLRewardCallback, and KLRewardCallback would"):
        model.learn(1, [KLRewardCallback(0.1), KLRewardCallback(0.1)])
    model.learn(1, KLRewardCallback(0.1))
    model.learn(1, KLRewardCallback(0.1))
    DAPS("MlpPolicy", env, samples_per_context=6, device="cpu").learn(1)
    model.learn(1, KLRewardCallback(0.1))


@pytest.mark.parametrize("algorithm", [DAPS, PPO])
def test_a_schedule_of_beta_starts_where_learn_starts(algorithm):
    env = encoding_env(beta=0.1)
    ours = algorithm is DAPS
    schedule = {"beta": lambda remaining: 1.0 + remaining}
    model = algorithm("MlpPolicy", env, n_steps=1, batch_size=env.num_envs, device="cpu", **(schedule if ours else {}))
    for _ in range(2):
        seen = []

        class Look(BaseCallback):
            def _on_step(self, seen=seen):
                seen.append(float(env.beta))
                return True

        callbacks = [Look()] if ours else [KLRewardCallback(**schedule), Look()]
        model.learn(2 * env.num_envs, callbacks)
        assert seen == pytest.approx([2.0, 1.5])


def test_a_beta_that_set_attr_masks_is_refused():
    env = DummyVecEnv([lambda: gym.make("daps_rl/Encoding-v0", beta=0.1)])
    env.set_attr("beta", 0.3)
    with pytest.raises(ValueError, match="masked"):
        DAPS("MlpPolicy", env, n_steps=8, device="cpu")
