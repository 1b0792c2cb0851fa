"""daps_rl/Encoding-v0: Gymnasium's checks, the reward by hand, seeds, who shares memory and who the decoder."""

import copy
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent

from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingVectorEnv, GymnasiumEncodingEnv, KLReward, Shared, VectorKLReward
from daps_rl.envs.default import principal_decoder
from daps_rl.envs.host import make_problem
from daps_rl.envs.pictures import side_by_side

ID = "daps_rl/Encoding-v0"
N, B, K, T, V = 11, 3, 4, 2, 5
SHAPE = (1, 3, 2)


class CountingDecoder(MLPDecoder):
    """Counts its calls."""

    calls = 0

    def forward(self, codes):
        self.calls += 1
        return super().forward(codes)


def make_decoder(shape=SHAPE, kind=MLPDecoder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(T, V, shape, embed_dim=4, hidden=(8,))


def make_data(*shape):
    return (torch.rand(N, *(shape or SHAPE), generator=torch.Generator().manual_seed(0)) > 0.5).float()


def make_vector(**changes):
    arguments = {"data": make_data(), "decoder": make_decoder(), "num_envs": B * K}
    return EncodingVectorEnv(**(arguments | changes))


def own_prior():
    return Independent(Categorical(logits=torch.arange(T * V).float().view(T, V) / 3), 1)


def expected_log_likelihood(decoder, x, codes):
    """By numpy in float64: embed, two dense layers, Bernoulli."""
    weights = {name: p.detach().double().numpy() for name, p in decoder.named_parameters()}
    hidden = weights["embed.weight"][codes].reshape(len(codes), -1)
    hidden = np.maximum(hidden @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0.0)
    logits = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    x = x.reshape(len(x), -1).astype(np.float64)
    return (x * logits - np.logaddexp(0.0, logits)).sum(-1)


def ones_minus_codes(x, codes):
    return x.flatten(2).sum(-1) - codes.sum(-1)


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
            "prior": own_prior(),
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
    task, index = envs.task, envs._batch.shown
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
    decoder, prior = make_decoder(), own_prior()
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


# The vector environment


def test_vector_env_is_like_gymnasiums_own():
    """Structure, types and numbers of SyncVectorEnv in SAME_STEP mode, `log_likelihood` at the top added."""
    data, decoder = make_data(), make_decoder()
    ours = gymnasium.make_vec(ID, num_envs=3, data=data, decoder=decoder, beta=0.5)
    theirs = gymnasium.make_vec(
        ID,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        data=data,
        decoder=decoder,
        beta=0.5,
    )
    assert isinstance(ours, EncodingVectorEnv)
    assert ours.metadata["autoreset_mode"] is ours.autoreset_mode is AutoresetMode.SAME_STEP
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    x, info = ours.reset(seed=0)
    theirs.reset(seed=0)
    assert info == {}
    for env, x_of_env in zip(theirs.envs, x, strict=True):
        env.unwrapped._batch.index = np.flatnonzero((data.numpy() == x_of_env).all((1, 2, 3)))[:1]
    actions = ours.action_space.sample()
    our_step, their_step = ours.step(actions), theirs.step(actions)
    for mine, own in zip(our_step[:4], their_step[:4], strict=True):
        assert mine.dtype == own.dtype
        assert mine.shape == own.shape
    for mine, own in zip(our_step[1:4], their_step[1:4], strict=True):
        np.testing.assert_allclose(mine, own, rtol=1e-5)
    our_info = dict(our_step[4])
    np.testing.assert_array_equal(our_info.pop("log_likelihood"), our_info["final_info"]["log_likelihood"])
    assert our_info.pop("_log_likelihood").all()
    assert data_equivalence(our_info, their_step[4])


@pytest.mark.parametrize("samples", [1, K])
def test_vector_pays_by_hand_in_one_decoder_call(samples):
    decoder = make_decoder(kind=CountingDecoder)
    env = make_vector(decoder=decoder, beta=0.3, samples_per_context=samples)
    assert env.decoder is decoder
    x, _ = env.reset(seed=0)
    if samples == K:
        assert (x.reshape(B, K, *SHAPE) == x.reshape(B, K, *SHAPE)[:, :1]).all()
    codes = np.random.default_rng(0).integers(V, size=(B * K, T))
    following, reward, terminated, truncated, info = env.step(codes)
    assert decoder.calls == 1
    expected = expected_log_likelihood(decoder, x, codes)
    np.testing.assert_allclose(info["log_likelihood"], expected, rtol=1e-5)
    np.testing.assert_allclose(reward, expected - 0.3 * T * np.log(V), rtol=1e-5)
    assert terminated.all()
    assert not truncated.any()
    np.testing.assert_array_equal(np.stack(info["final_obs"]), x)
    assert not np.array_equal(following, x)


def test_codes_are_scored_where_the_decoder_is():
    options = {"num_tokens": T, "vocab_size": V, "reward_fn": None, "device": None}
    assert make_problem(make_data(), make_decoder().to("meta"), **options).device.type == "meta"
    assert make_problem(make_data(), None, **options).device.type == "cpu"


@pytest.mark.gpu
def test_decoder_on_a_gpu_and_data_on_the_host():
    decoder = make_decoder()
    env = make_vector(decoder=copy.deepcopy(decoder).cuda(), samples_per_context=K, render_mode="rgb_array")
    assert env.task.data.is_cuda
    x, _ = env.reset(seed=0)
    codes = np.random.default_rng(0).integers(V, size=(B * K, T))
    np.testing.assert_allclose(env.step(codes)[1], expected_log_likelihood(decoder, x, codes), rtol=1e-4)
    assert len(env.render()) == B * K


def test_no_memory_is_shared_between_steps():
    env = make_vector()
    codes = np.zeros((B * K, T), np.int64)
    arrays = [env.reset(seed=0)[0]]
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(codes)
        arrays += [observation, reward, terminated, truncated, info["log_likelihood"], *info["final_obs"]]
        arrays += [info["final_info"]["log_likelihood"], info["_final_obs"], info["_final_info"]]
    assert not any(np.shares_memory(a, env.task.data.numpy()) for a in arrays)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(make_vector())
    env.reset(seed=0)
    for _ in range(2):
        _, reward, _, _, info = env.step(np.ones((B * K, T), np.int64))
    np.testing.assert_allclose(info["episode"]["r"], reward)
    assert (info["episode"]["l"] == 1).all()
    assert env.episode_count == 2 * B * K


def test_groups_must_fit():
    with pytest.raises(ValueError, match="multiple of samples_per_context"):
        make_vector(num_envs=7, samples_per_context=2)


# The decoder that learns beside


def test_decoder_optimizer_descends_the_mean_loss():
    decoder, other = make_decoder(kind=CountingDecoder), make_decoder()
    env = make_vector(decoder=decoder, decoder_optimizer=torch.optim.SGD(decoder.parameters(), lr=0.1), beta=0.2)
    x, _ = env.reset(seed=0)
    codes = np.random.default_rng(0).integers(V, size=(B * K, T))
    _, reward, *_, info = env.step(codes)
    assert decoder.calls == 1
    expected = expected_log_likelihood(other, x, codes)  # before the update
    np.testing.assert_allclose(info["log_likelihood"], expected, rtol=1e-5)
    np.testing.assert_allclose(reward, expected - 0.2 * T * np.log(V), rtol=1e-5)
    logits = other(torch.from_numpy(codes)).base_dist.logits
    loss = -Independent(Bernoulli(logits=logits), 3).log_prob(torch.from_numpy(x)).mean()
    for after, before, gradient in zip(
        decoder.parameters(),
        other.parameters(),
        torch.autograd.grad(loss, list(other.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(after, before - 0.1 * gradient)
    assert all(p.grad is None for p in decoder.parameters())


def test_decoder_optimizer_takes_no_step_on_an_infinite_loss():
    decoder = make_decoder()
    with torch.no_grad():
        decoder.layers[-1].bias.fill_(-torch.inf)
    before = copy.deepcopy(decoder.state_dict())
    env = make_vector(decoder=decoder, decoder_optimizer=torch.optim.SGD(decoder.parameters(), lr=0.1))
    env.reset(seed=0)
    env.step(np.zeros((B * K, T), np.int64))
    torch.testing.assert_close(dict(decoder.state_dict()), dict(before))


def test_decoder_optimizer_must_be_the_decoders():
    optimizer = torch.optim.SGD(make_decoder().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_vector(decoder_optimizer=optimizer)
    frozen = make_decoder().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_vector(decoder=frozen, decoder_optimizer=torch.optim.SGD(frozen.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="needs a decoder"):
        make_vector(decoder=None, reward_fn=ones_minus_codes, num_tokens=T, vocab_size=V, decoder_optimizer=optimizer)


# The rest of the reward


def log_prob_of(observation, action):
    return -np.asarray(action).sum(-1) - np.asarray(observation).sum((-3, -2, -1))


def test_wrappers_subtract_beta_log_q():
    beta = torch.tensor(0.4)
    vector = VectorKLReward(make_vector(beta=beta), log_prob_of)
    plain = make_vector(beta=beta)
    codes = np.random.default_rng(0).integers(V, size=(B * K, T))
    x, _ = vector.reset(seed=3)
    plain.reset(seed=3)
    for value in (0.4, 0.1):
        beta.fill_(value)
        following, reward, *_ = vector.step(codes)
        np.testing.assert_allclose(reward, plain.step(codes)[1] - value * log_prob_of(x, codes), rtol=1e-5)
        x = following
    single = KLReward(gymnasium.make(ID, data=make_data(), decoder=make_decoder(), beta=0.4), log_prob_of)
    x, _ = single.reset(seed=3)
    _, reward, _, _, info = single.step(codes[0])
    expected = info["log_likelihood"] - 0.4 * (log_prob_of(x, codes[0]) + T * np.log(V))
    assert reward == pytest.approx(expected, rel=1e-5)


def test_wrappers_refuse_what_they_cannot_complete():
    sync = SyncVectorEnv([GymnasiumEncodingEnv])
    with pytest.raises(TypeError, match="around each environment"):
        VectorKLReward(sync, log_prob_of)
    with pytest.raises(TypeError, match="holds beta"):
        KLReward(gymnasium.make("CartPole-v1"), log_prob_of)
    vector = VectorKLReward(make_vector(), lambda x, z: 0.0)
    vector.reset()
    with pytest.raises(ValueError, match="must give"):
        vector.step(np.zeros((B * K, T), np.int64))


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


def make_async(decoder):
    return gymnasium.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "fork"},
        data=make_data(),
        decoder=decoder,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium shows the worker's traceback as warnings
def test_a_decoder_that_workers_would_copy_is_refused():
    envs = make_async(make_decoder())
    with pytest.raises(RuntimeError, match="would not reach"):
        envs.reset()
    envs.close(terminate=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_shared_decoder_stays_in_step_with_workers():
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # OpenMP's threads run; a forked worker must not wait for them
    decoder = make_decoder().share_memory()
    envs = make_async(decoder)
    codes = np.array([[0, 1], [2, 3]])
    for _ in range(2):
        x, _ = envs.reset(seed=0)
        reward = envs.step(codes)[1]
        np.testing.assert_allclose(reward, expected_log_likelihood(decoder, x, codes), rtol=1e-5)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(2.0)
    envs.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_default_decoder_works_in_workers():
    envs = gymnasium.make_vec(ID, num_envs=1, vectorization_mode="async", vector_kwargs={"context": "fork"})
    envs.reset(seed=0)
    assert np.isfinite(envs.step(envs.action_space.sample())[1]).all()
    envs.close()


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
        np.testing.assert_array_equal(frame, side_by_side([original, mean], 0.0, 1.0))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6), (4, 6, 3), (4, 6, 1)])
def test_pictures_of_every_layout(shape):
    picture = side_by_side([np.full(shape, 0.2), np.full(shape, 2.0)], 0.0, 1.0)
    assert picture.shape == (128, 32 * 12 + 16, 3)
    assert (picture[:, :192] == 51).all()
    assert (picture[:, -192:] == 255).all()


def test_importing_the_environments_leaves_sb3_alone():
    program = (
        "import sys, daps_rl.envs, gymnasium; assert 'stable_baselines3' not in sys.modules; "
        "assert 'daps_rl/Encoding-v0' in gymnasium.registry; "
        "from daps_rl.envs import EncodingVecEnv; assert 'stable_baselines3' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_frames_of_what_is_no_image_are_left_out_with_a_warning(make):
    """SB3's make_vec_env asks for them whatever it makes."""
    with pytest.warns(UserWarning, match="flat square"):
        env = make(ID, data=make_data(7), num_tokens=T, render_mode="rgb_array")
    assert env.unwrapped.render_mode is None
    assert env.reset(seed=0)[0].shape[-1] == 7
