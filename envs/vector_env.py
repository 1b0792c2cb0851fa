"""Many encoding environments as one native Gymnasium vector environment, and the wrapper that completes its reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import nn

from daps_rl.envs.default import Data
from daps_rl.envs.gymnasium_env import LogProb, completed_host
from daps_rl.envs.host import TaskHost, check_options, unwrap
from daps_rl.envs.problem import DiscreteProblem, problem_arguments
from daps_rl.envs.task import TaskArguments
from daps_rl.functional import complete_reward

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EncodingVectorEnv(TaskHost, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` encoding environments, scored in one decoder call per step.

    `gymnasium.make_vec("daps_rl/Encoding-v0", num_envs=...)` makes one.

    Observation:
        data [num_envs, *x], float32, in memory of their own at every step; with `samples_per_context` K > 1 environment
        b·K + k is copy k of context b.
    Action:
        codes [num_envs, T], integers in 0 … V-1.
    Reward:
        log p(x|z) + β·log p(z) [num_envs], float64, in nats; larger is better. To be completed with −β·log q(z|x),
        once, where β > 0: see `GymnasiumEncodingEnv`; `VectorKLReward` does it here.
    Episode end:
        Every environment terminates at every step, and resets in the same step (`AutoresetMode.SAME_STEP`): the
        observation that step returns is the next datum, `final_obs` in the info the one just encoded, and `final_info`
        holds its `log_likelihood`. Both are as `SyncVectorEnv` gives them;
        `log_likelihood` at the top of the info is ours.
    Reset and seed:
        Contexts are drawn uniformly from `np_random`, the one generator of all environments. There are no options.

    Args:
        data, decoder, num_tokens, vocab_size, beta, prior, reward_fn, targets, device: see
            `EncodingTask.from_arguments`; each of them may be held by `Shared`.
        num_envs: environments, all copies of a context counted.
        samples_per_context: K, which divides num_envs.
        decoder_optimizer: of the decoder's parameters. If given, each step also descends −mean log p(x|z) on the codes
            it has just scored, by the same forward pass; the rewards are those before the update.
        render_mode: "rgb_array": originals beside their reconstructions, for images; or None.
    Raises:
        ValueError: data, sizes, beta, optimiser or render_mode make no sense, or both decoder and reward_fn are given.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # as gymnasium's own
        "render_modes": ["rgb_array"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

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
            data,
            decoder,
            arguments,
            num_contexts=self.num_contexts,
            samples_per_context=samples_per_context,
            decoder_optimizer=decoder_optimizer,
            render_mode=render_mode,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode.SAME_STEP

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New data everywhere. See the class.

        Raises:
            ValueError: options are given.
        """
        super().reset(seed=seed)
        check_options(options)
        self._batch.draw(self.np_random)
        self._batch.forget()
        return self._batch.observation(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Scores the codes, ends every episode and draws the next data. See the class.

        Raises:
            ResetNeeded: before the first reset.
            ValueError: the actions are no codes.
        """
        reward, log_likelihood = self._batch.step(actions)
        info = self._info(self._batch.observation(), log_likelihood.astype(np.float64))
        self._batch.draw(self.np_random)
        terminated = np.ones(self.num_envs, np.bool_)
        return self._batch.observation(), reward.astype(np.float64), terminated, np.zeros_like(terminated), info

    def _info(self, final: np.ndarray, log_likelihood: np.ndarray) -> dict[str, Any]:
        final_obs = np.empty(self.num_envs, dtype=object)
        for i, row in enumerate(final):
            final_obs[i] = row

        def all_of_them() -> np.ndarray:
            return np.ones(self.num_envs, np.bool_)

        return {
            "final_obs": final_obs,
            "_final_obs": all_of_them(),
            "final_info": {"log_likelihood": log_likelihood, "_log_likelihood": all_of_them()},
            "_final_info": all_of_them(),
            "log_likelihood": log_likelihood.copy(),
            "_log_likelihood": all_of_them(),
        }

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Of every environment the datum it has just encoded beside its reconstruction. [H, W, 3], uint8, each."""
        frames = self._frames()
        return None if frames is None else tuple(frames)


def make_problem_vector_env(
    problem: str | DiscreteProblem = "", *, split: str = "train", **options: Any
) -> EncodingVectorEnv:
    """`gymnasium.make_vec("daps_rl/Problem-v0", num_envs=..., problem="tsp20")`: see `make_problem_env`."""
    return EncodingVectorEnv(**problem_arguments(unwrap(problem), split), **options)


class VectorKLReward(VectorWrapper):
    """Completes the reward to log p(x|z) − β·(log q(z|x) − log p(z)), β being the env's own at that step.

    Args:
        env: an `EncodingVectorEnv`, wrapped or not.
        log_prob: log q(z|x) [num_envs], in nats, of observations [num_envs, *x] and actions [num_envs, T] under the
            policy that drew them, when the step is taken.
    Raises:
        TypeError: the environment has no β.
        ValueError: another completes the environment's reward already.
    """

    def __init__(self, env: VectorEnv, log_prob: LogProb) -> None:
        super().__init__(env)
        self._host = completed_host(env.unwrapped, "VectorKLReward")
        self._log_prob = log_prob
        self._observations: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's."""
        self._observations, info = self.env.reset(seed=seed, options=options)
        return self._observations, info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As the environment's, the rewards complete.

        Raises:
            ValueError: log_prob does not give [num_envs].
        """
        if self._observations is None:
            raise ResetNeeded("call reset() of the wrapper first: it needs the observations.")
        log_prob = torch.as_tensor(self._log_prob(self._observations, actions)).detach().cpu().double()
        if log_prob.shape != (self.num_envs,):
            raise ValueError(f"log_prob must give [num_envs] = ({self.num_envs},), got shape {tuple(log_prob.shape)}.")
        self._observations, reward, terminated, truncated, info = self.env.step(actions)
        complete = complete_reward(torch.from_numpy(reward), log_prob, self._host.beta.item())
        return self._observations, complete.numpy(), terminated, truncated, info
