"""Side-by-side training: the agent learns codes, the decoder learns to read them, each step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from daps_rl.agents import Agent, make_agent
from daps_rl.autoencoder import DiscreteAutoencoder, check_memory
from daps_rl.config import TrainConfig
from daps_rl.data import Feed, Splits, load
from daps_rl.device import choose_device
from daps_rl.distributed import World
from daps_rl.envs.problem import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.files import finite
from daps_rl.optim import learning_rate_factor
from daps_rl.training.learner import Learner
from daps_rl.training.targets import make_target
from daps_rl.verdicts import Verdicts, labelled, make_verdicts

MAX_SKIPPED_IN_ROW = 100
CHECK_EVERY = {"cpu": 1, "cuda": 50}  # steps between looks at the skip counter, which costs a GPU a synchronisation


def load_data(config: TrainConfig) -> Splits:
    """Returns the data that the settings name; a problem's own contexts."""
    if config.problem is not None:
        return find_problem(config.problem).splits()
    return load(
        config.data,
        config.data_dir,
        image_size=config.image_size or None,
        image_column=config.image_column,
        text_column=config.text_column,
        hub_config=config.hub_config,
        streaming=config.streaming,
        max_corrupt=config.max_corrupt,
        seconds=config.seconds or None,
        window=config.window or None,
        symbols=config.symbols,
        columns=config.columns,
    )


class TrainingDiverged(RuntimeError):
    """Too many steps had a non-finite loss or gradient."""

    def __init__(self, step: int, reason: str) -> None:
        remedy = "lower the learning rate, or check the data, the reward and the decoder's likelihood"
        super().__init__(f"stopped at step {step}: {reason}; {remedy}.")


