"""DAPS as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from typing_extensions import Self

from daps_rl.agents.sb3.beta import BetaArgument, CompleteReward, env_attribute
from daps_rl.agents.sb3.distributions import token_sizes
from daps_rl.agents.sb3.policies import AutoregressivePolicy
from daps_rl.agents.sb3.resume import read_state, seed_groups, write_state
from daps_rl.agents.sb3.rollouts import OF_PPO, Batch, Groups, WholeBatch, evaluate
from daps_rl.functional import (
    ESS_FRACTION,
    keep_samples,
    mean_effective_sample_size,
    mean_of_kept,
    one_sample_groups,
    target_weights,
    weighted_likelihood_loss,
)
from daps_rl.functional.checks import check_pooling
from daps_rl.functional.temperature import check_ess_fraction
from daps_rl.objectives import make_trust_region
from daps_rl.optim import descend


class DAPS(OnPolicyAlgorithm):
    """Weighted maximum likelihood on sampled actions, inside an exact trust region.

    Two forms of one method, for any discrete MDP. Groups: K consecutive environments of the VecEnv start alike, and the
    weights softmax(return / temperature) compare their K episodes, which may be of one step (a context and K actions)
    or of many; there is no critic. Whole batch: one group of all the rollout's actions, compared by their GAE
    advantages, several epochs over fixed weights, and a critic.

    With β > 0 the reward that is stored is the environment's minus β·log π (with `daps_rl.envs.EncodingVecEnv`, which
    gives log p(x|z) + β·log p(z), the one-sample β-ELBO), and β is the floor of the temperature.

    `save` writes SB3's own zip: policy, optimiser, trust region and temperature, β, and the decoder and optimiser of a
    `DecoderCallback`. Like every SB3 zip it holds pickles: load only files that you trust. A loaded model goes on with
    the β it was saved with, which fills the environment's (where no `beta` was given); set `env.beta` after loading for
    another. The decoder is back when a `DecoderCallback` is used again, or by `load_decoder`.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", `AutoregressivePolicy`, or any ActorCriticPolicy.
        env: Discrete, MultiDiscrete or MultiBinary actions.
        learning_rate: a number or a schedule. For this and all that is None see `defaults` of the two forms,
            `daps_rl.agents.sb3.rollouts.Groups` and `WholeBatch`.
        n_steps: steps per environment and rollout; with groups, episodes.
        batch_size: actions (with groups, episodes) per gradient step, whole groups of K; 0 for all of the rollout.
        n_epochs: passes over a rollout.
        gamma: discount of the advantages, or of an episode's return.
        gae_lambda: of the advantages (whole batch).
        ess_fraction, trust_region, centered, pooling, policy_samples: see `daps_rl.agents.DAPS`; the last two: groups.
        beta: a number, a 0-dim tensor, or a schedule of the progress remaining; None for the environment's own `beta`
            (0 without one). With an environment that has one, it fills the environment's.
        samples_per_context: K; None for the environment's own attribute (the whole-batch form without one). Episodes
            have to end then.
        vf_coef: weight of the critic's squared error (whole batch).
        max_grad_norm: gradients are clipped to this norm.
        stats_window_size, tensorboard_log, policy_kwargs, verbose, seed, device, _init_setup_model: as in SB3.
    Raises:
        ValueError: an option is out of range, the action space is not discrete, or n_envs is not a multiple of K.
    References:
        Drolet et al. (2026), arXiv 2509.24716. With advantages, it is close to Peters et al. (2010), REPS.
    """

    policy_aliases = PPO.policy_aliases

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int | None = None,
        gamma: float | None = None,
        gae_lambda: float = 0.95,
        ess_fraction: float = ESS_FRACTION,
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
        **others: Any,
    ) -> None:
        for name in others:
            raise TypeError(f"DAPS has no option {name!r}; here it is {OF_PPO.get(name, 'not known: see help(DAPS)')}.")
        super().__init__(
            policy,
            cast(GymEnv, env),  # None while loading
            learning_rate=0.0 if learning_rate is None else learning_rate,
            n_steps=n_steps or 0,
            gamma=0.0 if gamma is None else gamma,
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
        defaults = self._form.defaults
        self.learning_rate = defaults["learning_rate"] if learning_rate is None else learning_rate
        self.n_steps = defaults["n_steps"] if n_steps is None else n_steps
        self.batch_size: int = defaults["batch_size"] if batch_size is None else batch_size
        self.n_epochs: int = defaults["n_epochs"] if n_epochs is None else n_epochs
        self.gamma = defaults["gamma"] if gamma is None else gamma
        self.centered: bool = defaults["centered"] if centered is None else centered
        self.pooling, self.policy_samples = pooling, policy_samples
        self.ess_fraction, self.trust_region, self.beta = ess_fraction, trust_region, beta
        self.temperature = math.nan
        self.skipped_updates = 0
        self.seedings = 0  # of groups, each by seeds of its own
        self._beta_saved: float | None = None
        self._state: tuple[Any, Any, dict[str, Any]] | None = None  # see `save`
        if _init_setup_model:
            self._setup_model()

    @property
    def _form(self) -> Groups | WholeBatch:
        return WholeBatch() if self.samples_per_context is None else Groups(self.samples_per_context)

    def _setup_model(self) -> None:
        if self.env is not None:
            self._check_env(self.env)
        self._check_options()
        given = self.policy_kwargs
        if issubclass(self.policy_class, AutoregressivePolicy):  # a trust region bounds its steps already
            self.policy_kwargs = {"optimizer_class": torch.optim.Adam, "actor_share": 1.0, **given}
        super()._setup_model()
        self.policy_kwargs = given
        self._trust_region = make_trust_region(self.trust_region, self.ess_fraction).to(self.device)
        self._attach_beta()

    def _check_options(self) -> None:
        token_sizes(self.action_space)  # refuses what is not discrete
        if self.n_steps < 1 or self.n_epochs < 1 or self.batch_size < 0:
            raise ValueError(
                f"n_steps and n_epochs must be >= 1 and batch_size >= 0 (0 for all), got {self.n_steps}, "
                f"{self.n_epochs} and {self.batch_size}."
            )
        self._form.check(self)
        if self.trust_region in ("ess", "adaptive"):
            check_ess_fraction(self.ess_fraction, self.samples_per_context or self.n_steps * self.n_envs)
        check_pooling(self.pooling, allowed=self.centered and self.samples_per_context is not None)

    def _check_env(self, env: VecEnv) -> None:
        samples, own = self.samples_per_context, env_attribute(env, "samples_per_context")
        if own is not None and own != samples:
            raise ValueError(
                f"the environment has groups of {own} and the model was made for "
                f"{'the whole batch' if samples is None else f'groups of {samples}'}; "
                f"make a new model, or an environment with samples_per_context={samples}."
            )
        if samples is not None and (samples < 1 or env.num_envs % samples):
            raise ValueError(
                f"the number of environments must be a multiple of samples_per_context, {samples}, got {env.num_envs}; "
                "environments b·K … b·K + K - 1 share context b."
            )

    def _attach_beta(self) -> None:
        """Shares β with the environment; a loaded model's β goes on from where it was."""
        self._beta = CompleteReward(self.beta, "DAPS")
        self._beta.attach(self.env, during=object())
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
        return [*super()._excluded_save_params(), "_beta"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "_trust_region"], []

    def save(self, path: Any, exclude: Any = None, include: Any = None, *, random_state: bool = False) -> None:
        """SB3's zip, with the temperature, β, the optimiser and the trust region's state; see the class.

        With `random_state` also where torch's, NumPy's and Python's generators and the environments stand: after
        `DAPS.load(path, env)` the next `learn(n, reset_num_timesteps=False)` goes on bit for bit as this model would.
        """
        self._beta_saved = float(self._beta.value)
        self._state = (
            (self._last_obs, self._last_episode_starts, read_state(cast(VecEnv, self.env))) if random_state else None
        )
        super().save(path, exclude, include)
        self._state = None

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "DAPS",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in SB3. A rollout of groups is short: by default it logs every 20th, and every whole-batch rollout."""
        log_interval = self._form.log_interval if log_interval is None else log_interval
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **options: Any
    ) -> tuple[int, BaseCallback]:
        """As SB3's; the K environments of a context start from one seed, so that ordinary ones draw the same."""
        state, self._state = None if reset_num_timesteps else self._state, None
        if state is not None:
            self._last_obs, self._last_episode_starts, saved = state
        if reset_num_timesteps or self._last_obs is None:
            seed_groups(self)
        total_and_callback = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **options)
        self._beta.claim((id(self), self.start_time))
        if state is not None:
            write_state(saved, cast(VecEnv, self.env))
        return total_and_callback

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in SB3, with β·log π subtracted from the rewards after the callbacks have seen them."""
        callbacks = CallbackList([callback, self._beta])
        callbacks.model = self._beta.model = self
        return self._form.collect(self, env, callbacks, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Weighs the rollout's actions once and descends their weighted likelihood."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        batch = self._form.batch(self)
        temperature = self._trust_region(batch.score, self._beta.value.to(self.device))
        weights = target_weights(batch.score, temperature, pooling=self.pooling)  # [G, K]
        if self.samples_per_context is None:  # one group: the actions' ratios, [N, 1]
            weights = one_sample_groups(weights)
        self.temperature = float(temperature)
        steps = [self._step(batch, weights, groups) for groups in self._minibatches(batch)]
        loss, critic, entropy, approx_kl = (float(np.mean(values)) for values in zip(*steps, strict=True))
        record = self.logger.record
        record("train/loss", loss)
        record("train/temperature", self.temperature)
        record("train/ess", mean_effective_sample_size(batch.score, temperature).item() / batch.score.shape[-1])
        record("train/approx_kl", approx_kl)
        record("train/entropy", entropy)
        record("train/skipped_updates", self.skipped_updates)
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._form.log(self, batch, critic)

    def _minibatches(self, batch: Batch) -> Iterator[Tensor]:
        """The groups of each gradient step."""
        count, samples = batch.log_prob.shape
        size = min(self.batch_size // samples or count, count)
        order = torch.randperm if self._form.shuffled and size < count else torch.arange
        for _ in range(self.n_epochs):
            yield from order(count).to(self.device).split(size)

    def _step(self, batch: Batch, weights: Tensor, groups: Tensor) -> tuple[float, ...]:
        """Takes a gradient step on some groups; gives the losses of actor and critic, entropy and approximate KL."""
        weights, drawn = weights[groups], batch.log_prob[groups]  # [g, K] each
        kept = keep_samples(weights, self.policy_samples, centered=self.centered)
        log_prob, critic = evaluate(self, batch, groups, kept)
        loss = weighted_likelihood_loss(log_prob, weights, drawn, kept, centered=self.centered).mean()
        self.skipped_updates += not descend(self.policy.optimizer, loss + self.vf_coef * critic, self.max_grad_norm)
        self._n_updates += 1
        log_prob, drawn = log_prob.detach(), drawn if kept is None else drawn.gather(1, kept.indices)
        approx_kl = mean_of_kept(drawn - log_prob, kept)
        return loss.item(), critic.item(), mean_of_kept(-log_prob, kept).item(), approx_kl.item()
