"""DAPS as one of TorchRL's trainers, beside its PPOTrainer and ReinforceTrainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn, optim
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.trainers import LogScalar, LRSchedulerHook, OptimizerHook, Trainer, UpdateWeights

from daps_rl.functional.checks import check_beta
from daps_rl.objectives import DAPSLoss, DecoderLoss

UNFIT = {
    "async_collection": "a batch gets its weights as a whole, before it is split",
    "optimization_stepper": "optimizer and decoder_optimizer take the steps",
}
"""Options of TorchRL's trainer that do not go with this one."""


class DAPSTrainer(Trainer):
    """Trains a policy over codes, and the decoder beside it, in TorchRL's training loop.

    Of the same shape as TorchRL's `PPOTrainer` and `ReinforceTrainer`, and with their hooks: a collector brings
    batches [B, K, 1], each gets its weights and temperature as a whole (the loss's `DAPSWeights`) and is descended
    `num_epochs` times, and the collector's policy is brought up to date. Without a replay buffer an epoch is
    `optim_steps_per_batch` steps on the whole batch. With one, it goes through minibatches of whole groups, as many as
    there are but at most `optim_steps_per_batch`; an element of the buffer is a context with its K codes. A frame is
    one code: a batch counts B·K. Rewards, log-likelihood, KL and the losses' outputs are logged.

    What is saved and loaded (`save_trainer_file`, `load_from_file`): policy, decoder, optimisers, scheduler, β, counts.

    Args:
        collector: on an `EncodingEnv`, with batches [B, K, 1]; set `cat_results=0` where it has several workers.
        total_frames: codes to draw in all.
        loss_module: the policy's loss.
        optimizer: of the policy's parameters, and of the decoder's if there is no `decoder_optimizer`.
        decoder_loss: the decoder's loss, if it learns.
        decoder_optimizer: of the decoder's parameters.
        lr_scheduler: stepped once per batch of the collector.
        beta_schedule: β as a function of the share of the run that is done, 0 … 1. Written in place into the loss's
            `temperature_floor`, which must then be the env's own `beta`.
        optim_steps_per_batch: steps of an epoch; None for all minibatches of the replay buffer.
        replay_buffer: of minibatches; sample it without replacement.
        weight_update_map: for a collector with weight sync schemes of its own: from its destinations to paths on this
            trainer. The policy's is filled in.
        enable_logging, log_rewards: whether to log at all beside the losses' outputs; whether to log rewards.
        frame_skip, options: of `torchrl.trainers.Trainer`, such as num_epochs, clip_norm, seed, logger, log_interval,
            save_trainer_file, checkpoint, progress_bar; all but async_collection and optimization_stepper.
    Raises:
        ValueError: a schedule of β without a tensor to write it to, a decoder optimiser without a decoder loss, a
            replay buffer that is sampled with replacement, or a collector's destination without a source.
    """

    def __init__(
        self,
        *,
        collector: BaseCollector,
        total_frames: int,
        loss_module: DAPSLoss,
        optimizer: optim.Optimizer,
        decoder_loss: DecoderLoss | None = None,
        decoder_optimizer: optim.Optimizer | None = None,
        lr_scheduler: optim.lr_scheduler.LRScheduler | None = None,
        beta_schedule: Callable[[float], float] | None = None,
        optim_steps_per_batch: int | None = 1,
        replay_buffer: ReplayBuffer | None = None,
        weight_update_map: dict[str, str] | None = None,
        enable_logging: bool = True,
        log_rewards: bool = True,
        frame_skip: int = 1,
        **options: Any,
    ) -> None:
        if decoder_optimizer is not None and decoder_loss is None:
            raise ValueError("decoder_optimizer needs a decoder_loss to descend; pass DecoderLoss(decoder).")
        beta = loss_module.temperature_floor
        if beta_schedule is not None and not isinstance(beta, Tensor):
            raise ValueError(
                f"beta_schedule needs the env's own beta to write to, got a loss whose temperature_floor is {beta}; "
                "build it with DAPSLoss(temperature_floor=env.beta)."
            )
        for name, reason in UNFIT.items():
            if options.get(name):
                raise ValueError(f"{name} cannot be used here, got {options[name]!r}: {reason}; leave it out.")
        _check_replay_buffer(replay_buffer, optim_steps_per_batch)
        sources = _weight_sources(collector, weight_update_map)
        # All checks are done: a trainer of TorchRL's that is thrown away shuts its collector down.
        super().__init__(
            collector=collector,
            total_frames=total_frames,
            frame_skip=frame_skip,
            optim_steps_per_batch=optim_steps_per_batch,
            loss_module=loss_module if decoder_loss is None else JointLoss(loss_module, decoder_loss),
            **options,
        )
        self.replay_buffer = replay_buffer
        self.register_op("batch_process", loss_module.target)  # before the batch is split
        self._register_optimizers(optimizer, decoder_optimizer)
        if lr_scheduler is not None:
            LRSchedulerHook(lr_scheduler).register(self)
        if replay_buffer is not None:
            minibatches = Minibatches(replay_buffer)
            self.register_op("pre_epoch", minibatches.fill)
            self.register_op("process_optim_batch", minibatches.next)
        self._register_weight_update(sources)
        if isinstance(beta, Tensor):
            BetaHook(beta, beta_schedule).register(self)
        if enable_logging and log_rewards:
            self.register_op("pre_steps_log", LogScalar(("next", "reward"), "r_training", log_pbar=True))
        for name in ("log_likelihood", "kl") if enable_logging else ():
            self.register_op("pre_steps_log", partial(_log_mean, name))

    def _register_optimizers(self, optimizer: optim.Optimizer, decoder_optimizer: optim.Optimizer | None) -> None:
        with warnings.catch_warnings():
            # The hook goes some day, says TorchRL 0.14, whose own trainers use it; its successor runs no loss hooks.
            warnings.simplefilter("ignore", FutureWarning)
            if decoder_optimizer is None:
                OptimizerHook(optimizer).register(self)
            else:
                OptimizerHook(optimizer, ["loss_actor"]).register(self)
                OptimizerHook(decoder_optimizer, ["loss_decoder"]).register(self, name="decoder_optimizer")

    def _register_weight_update(self, sources: dict[str, str]) -> None:
        if sources:
            hook = UpdateWeights(self.collector, 1, weight_update_map=sources, trainer=self)
        else:
            getter = partial(TensorDict.from_module, self.loss_module.actor_network)
            hook = UpdateWeights(self.collector, 1, policy_weights_getter=getter)
        self.register_op("post_steps", hook)


