"""daps_rl.agents.sb3.DAPS: groups of whole episodes, beside the enumeration of all episodes of a small MDP."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from mazes import F64, STATES, Maze, actor, all_episodes, flat, make, of_model, played
from sb3_envs import IdentityEnv
from sb3_models import SMALL, collected, parameters, quick_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy
from daps_rl.agents.sb3.episodes import find_episodes
from daps_rl.agents.sb3.rollouts import evaluate
from daps_rl.objectives import FixedTemperature


def by_hand(model, temperature):
    """Loss of a rollout, an episode and an action at a time, with the policy's gradient."""
    buffer, discount = model.rollout_buffer, model.gamma
    log_probs, drawn, returns = [], [], []
    for steps in played(model):
        parts = [
            model.policy.get_distribution(torch.as_tensor(buffer.observations[place])[None]).log_prob(
                torch.as_tensor(buffer.actions[place])
            )
            for place in steps
        ]
        log_probs.append(torch.cat(parts).double().sum())
        drawn.append(sum(float(buffer.log_probs[place]) for place in steps))
        returns.append(sum(discount**t * float(buffer.rewards[place]) for t, place in enumerate(steps)))
    k = model.samples_per_context
    log_prob, score = torch.stack(log_probs).view(-1, k), torch.tensor(returns, dtype=F64).view(-1, k)
    weights = torch.softmax(score / temperature, -1)
    ratio = (log_prob - torch.tensor(drawn, dtype=F64).view(-1, k)).exp()
    loss = (-(weights * log_prob).sum(-1) + (ratio - 1.0).mean(-1) * model.centered).mean()
    return loss, torch.autograd.grad(loss, actor(model)), score


def test_the_maze_is_an_environment():
    check_env(Maze())


