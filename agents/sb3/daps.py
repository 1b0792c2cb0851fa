"""DAPS as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.agents.sb3.beta import BetaArgument, PayKL, SharedBeta, env_attribute, progress_remaining
from daps_rl.agents.sb3.distributions import token_sizes
from daps_rl.agents.sb3.policies import CodePolicy
from daps_rl.functional import (
    effective_sample_size,
    kl_estimate,
    target_weights,
    thinned_likelihood_loss,
    weighted_likelihood_loss,
)
from daps_rl.functional.checks import check_kept, check_pooling
from daps_rl.functional.temperature import check_ess_fraction
from daps_rl.objectives import make_trust_region
from daps_rl.optim import descend

SelfDAPS = TypeVar("SelfDAPS", bound="DAPS")


class Batch(NamedTuple):
    """A rollout, flat and in the order it was drawn: N = n_steps · n_envs."""

    observations: Any  # [N, ...], or one per context [N/K, ...] where a policy encodes a context once; a dict of them
    actions: Tensor  # [N, ...]
    log_prob: Tensor  # [N], of the policy that drew the actions
    score: Tensor  # [G, K], G groups: rewards, or one group of advantages
    returns: Tensor  # [N]


class Losses(NamedTuple):
    """Of one gradient step, then diagnostics without gradient. 0-dim each."""

    actor: Tensor
    critic: Tensor
    entropy: Tensor
    approx_kl: Tensor


class DAPS(OnPolicyAlgorithm):
    """Weighted maximum likelihood on sampled actions, inside an exact trust region.

    Two forms of one method. Groups: K consecutive environments of the VecEnv share a context, an episode is one step,
    and the weights softmax(reward / temperature) compare the K actions of a context; there is no critic. Whole batch:
    any discrete MDP; one group of all the rollout's actions, compared by their GAE advantages, several epochs over
    fixed weights, and a critic.

    With β > 0 the reward that is stored is the environment's minus β·log π (with `daps_rl.envs.EncodingVecEnv`, which
    pays log p(x|z) + β·log p(z), the one-sample β-ELBO), and β is the floor of the temperature.

    `save` writes SB3's own zip: policy, optimiser, trust region and temperature, β, and the decoder and optimiser of a
    `DecoderCallback`. Like every SB3 zip it holds pickles: load only files that you trust. A loaded model goes on with
    the β it was saved with, which fills the environment's (where no `beta` was given); set `env.beta` after loading for
    another. The decoder is back when a `DecoderCallback` is used again, or by `load_decoder`.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", `AutoregressivePolicy`, or any ActorCriticPolicy.
        env: Discrete, MultiDiscrete or MultiBinary actions.
        learning_rate: a number or a schedule; see FORMS for this and all that is None.
        n_steps: steps per environment and rollout.
        batch_size: actions per gradient step, whole groups of K; 0 for all of the rollout.
        n_epochs: passes over a rollout.
        gamma, gae_lambda: of the advantages (whole batch).
        ess_fraction: effective sample size to aim at, as a fraction of K (of the whole batch).
        trust_region: "ess", "kl", "fixed", "adaptive", or a module: see `daps_rl.objectives`.
        centered: weights minus 1/K: a smaller variance. With several epochs over groups it is
            `functional.reused_likelihood_loss`; over a whole batch it is unbounded below.
        pooling: samples of an average context that count beside a context's own K where its weights are normalised
            (groups; `functional.target_weights`); for rewards that mean the same in all contexts, such as 0 and 1.
        policy_samples: how many of the K actions of a context are scored with a gradient, chosen by their weights
            without bias (groups; `functional.thin_weights`); 0 for all.
        beta: a number, a 0-dim tensor, or a schedule of the progress remaining; None for the environment's own `beta`
            (0 without one). With an environment that has one, it fills the environment's.
        samples_per_context: K; None for the environment's own attribute (the whole-batch form without one).
        vf_coef: weight of the critic's squared error (whole batch).
        max_grad_norm: gradients are clipped to this norm.
        stats_window_size, tensorboard_log, policy_kwargs, verbose, seed, device, _init_setup_model: as in SB3.
    Raises:
        ValueError: an option is out of range, the action space is not discrete, or n_envs is not a multiple of K.
    References:
        Drolet et al. (2026), arXiv 2509.24716. With advantages, it is close to Peters et al. (2010), REPS.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    FORMS: ClassVar[dict[str, dict[str, Any]]] = {
        "groups": {"learning_rate": 1e-3, "n_steps": 1, "batch_size": 0, "n_epochs": 1},
        "whole batch": {"learning_rate": 1e-3, "n_steps": 1024, "batch_size": 64, "n_epochs": 10},
    }
    """What the arguments that are None stand for."""

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        ess_fraction: float = 0.33,
        trust_region: str | nn.Module = "ess",
        centered: bool | None = None,
        pooling: float = 0.0,
        policy_samples: int = 0,
        beta: BetaArgument = None,
        samples_per_context: int | None = None,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            cast(GymEnv, env),  # None while loading
            learning_rate=0.0 if learning_rate is None else learning_rate,
            n_steps=n_steps or 0,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if samples_per_context is None:
            samples_per_context = env_attribute(self.env, "samples_per_context")
        self.samples_per_context: int | None = samples_per_context
        defaults = self.FORMS["whole batch" if samples_per_context is None else "groups"]
        self.learning_rate = defaults["learning_rate"] if learning_rate is None else learning_rate
        self.n_steps = defaults["n_steps"] if n_steps is None else n_steps
        self.batch_size = defaults["batch_size"] if batch_size is None else batch_size
        self.n_epochs = defaults["n_epochs"] if n_epochs is None else n_epochs
        self.centered = samples_per_context is not None if centered is None else centered
        self.pooling, self.policy_samples = pooling, policy_samples
        self.ess_fraction, self.trust_region, self.beta = ess_fraction, trust_region, beta
        self.temperature = math.nan
        self.skipped_updates = 0
        self._beta_saved: float | None = None
        if _init_setup_model:
            self._setup_model()

    # Setting up

    def _setup_model(self) -> None:
        if self.env is not None:
            self._check_env(self.env)
        self._check_options()
        super()._setup_model()
        self._trust_region = make_trust_region(self.trust_region, self.ess_fraction).to(self.device)
        self._attach_beta()

    def _check_options(self) -> None:
        token_sizes(self.action_space)  # refuses what is not discrete
        group = self.samples_per_context or self.n_steps * self.n_envs
        if self.n_steps < 1 or self.n_epochs < 1 or self.batch_size < 0:
            raise ValueError(
                f"n_steps and n_epochs must be >= 1 and batch_size >= 0 (0 for all), got {self.n_steps}, "
                f"{self.n_epochs} and {self.batch_size}."
            )
        if group < 2:
            more = "n_steps or use more environments" if self.samples_per_context is None else "samples_per_context"
            raise ValueError(f"weights compare at least two actions, got {group}; raise {more}.")
        if self.trust_region in ("ess", "adaptive"):
            check_ess_fraction(self.ess_fraction, group)
        check_pooling(self.pooling, allowed=self.centered and self.samples_per_context is not None)
        if self.samples_per_context is not None:
            check_kept(self.policy_samples, self.samples_per_context)
        elif self.policy_samples:
            raise ValueError(
                f"policy_samples needs groups of actions (samples_per_context), got {self.policy_samples}; leave it "
                "out."
            )
        if self.samples_per_context is not None and self.batch_size % self.samples_per_context:
            raise ValueError(
                f"batch_size must be a multiple of samples_per_context, {self.samples_per_context}, so that groups "
                f"stay together, got {self.batch_size}; 0 takes the whole rollout."
            )

    def _check_env(self, env: VecEnv) -> None:
        samples, own = self.samples_per_context, env_attribute(env, "samples_per_context")
        if own is not None and own != samples:
            raise ValueError(
                f"the environment has groups of {own} and the model was made for "
                f"{'the whole batch' if samples is None else f'groups of {samples}'}; "
                f"make a new model, or an environment with samples_per_context={samples}."
            )
        if samples is not None and env.num_envs % samples:
            raise ValueError(
                f"the number of environments must be a multiple of samples_per_context, {samples}, got {env.num_envs}; "
                "environments b·K … b·K + K - 1 share context b."
            )

    def _attach_beta(self) -> None:
        """Shares β with the environment; a loaded model's β goes on from where it was."""
        self._pay = PayKL()
        self._pay.beta = self._beta = SharedBeta(self.beta, self.env)
        if self._beta_saved is not None and self.beta is None:
            self._beta.fill(self._beta_saved)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As in SB3; the new environment's own β stands, unless `beta` was given."""
        wrapped = self._wrap_env(env, self.verbose)
        self._check_env(wrapped)  # a refused environment leaves the model with the one it had
        super().set_env(wrapped, force_reset)
        self._beta_saved = None
        self._attach_beta()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_beta", "_pay"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "_trust_region"], []

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """SB3's zip, with the temperature, β, the optimiser and the trust region's state; see the class."""
        self._beta_saved = float(self._beta.value)
        super().save(path, exclude, include)

    # Collecting

    def learn(
        self: SelfDAPS,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "DAPS",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDAPS:
        """As in SB3. A rollout of groups is short: by default it logs every 20th, and every whole-batch rollout."""
        if log_interval is None:
            log_interval = 1 if self.samples_per_context is None else 20
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As SB3's; the K environments of a context start from one seed, so that ordinary ones draw the same."""
        if self.samples_per_context is not None and env_attribute(self.env, "samples_per_context") is None:
            self._seed_groups(self.samples_per_context)
        return super()._setup_learn(*args, **kwargs)

    def _seed_groups(self, samples: int) -> None:
        env = self.env
        while isinstance(env, VecEnvWrapper):
            env = env.venv
        assert env is not None  # there is one to learn in
        first = int(torch.randint(2**31 - env.num_envs, ())) if self.seed is None else self.seed
        env._seeds = [first + i // samples for i in range(env.num_envs)]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in SB3, with β·log π subtracted from the rewards after the callbacks have seen them."""
        self._beta.update(progress_remaining(self))
        callbacks = CallbackList([callback, self._pay])
        callbacks.model = self._pay.model = self
        if self.samples_per_context is None:
            return super().collect_rollouts(env, callbacks, rollout_buffer, n_rollout_steps)
        return self._collect_groups(env, callbacks, rollout_buffer, n_rollout_steps, self.samples_per_context)

    def _collect_groups(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int, samples: int
    ) -> bool:
        """SB3's loop for groups: a context is encoded once, no critic, every episode is one step."""
        assert self._last_obs is not None  # `_setup_learn` has reset the env
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        values = torch.zeros(env.num_envs)  # no critic
        callback.on_rollout_start()
        for n_steps in range(n_rollout_steps):
            if n_steps == 0:
                self._check_groups(self._last_obs, samples)
            with torch.no_grad():
                obs_tensor = obs_as_tensor(cast(np.ndarray, self._last_obs), self.device)
                if isinstance(self.policy, CodePolicy):
                    contexts = _map(obs_tensor, lambda value: value[::samples])
                    actions_tensor, log_probs = self.policy.sample_groups(contexts, samples)
                else:
                    actions_tensor, _, log_probs = self.policy(obs_tensor)
            actions = actions_tensor.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            if not dones.all():
                raise ValueError(
                    "samples_per_context is for episodes of one step, and the environment went on after a step; "
                    "pass samples_per_context=None for ordinary environments."
                )
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rollout_buffer.add(
                cast(np.ndarray, self._last_obs),
                actions,
                rewards,
                cast(np.ndarray, self._last_episode_starts),
                values,
                log_probs,
            )
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]  # as SB3 does
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _check_groups(self, obs: Any, samples: int) -> None:
        """Raises ValueError unless the K observations of a context are the same. Looks at the first and last of K."""
        for value in obs.values() if isinstance(obs, dict) else [obs]:
            if not np.array_equal(value[::samples], value[samples - 1 :: samples]):
                raise ValueError(
                    f"environments b·K … b·K + K - 1 must share an observation, with K = samples_per_context = "
                    f"{samples}; the K start from one seed, and must draw alike; or use a VecEnv that "
                    "repeats its contexts, as EncodingVecEnv does."
                )

    # Learning

    def train(self) -> None:
        """Weighs the rollout's actions once and descends their weighted likelihood."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        batch = self._batch()
        floor = self._beta.value.to(self.device)
        temperature = self._trust_region(batch.score, floor)
        self.temperature = float(temperature)
        losses, value_losses, approx_kls, entropies = [], [], [], []
        for indices in self._minibatches(len(batch.log_prob)):
            terms = self._loss(batch, temperature, indices)
            done = descend(self.policy.optimizer, terms.actor + self.vf_coef * terms.critic, self.max_grad_norm)
            self.skipped_updates += not done
            self._n_updates += 1
            losses.append(terms.actor.item())
            value_losses.append(terms.critic.item())
            entropies.append(terms.entropy.item())
            approx_kls.append(terms.approx_kl.item())
        weights = target_weights(batch.score, temperature)
        record = self.logger.record
        record("train/loss", np.mean(losses))
        record("train/temperature", self.temperature)
        record("train/ess", (effective_sample_size(weights).mean() / weights.shape[-1]).item())
        record("train/approx_kl", np.mean(approx_kls))
        record("train/entropy", np.mean(entropies))
        record("train/beta", float(self._beta.value))
        record("train/skipped_updates", self.skipped_updates)
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.samples_per_context is None:
            buffer = self.rollout_buffer
            record("train/value_loss", np.mean(value_losses))
            record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        else:
            record("rollout/score", batch.score.mean().item())
            self._record_kl(batch)

    def _batch(self) -> Batch:
        """The rollout as tensors."""
        buffer, samples = self.rollout_buffer, self.samples_per_context
        precision = next(self.policy.parameters()).dtype

        def flat(value: np.ndarray) -> np.ndarray:
            return value.reshape(-1, *value.shape[2:])

        def tensor(value: np.ndarray) -> Tensor:
            return torch.as_tensor(flat(value), device=self.device, dtype=precision)

        actions = torch.as_tensor(flat(buffer.actions), device=self.device)
        actions = actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else actions.float()
        # One observation per context is all that a policy reads that encodes it once.
        every = samples if samples is not None and isinstance(self.policy, CodePolicy) else 1
        observations = _map(
            buffer.observations, lambda value: torch.as_tensor(flat(value)[::every].copy(), device=self.device)
        )
        score = tensor(buffer.rewards).view(-1, samples) if samples else tensor(buffer.advantages).view(1, -1)
        return Batch(observations, actions, tensor(buffer.log_probs), score, tensor(buffer.returns))

    def _minibatches(self, count: int) -> Iterator[Tensor]:
        """Indices of the actions of each gradient step: whole groups in order, or shuffled where there is one group."""
        size = min(self.batch_size or count, count)
        for _ in range(self.n_epochs):
            whole = self.samples_per_context is not None or size == count
            order = torch.arange(count) if whole else torch.randperm(count)
            yield from order.to(self.device).split(size)

    def _loss(self, batch: Batch, temperature: Tensor, indices: Tensor) -> Losses:
        """The actor's loss on some of the batch's actions, and the critic's."""
        samples = self.samples_per_context
        if samples is not None:
            members, score = indices.view(-1, samples), batch.score[indices[::samples] // samples]

            def log_prob_of(kept: Tensor | None) -> Tensor:
                return self._log_prob_of_members(batch, members if kept is None else members.gather(1, kept))

            weights = target_weights(score, temperature, pooling=self.pooling, batch=batch.score)
            drawn = batch.log_prob[indices].view(members.shape)
            reused = self.centered and self.n_epochs > 1
            terms = thinned_likelihood_loss(
                log_prob_of,
                weights,
                self.policy_samples,
                centered=self.centered and not reused,
                behaviour_log_prob=drawn if reused else None,
            )
            drawn = drawn if terms.kept is None else drawn.gather(1, terms.kept.indices)
            log_prob = terms.log_prob.detach()
            return Losses(
                terms.loss.mean(), log_prob.new_zeros(()), terms.mean(-log_prob), terms.mean(drawn - log_prob)
            )
        observations = _map(batch.observations, lambda value: value[indices])
        values, log_prob, _ = self.policy.evaluate_actions(observations, batch.actions[indices])
        # Normalised over the whole batch: a minibatch stands for its share of it.
        weights = target_weights(batch.score, temperature)[:, indices] * (batch.score.shape[-1] / len(indices))
        loss = weighted_likelihood_loss(log_prob.unsqueeze(0), weights, centered=self.centered).mean()
        critic = F.mse_loss(values.flatten(), batch.returns[indices])
        log_prob = log_prob.detach()
        return Losses(loss, critic, -log_prob.mean(), (batch.log_prob[indices] - log_prob).mean())

    def _log_prob_of_members(self, batch: Batch, members: Tensor) -> Tensor:
        """Of some actions of each context, [B, M] by their indices, under the policy as it is now. [B, M]."""
        if isinstance(self.policy, CodePolicy):
            contexts = members[:, 0] // cast(int, self.samples_per_context)
            return self.policy.score_groups(
                _map(batch.observations, lambda value: value[contexts]), batch.actions[members]
            )
        flat = members.flatten()
        observations = _map(batch.observations, lambda value: value[flat])
        log_prob: Tensor = self.policy.evaluate_actions(observations, batch.actions[flat])[1]
        return log_prob.view(members.shape)

    def _record_kl(self, batch: Batch) -> None:
        """KL to the prior, where the environment has one."""
        task = env_attribute(self.env, "task")
        if task is not None:
            prior_log_prob = task.prior.log_prob(batch.actions.long()).to(batch.log_prob)
            self.logger.record("rollout/kl", kl_estimate(batch.log_prob, prior_log_prob).mean().item())


def _map(observations: Any, function: Callable[[Any], Any]) -> Any:
    """The function of an observation batch, or of each entry of a dict of them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)
