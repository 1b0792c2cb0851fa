"""daps_rl.envs.EncodingVecEnv: SB3's checks and wrappers, groups, the reward by hand, and a policy that learns."""

import time
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from conftest import CountingDecoder, binary_data, small_decoder
from gymnasium.error import ResetNeeded
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor, VecNormalize

from daps_rl.envs import EncodingVecEnv, EncodingVectorEnv, GymnasiumEncodingEnv

N, B, K, T, V, D = 11, 3, 4, 2, 5, 9


class Constant:
    """A model for `evaluate_policy` that always gives one code."""

    def __init__(self, code):
        self.code = np.asarray(code)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.tile(self.code, (len(observation), 1)), state


make_decoder = partial(small_decoder, T, V, (D,), CountingDecoder)
make_data = partial(binary_data, N, D)


def make_env(**changes):
    arguments = {"data": make_data(), "decoder": make_decoder(), "num_contexts": B, "samples_per_context": K, "seed": 3}
    return EncodingVecEnv(**(arguments | changes))


def make_codes(seed=0):
    return np.random.default_rng(seed).integers(V, size=(B * K, T))


def expected_log_likelihood(decoder, x, codes):
    """By the mean of the Bernoulli decoder, one datum at a time."""
    values = []
    for one, code in zip(x, codes, strict=True):
        p = decoder(torch.from_numpy(code)).mean.detach().double().numpy()
        values.append(np.log(np.where(one > 0.5, p, 1.0 - p)).sum())
    return np.array(values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"data": make_data(), "decoder": make_decoder(), "beta": 0.5}])
def test_sb3_check_env_of_the_single_env(options):
    check_env(GymnasiumEncodingEnv(**options, render_mode="rgb_array"), skip_render_check=False)
    check_env(gymnasium.make("daps_rl/Encoding-v0", **options))


def test_step_pays_by_hand_in_one_decoder_call():
    decoder, beta = make_decoder(), torch.tensor(0.3)
    env = make_env(decoder=decoder, beta=beta)
    assert env.task.decoder is decoder
    x = env.reset()
    groups = x.reshape(B, K, D)
    assert (groups == groups[:, :1]).all()
    codes = make_codes()
    following, reward, done, infos = env.step(codes)
    assert decoder.calls == 1
    expected = expected_log_likelihood(decoder, x, codes)
    np.testing.assert_allclose(reward, expected - 0.3 * T * np.log(V), rtol=1e-5)
    assert reward.dtype == np.float32
    assert done.dtype == bool
    assert done.all()
    np.testing.assert_allclose([info["log_likelihood"] for info in infos], expected, rtol=1e-5)
    np.testing.assert_array_equal([info["terminal_observation"] for info in infos], x)
    assert all(info["TimeLimit.truncated"] is False for info in infos)
    assert isinstance(infos, list)
    assert not np.array_equal(following, x)
    beta.fill_(0.1)
    np.testing.assert_allclose(
        env.step(codes)[1], expected_log_likelihood(decoder, following, codes) - 0.1 * T * np.log(V), rtol=1e-5
    )


def test_no_memory_is_shared_between_steps():
    env = make_env()
    arrays = [env.reset()]
    for _ in range(3):
        observation, reward, done, infos = env.step(make_codes())
        arrays += [observation, reward, done, infos[0]["terminal_observation"], infos[-1]["terminal_observation"]]
    assert not any(np.shares_memory(a, env.task.data.numpy()) for a in arrays)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_same_seed_same_contexts():
    env, codes = make_env(), make_codes()
    sequences = []
    for _ in range(2):
        env.seed(7)
        sequences.append([env.reset(), env.step(codes)[0], env.reset()])
    np.testing.assert_array_equal(*sequences)
    built = make_env(seed=7)
    np.testing.assert_array_equal([built.reset(), built.step(codes)[0], built.reset()], sequences[0])
    gym = EncodingVectorEnv(make_data(), make_decoder(), num_envs=B * K, samples_per_context=K)
    np.testing.assert_array_equal([gym.reset(seed=7)[0], gym.step(codes)[0], gym.reset()[0]], sequences[0])
    env.seed(8)
    assert not np.array_equal(env.reset(), sequences[0][0])


def test_one_object_stands_for_all():
    env = make_env(beta=0.5)
    wrapped = VecMonitor(env)
    assert env.get_attr("beta") == [env.beta] * (B * K)
    assert all(value is env.task.beta for value in wrapped.get_attr("beta", indices=[0, 3]))
    assert wrapped.get_attr("samples_per_context", 0) == [K]
    assert wrapped.get_attr("num_contexts", 0) == [B]
    assert wrapped.samples_per_context == K
    beta = env.beta
    wrapped.set_attr("beta", 0.25)
    assert env.beta is beta
    assert beta == 0.25
    with pytest.raises(ValueError, match="one object stands for all"):
        wrapped.set_attr("beta", 0.1, indices=[0])
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(Monitor) == [False] * (B * K)
    assert env.env_method("get_images", indices=[1, 2]) == [[None] * (B * K)] * 2