# The loss


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("gamma", [None, 0.8])
def test_loss_and_gradient_are_those_of_episodes_taken_one_by_one(centered, gamma):
    model = collected(make(n_steps=3, centered=centered, gamma=gamma))
    for parameter in actor(model):  # no longer the policy that drew them, as on a second use
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = model._form.batch(model)
    assert batch.score.shape == (6, 6)
    assert batch.lengths.tolist() == [len(steps) for steps in played(model)]
    assert set(batch.lengths.tolist()) == {1, 2, 3, 4}
    temperature = model._trust_region(batch.score, 0.0)
    loss, gradient, score = by_hand(model, temperature)
    ours, our_gradient = of_model(model, batch, temperature)
    torch.testing.assert_close(batch.score.double(), score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_gradient_is_the_enumerated_one_in_expectation():
    """∇ E_q*[log q(episode)] with q* = q·exp(R/τ)/Z over all 31 episodes; K = 4096, within five standard errors."""
    samples, temperature = 4096, 0.5
    model = collected(make(samples, samples, centered=False, trust_region=FixedTemperature(temperature)))
    batch = model._form.batch(model)
    state = int(model.rollout_buffer.observations[0, 0].argmax())
    logits = model.policy.get_distribution(torch.eye(STATES)).distribution.logits
    returns, log_prob, _ = all_episodes(logits.double().log_softmax(-1), state)
    assert len(returns) == 31
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    parts = actor(model)
    gradients = [torch.autograd.grad(one, parts, retain_graph=True) for one in log_prob]
    each = torch.stack([flat(gradient) for gradient in gradients])  # [31, parameters]
    q = log_prob.detach().exp()
    ratio = (returns / temperature).exp() / (q * (returns / temperature).exp()).sum()
    exact = (q * ratio) @ each
    error = ((q * ratio.square()) @ (each - exact).square() / samples).sqrt()
    _, gradient = of_model(model, batch, temperature)
    ours = -flat(gradient)
    assert ((ours - exact).abs() <= 5.0 * error + 1e-9).all()
    assert (exact.abs() > 10.0 * error).any()  # so that a wrong gradient would be seen
    mean = float((q * returns).sum())
    assert batch.score.mean().item() == pytest.approx(mean, abs=5.0 * float((q * returns.square()).sum().sqrt()) / 64.0)


def test_what_lies_behind_an_episodes_end_is_never_read():
    model = collected(make(n_steps=3))
    before = of_model(model, model._form.batch(model), 0.3)
    buffer = model.rollout_buffer
    outside = np.ones(buffer.rewards.shape, bool)
    for steps in played(model):
        for place in steps:
            outside[place] = False
    assert outside.any()
    for name in ("observations", "rewards", "log_probs", "values"):
        getattr(buffer, name)[outside] = np.nan
    buffer.actions[outside] = 10**6
    after = of_model(model, model._form.batch(model), 0.3)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def test_episodes_of_one_step_are_the_groups_of_actions():
    """Bit for bit the same, whether they are taken for episodes or for actions."""
    env = DummyVecEnv([IdentityEnv] * 12)
    model = collected(make(env=env, n_steps=2))
    batch = model._form.batch(model)
    assert batch.lengths is None
    assert np.array_equal(batch.score.numpy().ravel(), model.rollout_buffer.rewards.ravel())
    actions, episodes = (
        of_model(model, batch._replace(lengths=lengths), 0.3) for lengths in (None, torch.ones(24, dtype=torch.int64))
    )
    assert torch.equal(actions[0], episodes[0])
    assert all(torch.equal(a, b) for a, b in zip(actions[1], episodes[1], strict=True))


def test_find_episodes_by_hand():
    starts = np.array([[1, 1], [0, 1], [1, 0], [1, 1], [1, 1], [0, 0], [0, 1]], bool)
    rows, lengths, step = find_episodes(starts)
    assert lengths.tolist() == [2, 1, 1, 1, 3, 2]
    assert rows.tolist() == [0, 2, 1, 6, 7, 8, 10, 12, 9, 11]
    assert step.ravel().tolist() == [0, 1, 2, 0, 0, 1, 2]
    values = np.arange(14.0, dtype=np.float32).reshape(7, 2)
    assert find_episodes(starts).total(values).tolist() == [2.0, 1.0, 6.0, 7.0, 30.0, 20.0]


def test_beta_counts_at_every_step():
    model = collected(make(beta=0.5))
    buffer = model.rollout_buffer
    state, action = buffer.observations.argmax(-1), buffer.actions[..., 0].astype(int)
    np.testing.assert_allclose(
        buffer.rewards, Maze.REWARD[state, action] - 0.5 * buffer.log_probs, rtol=1e-5, atol=1e-6
    )
    model.train()
    assert model.temperature >= 0.5


@pytest.mark.parametrize("policy_samples", [0, 2])
def test_a_policy_that_draws_token_by_token_plays_episodes_too(policy_samples):
    class Pairs(Maze):
        action_space = spaces.MultiDiscrete([2, 3])

        def step(self, action):
            return super().step(int(action.sum()) % 3)

    env = DummyVecEnv([Pairs] * 12)
    options = {"seed": 0, "device": "cpu", "policy_kwargs": dict(SMALL), "policy_samples": policy_samples}
    model = collected(DAPS(AutoregressivePolicy, env, samples_per_context=6, n_steps=2, **options))
    batch = model._form.batch(model)
    log_prob, _ = evaluate(model, batch, torch.arange(4), None)  # of the policy that drew them
    torch.testing.assert_close(log_prob.detach(), batch.log_prob, rtol=1e-4, atol=1e-4)
    before = parameters(model)
    model.train()
    assert not torch.equal(before, parameters(model))


# The environments


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: VecNormalize(VecMonitor(env), norm_reward=False)])
def test_the_episodes_of_a_group_start_alike_and_each_time_anew(noise, wrap):
    class Places(Maze):
        """Its start is one of very many."""

        observation_space = spaces.Box(-np.inf, np.inf, (STATES + 1,), np.float32)

        def reset(self, **options):
            super().reset(**options)
            self.place = float(self.np_random.random())
            return self.seen(), {}

        def seen(self):
            return np.append(super().seen(), np.float32(self.place)) if hasattr(self, "place") else None

    env = wrap(DummyVecEnv([lambda: Places(noise)] * 12))
    model = make(env=env, n_steps=4)
    seen = []
    for reset in (True, False, True):
        model.learn(1, reset_num_timesteps=reset)
        first = [steps[0] for steps in played(model)]
        seen.append(np.stack([model.rollout_buffer.observations[place] for place in first]).reshape(-1, 6, STATES + 1))
    seen = np.concatenate(seen)
    assert (seen == seen[:, :1]).all()
    assert len(np.unique(seen[:, 0, -1])) == len(seen) == 24


