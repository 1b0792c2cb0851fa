"""The two forms of DAPS in SB3: groups of actions that share a context, or a whole rollout of any MDP as one group."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from daps_rl.agents.sb3.policies import CodePolicy
from daps_rl.functional import KeptSamples
from daps_rl.functional.checks import check_kept

if TYPE_CHECKING:
    from daps_rl.agents.sb3.daps import DAPS


OF_PPO = {
    "clip_range": "ess_fraction, the size of the trust region",
    "target_kl": 'trust_region=daps_rl.objectives.KLTrustRegion(epsilon), or "ess" with ess_fraction',
    "ent_coef": "beta, the weight of log q in the reward",
    "normalize_advantage": "not needed, as the temperature follows the rewards' scale",
    "clip_range_vf": "not there, as the critic is not clipped",
    "use_sde": "not there, as it is for continuous actions",
    "sde_sample_freq": "not there, as it is for continuous actions",
}
"""Options of SB3's PPO, and what they are called here."""


class Batch(NamedTuple):
    """A rollout of G groups of K actions, in the order it was drawn; without groups each action is a group of one."""

    observations: Any  # [G·K, ...], or one per group [G, ...] where a policy encodes a context once; a dict of them
    actions: Tensor  # [G·K, ...]
    log_prob: Tensor  # [G, K], of the policy that drew the actions, in nats
    score: Tensor  # [G, K] rewards of groups; [1, N] advantages of the whole batch
    returns: Tensor  # [G·K]


@dataclass(frozen=True)
class Groups:
    """K consecutive environments share a context and every episode is one step; there is no critic."""

    samples: int  # K
    defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3, "n_steps": 1, "batch_size": 0, "n_epochs": 1, "centered": True
    }  # fmt: skip
    log_interval: ClassVar[int] = 20  # a rollout is short
    shuffled: ClassVar[bool] = False  # whether an epoch's minibatches are
    forbids: ClassVar[bool] = True  # a reward of -inf is one

    def check(self, algorithm: DAPS) -> None:
        """Raises ValueError where an option does not go with groups."""
        if self.samples < 2:
            raise ValueError(f"weights compare at least two actions, got {self.samples}; raise samples_per_context.")
        check_kept(algorithm.policy_samples, self.samples)
        if algorithm.batch_size % self.samples:
            raise ValueError(
                f"batch_size must be a multiple of samples_per_context, {self.samples}, so that groups stay together, "
                f"got {algorithm.batch_size}; 0 takes the whole rollout."
            )

    def collect(
        self, algorithm: DAPS, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's loop for groups: a context is encoded once, no critic, every episode is one step."""
        policy, samples = algorithm.policy, self.samples
        assert algorithm._last_obs is not None  # `_setup_learn` has reset the env
        policy.set_training_mode(False)
        rollout_buffer.reset()
        values = torch.zeros(env.num_envs)  # no critic
        callback.on_rollout_start()
        self._check_shared(algorithm._last_obs)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                obs_tensor = obs_as_tensor(cast(np.ndarray, algorithm._last_obs), algorithm.device)
                if isinstance(policy, CodePolicy):
                    contexts = of_each(obs_tensor, lambda x: x[::samples])
                    actions_tensor, log_probs = policy.sample_groups(contexts, samples)
                else:
                    actions_tensor, _, log_probs = policy(obs_tensor)
            actions = actions_tensor.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            if not dones.all():
                raise ValueError(
                    "samples_per_context is for episodes of one step, and the environment went on after a step; "
                    "pass samples_per_context=None for ordinary environments."
                )
            algorithm.num_timesteps += env.num_envs
            # What SB3's own loop shows to callbacks.
            callback.update_locals({**locals(), "self": algorithm})
            if not callback.on_step():
                return False
            algorithm._update_info_buffer(infos, dones)
            starts = cast(np.ndarray, algorithm._last_episode_starts)
            rollout_buffer.add(cast(np.ndarray, algorithm._last_obs), actions, rewards, starts, values, log_probs)
            algorithm._last_obs, algorithm._last_episode_starts = new_obs, dones  # type: ignore[assignment]  # as SB3 does
        callback.update_locals({**locals(), "self": algorithm})
        callback.on_rollout_end()
        return True

    def _check_shared(self, observations: Any) -> None:
        """Raises ValueError unless the K observations of a context are the same. Looks at the first and last of K."""
        for value in observations.values() if isinstance(observations, dict) else [observations]:
            if not np.array_equal(value[:: self.samples], value[self.samples - 1 :: self.samples]):
                raise ValueError(
                    "environments b·K … b·K + K - 1 must share an observation, with K = samples_per_context = "
                    f"{self.samples}; the K start from one seed, and must draw alike; or use a VecEnv that "
                    "repeats its contexts, as EncodingVecEnv does."
                )

    def batch(self, algorithm: DAPS) -> Batch:
        """The rollout; one observation per context is all that a policy reads that encodes it once."""
        every = self.samples if isinstance(algorithm.policy, CodePolicy) else 1
        score = _tensor(algorithm, algorithm.rollout_buffer.rewards).view(-1, self.samples)
        return _batch(algorithm, score, self.samples, every)

    def log(self, algorithm: DAPS, batch: Batch, critic: float) -> None:
        """Records the mean score."""
        algorithm.logger.record("rollout/score", batch.score.mean().item())


@dataclass(frozen=True)
class WholeBatch:
    """Any discrete MDP: a rollout is one group of actions, compared by their GAE advantages; there is a critic."""

    samples: ClassVar[int] = 1  # the weight of an action is its ratio N·w: each stands for itself
    defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3, "n_steps": 1024, "batch_size": 64, "n_epochs": 10, "centered": False
    }  # fmt: skip
    log_interval: ClassVar[int] = 1
    shuffled: ClassVar[bool] = True
    forbids: ClassVar[bool] = False
    collect = staticmethod(OnPolicyAlgorithm.collect_rollouts)  # SB3's own loop

    def check(self, algorithm: DAPS) -> None:
        """Raises ValueError where an option does not go without groups."""
        count = algorithm.n_steps * algorithm.n_envs
        if count < 2:
            raise ValueError(f"weights compare at least two actions, got {count}; raise n_steps or n_envs.")
        if algorithm.policy_samples:
            raise ValueError(
                f"policy_samples needs groups of actions (samples_per_context), got {algorithm.policy_samples}; leave "
                "it out."
            )

    def batch(self, algorithm: DAPS) -> Batch:
        """The rollout."""
        return _batch(algorithm, _tensor(algorithm, algorithm.rollout_buffer.advantages).view(1, -1), 1, 1)

    def log(self, algorithm: DAPS, batch: Batch, critic: float) -> None:
        """Records what the critic did."""
        buffer = algorithm.rollout_buffer
        algorithm.logger.record("train/value_loss", critic)
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        algorithm.logger.record("train/explained_variance", explained)


