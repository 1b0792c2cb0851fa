"""Encoding as a native Stable-Baselines3 VecEnv: contexts in groups, one decoder call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import nn
from typing_extensions import Unpack

from daps_rl.envs.default import Data
from daps_rl.envs.host import TaskHost
from daps_rl.envs.task import TaskOptions, takes_task_arguments


class OneObjectVecEnv(VecEnv):
    """A VecEnv in which one object stands for all: attributes are repeated for each index, methods called once."""

    actions: np.ndarray  # of the step that is asked for

    def close(self) -> None:
        """Nothing is held open."""

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets the attribute for all environments. Raises ValueError where only some are meant."""
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"one object stands for all {self.num_envs} environments; set {attr_name} without indices."
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """The method's value for each environment; of `action_masks` each has its own row."""
        value, where = getattr(self, method_name)(*method_args, **method_kwargs), list(self._get_indices(indices))
        return [value[i] for i in where] if method_name == "action_masks" else [value] * len(where)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


class EncodingVecEnv(TaskHost, OneObjectVecEnv):
    """B contexts, each in K environments: a VecEnv of B·K one-step episodes, scored in one decoder call per step.

    Observation:
        data [B·K, *x], float32; environment b·K + k is copy k of context b. In memory of their own at every step.
    Action:
        codes [B·K, T], integers in 0 … V-1; of one token [B·K], Discrete(V).
    Reward:
        log p(x|z) + β·log p(z) [B·K], float32, in nats; larger is better. Where β > 0 it is to be completed:
        `daps_rl.agents.sb3.DAPS` does so by itself, and `KLRewardCallback` in SB3's own algorithms.
    Episode end:
        Every environment is done at every step and starts anew, as SB3 has it: the observation that step returns is
        the next datum, and each info has `terminal_observation`, `TimeLimit.truncated` (False) and `log_likelihood`.
    Reset and seed:
        Contexts are drawn uniformly, all K copies alike. `seed(s)` takes effect at the next reset and makes the
        sequence of data repeatable (the same as `EncodingVectorEnv.reset(seed=s)`). There are no reset options.

    `get_attr("beta")` gives the shared 0-dim β, and `set_attr` fills it in place.
    The decoder is the caller's own object, and SB3 copies neither it nor the environment.

    Args:
        data, decoder, arguments, render_mode: see `GymnasiumEncodingEnv`.
        num_contexts: B.
        samples_per_context: K.
        decoder_optimizer: of the decoder's parameters. If given, each step also descends −mean log p(x|z) on the codes
            it has just scored, by the same forward pass; the rewards are those before the update. Leave it out of an
            environment for evaluation.
        seed: as by `seed(...)`; drawn by the operating system if None.
    Raises:
        ValueError: sizes, optimiser or render_mode make no sense, or as `EncodingTask`.
    """

    @takes_task_arguments
    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        num_contexts: int = 1,
        samples_per_context: int = 1,
        decoder_optimizer: torch.optim.Optimizer | None = None,
        seed: int | None = None,
        render_mode: str | None = None,
        **arguments: Unpack[TaskOptions],
    ) -> None:
        observation_space, action_space = self._hold(
            data, decoder, arguments, render_mode, num_contexts, samples_per_context, decoder_optimizer
        )
        self.num_contexts, self.samples_per_context = num_contexts, samples_per_context
        super().__init__(num_contexts * samples_per_context, observation_space, action_space)
        self.np_random, _ = seeding.np_random(seed)

    def reset(self) -> np.ndarray:
        """New data everywhere; a seed given before takes effect. See the class."""
        if self._seeds[0] is not None:
            self.np_random, _ = seeding.np_random(self._seeds[0])
        self._reset_seeds()
        return self._start(self.np_random, *self._options)

    def step_wait(self) -> VecEnvStepReturn:
        """Scores the codes, ends every episode and draws the next data. See the class."""
        reward, log_likelihood = self._score(self.actions)
        infos: list[dict[str, Any]] = [
            {"terminal_observation": x, "TimeLimit.truncated": False, "log_likelihood": value}
            for x, value in zip(self._observation(), log_likelihood.tolist(), strict=True)
        ]
        self._draw(self.np_random)
        return self._observation(), reward, np.ones(self.num_envs, dtype=bool), infos

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [None] * self.num_envs if self.render_mode is None else self._frames() or []
