"""Algorithms of Stable-Baselines3 inside the training loop: `daps-rl train --agent sb3:ppo`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from daps_rl.agents.base import Agent, AgentLoss, Score, check_options
from daps_rl.agents.critic import RewardScale
from daps_rl.agents.sb3.daps import DAPS
from daps_rl.agents.sb3.policies import CodePolicy
from daps_rl.config import TrainConfig
from daps_rl.envs.sb3_vec_env import OneObjectVecEnv
from daps_rl.optim import load_optimizer_tensors, optimizer_tensors

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"daps": DAPS, "ppo": PPO, "a2c": A2C}
"""On-policy algorithms by name; any other by "sb3:package.module:Class"."""

DEFAULTS: dict[type, dict[str, Any]] = {PPO: {"n_epochs": 2}}
"""Where SB3's defaults, made for long rollouts of small batches, do not suit one step of a large one."""

OWNED = {
    "policy", "env", "learning_rate", "n_steps", "beta", "samples_per_context", "policy_kwargs", "seed", "device",
    "tensorboard_log", "_init_setup_model",
}  # fmt: skip
"""Arguments of an algorithm that the run decides by its own settings (--learning-rate, --beta-start, --seed ...)."""

METRICS = {
    "train/ess": "ESS",
    "train/temperature": "temperature",
    "train/approx_kl": "kl_approx",
    "train/clip_fraction": "clip_fraction",
    "train/value_loss": "loss_critic",
}
"""What an algorithm logs, by our names."""


def find_sb3_agent(name: str) -> Callable[[TrainConfig, nn.Module], Agent]:
    """What makes an `SB3Agent` from settings and a policy.

    Raises:
        ValueError: there is no such algorithm, or it is not on-policy.
    """
    if name in ALGORITHMS:
        algorithm: Any = ALGORITHMS[name]
    else:
        module, _, attribute = name.partition(":")
        try:
            algorithm = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"agent sb3:{name} is not known; use sb3:{', sb3:'.join(ALGORITHMS)}, or sb3:package.module:Class."
            ) from error
    if not (isinstance(algorithm, type) and issubclass(algorithm, OnPolicyAlgorithm)):
        raise ValueError(
            f"agent sb3:{name} must be an on-policy algorithm of Stable-Baselines3: a code's reward counts once, and "
            "replayed rewards are those of an older decoder."
        )

    def make(config: TrainConfig, policy: nn.Module) -> Agent:
        return SB3Agent(policy, algorithm, config)

    return make


class SB3Agent(Agent):
    """An on-policy algorithm of SB3 that is fed the training loop's batches and takes its own gradient steps.

    Each batch is one rollout of one step by B·K environments. Its `collect_rollouts` and `train` are SB3's own, and so
    are its optimiser and its gradient clipping; the learning rate follows the run's schedule. The rewards of SB3's PPO
    and A2C are brought to unit size, as VecNormalize would.

    Args:
        policy: see `Agent`; needs `observation_shape`, `num_tokens` and `vocab_size`.
        algorithm: an on-policy algorithm.
        config: settings of the run; `agent_options` go to the algorithm.
    Raises:
        ValueError: an option is unknown, or the policy does not say its sizes.
    """

    bounded_memory = False

    def __init__(self, policy: nn.Module, algorithm: type[OnPolicyAlgorithm], config: TrainConfig) -> None:
        super().__init__(policy, samples=config.samples)
        sizes: Any = [getattr(policy, name, None) for name in ("observation_shape", "num_tokens", "vocab_size")]
        if None in sizes:
            raise ValueError(
                f"{algorithm.__name__} of SB3 needs spaces, and {type(policy).__name__} does not say its sizes; give "
                "it the attributes observation_shape, num_tokens and vocab_size."
            )
        self.env = BatchEnv(*sizes, contexts=config.batch_size, samples=config.samples)
        settings = {**self._settings(algorithm, config), **config.agent_options}
        known = set(inspect.signature(algorithm).parameters) - OWNED
        if unknown := sorted(set(config.agent_options) - known):
            raise ValueError(
                f"unknown agent option {', '.join(unknown)}; {algorithm.__name__} takes {', '.join(sorted(known))}."
            )
        check_options(algorithm, config.agent_options)
        try:
            self.algorithm = algorithm(
                CodePolicy,
                self.env,
                learning_rate=lambda _: self.learning_rate,
                # The critic of our own actor-critics (agents/critic.py), so that only the algorithm differs.
                policy_kwargs={"network": lambda *_: policy, "net_arch": [128, 128], "activation_fn": nn.ReLU},
                device=next(policy.parameters()).device,
                n_steps=1,
                **{name: value for name, value in settings.items() if name in known},
            )
        except TypeError as error:
            raise ValueError(f"{algorithm.__name__} cannot be made from these settings: {error}.") from error
        # Registered, so that what is not the policy's own is saved with the run.
        self.actor_critic = self.algorithm.policy
        self.trust_region = getattr(self.algorithm, "_trust_region", None)
        self.scale = None if isinstance(self.algorithm, DAPS) else RewardScale()
        self.algorithm.set_logger(Logger(folder=None, output_formats=[]))
        self.rewards = ScoreRewards(self.env)
        callbacks: list[BaseCallback] = [self.rewards]
        if self.scale is not None:
            callbacks.append(ScaleReward(self.scale))
        self.callback = self.algorithm._setup_learn(0, CallbackList(callbacks))[1]

    @staticmethod
    def _settings(algorithm: type[OnPolicyAlgorithm], config: TrainConfig) -> dict[str, Any]:
        """The run's settings by SB3's names; whole batches."""
        size = config.batch_size * config.samples
        ours = {name: getattr(config, name) for name in ("ess_fraction", "trust_region", "centered", "policy_samples")}
        return {"batch_size": size, **ours, **DEFAULTS.get(algorithm, {})}

    def trained(self) -> list[nn.Parameter]:
        """None: the algorithm has an optimiser of its own."""
        return []

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.algorithm.policy.optimizer)

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        load_optimizer_tensors(self.algorithm.policy.optimizer, tensors)

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        algorithm, env = self.algorithm, self.env
        # SB3 shuffles minibatches by NumPy's global generator, which no checkpoint of ours holds.
        np.random.seed(int(torch.randint(2**31 - 1, ())))
        env.beta.copy_(floor)
        env.set_batch(observation)
        self.rewards.score = score
        algorithm._last_obs = env.reset()
        algorithm._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        algorithm.logger.name_to_value.clear()
        algorithm.collect_rollouts(env, self.callback, algorithm.rollout_buffer, n_rollout_steps=1)
        algorithm.train()
        logged = algorithm.logger.name_to_value
        metrics = {ours: torch.tensor(float(logged[theirs])) for theirs, ours in METRICS.items() if theirs in logged}
        assert self.rewards.codes is not None  # `collect_rollouts` has called the callback
        yield AgentLoss(None, self.rewards.codes, {"entropy": self.rewards.entropy, **metrics})