def evaluate(algorithm: DAPS, batch: Batch, groups: Tensor, kept: KeptSamples | None) -> tuple[Tensor, Tensor]:
    """The policy as it is now on some groups of a batch, or on those of their actions that are kept.

    Gives the log-probabilities [g, M], in nats, with gradient, and the critic's squared error [], 0 without one.
    """
    policy, samples, grouped = algorithm.policy, batch.log_prob.shape[1], algorithm.samples_per_context is not None
    places = torch.arange(samples, device=groups.device) if kept is None else kept.indices
    members = groups[:, None] * samples + places  # [g, M]
    if grouped and isinstance(policy, CodePolicy):
        contexts = of_each(batch.observations, lambda x: x[groups])
        return policy.score_groups(contexts, batch.actions[members]), batch.log_prob.new_zeros(())
    flat = members.flatten()
    values, log_prob, _ = policy.evaluate_actions(of_each(batch.observations, lambda x: x[flat]), batch.actions[flat])
    critic = batch.log_prob.new_zeros(()) if grouped else F.mse_loss(values.flatten(), batch.returns[flat])
    return log_prob.view(members.shape), critic


def of_each(observations: Any, function: Callable[[Any], Any]) -> Any:
    """The function of an observation batch, or of each entry of a dict of them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def _batch(algorithm: DAPS, score: Tensor, samples: int, every: int) -> Batch:
    """The rollout as tensors, one observation of `every` so many; ValueError for rewards that none may give."""
    buffer, device, forbids = algorithm.rollout_buffer, algorithm.device, algorithm._form.forbids
    rewards = buffer.rewards  # of a decoder they are not checked: steps on what is not finite are skipped and counted
    if algorithm._beta.outside and not (np.isfinite(rewards) | (forbids & np.isneginf(rewards))).all():
        also = " (or -inf, for what must not be)" if forbids else ""
        raise ValueError(f"rewards must be finite{also}, got NaN or infinite ones from the environment; mend it.")
    if np.isneginf(rewards).all():
        warnings.warn("all rewards of a rollout are -inf, which do not say what is better.", stacklevel=2)
    actions = torch.as_tensor(buffer.actions, device=device).flatten(0, 1)
    actions = actions.long().flatten() if isinstance(algorithm.action_space, spaces.Discrete) else actions.float()
    observations = of_each(
        buffer.observations, lambda x: torch.from_numpy(x).flatten(0, 1)[::every].to(device, copy=True)
    )
    log_prob = _tensor(algorithm, buffer.log_probs).view(-1, samples)
    return Batch(observations, actions, log_prob, score, _tensor(algorithm, buffer.returns))


def _tensor(algorithm: DAPS, value: np.ndarray) -> Tensor:
    """In the parameters' precision, as one row of all. [n_steps, n_envs] → [n_steps·n_envs]."""
    return torch.as_tensor(value.ravel(), device=algorithm.device, dtype=next(algorithm.policy.parameters()).dtype)
