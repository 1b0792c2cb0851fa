"""β, the weight of the KL, as one value that an SB3 environment and whoever completes its reward share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from daps_rl.envs import Completion, EncodingTask
from daps_rl.functional import complete_reward, kl_estimate
from daps_rl.functional.checks import check_beta

BetaArgument = float | Tensor | Callable[[float], float] | None
"""A number, a 0-dim tensor (kept by reference), a schedule of the progress remaining (1 … 0); None: the env's own."""

_OF_OTHERS: WeakKeyDictionary[VecEnv, Completion] = WeakKeyDictionary()
"""Who completes the rewards of environments that have no `Completion` of their own: other people's."""


def env_attribute(env: VecEnv | None, name: str) -> Any:
    """The first environment's attribute of that name; None where there is none."""
    return env.get_attr(name, indices=[0])[0] if env is not None and env.has_attr(name) else None


class CompleteReward(BaseCallback):
    """Completes the reward: subtracts β·log q from that of each step, in place, before SB3 stores it.

    An encoding environment has `beta`, a 0-dim tensor. Where it has one that tensor is the value, and a number or
    schedule given here fills it in place, so that the reward, what is subtracted from it, and the floor of the
    temperature never part. Where it has none, the value is kept here. Logs `train/beta` and, where the environment has
    a prior, `rollout/kl` (nats); with verdicts `rollout/reward/NAME` and `rollout/weight/NAME`, see `Verdicts.metrics`.

    Args:
        beta: see `BetaArgument`.
        by: who completes the reward, for the error.
        verbose: as in SB3.
    """

    def __init__(self, beta: BetaArgument, by: str, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.argument, self.by = beta, by

    def attach(self, env: VecEnv | None, during: Hashable) -> None:
        """Takes up the environment that is trained in, or none yet, and claims its reward; see `claim`.

        Raises:
            ValueError: beta is negative, another completes the reward, or the environment normalises rewards while
                there is a KL to subtract.
            RuntimeError: the environments live in other processes, where their β cannot be filled.
        """
        self._completions = _completions(env)
        self.outside = env is not None and not env.has_attr("completion")  # another's environment
        self.claim(during)
        self.task, self.in_env = env_attribute(env, "task"), _env_betas(env)
        own = self.argument if isinstance(self.argument, Tensor) else torch.zeros(())
        self.value = self.in_env[0] if self.in_env else own
        self.update(1.0)
        if any(a is not b and a.data_ptr() != b.data_ptr() for a, b in zip(self.in_env, _env_betas(env), strict=True)):
            raise RuntimeError(
                "the environments' beta lives in other processes, where it cannot be shared; use EncodingVecEnv or "
                "DummyVecEnv."
            )
        normalize = None if env is None else unwrap_vec_normalize(env)
        if normalize is not None and normalize.norm_reward and (callable(self.argument) or self.value > 0):
            raise ValueError(
                "β·log q is in the reward's own unit, and VecNormalize changes that unit; "
                "use VecNormalize(env, norm_reward=False)."
            )

    def claim(self, during: Hashable) -> None:
        """Says that the reward is completed here from now on, for as long as `during`: see `Completion.claim`."""
        for completion in self._completions:
            completion.claim(self.by, during)

    def update(self, progress_remaining: float) -> None:
        """Moves β along its schedule; nothing where the env's own value stands."""
        if self.argument is not None:
            self.fill(self.argument(progress_remaining) if callable(self.argument) else self.argument)

    def fill(self, beta: float | Tensor) -> None:
        """Sets β, in the environment too."""
        check_beta(beta)
        for value in self.in_env or [self.value]:
            if value is not beta:
                value.fill_(float(beta))

    def _on_rollout_start(self) -> None:
        self.update(progress_remaining(self.model))

    def _on_step(self) -> bool:
        log_prob, beta = self.locals["log_probs"].detach().flatten().cpu(), float(self.value)
        self.logger.record("train/beta", beta)
        if isinstance(self.task, EncodingTask):
            codes = torch.as_tensor(self.locals["actions"], device=self.task.device).long().view(len(log_prob), -1)
            codes = self.task.closed(codes)
            kl = kl_estimate(log_prob, self.task.prior.log_prob(codes).to(log_prob))
            self.logger.record_mean("rollout/kl", kl.mean().item())
            if self.task.ends is not None:
                self.logger.record_mean("rollout/length", self.task.ends.lengths(codes).float().mean().item())
            for name, value in {} if self.task.verdicts is None else self.task.verdicts.metrics().items():
                self.logger.record_mean(f"rollout/{name}", value.item())
        if self._completions and beta > 0.0:  # an environment that sees log q completes its own reward
            rewards = self.locals["rewards"]
            if rewards.dtype.kind != "f":
                raise ValueError(f"β·log q cannot be subtracted from rewards of type {rewards.dtype}; give floats.")
            rewards[:] = complete_reward(torch.from_numpy(rewards), log_prob, beta).numpy()
        return True


def progress_remaining(model: BaseAlgorithm) -> float:
    """1 … 0, as it is now: SB3's own value is that of the last rollout's end, of an earlier `learn` even."""
    if model._total_timesteps > 0:
        return 1.0 - model.num_timesteps / model._total_timesteps
    return model._current_progress_remaining


def _env_betas(env: VecEnv | None) -> list[Tensor]:
    """The environments' own β, each once; empty where they have none that can be filled."""
    betas = _distinct(env, "beta")
    if all(isinstance(beta, Tensor) and beta.ndim == 0 for beta in betas):
        return betas
    if isinstance(env_attribute(env, "task"), EncodingTask):
        raise ValueError(
            "the environment's beta is masked by a value of another kind, set by set_attr perhaps; fill the tensor "
            "instead: env.get_attr('beta')[0].fill_(0.1)."
        )
    return []


def _completions(env: VecEnv | None) -> list[Completion]:
    """Who completes the environments' rewards: their own, each once, none where they are complete; or one for all."""
    if env is None:
        return []
    if env.has_attr("completion"):
        return [own for own in _distinct(env, "completion") if own is not None]
    return [_OF_OTHERS.setdefault(env, Completion())]


def _distinct(env: VecEnv | None, name: str) -> list[Any]:
    """The environments' attributes of that name, each once; empty where they have none."""
    if env is None or not env.has_attr(name):
        return []
    return list({id(value): value for value in env.get_attr(name)}.values())
