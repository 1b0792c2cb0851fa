"""daps_rl.envs.EncodingEnv: TorchRL's checks, the reward by hand, groups, seeds, and what it refuses."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import binary_data, skewed_prior, small_decoder
from torch.distributions import Categorical, Independent
from torchrl.envs import RewardSum, SerialEnv, StepCounter, TransformedEnv, check_env_specs

from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingEnv, EncodingTask
from daps_rl.envs.default import principal_decoder
from daps_rl.functional import daps_loss
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy, CodeMask, EndToken, FactorizedPolicy
from daps_rl.priors import IndependentPrior, UniformCodes

N, B, K, T, V = 11, 3, 4, 2, 5
SHAPE = (1, 3, 2)


make_decoder = partial(small_decoder, T, V, SHAPE)
make_data = partial(binary_data, N, *SHAPE)


def negative_distance(x, codes):
    """Not differentiable: numpy, integers."""
    ones = np.asarray(x).reshape(len(x), 1, -1).sum(-1).astype(int)
    return torch.from_numpy(-np.abs(ones - np.asarray(codes).sum(-1)))


def make_env(**changes):
    arguments = {
        "data": make_data(),
        "decoder": make_decoder(),
        "num_tokens": T,
        "vocab_size": V,
        "batch_size": [B, K],
        "seed": 0,
    }
    return EncodingEnv(**(arguments | changes))


def make_actor():
    torch.manual_seed(2)
    return GroupActor(AutoregressivePolicy(SHAPE, T, V, embed_dim=8, num_heads=2))


def silent_policy(tensordict):
    """Codes without their log-probability."""
    return tensordict.set("action", torch.zeros(*tensordict.batch_size, T, dtype=torch.int64))


def prior_policy(tensordict):
    """Codes from the uniform prior at twice its log-probability."""
    prior = UniformCodes(T, V)
    codes = prior.sample(tensordict.batch_size)
    return tensordict.update({"action": codes, "action_log_prob": 2.0 * prior.log_prob(codes)})


# TorchRL's contract


@pytest.mark.parametrize("break_when_any_done", [True, "both"])
@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.0},
        {"beta": 0.7},
        {"beta": 0.7, "prior": skewed_prior(T, V)},
        {"decoder": None, "reward_fn": negative_distance},
        {"decoder": None, "reward_fn": negative_distance, "beta": 2.0},
        {"data": torch.rand(N, 6), "decoder": MLPDecoder(T, V, (6,))},
    ],
)
def test_check_env_specs(options, break_when_any_done):
    check_env_specs(make_env(**options), break_when_any_done=break_when_any_done)


@pytest.mark.parametrize("transform", [RewardSum, StepCounter])
def test_transformed(transform):
    env = TransformedEnv(make_env(beta=0.5), transform())
    check_env_specs(env)
    rollout = env.rollout(3, make_actor(), break_when_any_done=False)
    assert rollout.batch_size == (B, K, 3)
    if transform is RewardSum:
        torch.testing.assert_close(rollout["next", "episode_reward"], rollout["next", "reward"])
    else:
        assert (rollout["next", "step_count"] == 1).all()


def test_several_in_a_row():
    env = SerialEnv(2, [lambda: make_env(beta=0.5, seed=1), lambda: make_env(beta=0.5, seed=2)])
    rollout = env.rollout(3, prior_policy, break_when_any_done=False)
    assert rollout.batch_size == (2, B, K, 3)
    torch.testing.assert_close(rollout["next", "kl"], torch.full((2, B, K, 3, 1), -T * math.log(V)))
    torch.testing.assert_close(
        rollout["next", "reward"], rollout["next", "log_likelihood"] - 0.5 * rollout["next", "kl"]
    )
    assert not torch.equal(rollout["observation"][0], rollout["observation"][1])
    env.close()


def test_one_step_ends_the_episode_and_shows_one_datum_per_group():
    env = make_env(beta=0.5)
    start = env.reset()
    assert start["observation"].shape == (B, K, *SHAPE)
    assert (start["observation"] == start["observation"][:, :1]).all()
    assert any((start["observation"][0, 0] == x).all() for x in make_data())
    end = env.rand_step(start)["next"]
    assert end["done"].all()
    assert end["terminated"].all()
    assert end["reward"].shape == end["log_likelihood"].shape == end["kl"].shape == (B, K, 1)
    assert torch.equal(end["observation"], start["observation"])


def test_a_mask_of_one_token_is_observed():
    class UpTo(CodeMask):
        """As many classes as the datum's first entry says."""

        def start(self, observation, samples):
            return observation[:, :1].expand(-1, samples)

        def allowed(self, state, position):
            return torch.arange(V) < state.unsqueeze(-1)

    data = torch.arange(1.0, 5.0)[:, None].expand(-1, 2)
    options = {"data": data, "decoder": None, "reward_fn": negative_distance, "num_tokens": 1, "mask": UpTo()}
    env = make_env(**options)
    check_env_specs(env)
    for batch in (env.rollout(3, break_when_any_done=False)[..., 2], env.rollout(1)[..., 0]["next"]):
        assert torch.equal(batch["action_mask"].sum(-1), batch["observation"][..., 0].long())
    assert "action_mask" not in make_env(**{**options, "num_tokens": 2}).reset()


