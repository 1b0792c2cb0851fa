"""Policies under Stable-Baselines3's PPO at its default settings: an MLP, ours, and ours without what was made for PPO.

    python benchmarks/sb3_policies.py [--smoke]

Sixteen contexts, each with four right tokens of four; the reward is the share of right tokens, an episode one step. A
row has the mean reward of each rollout, which has PPO's 2,048 steps, of 8 environments side by side for speed; `late`
is the mean of the last four. With --smoke one short run each, and no rows. Twenty minutes.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from common import read_rows, write_row
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from daps_rl.agents.sb3 import AutoregressivePolicy

STEPS, SEEDS, ENVS = 40_960, range(3), 8
WIDTH = {"embed_dim": 32}


POLICIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "autoregressive": (AutoregressivePolicy, WIDTH),
    "MLP": ("MlpPolicy", {}),
    "Adam": (AutoregressivePolicy, {**WIDTH, "optimizer_class": torch.optim.Adam, "actor_share": 1.0}),
    "patches": (AutoregressivePolicy, {**WIDTH, "num_patches": 4}),
}


class Recall(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation: one of 16 random vectors of 8 numbers. Action: 4 tokens of 4. Reward: the share that is right.

    The vectors and the right tokens are the same in every run. An episode is one step.
    """

    observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = spaces.MultiDiscrete([4] * 4)
    right = np.random.default_rng(0).integers(0, 4, (16, 4))
    contexts = np.random.default_rng(1).uniform(-1.0, 1.0, (16, 8)).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.context = int(self.np_random.integers(16))
        return self.contexts[self.context], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float((np.asarray(action) == self.right[self.context]).mean())
        return self.contexts[self.context], reward, True, False, {}


class Rewards(BaseCallback):
    """Keeps the mean reward of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(round(float(self.locals["rollout_buffer"].rewards.mean()), 4))


def learn(name: str, seed: int, steps: int) -> list[float]:
    """The mean reward of each rollout."""
    policy, kwargs = POLICIES[name]
    rewards = Rewards()
    env = DummyVecEnv([Recall] * ENVS)
    model = PPO(policy, env, n_steps=2048 // ENVS, policy_kwargs=kwargs, seed=seed, device="cpu")
    model.learn(steps, rewards)
    return rewards.means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one run of each of a few seconds, and no rows")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    smoke = options.smoke
    done = set() if smoke else {(row["policy"], row["seed"]) for row in read_rows("sb3_policies")}
    torch.set_num_threads(1)
    for name in options.policies:
        for seed in options.seeds[:1] if smoke else options.seeds:
            if (name, seed) in done:
                continue
            rewards = learn(name, seed, 4096 if smoke else STEPS)
            row = {
                "policy": name,
                "seed": seed,
                "rewards": rewards,
                "late": float(np.mean(rewards[-4:])),
                "least": min(rewards[-4:]),
            }
            print(row) if smoke else write_row("sb3_policies", row)


if __name__ == "__main__":
    main()