@pytest.mark.parametrize(
    ("codes", "match"),
    [(np.zeros((B * K, T + 1), int), "shape"), (np.zeros((B * K, T)), "float64"), (np.full((B * K, T), V), "must lie")],
)
def test_bad_actions(codes, match):
    env = make_env()
    with pytest.raises(ResetNeeded):
        env.step(make_codes())
    env.reset()
    with pytest.raises(ValueError, match=match):
        env.step(codes)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_contexts": 0}, "num_contexts must be"),
        ({"samples_per_context": 0}, "samples_per_context must be"),
        ({"decoder_optimizer": torch.optim.SGD(make_decoder().parameters(), lr=1.0)}, "no trainable parameter"),
        ({"decoder": None, "reward_fn": lambda x, z: z.sum(-1)}, "num_tokens"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        make_env(**options)


def test_options_are_refused():
    env = make_env()
    env.set_options({"index": 1})
    with pytest.raises(ValueError, match="no reset options"):
        env.reset()


def test_vec_monitor_and_nan_check():
    env = VecCheckNan(VecMonitor(make_env(), info_keywords=("log_likelihood",)))
    env.reset()
    _, reward, _, infos = env.step(make_codes())
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], reward)
    assert all(info["episode"]["l"] == 1 for info in infos)
    assert all(info["episode"]["log_likelihood"] == info["log_likelihood"] for info in infos)


def test_vec_normalize():
    env = VecNormalize(make_env(seed=3), gamma=1.0)
    plain = make_env(seed=3)
    np.testing.assert_array_equal(env.unnormalize_obs(env.reset()).round(), plain.reset())
    for _ in range(5):
        env.step(make_codes())
        _, reward, _, _ = plain.step(make_codes())
    np.testing.assert_allclose(env.get_original_reward(), reward)
    assert env.obs_rms.mean.shape == (D,)


def test_evaluate_policy():
    env, code = VecMonitor(make_env(seed=3)), [1, 4]
    plain = make_env(seed=3)
    expected = expected_log_likelihood(plain.task.decoder, plain.reset(), np.tile(code, (B * K, 1)))
    mean, _ = evaluate_policy(Constant(code), env, n_eval_episodes=B * K)
    assert mean == pytest.approx(expected.mean(), rel=1e-5)


def test_decoder_optimizer_descends():
    decoder = make_decoder()
    env = make_env(decoder=decoder, decoder_optimizer=torch.optim.SGD(decoder.parameters(), lr=0.01))
    untouched = make_decoder()
    x, codes = env.reset(), make_codes()
    _, reward, *_ = env.step(codes)
    assert decoder.calls == 1
    np.testing.assert_allclose(reward, expected_log_likelihood(untouched, x, codes), rtol=1e-5)
    assert expected_log_likelihood(decoder, x, codes).mean() > reward.mean()


def test_render_tiles_every_environment():
    env = make_env(render_mode="rgb_array")
    env.reset()
    env.step(make_codes())
    images = env.get_images()
    assert len(images) == B * K
    assert images[0].shape == (129, 129 * 2 + 21, 3)
    assert env.render().shape == (129 * 4, images[0].shape[1] * 3, 3)


def test_ppo_learns():
    env = EncodingVecEnv(num_contexts=256, num_tokens=2, vocab_size=4, seed=0)
    model = PPO("MlpPolicy", env, n_steps=1, batch_size=64, learning_rate=3e-3, gamma=0.0, seed=0, device="cpu")
    assert model.get_env().unwrapped is env
    env.reset()
    random = env.step(np.random.default_rng(0).integers(4, size=(256, 2)))[1].mean()
    model.learn(256 * 30)
    after, _ = evaluate_policy(model, env, n_eval_episodes=256, warn=False)
    constant = max(
        evaluate_policy(Constant([i, j]), env, n_eval_episodes=256, warn=False)[0] for i in range(4) for j in range(4)
    )
    assert after > random + 10.0
    assert after > constant + 2.0  # it looks at the datum


def test_a_step_of_2048_environments_is_cheap():
    env = EncodingVecEnv(num_contexts=256, samples_per_context=8)
    env.reset()
    codes = np.zeros((2048, 8), np.int64)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        env.step(codes)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # measured: 0.003