def test_environments_that_all_end_at_once_may_have_drawn_differently():
    class Draws(gym.Env):
        """Ends with action 1 or 2, and draws so many numbers."""

        observation_space, action_space = spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.random(1).astype(np.float32), {}

        def step(self, action):
            self.np_random.random(int(action))
            return np.zeros(1, np.float32), float(action), action > 0, False, {}

    model = collected(make(env=DummyVecEnv([Draws] * 2), samples=2, ess_fraction=0.8, n_steps=20))
    first = np.stack([model.rollout_buffer.observations[steps[0]] for steps in played(model)]).reshape(20, 2)
    lengths = np.array([len(steps) for steps in played(model)]).reshape(20, 2)
    assert (lengths.max(1) == 1).any()
    assert (first[:, 0] == first[:, 1]).all()


def test_environments_that_ignore_their_seed_are_refused():
    class Own(Maze):
        count_resets = itertools.count()

        def reset(self, *, seed=None, options=None):
            return super().reset(seed=next(self.count_resets))

    with pytest.raises(ValueError, match="must share an observation"):
        make(env=DummyVecEnv([Own] * 12)).learn(100)


def test_episodes_without_an_end_are_refused(monkeypatch):
    class Endless(Maze):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    monkeypatch.setattr("daps_rl.agents.sb3.rollouts.LONGEST", 50)
    with pytest.raises(ValueError, match=r"every episode must end, and one has not within 50 steps.*TimeLimit"):
        make(env=DummyVecEnv([Endless] * 12)).learn(1)


def test_only_whole_episodes_are_counted_and_logged():
    model = make(env=VecMonitor(DummyVecEnv([Maze] * 12)), n_steps=3)
    collected(model)
    episodes = played(model)
    logged = [(entry["l"], pytest.approx(entry["r"], abs=1e-5)) for entry in model.ep_info_buffer]
    returns = [sum(float(model.rollout_buffer.rewards[place]) for place in steps) for steps in episodes]
    assert sorted(length for length, _ in logged) == sorted(map(len, episodes))
    assert sum(returns) == pytest.approx(sum(entry["r"] for entry in model.ep_info_buffer), abs=1e-4)
    assert model.num_timesteps == model.rollout_buffer.rewards.size


# SB3's contract


def test_one_seed_twice_is_one_run():
    first, again, other = (parameters(make(seed=seed).learn(200)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_saved_model_goes_on_bit_for_bit(tmp_path):
    def new():
        env = quick_env(n_envs=4, seed=5)
        model = DAPS("MlpPolicy", env, samples_per_context=4, ess_fraction=0.5, n_steps=2, seed=0, device="cpu")
        return model.learn(400)

    straight = new().learn(400, reset_num_timesteps=False)
    model = new()
    model.save(tmp_path / "model.zip", random_state=True)
    half = parameters(model)
    torch.rand(3), np.random.rand(3)
    back = DAPS.load(tmp_path / "model.zip", env=quick_env(n_envs=4, seed=9), device="cpu")
    back.learn(400, reset_num_timesteps=False)
    assert torch.equal(parameters(back), parameters(straight))
    assert not torch.equal(half, parameters(straight))
    assert back.num_timesteps == straight.num_timesteps


def test_a_callback_that_stops_within_an_episode_leaves_nothing_half_scored():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 2

    model = make()
    before = parameters(model)
    model.learn(10_000, Stop())
    assert model.num_timesteps == 24
    assert torch.equal(before, parameters(model))
    model.learn(1, reset_num_timesteps=False)  # goes on with new episodes, from a common start
    buffer = model.rollout_buffer
    assert buffer.episode_starts[0].all()
    state, action = buffer.observations.argmax(-1), buffer.actions[..., 0].astype(int)
    np.testing.assert_allclose(buffer.rewards, Maze.REWARD[state, action], rtol=1e-6)
    assert not torch.equal(before, parameters(model))


# Learning


def test_cartpole_is_learned_and_not_without_weights():
    """A random agent gets about 22, and one that imitates all of its episodes no more."""
    score = {}
    for name, options in {"daps": {}, "uniform": {"trust_region": FixedTemperature(1e9)}}.items():
        options |= {"learning_rate": 1e-2, "seed": 0, "device": "cpu"}
        model = DAPS("MlpPolicy", quick_env(n_envs=16), samples_per_context=8, **options).learn(40_000)
        score[name] = evaluate_policy(model, quick_env(n_envs=10, seed=1000), n_eval_episodes=20)[0]
    assert score["daps"] > 300.0
    assert score["uniform"] < 100.0
