"""Encoding as a Gymnasium environment, one or many at once, and the wrappers that complete its reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from typing_extensions import Unpack

from daps_rl.envs.default import Data
from daps_rl.envs.host import TaskHost
from daps_rl.envs.pictures import image_shape
from daps_rl.envs.task import TaskOptions, takes_task_arguments
from daps_rl.functional import complete_reward

LogProb = Callable[[np.ndarray, np.ndarray], "Tensor | np.ndarray | float"]


class GymnasiumEncodingEnv(TaskHost, gymnasium.Env[np.ndarray, np.ndarray]):
    """One encoding environment: `gymnasium.make("daps_rl/Encoding-v0")`. Many at once are `EncodingVectorEnv`.

    Observation:
        a datum x [*x], Box, float32: within [0, 1] if all data are, else within the data's own range.
    Action:
        a code [T], MultiDiscrete([V] * T); of one token Discrete(V). With a mask, the info of a reset then has
        `action_mask` [V], int8, and `action_masks()` gives the same as bool.
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
        data, decoder, arguments: see `EncodingTask`; each of them may be held by `Shared`.
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
        **arguments: Unpack[TaskOptions],
    ) -> None:
        self.observation_space, self.action_space = self._hold(data, decoder, arguments, render_mode)  # type: ignore[assignment]  # Discrete
        if image_shape(self.observation_space.shape) is None:
            self.metadata = {**self.metadata, "render_modes": []}  # type: ignore[misc]  # of this instance alone

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new datum. See the class."""
        super().reset(seed=seed)
        return self._start(self.np_random, options)[0], self._mask_info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Scores the code and ends the episode. See the class."""
        reward, log_likelihood = self._score(np.asarray(action)[None])
        return self._observation()[0], float(reward[0]), True, False, {"log_likelihood": float(log_likelihood[0])}

    def action_masks(self) -> np.ndarray:
        """Which actions the datum allows: bool [V], as sb3-contrib's MaskablePPO asks for it; see `TaskHost`."""
        return super().action_masks()[0]

    def render(self) -> np.ndarray | None:
        """The datum beside its reconstruction (grey before there is one). [H, W, 3], uint8."""
        frames = self._frames()
        return None if frames is None else frames[0]


class EncodingVectorEnv(TaskHost, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Environments scored in one decoder call per step: `gymnasium.make_vec("daps_rl/Encoding-v0", num_envs=...)`.

    Observation:
        data [num_envs, *x], float32, in memory of their own at every step; environment b·K + k is copy k of context b.
    Action:
        codes [num_envs, T], integers in 0 … V-1; of one token [num_envs].
    Reward:
        log p(x|z) + β·log p(z) [num_envs], float64, in nats; larger is better. Where β > 0 it is to be completed: see
        `GymnasiumEncodingEnv`.
    Episode end:
        Every environment terminates at every step, and all reset together, as `autoreset_mode` says: in the same step,
        whose observation then is the next datum (`final_obs` and `final_info` are as `SyncVectorEnv` gives them;
        `log_likelihood` at the top of the info is ours), in the next step, whose actions and reward then count for
        nothing, or when `reset` is called.
    Reset and seed:
        Contexts are drawn uniformly from `np_random`, the one generator of all environments. The one option is a
        `reset_mask` that is True everywhere.

    Args:
        data, decoder, arguments, render_mode: see `GymnasiumEncodingEnv`.
        num_envs: environments, all copies of a context counted.
        samples_per_context: K, which divides num_envs.
        decoder_optimizer: see `EncodingVecEnv`.
        autoreset_mode: Gymnasium's, or its value: "SameStep", "NextStep", "Disabled".
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        **arguments: Unpack[TaskOptions],
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
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            raise ValueError(f"autoreset_mode must be one of {[*AutoresetMode]}, got {autoreset_mode!r}.")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]  # of this instance alone

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New data everywhere. See the class."""
        super().reset(seed=seed)
        options = dict(options or {})
        if not np.all(options.pop("reset_mask", True)):
            raise ValueError("reset_mask must be True for all environments: their episodes end together.")
        return self._start(self.np_random, options), self._masks()

    def _masks(self) -> dict[str, Any]:
        masks = self._mask_info()
        return {**masks, "_action_mask": np.ones(self.num_envs, np.bool_)} if masks else {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Scores the codes and ends every episode; draws the next data as the mode says. See the class."""
        true = np.ones(self.num_envs, np.bool_)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._over and self._index is not None:
            self._draw(self.np_random)
            return self._observation(), np.zeros(self.num_envs), ~true, ~true, self._masks()
        reward, log_likelihood = self._score(actions)
        scores = {"log_likelihood": log_likelihood.astype(np.float64), "_log_likelihood": true.copy()}
        info: dict[str, Any] = {name: value.copy() for name, value in scores.items()}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final_obs = np.empty(self.num_envs, dtype=object)
            final_obs[:] = [*self._observation()]
            info |= {"final_obs": final_obs, "_final_obs": true.copy()}
            info |= {"final_info": scores, "_final_info": true.copy()}
            self._draw(self.np_random)
            info |= self._masks()
        return self._observation(), reward.astype(np.float64), true, ~true, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Of every environment the datum it has just encoded beside its reconstruction. [H, W, 3], uint8, each."""
        frames = self._frames()
        return None if frames is None else tuple(frames)


make_problem_env, make_problem_vector_env = GymnasiumEncodingEnv.of_problem, EncodingVectorEnv.of_problem


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
        self._observation, reward, terminated, *rest = self.env.step(action)
        given = torch.as_tensor(reward, dtype=torch.float64)
        complete = complete_reward(given, log_prob.view(given.shape), self._host.beta.item())
        complete = torch.where(torch.as_tensor(terminated), complete, given)  # what does not end is a reset
        return self._observation, complete.numpy() if complete.ndim else complete.item(), terminated, *rest


class KLReward(CompletesReward, gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Completes the reward of a `GymnasiumEncodingEnv`: see `CompletesReward`."""


class VectorKLReward(CompletesReward, VectorWrapper):
    """Completes the rewards of an `EncodingVectorEnv`: see `CompletesReward`."""
