"""The two forms of DAPS in SB3: groups of episodes that share a start, or a whole rollout of any MDP as one group."""

from __future__ import annotations

import copy
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

from daps_rl.agents.sb3.episodes import find_episodes
from daps_rl.agents.sb3.policies import CodePolicy
from daps_rl.agents.sb3.resume import seed_groups
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


LONGEST = 100_000
"""Steps within which an episode has to end."""


class Batch(NamedTuple):
    """A rollout of G groups of K episodes, in the order they were drawn; without groups each action is one by itself.

    N is the number of actions: those of the first episode, of the second, and so on. Episodes are not padded.
    """

    observations: Any  # [N, ...], or one per group [G, ...] where a policy encodes a context once; a dict of them
    actions: Tensor  # [N, ...]
    log_prob: Tensor  # [G, K], of the policy that drew the episodes' actions, in nats: the sum of an episode's
    score: Tensor  # [G, K] discounted returns of episodes; [1, N] advantages of the whole batch
    returns: Tensor  # [N], for the critic
    lengths: Tensor | None = None  # [G·K], actions of each episode; None where each is of one

    def actions_of(self, episodes: Tensor) -> tuple[Tensor, Tensor]:
        """The actions of some episodes [E]: their places, and whose they are, 0 … E - 1; int64 [n] both."""
        if self.lengths is None:
            return episodes, torch.arange(len(episodes), device=episodes.device)
        lengths, before = self.lengths[episodes], (self.lengths.cumsum(0) - self.lengths)[episodes]
        owner = torch.arange(len(episodes), device=episodes.device).repeat_interleave(lengths)
        step = torch.arange(len(owner), device=episodes.device) - (lengths.cumsum(0) - lengths)[owner]
        return before[owner] + step, owner


@dataclass(frozen=True)
class Groups:
    """K consecutive environments share a start, and each plays an episode from it to its end; there is no critic.

    What is weighed is an episode as a whole: its score is its discounted return, its log-probability the sum of its
    actions'. A truncated episode has ended. Where episodes have more than one step, the environments are reset from new
    seeds when all have ended; what one does between its own end and that reset is not learned from.
    """

    samples: int  # K
    defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3, "n_steps": 1, "batch_size": 0, "n_epochs": 1, "centered": True, "gamma": 1.0
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
        """SB3's loop for groups, which plays so many episodes in each environment; no critic."""
        algorithm.policy.set_training_mode(False)
        callback.on_rollout_start()
        rows: list[tuple[Any, ...]] = []
        for _ in range(n_rollout_steps):
            if not self._play(algorithm, env, callback, rows):
                algorithm._last_obs = None  # the environments stand within episodes: a further `learn` resets them
                return False
        rollout_buffer.buffer_size = len(rows)
        rollout_buffer.reset()
        for row in rows:
            rollout_buffer.add(*row)
        callback.update_locals({**locals(), "self": algorithm})
        callback.on_rollout_end()
        return True

    def _play(self, algorithm: DAPS, env: VecEnv, callback: BaseCallback, rows: list[tuple[Any, ...]]) -> bool:
        """Plays an episode in each environment and adds its steps to the rows; False where a callback stops it."""
        policy, samples = algorithm.policy, self.samples
        values = torch.zeros(env.num_envs)  # no critic
        running = np.ones(env.num_envs, dtype=bool)
        for step in range(LONGEST):
            last_obs, starts = cast(np.ndarray, algorithm._last_obs), algorithm._last_episode_starts
            if step == 0 and not self._shared(last_obs):
                raise ValueError(
                    "environments b·K … b·K + K - 1 must share an observation, with K = samples_per_context = "
                    f"{samples}; the K start from one seed, and must draw alike; or use a VecEnv that repeats its "
                    "contexts, as EncodingVecEnv does."
                )
            with torch.no_grad():
                obs_tensor = obs_as_tensor(last_obs, algorithm.device)
                if step == 0 and isinstance(policy, CodePolicy):
                    contexts = of_each(obs_tensor, lambda x: x[::samples])
                    actions_tensor, log_probs = policy.sample_groups(contexts, samples)
                else:
                    actions_tensor, _, log_probs = policy(obs_tensor)
            actions = actions_tensor.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            algorithm.num_timesteps += env.num_envs
            # What SB3's own loop shows to callbacks, and which episodes are not over yet.
            callback.update_locals({**locals(), "self": algorithm})
            if not callback.on_step():
                return False
            algorithm._update_info_buffer([infos[i] for i in np.flatnonzero(running)], dones[running])
            rows.append(copy.deepcopy((last_obs, actions, rewards, starts, values, log_probs)))
            algorithm._last_obs, algorithm._last_episode_starts = new_obs, dones  # type: ignore[assignment]  # as SB3 does
            running &= ~dones
            if not running.any():
                if step > 0 or not self._shared(new_obs):
                    seed_groups(algorithm)
                    algorithm._last_obs, algorithm._last_episode_starts = env.reset(), np.ones_like(dones)  # type: ignore[assignment]
                return True
        raise ValueError(
            f"with samples_per_context every episode must end, and one has not within {LONGEST:,} steps; wrap the "
            "environment in gymnasium.wrappers.TimeLimit."
        )

    def _shared(self, observations: Any) -> bool:
        """Whether the K observations of each context are the same. Looks at the first and last of K."""
        values = observations.values() if isinstance(observations, dict) else [observations]
        return all(np.array_equal(value[:: self.samples], value[self.samples - 1 :: self.samples]) for value in values)

    def batch(self, algorithm: DAPS) -> Batch:
        """The rollout; one observation per context is all that a policy reads that encodes it once."""
        buffer = algorithm.rollout_buffer
        episodes = find_episodes(buffer.episode_starts.astype(bool))
        one_step = len(episodes.lengths) == len(episodes.rows)
        every = self.samples if one_step and isinstance(algorithm.policy, CodePolicy) else 1
        discounted = buffer.rewards * algorithm.gamma**episodes.step
        score, log_prob = (
            _tensor(algorithm, episodes.total(value)).view(-1, self.samples) for value in (discounted, buffer.log_probs)
        )
        lengths = None if one_step else torch.as_tensor(episodes.lengths, device=algorithm.device)
        return _batch(algorithm, score, log_prob, episodes.rows, every, lengths)

    def log(self, algorithm: DAPS, batch: Batch, critic: float) -> None:
        """Records the mean score."""
        algorithm.logger.record("rollout/score", batch.score.mean().item())