class JointLoss(nn.Module):
    """The policy's loss and the decoder's on one batch; the outputs of both in one tensordict."""

    def __init__(self, policy_loss: DAPSLoss, decoder_loss: DecoderLoss) -> None:
        super().__init__()
        self.policy_loss, self.decoder_loss = policy_loss, decoder_loss

    @property
    def actor_network(self) -> nn.Module:
        """The policy's actor, where TorchRL's hooks look for it."""
        return self.policy_loss.actor_network

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.policy_loss(tensordict).update(self.decoder_loss(tensordict))


class Minibatches:
    """Brings each epoch the batch's groups in minibatches, in a new order, each group once.

    TorchRL's own on-policy trainers flatten a batch into frames first; here an element of the buffer is one context
    with its K codes. The buffer is emptied and filled at each epoch, and so has no state worth saving.
    """

    def __init__(self, replay_buffer: ReplayBuffer) -> None:
        self.replay_buffer = replay_buffer
        self.minibatches: Iterator[TensorDictBase] = iter(())

    def fill(self, batch: TensorDictBase) -> TensorDictBase:
        """Takes up a batch for an epoch; raises ValueError where the buffer has no room for it."""
        self.replay_buffer.empty()
        self.replay_buffer.extend(batch)
        if len(self.replay_buffer) < len(batch):
            raise ValueError(
                f"replay_buffer holds {len(self.replay_buffer)} groups and a batch has {len(batch)}; give its storage "
                "room for one batch of the collector."
            )
        self.minibatches = iter(self.replay_buffer)
        return batch

    def next(self, batch: TensorDictBase) -> TensorDictBase:
        """The next minibatch; StopIteration ends the epoch."""
        return next(self.minibatches).to(batch.device)


class BetaHook(nn.Module):
    """Moves β (0-dim, in place) along its schedule, where it has one, and logs and saves it.

    It moves between a batch's last step and the next batch, so that a batch is scored, and its temperature bounded,
    with one value.
    """

    def __init__(self, beta: Tensor, schedule: Callable[[float], float] | None) -> None:
        super().__init__()
        self.beta: Tensor
        self.register_buffer("beta", beta)  # saved, and loaded in place
        self.schedule = schedule

    def register(self, trainer: Trainer) -> None:
        """Registers the hook as "beta"."""
        if self.schedule is not None:
            move = partial(self._move, trainer, self.schedule)
            trainer.register_op("setup", move)
            trainer.register_op("post_steps", move)
        trainer.register_op("pre_steps_log", lambda batch: {"beta": self.beta.item()})
        trainer.register_module("beta", self)

    def _move(self, trainer: Trainer, schedule: Callable[[float], float]) -> None:
        beta = schedule(min(trainer.collected_frames / trainer.total_frames, 1.0))
        check_beta(beta)
        self.beta.fill_(beta)


def _log_mean(name: str, batch: TensorDictBase) -> dict[str, float] | None:
    """Mean of what the env writes beside the reward; nothing where it does not."""
    value = batch.get(("next", name), None)
    return None if value is None else {name: value.float().mean().item()}


def _weight_sources(collector: BaseCollector, weight_update_map: dict[str, str] | None) -> dict[str, str]:
    """Where the weights come from that the collector's workers are sent, by destination; nothing without workers."""
    sources = {"policy": "loss_module.actor_network", **(weight_update_map or {})}
    destinations = getattr(collector, "_weight_sync_schemes", None) or {}
    if missing := sorted(set(destinations) - set(sources)):
        raise ValueError(
            f"the collector sends weights to {', '.join(missing)}; name where they come from in weight_update_map, "
            "a path on this trainer each."
        )
    return {destination: sources[destination] for destination in destinations}


def _check_replay_buffer(replay_buffer: ReplayBuffer | None, optim_steps_per_batch: int | None) -> None:
    if replay_buffer is None and optim_steps_per_batch is None:
        raise ValueError("optim_steps_per_batch must be a number where there is no replay_buffer; pass 1.")
    if replay_buffer is not None and not isinstance(replay_buffer.sampler, SamplerWithoutReplacement):
        raise ValueError(
            "replay_buffer must be sampled without replacement, so that an epoch ends and takes each group once, got "
            f"{type(replay_buffer.sampler).__name__}; pass sampler=SamplerWithoutReplacement()."
        )
