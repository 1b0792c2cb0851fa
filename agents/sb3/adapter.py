"""Algorithms of Stable-Baselines3 inside the training loop: `daps-rl train --agent sb3:ppo`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from daps_rl.agents.base import Agent, AgentLoss, AgentSpec, Score, check_options
from daps_rl.agents.policy_gradient import RewardScale
from daps_rl.agents.sb3.daps import DAPS
from daps_rl.agents.sb3.policies import CodePolicy
from daps_rl.data.errors import one_line
from daps_rl.envs.sb3_vec_env import OneObjectVecEnv
from daps_rl.functional import SAMPLES
from daps_rl.names import import_class
from daps_rl.optim import load_optimizer_tensors, optimizer_tensors

OWNED = {
    "policy", "env", "learning_rate", "n_steps", "beta", "samples_per_context", "policy_kwargs", "seed",
    "device", "tensorboard_log", "_init_setup_model",
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


class SB3Agent(Agent):
    """An on-policy algorithm of SB3 that is fed the training loop's batches and takes its own gradient steps.

    Each batch is one rollout of one step by B·K environments. Its `collect_rollouts` and `train` are SB3's own, and so
    are its optimiser and its gradient clipping; the learning rate follows the run's schedule. The rewards of SB3's PPO
    and A2C are brought to unit size, as VecNormalize would.

    Args:
        policy, samples: see `Agent`; the policy needs `observation_shape`, `num_tokens` and `vocab_size`.
        contexts: B, data per batch.
        options: of the algorithm, over `defaults`.
    Raises:
        ValueError: the options do not fit, or the policy does not say its sizes.
    """

    bounded_memory = False
    run_settings: ClassVar[tuple[str, ...]] = ()
    score: Score  # of the batch at hand
    codes: Tensor  # drawn last, [B, K, T]
    entropy: Tensor  # of the policy that drew them, estimated; 0-dim
    algorithm_class: ClassVar[type[OnPolicyAlgorithm]]
    defaults: ClassVar[dict[str, Any]] = {}
    """Where SB3's defaults, made for long rollouts of small batches, do not suit one step of a large one."""

    def __init__(
        self, policy: nn.Module, *, contexts: int, samples: int = SAMPLES, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(policy, samples=samples)
        algorithm = self.algorithm_class
        sizes: Any = [getattr(policy, name, None) for name in ("observation_shape", "num_tokens", "vocab_size")]
        if None in sizes:
            raise ValueError(
                f"{algorithm.__name__} of SB3 needs spaces, and {type(policy).__name__} does not say its sizes; give "
                "it the attributes observation_shape, num_tokens and vocab_size."
            )
        self.env = BatchEnv(*sizes, contexts=contexts, samples=samples)
        whole = {"batch_size": contexts * samples} if "batch_size" in self.options() else {}  # a step per batch
        with settings_of(algorithm):
            self.algorithm = algorithm(
                CodePolicy,
                self.env,
                learning_rate=lambda _: self.learning_rate,
                # The critic of our own actor-critics (`HostLossAgent`), so that only the algorithm differs.
                policy_kwargs={
                    "network": lambda *_: policy,
                    "exact_entropy": bool((options or {}).get("ent_coef")),  # not computed for nothing
                    "net_arch": [128, 128],
                    "activation_fn": nn.ReLU,
                },
                device=next(policy.parameters()).device,
                n_steps=1,
                **{**whole, **self.defaults, **(options or {})},
            )
        # Registered, so that what is not the policy's own is saved with the run.
        self.actor_critic = self.algorithm.policy
        self.trust_region = getattr(self.algorithm, "_trust_region", None)
        self.scale = None if isinstance(self.algorithm, DAPS) else RewardScale()
        self.algorithm.set_logger(Logger(folder=None, output_formats=[]))
        self.callback = self.algorithm._setup_learn(0, lambda variables, _: self._write_rewards(variables))[1]

    @classmethod
    def options(cls) -> Mapping[str, inspect.Parameter]:
        """What the algorithm takes and the run does not decide."""
        known = inspect.signature(cls.algorithm_class).parameters
        return {name: p for name, p in known.items() if name not in OWNED and p.kind is not p.VAR_KEYWORD}

    @classmethod
    def from_config(cls, config: Any, policy: nn.Module) -> Agent:
        check_options(cls.algorithm_class.__name__, cls.options(), config.agent_options)
        options = {**{name: getattr(config, name) for name in cls.run_settings}, **config.agent_options}
        return cls(policy, contexts=config.batch_size, samples=config.samples, options=options)

    def trained(self) -> list[nn.Parameter]:
        """None: the algorithm has an optimiser of its own."""
        return []

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.algorithm.policy.optimizer)

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        load_optimizer_tensors(self.algorithm.policy.optimizer, tensors)

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        algorithm, env = self.algorithm, self.env
        # SB3 shuffles minibatches by NumPy's global generator, which no checkpoint of ours holds.
        np.random.seed(int(torch.randint(2**31 - 1, ())))
        env.beta.copy_(beta)
        env.observations = observation.cpu().numpy().repeat(self.samples, 0)
        self.score = score
        algorithm._last_obs = env.reset()
        algorithm._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        algorithm.logger.name_to_value.clear()
        algorithm.collect_rollouts(env, self.callback, algorithm.rollout_buffer, n_rollout_steps=1)
        with settings_of(type(algorithm)):
            algorithm.train()
        logged = algorithm.logger.name_to_value
        metrics = {ours: torch.tensor(float(logged[theirs])) for theirs, ours in METRICS.items() if theirs in logged}
        yield AgentLoss(None, self.codes, {"entropy": self.entropy, **metrics})

    @torch.enable_grad()
    def _write_rewards(self, step: dict[str, Any]) -> bool:
        """Writes the step's rewards, complete, and of unit size where there is a scale, before SB3 stores them."""
        codes = torch.as_tensor(step["actions"], device=step["log_probs"].device).long()
        self.codes = codes.view(-1, self.samples, codes.shape[-1])
        log_prob: Tensor = step["log_probs"].detach().view(self.codes.shape[:2])
        rewards = self.score(self.codes, log_prob)
        if self.scale is not None and not rewards.isfinite().all():  # DAPS skips such a step
            raise ValueError(
                f"a reward is NaN or infinite, and {type(self.algorithm).__name__} of SB3 would learn from it; "
                "lower the learning rate, or check the data and what gives the reward."
            )
        step["rewards"][:] = (rewards if self.scale is None else self.scale(rewards)).flatten().cpu().numpy()
        self.entropy = -log_prob.mean()
        return True