# The reward


@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
def test_reward_by_hand(beta):
    prior = skewed_prior(T, V)
    env = make_env(beta=beta, prior=prior)
    batch = env.reset()
    batch["action"] = torch.randint(V, (B, K, T), generator=torch.Generator().manual_seed(1))
    batch["action_log_prob"] = -torch.arange(B * K).float().view(B, K) / 4
    end = env.step(batch)["next"]
    decoder = make_decoder()
    for b in range(B):
        for k in range(K):
            code, x = batch["action"][b, k], batch["observation"][b, k]
            mean = decoder(code).mean
            log_likelihood = (x * mean.log() + (1 - x) * (1 - mean).log()).sum().item()
            log_prior = sum(torch.log_softmax(prior.base_dist.logits, -1)[t, code[t]].item() for t in range(T))
            kl = batch["action_log_prob"][b, k].item() - log_prior
            assert end["log_likelihood"][b, k].item() == pytest.approx(log_likelihood, rel=1e-4)
            assert end["kl"][b, k].item() == pytest.approx(kl, rel=1e-4)
            assert end["reward"][b, k].item() == pytest.approx(log_likelihood - beta * kl, rel=1e-4, abs=1e-4)
    assert not end["reward"].requires_grad


def test_any_function_may_stand_in_the_decoder_s_place():
    env = make_env(decoder=None, reward_fn=negative_distance, beta=0.5)
    batch = env.rand_step(env.reset())
    ones, total = batch["observation"].flatten(2).sum(-1), batch["action"].sum(-1)
    torch.testing.assert_close(batch["next", "reward"][..., 0], -(ones - total).abs())  # at the prior the KL is 0
    assert batch["next", "log_likelihood"].dtype == torch.float32


def test_beta_is_one_shared_value():
    env = make_env(beta=1.0)
    assert env.beta.shape == ()
    batch = make_actor()(env.reset())
    before = env.step(batch.clone())["next"]
    env.beta.fill_(0.25)
    after = env.step(batch.clone())["next"]
    torch.testing.assert_close(after["reward"] - before["reward"], 0.75 * before["kl"])
    assert (before["kl"] != 0).any()
    loss = DAPSLoss(make_actor(), ess_fraction=0.5, temperature_floor=env.beta)
    env.beta.fill_(123.0)
    assert loss(batch.set("next", after))["temperature"].item() == 123.0


def test_without_a_decoder_the_data_s_principal_components_score():
    batch = make_env(decoder=None).rand_step(make_env().reset())
    expected = principal_decoder(make_data(), T, V)(batch["action"]).log_prob(batch["observation"])
    torch.testing.assert_close(batch["next", "log_likelihood"][..., 0], expected)


# The log-probability of this very step


def test_without_log_probability_a_code_of_no_prior_probability_has_its_score():
    impossible = Categorical(torch.full((T, V), 1.0).index_fill(1, torch.tensor(0), 0.0))  # code 0 never
    end = make_env(beta=0.0, prior=Independent(impossible, 1)).step(silent_policy(make_env().reset()))["next"]
    torch.testing.assert_close(end["reward"], end["log_likelihood"])


def test_without_log_probability_only_beta_zero_can_step():
    end = make_env(beta=0.0).step(silent_policy(make_env().reset()))["next"]
    torch.testing.assert_close(end["reward"], end["log_likelihood"])
    assert (end["kl"] == 0).all()
    for batch in (make_env().reset(), make_env().reset().exclude("action_log_prob")):
        with pytest.raises(KeyError, match="with beta > 0 the step needs `action_log_prob`"):
            make_env(beta=0.1).step(silent_policy(batch))


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: TransformedEnv(env, StepCounter())])
def test_a_log_probability_of_an_earlier_step_is_never_used(wrap):
    calls = []

    def forgetful_policy(tensordict):
        calls.append(len(calls))
        if calls[-1] == 0:
            tensordict["action_log_prob"] = torch.full((B, K), -3.0)
        return silent_policy(tensordict)

    with pytest.raises(KeyError, match="`action_log_prob`"):
        wrap(make_env(beta=0.5)).rollout(3, forgetful_policy, break_when_any_done=False)
    assert calls == [0, 1]
    calls.clear()
    free = wrap(make_env(beta=0.0)).rollout(3, forgetful_policy, break_when_any_done=False)
    kl = free["next", "kl"][..., 0]
    torch.testing.assert_close(kl[..., 0], torch.full((B, K), T * math.log(V) - 3.0))
    assert (kl[..., 1:] == 0).all()


