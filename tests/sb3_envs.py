"""Small environments for the tests of the SB3 side."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingVecEnv

NVEC = (3, 2, 4)


class GroupBandit(VecEnv):
    """One-step episodes in groups of K that share a context x (one-hot of N): a token is worth 1 where it is x mod V_t.

    Not one of this project's environments: it knows neither β nor `samples_per_context`.
    """

    def __init__(self, num_contexts=4, samples=6, action_space=None, shared=True, observation=None):
        self.samples, self.shared = samples, shared
        self.observation = observation or (lambda index: np.eye(4, dtype=np.float32)[index])
        action_space = action_space or spaces.MultiDiscrete(NVEC)
        shape = self.observation(np.zeros(1, dtype=int)).shape[1:]
        super().__init__(num_contexts * samples, spaces.Box(0.0, 1.0, shape, np.float32), action_space)
        self.random = np.random.default_rng(0)

    def draw(self):
        count = self.num_envs // self.samples
        self.index = self.random.integers(4, size=count).repeat(self.samples)
        if not self.shared:
            self.index = self.random.integers(4, size=self.num_envs)
        return self.observation(self.index)

    def reset(self):
        if self._seeds[0] is not None:
            self.random = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        return self.draw()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        reward = bandit_reward(self.action_space, self.index, self.actions)
        return self.draw(), reward, np.ones(self.num_envs, dtype=bool), [{} for _ in range(self.num_envs)]

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def bandit_reward(action_space, index, actions):
    """Mean over tokens of [token = index mod size]. float32 [N]."""
    actions = actions.reshape(len(index), -1)
    match action_space:
        case spaces.Discrete():
            sizes = np.array([action_space.n])
        case spaces.MultiDiscrete():
            sizes = action_space.nvec
        case _:
            sizes = np.full(actions.shape[1], 2)
    return (actions == index[:, None] % sizes).mean(1).astype(np.float32)


class IdentityEnv(gym.Env):
    """The same bandit as an ordinary Gymnasium environment of one-step episodes, with any observation space."""

    def __init__(self, action_space=None, observation_space=None, encode=None):
        self.action_space = action_space or spaces.MultiDiscrete(NVEC)
        self.observation_space = observation_space or spaces.Box(0.0, 1.0, (4,), np.float32)
        self.encode = encode or (lambda index: np.eye(4, dtype=np.float32)[index])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.index = int(self.np_random.integers(4))
        return self.encode(self.index), {}

    def step(self, action):
        reward = bandit_reward(self.action_space, np.array([self.index]), np.asarray(action)[None])[0]
        return self.encode(self.index), float(reward), True, False, {}


def encoding_env(num_contexts=8, samples=6, beta=0.1, num_tokens=3, vocab_size=5, seed=0, decoder=None, **options):
    """Encoding of small random binary data, with a decoder that can learn."""
    generator = torch.Generator().manual_seed(1)
    data = (torch.rand(40, 12, generator=generator) > 0.5).float()
    return EncodingVecEnv(
        data,
        decoder or make_decoder(num_tokens, vocab_size, seed),
        num_contexts=num_contexts,
        samples_per_context=samples,
        beta=beta,
        seed=seed,
        **options,
    )


def make_decoder(num_tokens=3, vocab_size=5, seed=0):
    torch.manual_seed(seed)
    return MLPDecoder(num_tokens, vocab_size, (12,), embed_dim=8, hidden=(16,))
