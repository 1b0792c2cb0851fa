"""daps_rl/Encoding-v0: Gymnasium's checks, the reward by hand, seeds, refusals, what `make` keeps, pictures."""

import copy
import inspect
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from conftest import skewed_prior
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium_envs import (
    ID,
    B,
    K,
    T,
    V,
    expected_log_likelihood,
    make_data,
    make_decoder,
    make_vector,
    ones_minus_codes,
)
from torch import nn

from daps_rl.envs import EncodingEnv, EncodingVecEnv, EncodingVectorEnv, GymnasiumEncodingEnv, Shared
from daps_rl.envs.default import principal_decoder
from daps_rl.envs.pictures import side_by_side

# Gymnasium's contract


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_tokens": 3, "vocab_size": 4, "beta": 0.7},
        {"data": make_data(), "decoder": make_decoder()},
        {
            "data": make_data(7).numpy(),
            "decoder": make_decoder((7,)),
            "beta": 0.3,
            "prior": skewed_prior(T, V),
        },  # not a picture
        {"data": 5.0 * make_data() - 2.0, "reward_fn": ones_minus_codes, "num_tokens": T, "vocab_size": V},
        {"data": "digits", "num_tokens": 2},
    ],
)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_check_env_without_a_warning(options, render_mode):
    if render_mode and isinstance(options.get("data"), np.ndarray):
        pytest.skip("seven entries are no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ID, **options, render_mode=render_mode)
        check_env(env.unwrapped)


def test_default_is_digits_flat():
    state = torch.random.get_rng_state()
    env = gymnasium.make(ID)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert env.observation_space == gymnasium.spaces.Box(0.0, 1.0, (64,), np.float32)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([16] * 8)
    assert env.spec.max_episode_steps is None
    again = gymnasium.make(ID).unwrapped.decoder
    torch.testing.assert_close(dict(env.unwrapped.decoder.state_dict()), dict(again.state_dict()), rtol=0.0, atol=0.0)


def test_the_default_reward_depends_on_every_token():
    envs = gymnasium.make_vec(ID, num_envs=1024, samples_per_context=32)
    envs.reset(seed=0)
    codes = np.random.default_rng(0).integers(16, size=(1024, 8))
    reward = envs.step(codes)[1].reshape(32, 32)
    assert reward.std(1).mean() > 30.0
    task, index = envs.task, envs._shown
    levels, layer = task.decoder.embed.weight[:, 0], task.decoder.layers[0]
    wanted = (task.data[index] - layer.bias) @ torch.linalg.pinv(layer.weight).T
    best = (wanted[..., None] - levels).abs().argmin(-1)
    x = task.data[index, None]
    at_best = task.score(x, best[:, None])
    assert at_best.mean() > reward.max(1).mean() + 20.0
    for position in range(8):
        worse = best.clone()
        worse[:, position] = 15 - worse[:, position]
        assert task.score(x, worse[:, None]).mean() < at_best.mean() - 2.0


def test_principal_decoder_reconstructs_by_components():
    data = torch.randn(50, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    decoder = principal_decoder(data, 2, 3)
    centred = (data.flatten(1) - data.flatten(1).mean(0)).numpy()
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    level = 0.9674215661017014  # the 5/6-quantile of a standard normal
    direction = right[0] * np.sign(right[0][np.abs(right[0]).argmax()])
    expected = data.flatten(1).mean(0).numpy() + level * direction * singular[0] / np.sqrt(50)
    np.testing.assert_allclose(decoder(torch.tensor([2, 1])).mean.flatten().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert decoder.likelihood.variance == pytest.approx((singular[2:] ** 2).sum() / 50 / 6)
    assert not any(p.requires_grad for p in decoder.parameters())


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_single_step_pays_by_hand_and_ends(beta):
    decoder, prior = make_decoder(), skewed_prior(T, V)
    env = gymnasium.make(ID, data=make_data(), decoder=decoder, beta=beta, prior=prior)
    x, _ = env.reset(seed=5)
    observation, reward, terminated, truncated, info = env.step(np.array([1, 3]))
    log_likelihood = expected_log_likelihood(decoder, x[None], np.array([[1, 3]]))[0]
    logits = np.arange(T * V).reshape(T, V) / 3
    log_prior = sum(logits[t, z] - np.log(np.exp(logits[t]).sum()) for t, z in enumerate([1, 3]))
    assert info["log_likelihood"] == pytest.approx(log_likelihood, rel=1e-5)
    assert reward == pytest.approx(log_likelihood + beta * log_prior, rel=1e-5)
    assert terminated is True
    assert truncated is False
    assert type(reward) is float
    np.testing.assert_array_equal(observation, x)
    assert not np.shares_memory(observation, x)


def test_stepping_needs_a_reset():
    env = GymnasiumEncodingEnv(make_data(), make_decoder())
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 0]))
    env.reset()
    env.step(np.array([0, 0]))
    with pytest.raises(ResetNeeded, match="over after one step"):
        env.step(np.array([0, 0]))
    with pytest.raises(ResetNeeded):
        make_vector().step(np.zeros((B * K, T), np.int64))


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (np.zeros(T + 1, np.int64), "shape"),
        (np.zeros(T), "float64"),
        (np.array([0, V]), "must lie in"),
        (np.array([-1, 0]), "must lie in"),
        (np.array([True, False]), "bool"),
    ],
)
def test_bad_actions(action, match):
    env = GymnasiumEncodingEnv(make_data(), make_decoder())
    env.reset()
    with pytest.raises(ValueError, match=match):
        env.step(action)
    vector = make_vector()
    vector.reset()
    with pytest.raises(ValueError, match=match):
        vector.step(np.tile(action, (B * K, 1)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": make_data().long()}, "floating-point"),
        ({"data": make_data() / 0.0}, "finite"),
        ({"decoder": nn.Linear(1, 1)}, "num_tokens must be a positive integer, got None; the decoder Linear"),
        ({"reward_fn": ones_minus_codes}, "reward_fn does not say it"),
        ({"decoder": make_decoder(), "reward_fn": ones_minus_codes}, "exactly one"),
        ({"data": make_data(), "num_tokens": 7}, "pass a decoder"),
        ({"beta": -1.0}, "beta"),
        ({"render_mode": "ansi"}, "render_mode"),
    ],
)
@pytest.mark.parametrize("kind", [GymnasiumEncodingEnv, EncodingVectorEnv])
def test_bad_arguments(kind, options, match):
    with pytest.raises(ValueError, match=match):
        kind(**options)