@dataclass(frozen=True)
class WholeBatch:
    """Any discrete MDP: a rollout is one group of actions, compared by their GAE advantages; there is a critic."""

    samples: ClassVar[int] = 1  # the weight of an action is its ratio N·w: each stands for itself
    defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3, "n_steps": 1024, "batch_size": 64, "n_epochs": 10, "centered": False, "gamma": 0.99
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
        score, log_prob = (
            _tensor(algorithm, value)
            for value in (algorithm.rollout_buffer.advantages, algorithm.rollout_buffer.log_probs)
        )
        return _batch(algorithm, score.view(1, -1), log_prob.view(-1, 1))

    def log(self, algorithm: DAPS, batch: Batch, critic: float) -> None:
        """Records what the critic did."""
        buffer = algorithm.rollout_buffer
        algorithm.logger.record("train/value_loss", critic)
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        algorithm.logger.record("train/explained_variance", explained)


def evaluate(algorithm: DAPS, batch: Batch, groups: Tensor, kept: KeptSamples | None) -> tuple[Tensor, Tensor]:
    """The policy as it is now on some groups of a batch, or on those of their episodes that are kept.

    Gives the log-probabilities [g, M], in nats, with gradient, and the critic's squared error [], 0 without one.
    """
    policy, samples, grouped = algorithm.policy, batch.log_prob.shape[1], algorithm.samples_per_context is not None
    places = torch.arange(samples, device=groups.device) if kept is None else kept.indices
    members = groups[:, None] * samples + places  # [g, M]
    if grouped and batch.lengths is None and isinstance(policy, CodePolicy):
        contexts = of_each(batch.observations, lambda x: x[groups])
        return policy.score_groups(contexts, batch.actions[members]), batch.log_prob.new_zeros(())
    rows, owner = batch.actions_of(members.flatten())
    values, log_prob, _ = policy.evaluate_actions(of_each(batch.observations, lambda x: x[rows]), batch.actions[rows])
    critic = batch.log_prob.new_zeros(()) if grouped else F.mse_loss(values.flatten(), batch.returns[rows])
    if batch.lengths is not None:
        log_prob = log_prob.new_zeros(members.numel()).index_add(0, owner, log_prob)
    return log_prob.view(members.shape), critic


def of_each(observations: Any, function: Callable[[Any], Any]) -> Any:
    """The function of an observation batch, or of each entry of a dict of them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def _batch(
    algorithm: DAPS,
    score: Tensor,
    log_prob: Tensor,
    rows: np.ndarray | slice = slice(None),
    every: int = 1,
    lengths: Tensor | None = None,
) -> Batch:
    """Some rows of the rollout as tensors, of their observations one of `every` so many.

    Raises:
        ValueError: rewards that none may give.
    """
    buffer, device, forbids = algorithm.rollout_buffer, algorithm.device, algorithm._form.forbids
    rewards = buffer.rewards.ravel()[rows]  # of a decoder they are not checked: such steps are skipped and counted
    if algorithm._beta.outside and not (np.isfinite(rewards) | (forbids & np.isneginf(rewards))).all():
        also = " (or -inf, for what must not be)" if forbids else ""
        raise ValueError(f"rewards must be finite{also}, got NaN or infinite ones from the environment; mend it.")
    if np.isneginf(rewards).all():
        warnings.warn("all rewards of a rollout are -inf, which do not say what is better.", stacklevel=2)
    actions = torch.as_tensor(buffer.actions, device=device).flatten(0, 1)[rows]
    actions = actions.long().flatten() if isinstance(algorithm.action_space, spaces.Discrete) else actions.float()
    observations = of_each(
        buffer.observations, lambda x: torch.from_numpy(x).flatten(0, 1)[rows][::every].to(device, copy=True)
    )
    return Batch(observations, actions, log_prob, score, _tensor(algorithm, buffer.returns)[rows], lengths)


def _tensor(algorithm: DAPS, value: np.ndarray) -> Tensor:
    """In the parameters' precision, as one row of all. [n_steps, n_envs] → [n_steps·n_envs]."""
    return torch.as_tensor(value.ravel(), device=algorithm.device, dtype=next(algorithm.policy.parameters()).dtype)
