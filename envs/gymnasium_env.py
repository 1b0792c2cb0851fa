"""Encoding as a one-step Gymnasium environment, and the wrapper that completes its reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor, nn

from daps_rl.envs.default import Data
from daps_rl.envs.host import TaskHost, unwrap
from daps_rl.envs.pictures import image_shape
from daps_rl.envs.problem import DiscreteProblem, problem_arguments
from daps_rl.envs.task import TaskArguments, takes_task_arguments
from daps_rl.functional import complete_reward

if TYPE_CHECKING:
    from typing_extensions import Unpack

LogProb = Callable[[np.ndarray, np.ndarray], "Tensor | np.ndarray | float"]


class GymnasiumEncodingEnv(TaskHost, gymnasium.Env[np.ndarray, np.ndarray]):
    """One encoding environment: `gymnasium.make("daps_rl/Encoding-v0")`. Many at once are `EncodingVectorEnv`.

    Observation:
        a datum x [*x], Box, float32: within [0, 1] if all data are, else within the data's own range.
    Action:
        a code [T], MultiDiscrete([V] * T).
    Reward:
        log p(x|z) + β·log p(z), in nats; larger is better. Whoever trains an encoder with β > 0 completes it with
        −β·log q(z|x), of the probability that the code was drawn with: in SB3 `daps_rl.agents.sb3.DAPS`, or
        `KLRewardCallback` with SB3's own algorithms; elsewhere the wrapper `KLReward` or `VectorKLReward`. Who does it
        claims `env.completion`; a second claim is an error. The info of a step has `log_likelihood`, log p(x|z) alone.
    Episode end:
        Terminated after the one step, never truncated. The observation then is still x.
    Reset and seed:
        A reset draws a datum uniformly from `np_random`. There are no reset options.

    What copies the decoder: `copy.deepcopy(env)`, and `make_vec(envs.spec)` of a `SyncVectorEnv` or `AsyncVectorEnv`
    unless it was given as `Shared(decoder)`. `gymnasium.make` and `make(env.spec)` pass on the object itself. In worker
    processes (`AsyncVectorEnv`) a decoder that could learn stays in step only in shared memory:
    `decoder.share_memory()` before the workers start by fork. Any other is refused, a RuntimeError at the first reset.

    Args:
        data, decoder, arguments: see `EncodingTask.from_arguments`; each of them may be held by `Shared`.
        render_mode: "rgb_array": the original beside its reconstruction, for images; or None.
    Raises:
        ValueError: render_mode makes no sense, or as `EncodingTask`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1}  # type: ignore[misc]  # as gymnasium's own

    @takes_task_arguments
    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        render_mode: str | None = None,
        **arguments: Unpack[TaskArguments],
    ) -> None:
        self.observation_space, self.action_space = self._hold(data, decoder, arguments, render_mode)
        if image_shape(self.observation_space.shape) is None:
            self.metadata = {**self.metadata, "render_modes": []}  # type: ignore[misc]  # of this instance alone
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new datum. See the class."""
        super().reset(seed=seed)
        observation = self._batch.reset(self.np_random, options)
        self._over = False
        return observation[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Scores the code and ends the episode. See the class."""
        if self._over:
            raise ResetNeeded("an encoding episode is over after one step; call reset() for the next datum.")
        reward, log_likelihood = self._batch.step(np.asarray(action)[None])
        self._over = True
        return self._batch.observation()[0], float(reward[0]), True, False, {"log_likelihood": float(log_likelihood[0])}

    def render(self) -> np.ndarray | None:
        """The datum beside its reconstruction (grey before there is one). [H, W, 3], uint8."""
        frames = self._frames()
        return None if frames is None else frames[0]


def make_problem_env(
    problem: str | DiscreteProblem = "", *, split: str = "train", **options: Any
) -> GymnasiumEncodingEnv:
    """`gymnasium.make("daps_rl/Problem-v0", problem="tsp20")`: another problem than encoding, in the same form.

    Args:
        problem: a name (see `find_problem`) or the problem itself.
        split: whose contexts are drawn.
        options: of `GymnasiumEncodingEnv`.
    """
    return GymnasiumEncodingEnv(**problem_arguments(unwrap(problem), split), **options)


class CompletesReward:
    """Mixed into wrappers: makes the reward log p(x|z) − β·(log q(z|x) − log p(z)), β being the env's at that step.

    Args:
        env: an encoding environment, wrapped or not.
        log_prob: log q(z|x), in nats, of what the environment observes and the actions taken, under the policy that
            drew them, when the step is taken: one number, or [num_envs] of a vector environment.
    Raises:
        TypeError: the environment has no β.
        ValueError: another completes the environment's reward already; in a step, log_prob has another size.
    """

    env: Any

    def __init__(self, env: Any, log_prob: LogProb) -> None:
        super().__init__(env)  # type: ignore[call-arg]  # of Gymnasium's wrappers
        self._host, self._log_prob, self._count = env.unwrapped, log_prob, getattr(env, "num_envs", 1)
        self._observation: np.ndarray | None = None
        if not isinstance(self._host, TaskHost):
            raise TypeError(
                f"this wrapper needs an encoding environment, which holds beta, got {type(self._host).__name__}; "
                "use KLReward around each environment of a SyncVectorEnv, VectorKLReward around an EncodingVectorEnv."
            )
        self._host.completion.claim(type(self).__name__)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's."""
        self._observation, info = self.env.reset(**options)
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """As the environment's, the reward complete."""
        if self._observation is None:
            raise ResetNeeded("call reset() of the wrapper first: it needs the observation.")
        log_prob = torch.as_tensor(self._log_prob(self._observation, action), dtype=torch.float64).detach().cpu()
        if log_prob.numel() != self._count:
            raise ValueError(f"log_prob must give {self._count} numbers, got shape {tuple(log_prob.shape)}.")
        self._observation, reward, *rest = self.env.step(action)
        given = torch.as_tensor(reward, dtype=torch.float64)
        complete = complete_reward(given, log_prob.view(given.shape), self._host.beta.item())
        return self._observation, complete.numpy() if complete.ndim else complete.item(), *rest


class KLReward(CompletesReward, gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Completes the reward of a `GymnasiumEncodingEnv`: see `CompletesReward`."""