def test_rand_action_draws_from_the_prior_and_says_with_what_probability():
    env = make_env(prior=skewed_prior(T, V), batch_size=[B, 2000])
    batch = env.rand_action(env.reset())
    torch.testing.assert_close(batch["action_log_prob"], skewed_prior(T, V).log_prob(batch["action"]))
    frequency = torch.stack([(batch["action"] == v).float().mean((0, 1)) for v in range(V)], -1)
    # Within 5 standard errors of 6 000 draws.
    probs = skewed_prior(T, V).base_dist.probs
    assert ((frequency - probs).abs() < 5 * (probs * (1 - probs) / 6000).sqrt()).all()
    assert env.rand_action().batch_size == (B, 2000)


# Actor, env and losses together


def test_a_rollout_feeds_the_losses():
    actor, env = make_actor(), make_env(beta=0.5)
    rollout = env.rollout(1, actor)
    assert rollout.batch_size == (B, K, 1)
    loss = DAPSLoss(actor, ess_fraction=0.5, temperature_floor=env.beta)
    out = loss(rollout)
    assert out["kl_approx"].abs() < 1e-5
    log_prob = actor.get_dist(rollout[..., 0]).log_prob(rollout["action"][:, :, 0])
    reward = rollout["next", "reward"][:, :, 0, 0]
    expected = daps_loss(log_prob, reward, temperature=out["temperature"]).loss.mean()
    torch.testing.assert_close(out["loss_actor"], expected)
    decoder_loss = DecoderLoss(env.decoder)(rollout)["loss_decoder"]
    torch.testing.assert_close(decoder_loss, -rollout["next", "log_likelihood"].mean())


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_fn": negative_distance}, "exactly one of decoder and reward_fn"),
        ({"batch_size": [B]}, r"batch_size must be \[B, K\].*got \[3\]"),
        ({"batch_size": [B, 0]}, r"batch_size must be \[B, K\].*got \[3, 0\]"),
        ({"batch_size": [B, K, 1]}, r"batch_size must be \[B, K\]"),
        ({"data": torch.zeros(5)}, r"data must be floating-point \[N, \.\.\.\].*\(5,\)"),
        ({"data": torch.zeros(5, 2, dtype=torch.int64)}, "data must be floating-point.*torch.int64"),
        ({"beta": -0.1}, r"beta must be >= 0 and finite, got -0\.1"),
        (
            {"num_tokens": 0, "decoder": None, "reward_fn": negative_distance},
            "num_tokens must be a positive integer, got 0",
        ),
        (
            {"vocab_size": 1, "decoder": None, "reward_fn": negative_distance},
            "num_tokens must be >= 1 and vocab_size >= 2, got 2 and 1",
        ),
    ],
)
def test_impossible_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_env(**changes)


@pytest.mark.parametrize("reward", [lambda x, z: z.sum(), lambda x, z: z.float(), lambda x, z: z.sum(-1, keepdim=True)])
def test_rewards_of_the_wrong_shape_are_refused(reward):
    env = make_env(decoder=None, reward_fn=reward)
    with pytest.raises(ValueError, match=r"reward_fn must score codes \[B, K, T\] as \[B, K\] = \(3, 4\), got shape"):
        env.rand_step(env.reset())


@pytest.mark.parametrize(("worst", "fine"), [(-math.inf, True), (math.inf, False), (math.nan, False)])
def test_a_reward_may_forbid_a_code_and_must_be_a_number(worst, fine):
    env = make_env(decoder=None, reward_fn=lambda x, z: torch.full(z.shape[:-1], worst))
    batch = env.rand_action(env.reset())
    if fine:
        assert (env.step(batch)["next", "reward"] == -math.inf).all()
    else:
        with pytest.raises(ValueError, match="reward_fn gave NaN or"):
            env.step(batch)