class BatchEnv(OneObjectVecEnv):
    """The training loop's batch as environments of one step: b·K + k is the k-th copy of context b.

    They give no reward themselves: `ScoreRewards` writes the complete one, so that the decoder is evaluated once.
    """

    completion = None

    def __init__(
        self, observation_shape: tuple[int, ...], num_tokens: int, vocab_size: int, *, contexts: int, samples: int
    ) -> None:
        self.render_mode = None
        space = spaces.Box(-np.inf, np.inf, tuple(observation_shape), np.float32)
        super().__init__(contexts * samples, space, spaces.MultiDiscrete([vocab_size] * num_tokens))
        self.samples_per_context, self.beta = samples, torch.zeros(())
        self.observations = np.zeros((self.num_envs, *space.shape), np.float32)

    def set_batch(self, observation: Tensor) -> None:
        """The contexts of the next rollout. [B, *x]."""
        self.observations = observation.cpu().numpy().repeat(self.samples_per_context, 0)

    def reset(self) -> np.ndarray:
        return self.observations

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        n = self.num_envs
        return self.observations, np.zeros(n, np.float32), np.ones(n, bool), [{}] * n


class ScoreRewards(BaseCallback):
    """Writes the step's rewards, complete: log p(x|z) − β·(log q(z|x) − log p(z))."""

    def __init__(self, env: BatchEnv) -> None:
        super().__init__()
        self.env = env
        self.score: Score | None = None
        self.codes: Tensor | None = None
        self.entropy = torch.zeros(())

    @torch.enable_grad()
    def _on_step(self) -> bool:
        assert self.score is not None  # set before each rollout
        log_probs: Tensor = self.locals["log_probs"].detach().flatten()
        codes = torch.as_tensor(self.locals["actions"], device=log_probs.device).long()
        self.codes = codes.view(-1, self.env.samples_per_context, codes.shape[-1])  # [B, K, T]
        log_prob = log_probs.view(self.codes.shape[:2])
        self.locals["rewards"][:] = self.score(self.codes, log_prob).flatten().cpu().numpy()
        self.entropy = -log_prob.mean()
        return True


class ScaleReward(BaseCallback):
    """Brings the rewards to unit size, in place, before SB3 stores them."""

    def __init__(self, scale: RewardScale) -> None:
        super().__init__()
        self.scale = scale

    def _on_step(self) -> bool:
        rewards = self.locals["rewards"]
        scaled = self.scale(torch.as_tensor(rewards, device=self.scale.moments.device).view(1, -1))
        rewards[:] = scaled.flatten().cpu().numpy()
        return True