@contextlib.contextmanager
def settings_of(algorithm: type[OnPolicyAlgorithm]) -> Iterator[None]:
    """What SB3 makes of settings that it does not check (n_epochs=0, gamma=[1]) is a ValueError in one line."""
    try:
        yield
    except (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError) as error:
        raise ValueError(
            f"{algorithm.__name__} of SB3 cannot work with these settings: {one_line(error)}; see --agent-options."
        ) from error


def around(algorithm: type[OnPolicyAlgorithm], **attributes: Any) -> type[SB3Agent]:
    """The class of the agents of one algorithm, with these class attributes."""
    if issubclass(algorithm, DAPS):
        attributes["run_settings"] = ("ess_fraction", "trust_region", "centered", "policy_samples")
        attributes["forbids"] = True
    return type(f"SB3{algorithm.__name__}", (SB3Agent,), {"algorithm_class": algorithm, **attributes})


one_process = functools.partial(AgentSpec, several_processes=False)  # the optimiser is the algorithm's own

SPECS = (
    one_process("sb3:daps", around(DAPS), "run daps in Stable-Baselines3", scores_some=True),
    one_process(
        "sb3:ppo", around(PPO, defaults={"n_epochs": 2}), "run PPO of Stable-Baselines3", {}, {"learning_rate": 1e-3}
    ),
    one_process("sb3:a2c", around(A2C), "run A2C of Stable-Baselines3", {}, {"learning_rate": 5e-4}),
)
SB3_AGENTS = {spec.name: spec for spec in SPECS}
"""On-policy algorithms by name; any other by "sb3:package.module:Class"."""


def find_sb3_agent(name: str) -> AgentSpec:
    """The agent of that name, of `SB3_AGENTS` or around the on-policy algorithm "sb3:package.module:Class".

    Raises:
        ValueError: there is no such algorithm.
    """
    if name in SB3_AGENTS:
        return SB3_AGENTS[name]
    own = name.removeprefix("sb3:")
    if ":" not in own:
        raise ValueError(f"agent {name} is not known; use {', '.join(SB3_AGENTS)}, or sb3:package.module:Class.")
    # On-policy: a code's reward counts once, and replayed rewards are those of an older decoder.
    algorithm: Any = import_class("on-policy algorithm", own, OnPolicyAlgorithm)
    return one_process(name, around(algorithm), f"run {algorithm.__name__}")


class BatchEnv(OneObjectVecEnv):
    """The training loop's batch as environments of one step: b·K + k is the k-th copy of context b.

    They give no reward themselves: the agent writes the complete one, so that the decoder is evaluated once.
    """

    completion = render_mode = None

    def __init__(
        self, observation_shape: tuple[int, ...], num_tokens: int, vocab_size: int, *, contexts: int, samples: int
    ) -> None:
        space = spaces.Box(-np.inf, np.inf, tuple(observation_shape), np.float32)
        super().__init__(contexts * samples, space, spaces.MultiDiscrete([vocab_size] * num_tokens))
        self.samples_per_context, self.beta = samples, torch.zeros(())
        self.observations = np.zeros((self.num_envs, *space.shape), np.float32)

    def reset(self) -> np.ndarray:
        return self.observations

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        n = self.num_envs
        return self.observations, np.zeros(n, np.float32), np.ones(n, bool), [{}] * n
