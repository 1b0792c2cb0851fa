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
from daps_rl.envs.host import TaskHost, check_options, unwrap
from daps_rl.envs.pictures import image_shape
from daps_rl.envs.problem import DiscreteProblem, problem_arguments
from daps_rl.envs.processes import refuse_stale_copies
from daps_rl.envs.task import TaskArguments
from daps_rl.functional import complete_reward

if TYPE_CHECKING:
    from typing_extensions import Unpack

LogProb = Callable[[np.ndarray, np.ndarray], "Tensor | np.ndarray | float"]


class GymnasiumEncodingEnv(TaskHost, gymnasium.Env[np.ndarray, np.ndarray]):
    """Encode a datum x as a code z: one step, rewarded by how well the decoder explains x from z.

    `gymnasium.make("daps_rl/Encoding-v0")` makes one; many at once are `EncodingVectorEnv` (`gymnasium.make_vec`).

    Observation:
        a datum [*x], Box, float32: within [0, 1] if all data are, else within the data's own range.
    Action:
        a code [T], MultiDiscrete([V] * T).
    Reward:
        log p(x|z) + β·log p(z), in nats; larger is better. The env does not see log q(z|x): whoever trains an encoder
        with β > 0 completes the reward with −β·log q(z|x), the log-probability that the code was drawn with, in one
        of two ways: our algorithm or callback in SB3 (`daps_rl.agents.sb3.DAPS`, or `KLRewardCallback` with SB3's
        own), or elsewhere a wrapper that is given a `log_prob` callable (`KLReward`, `VectorKLReward`). Once, not both:
        who does it claims `env.completion`, and a second claim is an error.
        The info of a step has `log_likelihood`, log p(x|z) alone.
    Episode end:
        Every episode ends after its one step: terminated, never truncated. The observation then is still x.
    Reset and seed:
        A reset draws a datum uniformly from `np_random`. There are no reset options.

    What copies the decoder: `gymnasium.make` passes on the object itself, and `env.spec` holds it by `Shared`, so that
    `make(env.spec)` gets the same one. The spec of a `SyncVectorEnv` or `AsyncVectorEnv` holds it bare, and
    `make_vec(envs.spec)` would copy it: pass `decoder=Shared(decoder)`, or use the native vector environment.
    `copy.deepcopy(env)` copies it. In worker processes (`AsyncVectorEnv`) a decoder that could learn stays in step only
    in shared memory: `decoder.share_memory()` before the workers start by fork. Any other is refused there, with a
    RuntimeError at the first reset.

    Args:
        data, decoder, num_tokens, vocab_size, beta, prior, reward_fn, targets, device: see
            `EncodingTask.from_arguments`; each of them may be held by `Shared`.
        render_mode: "rgb_array": the original beside its reconstruction, for images; or None.
    Raises:
        ValueError: data, sizes, beta or render_mode make no sense, or both decoder and reward_fn are given.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1}  # type: ignore[misc]  # as gymnasium's own

    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        render_mode: str | None = None,
        **arguments: Unpack[TaskArguments],
    ) -> None:
        self.observation_space, self.action_space = self._hold(
            data, decoder, arguments, render_mode=render_mode, refuse_copies=False
        )
        if image_shape(self.observation_space.shape) is None:
            self.metadata = {**self.metadata, "render_modes": []}  # type: ignore[misc]  # of this instance alone
        self._over = True
        # AsyncVectorEnv hands on what a worker raises in reset(), but of a failed constructor only an EOFError.
        self._refusal: RuntimeError | None = None
        try:
            refuse_stale_copies(self.decoder, unwrap(arguments.get("beta", 0.0)))
        except RuntimeError as error:
            self._refusal = error

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new datum. See the class.

        Raises:
            ValueError: options are given.
            RuntimeError: this is a worker process, and the decoder is a copy that training would not reach.
        """
        if self._refusal is not None:
            raise self._refusal
        super().reset(seed=seed)
        check_options(options)
        self._batch.draw(self.np_random)
        self._batch.forget()
        self._over = False
        return self._batch.observation()[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Scores the code and ends the episode. See the class.

        Raises:
            ResetNeeded: the episode is over, or none has begun.
            ValueError: the action is no code.
        """
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
        problem: a name (`daps_rl.envs.PROBLEMS`, ...) or the problem itself.
        split: whose contexts are drawn.
        options: of `GymnasiumEncodingEnv`.
    Raises:
        ValueError: there is no such problem; lists the names.
    """
    return GymnasiumEncodingEnv(**problem_arguments(unwrap(problem), split), **options)


class KLReward(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Completes the reward to log p(x|z) − β·(log q(z|x) − log p(z)), β being the env's own at that step.

    Args:
        env: a `GymnasiumEncodingEnv`, wrapped or not.
        log_prob: log q(z|x), in nats, of an observation [*x] and an action [T] under the policy that drew it, when the
            step is taken.
    Raises:
        TypeError: the environment has no β.
        ValueError: another completes the environment's reward already.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray], log_prob: LogProb) -> None:
        super().__init__(env)
        self._host = completed_host(env.unwrapped, "KLReward")
        self._log_prob = log_prob
        self._observation: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As the environment's, the reward complete."""
        if self._observation is None:
            raise ResetNeeded("call reset() of the wrapper first: it needs the observation.")
        log_prob = float(self._log_prob(self._observation, action))
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        given, log_q = (torch.tensor(float(value), dtype=torch.float64) for value in (reward, log_prob))
        complete = complete_reward(given, log_q, self._host.beta.item())
        return self._observation, complete.item(), terminated, truncated, info


def completed_host(env: object, by: str) -> TaskHost:
    """The environment, its reward now completed by that wrapper.

    Raises:
        TypeError: it is no encoding environment.
        ValueError: another completes its reward already.
    """
    if not isinstance(env, TaskHost):
        raise TypeError(
            f"this wrapper needs an encoding environment, which holds beta, got {type(env).__name__}; "
            "use KLReward around each environment of a SyncVectorEnv, VectorKLReward around an EncodingVectorEnv."
        )
    env.completion.claim(by)
    return env
