"""Callbacks for every on-policy algorithm of Stable-Baselines3: the decoder's learning, and the KL in the reward.

What they learn is saved in the model's own zip, by plain `model.save(path)`, and is back when a callback of the same
kind is next used with the model that `PPO.load(path, env)` gives.
"""

from __future__ import annotations

import io
import math
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor, nn

from daps_rl.agents.sb3.beta import BetaArgument, CompleteReward, env_attribute, progress_remaining
from daps_rl.functional import decoder_loss
from daps_rl.optim import descend

ATTRIBUTE = "_daps_rl_callbacks"  # of the model: what its zip holds beside SB3's own


class SavedState:
    """Stands on the model for a callback, and is pickled as the callback's state at that moment.

    SB3 pickles a model's attributes into its zip. This one never gives it (or `copy.deepcopy`) the callback, the
    decoder or the environment, only copies of their numbers.
    """

    def __init__(
        self, callback: DecoderCallback | KLRewardCallback | None, state: dict[str, Any] | None = None
    ) -> None:
        self.callback, self.state = callback, state

    def current(self) -> Any:
        """The callback's state as it is now, or as it was saved; copies, on the CPU."""
        written = io.BytesIO()
        torch.save(self.state if self.callback is None else self.callback.state_dict(), written)
        written.seek(0)
        return torch.load(written, map_location="cpu", weights_only=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return SavedState, (None, self.current())


def saved_state(model: BaseAlgorithm, name: str) -> SavedState | None:
    """What a model holds of a callback ("decoder" or "kl_reward")."""
    return getattr(model, ATTRIBUTE, {}).get(name)


def load_decoder(model: BaseAlgorithm, decoder: nn.Module) -> nn.Module:
    """Puts the decoder that was saved with a model back into one of the same make, to use without training on.

    Args:
        model: trained with a `DecoderCallback`, or loaded.
        decoder: gets the parameters.
    Raises:
        ValueError: the model holds no decoder, or one of another make.
    """
    saved = saved_state(model, "decoder")
    if saved is None:
        raise ValueError("the model holds no decoder; train it with a DecoderCallback before it is saved.")
    _load(decoder, saved.current()["decoder"])
    return decoder


class DecoderCallback(BaseCallback):
    """Trains the decoder beside the policy: after each step of the environments, one update on the codes they scored.

    With an `EncodingVecEnv(decoder_optimizer=...)`, which learns by the very pass that scores the codes and so is
    faster, it makes no update of its own, and looks after logging, saving and restoring.

    For DAPS, PPO and A2C. The very decoder that the environments score with is moved, by the unweighted likelihood of
    the observations given the actions; and a prior that learns, by that of the actions. Logs
    `train/decoder_loss` and `rollout/log_likelihood` (nats), and `train/decoder_skipped`, the number of updates that
    were left out because they were not finite.

    Args:
        decoder: maps codes [..., T] to a distribution over x; None for that of the environment's `task`.
        learning_rate, weight_decay: of AdamW; the rate is a number or a schedule of the progress remaining.
        max_grad_norm: gradients are clipped to this norm; None for no bound.
        decoder_samples: how many of a context's K codes to learn from; 0 for all. One is nearly as good and cheaper.
        optimizer: instead of AdamW, one over the decoder's parameters; its learning rate is left alone.
        verbose: as in SB3.
    Raises:
        ValueError: there is no decoder, it is a copy in another process, it has two optimisers, the saved one is of
            another make, or the observations are normalised.
    """

    def __init__(
        self,
        decoder: nn.Module | None = None,
        *,
        learning_rate: Any = 1e-3,
        weight_decay: float = 1e-4,
        max_grad_norm: float | None = None,
        decoder_samples: int = 0,
        optimizer: torch.optim.Optimizer | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if decoder_samples < 0:
            raise ValueError(f"decoder_samples must be >= 0, got {decoder_samples}; 0 learns from all codes.")
        self.decoder_samples = decoder_samples
        self.learning_rate, self.weight_decay, self.max_grad_norm = learning_rate, weight_decay, max_grad_norm
        self.given_decoder, self.given_optimizer = decoder, optimizer
        self.skipped, self.loss = 0, math.nan

    def _init_callback(self) -> None:
        env, model = self.training_env, self.model
        task = env_attribute(env, "task")
        decoder = self._find_decoder(task)
        normalize = model.get_vec_normalize_env()
        if normalize is not None and normalize.norm_obs:
            raise ValueError(
                "the decoder explains the data themselves, and VecNormalize changes them; "
                "use VecNormalize(env, norm_obs=False)."
            )
        self.data_shape = None if task is None else tuple(task.data.shape[1:])
        self.samples = env_attribute(env, "samples_per_context") or 1
        self.prior: nn.Module | None = getattr(task, "learned_prior", None)
        self.task = task
        self.schedule = FloatSchedule(self.learning_rate)
        # An environment with an optimiser of its own has moved the decoder by the very pass that scored the codes.
        learning = env_attribute(env, "decoder_optimizer")
        if learning is not None and self.given_optimizer not in (None, learning):
            raise ValueError(
                "the environment trains the decoder already, by its decoder_optimizer; leave one optimizer out."
            )
        self.env_learns = learning is not None
        if given := learning or self.given_optimizer:
            self.optimizer = given
        elif decoder is not getattr(self, "decoder", None):
            learning = [decoder] if self.prior is None else [decoder, self.prior]
            parameters = [p for module in learning for p in module.parameters() if p.requires_grad]
            if not parameters:
                raise ValueError(
                    f"the decoder {type(decoder).__name__} has no parameters to train (the default one is "
                    "frozen); give the environment a decoder that can learn, or leave DecoderCallback out."
                )
            self.optimizer = torch.optim.AdamW(parameters, lr=self.schedule(1.0), weight_decay=self.weight_decay)
        self.decoder = decoder
        saved = saved_state(model, "decoder")
        if saved is not None and getattr(saved.callback, "learn_started", None) == model.start_time:
            raise ValueError("there are two DecoderCallbacks, and each would train the decoder; leave one out.")
        self.learn_started = model.start_time
        if saved is not None and saved.callback is not self:
            self._take_up(saved)
        setattr(model, ATTRIBUTE, {**getattr(model, ATTRIBUTE, {}), "decoder": SavedState(self)})

    def _find_decoder(self, task: Any) -> nn.Module:
        """The decoder that the environments score with, and the one that was given: the same."""
        scoring = getattr(task, "decoder", None)
        decoder = self.given_decoder or scoring
        if decoder is None:
            raise ValueError(
                "there is no decoder to train: the environment's task has none; pass DecoderCallback(decoder)."
            )
        # An environment in another process gives another copy each time.
        again = getattr(env_attribute(self.training_env, "task"), "decoder", None)
        if scoring is not None and not (decoder is scoring is again):
            raise ValueError(
                "the decoder given is not the one that the environment scores with (or a copy of it lives in another "
                "process); leave it out, and use EncodingVecEnv or DummyVecEnv."
            )
        return decoder

    def _take_up(self, saved: SavedState) -> None:
        """Goes on from a loaded model's state, or from an earlier callback that trained the same decoder."""
        previous = saved.callback
        if previous is None:
            state = saved.current()
            _load(self.decoder, state["decoder"])
            if self.prior is not None and "prior" in state:
                self.prior.load_state_dict(state["prior"])
        elif not (isinstance(previous, DecoderCallback) and previous.decoder is self.decoder):
            return
        state = saved.current()
        own_groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own_groups})
        self.skipped = state["skipped"]

    def state_dict(self) -> dict[str, Any]:
        """The decoder, a learned prior, their optimiser, and how many updates were skipped."""
        decoder, optimizer = self.decoder.state_dict(), self.optimizer.state_dict()
        prior = {} if self.prior is None else {"prior": self.prior.state_dict()}
        return {"decoder": decoder, "optimizer": optimizer, "skipped": self.skipped, **prior}

    def _on_rollout_start(self) -> None:
        if self.given_optimizer is None and not self.env_learns:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(progress_remaining(self.model))

    def _on_step(self) -> bool:
        if self.env_learns:
            log_likelihood = torch.tensor([info["log_likelihood"] for info in self.locals["infos"]])
            self.loss = decoder_loss(log_likelihood.view(1, -1)).item()
            self.skipped += not math.isfinite(self.loss)
        else:
            self._learn()
        self.logger.record_mean("train/decoder_loss", self.loss)
        self.logger.record_mean("rollout/log_likelihood", -self.loss)
        self.logger.record("train/decoder_skipped", self.skipped)
        return True

    def _learn(self) -> None:
        """One update on the step's observations and actions."""
        device = next(self.decoder.parameters()).device
        k = self.samples
        actions = torch.as_tensor(self.locals["actions"], device=device).long()
        codes = actions.reshape(-1, k, *(actions.shape[1:] or (1,)))[:, : self.decoder_samples or k]  # [B, n, T]
        if self.task is not None:
            codes = self.task.closed(codes)
        x = self.locals["obs_tensor"][::k].to(device)
        x = x.reshape(-1, 1, *(x.shape[1:] if self.data_shape is None else self.data_shape))  # [B, 1, *x]
        was_training = self.decoder.training
        self.decoder.train()
        loss = decoder_loss(self.decoder(codes).log_prob(x)).mean()
        self.loss = loss.item()
        if self.prior is not None:
            loss = loss + self.task.prior_loss(codes)
        self.skipped += not descend(self.optimizer, loss, self.max_grad_norm)
        self.decoder.train(was_training)


