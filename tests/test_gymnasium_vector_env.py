"""daps_rl/Encoding-v0 as a vector: like Gymnasium's own, a decoder that learns beside, wrappers, workers."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from conftest import CountingDecoder
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics
from gymnasium_envs import (
    ID,
    SHAPE,
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
from torch.distributions import Bernoulli, Independent

from daps_rl.envs import (
    EncodingTask,
    EncodingVecEnv,
    EncodingVectorEnv,
    GymnasiumEncodingEnv,
    KLReward,
    VectorKLReward,
)
from daps_rl.policies import CodeMask

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
        env.unwrapped._index = torch.from_numpy(np.flatnonzero((data.numpy() == x_of_env).all((1, 2, 3)))[:1])
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


@pytest.mark.parametrize("mode", [*AutoresetMode, "NextStep"])
def test_every_autoreset_mode_is_gymnasiums_own(mode):
    """Numbers, types and infos of SyncVectorEnv over three steps, on data that are all alike."""
    data, decoder = make_data()[:1], make_decoder()
    ours = gymnasium.make_vec(ID, num_envs=3, autoreset_mode=mode, data=data, decoder=decoder, beta=0.5)
    own = {"autoreset_mode": AutoresetMode(mode)}
    theirs = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="sync", vector_kwargs=own, data=data, decoder=decoder, beta=0.5
    )
    assert ours.metadata["autoreset_mode"] is ours.unwrapped.autoreset_mode is AutoresetMode(mode)
    assert gymnasium.make_vec(ours.spec).metadata["autoreset_mode"] is AutoresetMode(mode)
    ours.reset(seed=0), theirs.reset(seed=0)
    for seed in range(3):
        ours.action_space.seed(seed)
        actions = ours.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:4], other[:4], strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=1e-5)
        info = dict(mine[4])
        if AutoresetMode(mode) is AutoresetMode.SAME_STEP:
            del info["log_likelihood"], info["_log_likelihood"]
            final, others = (step.pop("final_info")["log_likelihood"] for step in (info, other[4]))
            np.testing.assert_allclose(final, others, rtol=1e-5)
        assert info.keys() == other[4].keys()
        if AutoresetMode(mode) is AutoresetMode.DISABLED:
            with pytest.raises(ResetNeeded, match="over after one step"):
                ours.step(actions)
            for env in (ours, theirs):
                env.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="True for all environments"):
        ours.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ValueError, match="autoreset_mode must be one of"):
        make_vector(autoreset_mode="never")


def test_gymnasiums_normalisation_takes_the_next_step_mode():
    env = NormalizeObservation(make_vector(autoreset_mode="NextStep"))
    env.reset(seed=0)
    for _ in range(200):
        x, *_ = env.step(env.action_space.sample())
    assert abs(x.mean()) < 0.5
    beta = VectorKLReward(make_vector(autoreset_mode="NextStep", beta=0.4), log_prob_of)
    beta.reset(seed=0)
    codes = np.ones((B * K, T), np.int64)
    assert (beta.step(codes)[1] != 0.0).all()
    assert (beta.step(codes)[1] == 0.0).all()  # the step that resets has no log-probability to subtract


class Small(CodeMask):
    """The context's first entry says how many classes there are."""

    def start(self, observation, samples):
        return observation[:, :1].expand(-1, samples)

    def allowed(self, state, position):
        return torch.arange(4) < state.unsqueeze(-1)


def test_masks_of_one_token_reach_outside_clients():
    data = torch.arange(1.0, 5.0)[:, None].expand(-1, 2)
    options = {"data": data, "reward_fn": lambda x, z: z[..., 0].float(), "num_tokens": 1, "vocab_size": 4}
    single = GymnasiumEncodingEnv(**options, mask=Small())
    assert single.action_space == gymnasium.spaces.Discrete(4)
    for seed in range(8):
        x, info = single.reset(seed=seed)
        assert info["action_mask"].tolist() == [1] * int(x[0]) + [0] * (4 - int(x[0]))
        assert single.action_masks().tolist() == info["action_mask"].astype(bool).tolist()
        action = single.action_space.sample(mask=info["action_mask"])
        assert single.step(action)[1] == float(action) < x[0]
    vector = EncodingVectorEnv(**options, mask=Small(), num_envs=6, samples_per_context=2)
    x, info = vector.reset(seed=0)
    for _ in range(3):
        assert (info["action_mask"].sum(1) == x[:, 0]).all()
        assert info["_action_mask"].all()
        x, reward, *_, info = vector.step(np.zeros(6, np.int64))
        assert (reward == 0.0).all()
    vec = EncodingVecEnv(**options, mask=Small(), num_contexts=3, samples_per_context=2, seed=0)
    x = vec.reset()
    assert (np.stack(vec.env_method("action_masks")).sum(1) == x[:, 0]).all()  # as MaskablePPO has it
    assert (vec.env_method("action_masks", indices=[4])[0].sum() == x[4, 0]).all()
    unmasked = GymnasiumEncodingEnv(**options)
    assert unmasked.reset()[1] == {}
    with pytest.raises(ValueError, match="action_masks needs a mask and actions of one token, got no mask"):
        unmasked.action_masks()
    salesman = gymnasium.make("daps_rl/Problem-v0", problem="tsp5")
    assert salesman.reset()[1] == {}
    with pytest.raises(ValueError, match=r"got actions of 5; .*AutoregressivePolicy\(mask=env.task.mask\)"):
        salesman.unwrapped.action_masks()


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
    assert EncodingTask(make_data(), make_decoder().to("meta")).device.type == "meta"
    assert EncodingTask(make_data(), num_tokens=T, vocab_size=V).device.type == "cpu"


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
    with pytest.raises(ValueError, match="completed already by KLReward, and KLReward would"):
        KLReward(KLReward(gymnasium.make(ID, data=make_data(), decoder=make_decoder()), log_prob_of), log_prob_of)
    vector = VectorKLReward(make_vector(), lambda x, z: 0.0)
    with pytest.raises(ValueError, match="completed already by VectorKLReward"):
        VectorKLReward(vector, log_prob_of)
    vector.reset()
    with pytest.raises(ValueError, match="must give"):
        vector.step(np.zeros((B * K, T), np.int64))


# Workers


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
