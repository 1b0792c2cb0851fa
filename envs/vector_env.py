"""Many encoding environments as one native Gymnasium vector environment, and the wrapper that completes its reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import nn

from daps_rl.envs.default import Data
from daps_rl.envs.gymnasium_env import CompletesReward, GymnasiumEncodingEnv
from daps_rl.envs.host import TaskHost, unwrap
from daps_rl.envs.problem import DiscreteProblem, problem_arguments
from daps_rl.envs.task import TaskArguments, takes_task_arguments

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EncodingVectorEnv(TaskHost, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Environments scored in one decoder call per step: `gymnasium.make_vec("daps_rl/Encoding-v0", num_envs=...)`.

    Observation:
        data [num_envs, *x], float32, in memory of their own at every step; environment b·K + k is copy k of context b.
    Action:
        codes [num_envs, T], integers in 0 … V-1.
    Reward:
        log p(x|z) + β·log p(z) [num_envs], float64, in nats; larger is better. Where β > 0 it is to be completed: see
        `GymnasiumEncodingEnv`.
    Episode end:
        Every environment terminates at every step, and resets in the same step (`AutoresetMode.SAME_STEP`): the
        observation that step returns is the next datum. `final_obs` and `final_info` are as `SyncVectorEnv` gives
        them; `log_likelihood` at the top of the info is ours.
    Reset and seed:
        Contexts are drawn uniformly from `np_random`, the one generator of all environments. There are no options.

    Args:
        data, decoder, arguments, render_mode: see `GymnasiumEncodingEnv`.
        num_envs: environments, all copies of a context counted.
        samples_per_context: K, which divides num_envs.
        decoder_optimizer: see `EncodingVecEnv`.
    Raises:
        ValueError: sizes, optimiser or render_mode make no sense, or as `EncodingTask`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # as gymnasium's own
        **GymnasiumEncodingEnv.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    @takes_task_arguments
    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        num_envs: int = 1,
        samples_per_context: int = 1,
        decoder_optimizer: torch.optim.Optimizer | None = None,
        render_mode: str | None = None,
        **arguments: Unpack[TaskArguments],
    ) -> None:
        if samples_per_context < 1 or num_envs < 1 or num_envs % samples_per_context:
            raise ValueError(
                f"num_envs must be a positive multiple of samples_per_context, got {num_envs} and "
                f"{samples_per_context}; pass contexts times samples."
            )
        self.num_envs, self.samples_per_context = num_envs, samples_per_context
        self.num_contexts = num_envs // samples_per_context
        self.single_observation_space, self.single_action_space = self._hold(
            data, decoder, arguments, render_mode, self.num_contexts, samples_per_context, decoder_optimizer
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode.SAME_STEP

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New data everywhere. See the class."""
        super().reset(seed=seed)
        return self._batch.reset(self.np_random, options), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Scores the codes, ends every episode and draws the next data. See the class."""
        reward, log_likelihood = self._batch.step(actions)
        scores = log_likelihood.astype(np.float64)
        final_obs = np.empty(self.num_envs, dtype=object)
        for i, row in enumerate(self._batch.observation()):
            final_obs[i] = row
        self._batch.draw(self.np_random)
        true = np.ones(self.num_envs, np.bool_)
        info = {
            "final_obs": final_obs,
            "_final_obs": true.copy(),
            "final_info": {"log_likelihood": scores, "_log_likelihood": true.copy()},
            "_final_info": true.copy(),
            "log_likelihood": scores.copy(),
            "_log_likelihood": true.copy(),
        }
        return self._batch.observation(), reward.astype(np.float64), true, ~true, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Of every environment the datum it has just encoded beside its reconstruction. [H, W, 3], uint8, each."""
        frames = self._frames()
        return None if frames is None else tuple(frames)


def make_problem_vector_env(
    problem: str | DiscreteProblem = "", *, split: str = "train", **options: Any
) -> EncodingVectorEnv:
    """`gymnasium.make_vec("daps_rl/Problem-v0", num_envs=..., problem="tsp20")`: see `make_problem_env`."""
    return EncodingVectorEnv(**problem_arguments(unwrap(problem), split), **options)


class VectorKLReward(CompletesReward, VectorWrapper):
    """Completes the rewards of an `EncodingVectorEnv`: see `CompletesReward`."""