def test_log_probabilities_of_the_wrong_shape_are_refused():
    env = make_env(beta=0.5)
    batch = silent_policy(env.reset())
    batch["action_log_prob"] = torch.zeros(B, K, 1)
    with pytest.raises(ValueError, match=r"must have the shape of action_log_prob, \(3, 4, 1\), got \(3, 4\)"):
        env.step(batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": torch.full((N, *SHAPE), math.nan)}, "finite"),
        ({"vocab_size": V + 1}, "vocab_size must be at most the decoder's own, 5, got 6"),
        ({"num_tokens": T + 1}, "num_tokens must be the decoder's own, 2, got 3"),
        (
            {"data": torch.rand(N, 6)},
            r"observation_shape must be the decoder's own, \(1, 3, 2\), got \(6,\) from the data",
        ),
        ({"prior": 0.5}, "prior must be a distribution over codes, or a module that gives one, got float"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_env(**changes)


@pytest.mark.parametrize("data", [make_data().numpy(), make_data().double()], ids=["numpy", "float64"])
def test_arrays_and_double_precision(data):
    env = make_env(data=data, decoder=None, reward_fn=negative_distance)
    check_env_specs(env)
    assert env.rollout(1)["observation"].dtype == torch.as_tensor(data).dtype


@pytest.mark.parametrize("data", [make_data(), make_data().double()], ids=["float32", "float64"])
def test_where_float64_is_the_default_all_works_and_the_spec_says_what_comes(data):
    torch.set_default_dtype(torch.float64)
    try:
        decoder, policy = make_decoder(), FactorizedPolicy(SHAPE, T, V, embed_dim=8)
        env = EncodingEnv(data, decoder, num_tokens=T, vocab_size=V, batch_size=[B, K], beta=0.5)
        check_env_specs(env)
        batch = env.rollout(1, GroupActor(policy))
        assert batch["action_log_prob"].dtype == torch.float64
        assert DAPSLoss(GroupActor(policy), ess_fraction=0.5)(batch)["loss_actor"].isfinite()
        x, codes = batch["observation"][:, 0, 0], batch["action"][:, :, 0]  # [B, *x], [B, K, T]
        log_prob = policy(x.double()).log_prob(codes.transpose(0, 1)).t()
        expected = decoder(codes).log_prob(x[:, None]) - 0.5 * (log_prob + T * math.log(V))
        torch.testing.assert_close(batch["next", "reward"][..., 0, 0].double(), expected, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


def test_beta_is_filled_in_place_and_never_negative():
    env = make_env(beta=0.5)
    shared = env.beta
    env.beta = 0.25
    assert env.beta is shared
    assert shared.item() == 0.25
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta must be >= 0"):
            env.beta = value
    with pytest.raises(ValueError, match=r"0-dim tensor, got shape \(2,\)"):
        env.beta = torch.ones(2)


@pytest.mark.parametrize("missing", ["action_log_prob", ("next", "reward")])
def test_the_loss_names_what_a_batch_lacks(missing):
    actor = make_actor()
    batch = make_env().rollout(1, actor).exclude(missing)
    with pytest.raises(KeyError, match="DAPS reads"):
        DAPSLoss(actor, ess_fraction=0.5)(batch)


def test_a_gradient_that_is_not_finite_leaves_the_decoder_alone():
    class Root(torch.nn.Module):
        """A finite likelihood with an infinite gradient, at a parameter of zero."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, codes):
            return torch.distributions.Independent(
                torch.distributions.Normal(self.weight.sqrt().expand(*codes.shape[:-1], 6), 1.0), 1
            )

    decoder = Root()
    task = EncodingTask(torch.rand(N, 6), decoder, num_tokens=T, vocab_size=V)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    _, log_likelihood = task.reward(task.data[:B, None], torch.zeros(B, K, T, dtype=torch.int64), optimizer)
    assert log_likelihood.isfinite().all()
    assert decoder.weight.item() == 0.0


def test_an_end_token_that_does_not_fit_is_refused_whatever_the_prior():
    prior = UniformCodes(3, 4)
    with pytest.raises(ValueError, match="must have end = vocab_size - 1"):
        EncodingEnv(num_tokens=3, vocab_size=4, batch_size=[2, 2], mask=EndToken(4), prior=prior)


def test_a_copy_of_a_prior_that_learns_is_refused_in_a_worker(monkeypatch):
    monkeypatch.setattr("daps_rl.envs.processes.multiprocessing.parent_process", lambda: "a parent")
    with pytest.raises(RuntimeError, match="of beta, a prior or rate_weight"):
        make_env(decoder=make_decoder().requires_grad_(False), prior=IndependentPrior(T, V))
    with pytest.raises(RuntimeError, match="rate_weight"):
        make_env(decoder=make_decoder().requires_grad_(False), rate_weight=torch.tensor(0.5))
    shared = {"prior": IndependentPrior(T, V).share_memory(), "rate_weight": torch.tensor(0.5).share_memory_()}
    assert (
        make_env(decoder=make_decoder().requires_grad_(False), **shared).rollout(1)["next", "reward"].isfinite().all()
    )
    fixed = IndependentPrior(T, V).requires_grad_(False)
    assert make_env(decoder=make_decoder().requires_grad_(False), prior=fixed, rate_weight=0.5) is not None