@pytest.mark.parametrize("kind", [EncodingEnv, GymnasiumEncodingEnv, EncodingVectorEnv, EncodingVecEnv])
def test_a_wrong_keyword_is_named_beside_the_right_ones(kind):
    with pytest.raises(
        TypeError, match=f"{kind.__name__} has no argument 'vocab'; it takes data, .*vocab_size, .*beta"
    ):
        kind(make_data(), make_decoder(), vocab=3)
    assert {"data", "num_tokens", "beta", "device"} <= inspect.signature(kind.__init__).parameters.keys()


def test_reset_options_are_refused():
    for env in (GymnasiumEncodingEnv(), EncodingVectorEnv()):
        with pytest.raises(ValueError, match="no reset options"):
            env.reset(options={"index": 3})


def test_same_seed_same_contexts():
    single, vector = GymnasiumEncodingEnv(make_data(), make_decoder()), make_vector()
    for env in (single, vector):
        first = [env.reset(seed=1)[0], env.reset()[0]]
        second = [env.reset(seed=1)[0], env.reset()[0]]
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(vector.reset(seed=1)[0], vector.reset(seed=2)[0])
    np.testing.assert_array_equal(make_vector(num_envs=1).reset(seed=9)[0][0], single.reset(seed=9)[0])


# One decoder, one beta


