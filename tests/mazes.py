"""A maze small enough to enumerate all its episodes, a model of SB3's DAPS in it, and what a rollout of it holds."""

import itertools

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from daps_rl.agents.sb3 import DAPS
from daps_rl.agents.sb3.rollouts import evaluate
from daps_rl.functional import target_weights, weighted_likelihood_loss

F64 = torch.float64
STATES, ACTIONS, HORIZON = 5, 3, 4


class Maze(gym.Env):
    """Episodes of 1 to 4 steps: action 2 ends one at once, the others move; the fourth step truncates it.

    Observation: one-hot state. Reward: a number of state and action, of both signs. Reset: one of three states.
    With `noise` the moves also draw from the environment's generator, as an ordinary environment may.
    """

    observation_space = spaces.Box(0.0, 1.0, (STATES,), np.float32)
    action_space = spaces.Discrete(ACTIONS)
    REWARD = np.array([[0.3, -0.2, 0.1], [0.0, 0.5, -0.4], [-0.6, 0.2, 0.7], [0.9, -0.1, 0.0], [0.2, 0.4, -0.3]])

    def __init__(self, noise=False):
        self.noise = noise

    @classmethod
    def moved(cls, state, action):
        return (2 * state + action + 1) % STATES

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.count = int(self.np_random.integers(3)), 0
        return self.seen(), {}

    def step(self, action):
        reward, self.count = self.REWARD[self.state, action], self.count + 1
        self.state = self.moved(self.state, int(action))
        if self.noise:
            self.state = (self.state + int(self.np_random.integers(2))) % STATES
        return self.seen(), float(reward), bool(action == 2), self.count == HORIZON, {}

    def seen(self):
        return np.eye(STATES, dtype=np.float32)[self.state]


def make(n_envs=12, samples=6, env=None, **options):
    env = DummyVecEnv([Maze] * n_envs) if env is None else env
    options = {"learning_rate": 1e-2, "seed": 0, "device": "cpu", **options}
    return DAPS("MlpPolicy", env, samples_per_context=samples, **options)


def played(model):
    """The episodes of a rollout, read off its buffer one by one: (step, environment) of each of their actions."""
    starts, episodes, begin = model.rollout_buffer.episode_starts.astype(bool), [], 0
    while begin < len(starts):
        after = begin + 1
        while after < len(starts) and not starts[after].all():
            after += 1
        for env in range(starts.shape[1]):
            end = next((t for t in range(begin + 1, after) if starts[t, env]), after)
            episodes.append([(t, env) for t in range(begin, end)])
        begin = after
    return episodes


def actor(model):
    return [*model.policy.mlp_extractor.policy_net.parameters(), *model.policy.action_net.parameters()]


def flat(gradient):
    return torch.cat([part.flatten() for part in gradient]).double()


def of_model(model, batch, temperature):
    """The same by the model's own parts."""
    groups = torch.arange(len(batch.log_prob))
    log_prob, critic = evaluate(model, batch, groups, None)
    assert critic == 0.0
    weights = target_weights(batch.score, temperature)
    loss = weighted_likelihood_loss(log_prob, weights, batch.log_prob, centered=model.centered).mean()
    return loss, torch.autograd.grad(loss, actor(model))


def all_episodes(log_policy, state):
    """Returns, log-probabilities and actions of every episode from a state. log_policy [states, actions]."""
    returns, log_probs, episodes = [], [], []
    for actions in itertools.product(range(ACTIONS), repeat=HORIZON):
        ends = actions.index(2) + 1 if 2 in actions else HORIZON
        if any(actions[ends:]):  # the same episode as another
            continue
        at, total, log_prob = state, 0.0, 0.0
        for action in actions[:ends]:
            total, log_prob = total + Maze.REWARD[at, action], log_prob + log_policy[at, action]
            at = Maze.moved(at, action)
        returns.append(total)
        log_probs.append(log_prob)
        episodes.append(actions[:ends])
    return torch.tensor(returns, dtype=F64), torch.stack(log_probs), episodes