class KLRewardCallback(CompleteReward):
    """Subtracts β·log π from the reward before it is stored, so that SB3's own PPO and A2C optimise the β-ELBO too.

    Their entropy bonus cannot do it: where a distribution has no closed-form entropy they fall back on −log π, whose
    expected gradient on-policy is zero. An environment of ours gives log p(x|z) + β·log p(z); with any other reward
    this is entropy regularisation at each step. Put it last in a list of callbacks: those before it see the reward as
    the environment gave it. Logs `train/beta` and, where the environment has a prior, `rollout/kl` (nats).

    Args:
        beta: a number, a 0-dim tensor, or a schedule of the progress remaining (1 … 0); it fills the environment's own
            `beta` where there is one. None for the environment's own.
        verbose: as in SB3.
    Raises:
        ValueError: another completes the reward already (our DAPS, `KLReward`, another of these); with
            VecNormalize(norm_reward=True); or there is no β.
    """

    def __init__(self, beta: BetaArgument = None, verbose: int = 0) -> None:
        super().__init__(beta, "KLRewardCallback", verbose)

    def _init_callback(self) -> None:
        model = self.model
        self.attach(self.training_env, during=(id(model), model.start_time))
        if self.argument is None and not self.in_env:
            raise ValueError("the environment has no beta of its own; pass KLRewardCallback(beta).")
        saved = saved_state(model, "kl_reward")
        if saved is not None and saved.callback is None and self.argument is None:
            self.fill(saved.current()["beta"])
        setattr(model, ATTRIBUTE, {**getattr(model, ATTRIBUTE, {}), "kl_reward": SavedState(self)})

    def state_dict(self) -> dict[str, Any]:
        """β as it is now."""
        return {"beta": float(self.value)}


def _load(decoder: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        decoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the decoder saved with the model is of another make: {' '.join(str(error).split())[:200]}; "
            "build the environment with a decoder of the same sizes."
        ) from error