def test_make_keeps_the_decoder_and_beta():
    decoder, data, beta = make_decoder(), make_data(), torch.tensor(0.5)
    env = gymnasium.make(ID, data=data, decoder=decoder, beta=beta)
    vector = gymnasium.make_vec(ID, num_envs=2, data=data, decoder=decoder, beta=beta)
    of_single = gymnasium.make_vec(env.spec, num_envs=2)
    sync = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", data=data, decoder=decoder, beta=beta)
    again = gymnasium.make_vec(
        gymnasium.make_vec(
            ID, num_envs=2, vectorization_mode="sync", data=data, decoder=Shared(decoder), beta=Shared(beta)
        ).spec
    )
    copies = [
        env,
        gymnasium.make(env.spec),
        gymnasium.make(env.unwrapped.spec),
        gymnasium.make(copy.deepcopy(env.spec)),
        vector,
        gymnasium.make_vec(vector.spec),
        of_single,
        *sync.envs,
        *again.envs,
    ]
    for made in copies:
        assert made.unwrapped.decoder is decoder
        assert made.unwrapped.beta is beta
    for made in copies[:-2]:
        assert made.unwrapped.task.data.data_ptr() == data.data_ptr()
    vector.beta = 0.25
    assert beta == 0.25
    changed = make_decoder()
    assert gymnasium.make(env.spec, decoder=changed).unwrapped.decoder is changed


def test_streamed_data_are_refused(tmp_path):
    from PIL import Image

    for number in range(12):
        Image.effect_noise((16, 16), 64).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="holds its data in memory"):
        GymnasiumEncodingEnv(str(tmp_path))


def test_sizes_come_from_the_decoder():
    env = GymnasiumEncodingEnv(make_data(), make_decoder())
    assert env.action_space == gymnasium.spaces.MultiDiscrete([V] * T)
    smaller = GymnasiumEncodingEnv(make_data(), make_decoder(), vocab_size=V - 1)
    assert smaller.action_space == gymnasium.spaces.MultiDiscrete([V - 1] * T)


# Pictures


def test_render_shows_the_original_beside_its_reconstruction():
    env = gymnasium.make(ID, render_mode="rgb_array")
    x, _ = env.reset(seed=0)
    blank = env.render()
    env.step(np.arange(8))
    frame = env.render()
    assert frame.shape == (128, 264, 3)
    assert frame.dtype == np.uint8
    mean = env.unwrapped.decoder(torch.arange(8)).mean.numpy()
    for left, image in ((0, x), (136, mean)):
        expected = np.rint(255 * np.clip(image, 0, 1)).reshape(8, 8)
        np.testing.assert_array_equal(frame[8::16, left + 8 : left + 128 : 16, 1], expected)
    np.testing.assert_array_equal(blank[:, :128], frame[:, :128])
    assert (blank[:, 136:] == 128).all()
    assert not np.array_equal(blank, frame)


def test_vector_render_shows_what_was_just_encoded():
    env = make_vector(render_mode="rgb_array", samples_per_context=K)
    x, _ = env.reset(seed=0)
    codes = np.random.default_rng(0).integers(V, size=(B * K, T))
    env.step(codes)
    frames = env.render()
    means = env.decoder(torch.from_numpy(codes)).mean.detach().numpy()
    assert len(frames) == B * K
    for frame, original, mean in zip(frames, x, means, strict=True):
        np.testing.assert_array_equal(frame, side_by_side(original, mean, 0.0, 1.0))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6), (4, 6, 3), (4, 6, 1)])
def test_pictures_of_every_layout(shape):
    picture = side_by_side(np.full(shape, 0.2), np.full(shape, 2.0), 0.0, 1.0)
    assert picture.shape == (128, 32 * 12 + 16, 3)
    assert (picture[:, :192] == 51).all()
    assert (picture[:, -192:] == 255).all()


def test_importing_the_environments_leaves_sb3_alone():
    program = (
        "import sys, daps_rl.envs, gymnasium; assert 'stable_baselines3' not in sys.modules; "
        "assert 'daps_rl/Encoding-v0' in gymnasium.registry; "
        "from daps_rl.envs import EncodingVecEnv; assert 'stable_baselines3' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_frames_of_what_is_no_image_are_left_out_with_a_warning(make):
    """SB3's make_vec_env asks for them whatever it makes."""
    with pytest.warns(UserWarning, match="flat square"):
        env = make(ID, data=make_data(7), num_tokens=T, render_mode="rgb_array")
    assert env.unwrapped.render_mode is None
    assert env.reset(seed=0)[0].shape[-1] == 7