class Trainer:
    """One training run: a learner, the order of the data, a clock and what it schedules.

    All that decides the next step can be taken out with `state` and put back with `load_state`: a run of `steps` steps
    that was stopped and resumed ends with the same weights, bit for bit on one CPU. Randomness comes from torch's
    global generators, so that policies and decoders of any make take part.

    Args:
        config: settings of the run.
        splits: the data.
        policy, decoder, prior: parts of your own, in place of those that the config describes.
        agent: a function of the config and the policy, in place of the one that the config names.
        world: the processes that train together, each on its part of a batch; all that is computed is the whole's.
        verdicts: what a code is worth beside its likelihood, in place of those that the config names.
    Raises:
        ValueError: the settings do not fit together, or ask for what is not here.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        *,
        policy: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        agent: Callable[[TrainConfig, nn.Module], Agent] | None = None,
        world: World | None = None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self.config, self.splits, self.world = config, splits, world or World()
        part = self.world.share(config.batch_size)
        self.fingerprint = splits.fingerprint()  # once: every checkpoint holds it
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        model_config = config.model_config(splits.observation_shape, splits.likelihood, splits.kind.columns)
        if policy is None or decoder is None:
            check_memory(model_config, bytes_each=16)  # with the gradient and AdamW's two moments
        self.autoencoder = DiscreteAutoencoder.from_config(
            model_config, policy=policy, decoder=decoder, prior=prior, data_mean=splits.mean(), kind=splits.kind
        ).to(self.device)
        self.agent = (agent or make_agent)(config, self.autoencoder.policy).to(self.device)
        self.verdicts = make_verdicts(config.reward, splits) if verdicts is None else verdicts
        for name in [] if self.verdicts is None else self.verdicts.to(self.device).need_labels:
            labelled(splits, name)  # or an error
        self.validation = splits.validation[: config.validation_size]
        target = make_target(config, splits, self.validation, self.world)
        self.learner = Learner(config, self.autoencoder, self.agent, self.world, self.verdicts, target)
        self.optimizer, self.beta = self.learner.optimizer, self.learner.beta
        self.feed = Feed(
            splits.train, config.batch_size, config.seed, device=self.device, workers=config.data_workers, part=part
        )
        self._targets = None if splits.train_targets is None else splits.train_targets.to(self.device)
        judged = self.learner.verdicts is not None and self.learner.verdicts.need_labels
        self._labels = splits.train_labels.to(self.device) if judged and splits.train_labels is not None else None
        self.step, self.seconds, self.decoder_evaluations = 0, 0.0, 0
        self.world.share_first(self.agent, self.autoencoder)
        if self.world.size > 1:  # the same weights everywhere, codes of its own in each process
            self.learner.seed()

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 … 1."""
        if self.config.steps is not None:
            return min(self.step / self.config.steps, 1.0)
        assert self.config.minutes is not None
        return min(self.seconds / (60.0 * self.config.minutes), 1.0)

    @property
    def learning_rate_factor(self) -> float:
        """The learning rate over its base."""
        schedule, warmup_steps = self.config.learning_rate_schedule, self.config.warmup_steps
        return learning_rate_factor(self.step, self.progress, schedule=schedule, warmup_steps=warmup_steps)

    def batch(self) -> Tensor:
        """The data of the current step: a new order every epoch, a function of seed and step alone. [B, *x]."""
        return self.feed.batch(self.step)

    def targets(self) -> Tensor | None:
        """What is scored instead of the current step's data; None where it is the data. [B, *y]."""
        return None if self._targets is None else self._targets[self.feed.indices(self.step)]

    def labels(self) -> Tensor | None:
        """Labels of the current step's data; None where nothing asks for them. [B]."""
        return None if self._labels is None else self._labels[self.feed.indices(self.step)]

    def train_step(self) -> dict[str, Tensor]:
        """Trains on one batch: the agent and the decoder. Returns metrics, 0-dim tensors on the device."""
        if self.learner.target is not None:
            self.learner.target.follow(self.autoencoder, self.step, self.progress, self.learning_rate_factor)
        self.learner.prepare(self.progress, self.learning_rate_factor, self.feed.new_epochs(self.step))
        x, target, labels = self.batch(), self.targets(), self.labels()
        parts = (x,) if target is None else (x, target)
        metrics = self.learner.update(*parts) if labels is None else self.learner.learn(x, target, labels)
        self.step += 1
        self.decoder_evaluations += self.learner.evaluations * self.world.size
        return metrics

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
        """Trains to the end, or until `stop()` is true after a step; yields a row per log step and checkpoint step.

        Raises:
            TrainingDiverged: 100 steps in a row, or all steps of the run, were skipped for a non-finite loss or
                gradient; or a weight is not finite at the end.
        """
        self.agent.train()
        self.autoencoder.train()
        clock = time.perf_counter()
        metrics: list[dict[str, Tensor]] = []
        _, stopped = self.world.agree(self.seconds, stop())
        while self.progress < 1.0 and not stopped:
            metrics.append(self.train_step())
            look = self.step % CHECK_EVERY[self.device.type] == 0
            if look and self.optimizer.skipped_in_row >= MAX_SKIPPED_IN_ROW:
                reason = f"{MAX_SKIPPED_IN_ROW} steps in a row had a non-finite loss or gradient"
                raise TrainingDiverged(self.step, reason)
            due = self.step % self.config.log_every == 0 or self.step % self.config.checkpoint_every == 0
            # Reading the means waits for a GPU, which has been training all the while: that time counts.
            means = _means(metrics, self.world) if due else None
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            self.seconds, stopped = self.world.agree(self.seconds, stop())
            if due or self.progress >= 1.0 or stopped:
                yield self._row(means or _means(metrics, self.world), len(metrics))
                metrics = []
                # What the caller does with a row, checkpoints among it, is not training time.
                clock = time.perf_counter()
        if self.progress >= 1.0 and not self.learner.has_learned():
            raise TrainingDiverged(self.step, "no step had a finite loss and gradient, or a weight is not finite")

    def _row(self, means: dict[str, float], steps: int) -> dict[str, Any]:
        """The means over the steps since the last row, and the state of the run."""
        config = self.config
        row: dict[str, Any] = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            **means,
            "decoder_evaluations": self.decoder_evaluations,
            "beta": self.beta.item(),
            **({} if self.learner.rate_weight is None else {"rate_weight": self.learner.rate_weight.item()}),
            "temperature_floor": self.beta.item(),
            "learning_rate": config.learning_rate * self.learning_rate_factor,
            "code_usage": self.learner.code_usage(),
            "skipped": int(self.optimizer.skipped),
        }
        if "ESS" in row and config.trust_region in ("ess", "adaptive"):
            row["ess_target"] = config.ess_fraction
        every = config.validate_every if self.world.is_first and len(self.validation) else 0
        if every and (self.step // every > (self.step - steps) // every or self.progress >= 1.0):
            row |= {f"validation_{name}": value for name, value in self.validate().items()}
        return finite(row)

    def validate(self) -> dict[str, float | None]:
        """β-ELBO (at β's final value), log-likelihood, and the first measure of the data's kind (PSNR of images).

        On at most `validation_size` of the validation split. Of a problem's decisions: the reward instead of the
        log-likelihood, the greedy decision's instead of the PSNR. Of verdicts: their means.
        """
        config, splits = self.config, self.splits
        evaluation = evaluate(
            self.autoencoder,
            self.validation,
            beta=config.beta_end,
            kind=splits.kind,
            targets=splits.validation_targets,
            verdicts=self.verdicts,
            labels=splits.validation_labels,
            importance_data=0,  # what a curve shows needs one code per datum
            enumerable=0,
            seed=config.seed,
        )
        self.agent.train()
        nearness = next(iter(splits.kind.measures), None) if config.problem is None else "reward_greedy"
        names = ["beta_elbo", "log_likelihood", *([] if nearness is None else [nearness])]
        names += [name for name in evaluation.metrics if name.startswith("verdict_")]
        return {name: evaluation.metrics.get(name) for name in names}  # none of what no datum has

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides the next step, as tensors and JSON. All processes that train together call it at once."""
        info = {
            "step": self.step,
            "seconds": self.seconds,
            "decoder_evaluations": self.decoder_evaluations,
            "fingerprint": self.fingerprint,
            "score_precision": self.learner.score_precision,
            "config": dataclasses.asdict(self.config),
        }
        return self.learner.state(), info

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Takes up the state that `state` gave.

        Raises:
            ValueError: the state does not fit this run's settings.
        """
        self.learner.load_state(tensors, step=info["step"], score_precision=info["score_precision"])
        self.step, self.seconds = info["step"], info["seconds"]
        self.decoder_evaluations = info["decoder_evaluations"]


def _means(metrics: list[dict[str, Tensor]], world: World) -> dict[str, float]:
    """Means over steps and processes, copied to the host in one go."""
    names = list(metrics[0])
    means = torch.stack([torch.stack([m[name].float() for m in metrics]).mean() for name in names])
    means = world.total(means) / world.size
    return dict(zip(names, means.tolist(), strict=True))
