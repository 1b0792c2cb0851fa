"""β, the weight of the KL, as one value that an SB3 environment and whoever subtracts β·log q share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from daps_rl.envs import EncodingTask, KLReward

BetaArgument = float | Tensor | Callable[[float], float] | None
"""A number, a 0-dim tensor (kept by reference), a schedule of the progress remaining (1 … 0); None: the env's own."""


def env_attribute(env: VecEnv | None, name: str) -> Any:
    """The first environment's attribute of that name; None where there is none."""
    if env is None or not env.has_attr(name):
        return None
    return env.get_attr(name, indices=[0])[0]


class SharedBeta:
    """β as it is now.

    An environment that pays β·log p(z) has `beta`, a 0-dim tensor. Where it has one that tensor is the value, and a
    number or schedule given here fills it in place, so that the reward, what is subtracted from it, and the floor of
    the temperature never part. Where it has none, the value is kept here.

    Args:
        beta: see `BetaArgument`.
        env: the environment that is trained in, or None.
    Raises:
        ValueError: beta is negative, or the environment normalises rewards while there is a KL to pay.
        RuntimeError: the environments live in other processes, where their β cannot be filled.
    """

    def __init__(self, beta: BetaArgument, env: VecEnv | None) -> None:
        self.argument = beta
        self.in_env = _env_betas(env)
        self.value = self.in_env[0] if self.in_env else torch.zeros(())
        if isinstance(beta, Tensor) and not self.in_env:
            self.value = beta
        self.update(1.0)
        self._check_shared(env)
        _refuse_paid(env)
        normalize = None if env is None else unwrap_vec_normalize(env)
        if normalize is not None and normalize.norm_reward and (callable(beta) or self.value > 0):
            raise ValueError(
                "β·log q is in the reward's own unit, and VecNormalize changes that unit; "
                "use VecNormalize(env, norm_reward=False)."
            )

    def update(self, progress_remaining: float) -> None:
        """Moves β along its schedule; nothing where the env's own value stands."""
        if self.argument is not None:
            self.fill(self.argument(progress_remaining) if callable(self.argument) else self.argument)

    def fill(self, beta: float | Tensor) -> None:
        """Sets β, in the environment too."""
        if not float(beta) >= 0.0:
            raise ValueError(f"beta must be >= 0, got {float(beta)}; it weighs the KL to the prior.")
        for value in self.in_env or [self.value]:
            if value is not beta:
                value.fill_(float(beta))

    def _check_shared(self, env: VecEnv | None) -> None:
        again = _env_betas(env)
        if any(a is not b and a.data_ptr() != b.data_ptr() for a, b in zip(self.in_env, again, strict=True)):
            raise RuntimeError(
                "the environments' beta lives in other processes, where it cannot be shared; use EncodingVecEnv or "
                "DummyVecEnv."
            )


class PayKL(BaseCallback):
    """Subtracts β·log q from the step's rewards, in place, before SB3 stores them."""

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.beta: SharedBeta

    def _on_step(self) -> bool:
        beta = float(self.beta.value)
        if beta > 0.0:
            rewards = self.locals["rewards"]
            if rewards.dtype.kind != "f":
                raise ValueError(f"β·log q cannot be subtracted from rewards of type {rewards.dtype}; pay floats.")
            log_prob = self.locals["log_probs"].detach().flatten().cpu().numpy()
            rewards -= (beta * log_prob).astype(rewards.dtype)
        return True


def progress_remaining(model: BaseAlgorithm) -> float:
    """1 … 0, as it is now: SB3's own value is that of the last rollout's end, of an earlier `learn` even."""
    if model._total_timesteps > 0:
        return 1.0 - model.num_timesteps / model._total_timesteps
    return model._current_progress_remaining


def _env_betas(env: VecEnv | None) -> list[Tensor]:
    """The environments' own β, each once; empty where they have none that can be filled."""
    if env is None or not env.has_attr("beta"):
        return []
    values = {id(beta): beta for beta in env.get_attr("beta")}
    found = [beta for beta in values.values() if isinstance(beta, Tensor) and beta.ndim == 0]
    if len(found) == len(values):
        return found
    if isinstance(env_attribute(env, "task"), EncodingTask):
        raise ValueError(
            "the environment's beta is masked by a value of another kind, set by set_attr perhaps; fill the tensor "
            "instead: env.get_attr('beta')[0].fill_(0.1)."
        )
    return []


def _refuse_paid(env: VecEnv | None) -> None:
    """Raises ValueError where a wrapper subtracts β·log q already."""
    if env is not None and any(env.env_is_wrapped(KLReward)):
        raise ValueError(
            "the environment is wrapped in KLReward, which subtracts β·log q already, and this would do it twice; "
            "leave the wrapper out."
        )
