"""Side-by-side training: the agent learns codes, the decoder learns to read them, each step."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from daps_rl.agents import Agent, AgentLoss, Scorer, make_agent
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig
from daps_rl.cuda_graph import GraphedUpdate
from daps_rl.data import Feed, Splits
from daps_rl.decoders import CodeDecoder
from daps_rl.distributed import World
from daps_rl.evaluation import count_codes, evaluate
from daps_rl.functional import code_usage
from daps_rl.kernels import use_cpu_kernels
from daps_rl.optim import GuardedAdamW, exponential_decay, learning_rate_factor
from daps_rl.policies import CodeMask

MAX_SKIPPED_IN_ROW = 100
ONE_PROCESS = ("sb3:", "vq")  # agents that do not train in several
SEED_STRIDE = 1_000_003  # between the processes of a run
CHECK_EVERY = {"cpu": 1, "cuda": 50}  # steps between looks at the skip counter, which costs a GPU a synchronisation


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Trainer:
    """One training run: model, agent, optimiser, β and the order of the data.

    Everything that makes the next step what it is can be taken out with `state` and put back with `load_state`, so
    that a run of `steps` steps that was stopped and resumed ends with the same weights, bit for bit on one CPU.

    Randomness comes from torch's global generators, so that policies and decoders of any make take part; `run` and
    `train_step` leave those generators as a run of their own would.

    Args:
        config: settings of the run.
        splits: the data.
        policy, decoder, prior: parts of your own, in place of those that the config describes.
        agent: a function of the config and the policy, in place of the one that the config names.
        world: the processes that train together. Each sees its part of every batch; gradients, temperature and metrics
            are those of the whole.
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
    ) -> None:
        self.config, self.splits, self.world = config, splits, world or World()
        if self.world.size > 1 and config.agent.startswith(ONE_PROCESS):
            raise ValueError(
                f"agent {config.agent!r} has an optimiser or a codebook of its own and trains in one process; leave "
                "out torchrun, or use another agent."
            )
        self.fingerprint = splits.fingerprint()  # once: every checkpoint holds it
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        model_config = config.model_config(splits.observation_shape, splits.likelihood)
        self.autoencoder = DiscreteAutoencoder.from_config(
            model_config, policy=policy, decoder=decoder, prior=prior, data_mean=splits.train.mean(0)
        ).to(self.device)
        self.agent = (agent or make_agent)(config, self.autoencoder.policy).to(self.device)
        self.agent.world = self.world
        if config.cpu_kernels and self.device.type == "cpu":
            use_cpu_kernels(self.agent)
            if config.precision != "float32":
                warnings.warn(
                    f"CPU kernels are for float32; precision={config.precision!r} trains without.", stacklevel=2
                )
        self.feed = Feed(
            splits.train,
            config.batch_size,
            config.seed,
            device=self.device,
            workers=config.data_workers,
            part=self.world.share(config.batch_size),
        )
        self.validation = splits.validation[: config.validation_size]
        targets = splits.validation_targets
        self.validation_targets = None if targets is None else targets[: config.validation_size]
        self._targets = None if splits.train_targets is None else splits.train_targets.to(self.device)
        self.optimizer = GuardedAdamW(
            [
                {"params": self.agent.trained(), "lr": config.learning_rate},
                {
                    "params": list(self.autoencoder.decoder.parameters()),
                    "lr": config.decoder_learning_rate or config.learning_rate,
                },
            ],
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            clip_at=config.clip_at,
            device=self.device,
            world=self.world,
        )
        self.world.share_first(self.agent, self.autoencoder)
        if self.world.size > 1:  # the same weights everywhere, codes of its own in each process
            torch.manual_seed(config.seed + SEED_STRIDE * self.world.rank)
        if config.microbatch and not self.agent.bounded_memory:
            raise ValueError(
                f"agent {config.agent!r} makes passes over whole batches and cannot keep to microbatch; leave it out "
                "and lower --batch-size, or use daps, daps-na, tpo, rloo or a relaxation."
            )
        norms = [m for m in self.autoencoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms and (config.microbatch or self.world.size > 1):
            warnings.warn(
                "batch norm counts a microbatch, or a process's part, as the batch: the gradients are not those of the "
                "whole batch; --decoder-norm group is exact.",
                stacklevel=2,
            )
        self.step, self.seconds, self.decoder_evaluations = 0, 0.0, 0
        # The one shared value of β: the reward's weight of the KL and the temperature's floor.
        self.beta = torch.tensor(config.beta_start, device=self.device)
        self._usage = torch.zeros(2, config.num_tokens, config.vocab_size, dtype=torch.int64, device=self.device)
        self.score_precision = config.score_precision
        if self.score_precision == "auto":  # a decoder of the user's may not be made for it
            low = isinstance(self.autoencoder.decoder, CodeDecoder) and _has_bfloat16_units(self.device)
            self.score_precision = "bfloat16" if low else "float32"
        self._codes = getattr(self.autoencoder.policy, "codebook_size", config.vocab_size)
        self._evaluations = 0  # of the decoder, per step
        # A microbatch's second pass sets the state of the random numbers back, which no graph may.
        modules = (*self.agent.modules(), *self.autoencoder.modules())
        recordable = self.agent.on_device and not config.microbatch and all(map(_keeps_to_the_device, modules))
        recordable = recordable and self.world.size == 1
        self.graphed = config.cuda_graph and recordable and self.device.type == "cuda"
        self._update = GraphedUpdate(self._learn) if self.graphed else self._learn

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
        config = self.config
        return learning_rate_factor(
            self.step, self.progress, schedule=config.learning_rate_schedule, warmup_steps=config.warmup_steps
        )

    def batch(self) -> Tensor:
        """The data of the current step: a new order every epoch, a function of seed and step alone. [B, *x]."""
        return self.feed.batch(self.step)

    def targets(self) -> Tensor | None:
        """What is scored in the place of the current step's data; None where it is the data. [B, *y]."""
        if self._targets is None:
            return None
        return self._targets[self.feed.indices(self.step)]

    def train_step(self) -> dict[str, Tensor]:
        """One batch: the agent's losses and the decoder's. Returns metrics, 0-dim tensors on the device."""
        config = self.config
        self.beta.fill_(exponential_decay(self.progress, config.beta_start, config.beta_end))
        factor = self.learning_rate_factor
        self.optimizer.set_rates(factor)
        self.agent.prepare(self.progress, config.learning_rate * factor)
        for _ in range(min(self.feed.new_epochs(self.step), 2)):
            self._usage[0], self._usage[1] = self._usage[1].clone(), 0
        x, target = self.batch(), self.targets()
        metrics = self._update(x) if target is None else self._update(x, target)
        self.step += 1
        self.decoder_evaluations += self._evaluations * self.world.size
        return metrics

    def _learn(self, x: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
        """The part of a step that runs on the device, which a GPU may record and replay."""
        config, autoencoder = self.config, self.autoencoder
        scorer = Scorer(
            autoencoder.decoder,
            autoencoder.prior(),
            x if target is None else target,
            self.beta,
            config.microbatch,
            config.decoder_samples,
            self.score_precision == "bfloat16",
        )
        self.agent.microbatch = config.microbatch
        result: AgentLoss | None = None
        loss_decoder: Tensor | None = None
        for result in self._losses(x, scorer):
            if not scorer.scored:
                raise ValueError(f"agent {config.agent!r} yielded a loss before it called `score`; call it first.")
            loss = result.loss
            if loss_decoder is None:  # once per batch, beside the agent's first step
                loss_decoder = scorer.decoder_loss()
                if not scorer.pathwise:
                    loss = loss_decoder if loss is None else loss + loss_decoder
            if loss is not None and loss.requires_grad:  # a decoder may have nothing to learn
                self.optimizer.step(loss)
        if result is None or loss_decoder is None:
            raise ValueError(f"agent {config.agent!r} yielded no loss; its `losses` must yield at least one.")
        if not torch.is_floating_point(result.codes):
            self._usage[1] += count_codes(result.codes, config.vocab_size)
        self._evaluations = scorer.evaluations
        return {
            "loss_decoder": loss_decoder.detach(),
            **scorer.metrics(),
            **({} if result.loss is None else {"loss_actor": result.loss.detach()}),
            **result.metrics,
        }

    def _losses(self, x: Tensor, scorer: Scorer) -> Iterator[AgentLoss]:
        """The agent's losses, each computed in the run's precision; what is done with them between is not."""
        low = self.config.precision == "bfloat16"
        losses = iter(self.agent.losses(x, scorer, self.beta))
        while True:
            # No cache: it would hand weights cast without a gradient, in sampling, to the pass that needs one.
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
                result = next(losses, None)
            if result is None:
                return
            yield result

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
        """Trains to the end, or until `stop()` is true after a step; yields a row per log step and checkpoint step.

        Raises:
            TrainingDiverged: 100 steps in a row were skipped for a non-finite loss or gradient.
        """
        self.agent.train()
        self.autoencoder.train()
        check_every = CHECK_EVERY[self.device.type]
        clock = time.perf_counter()
        metrics: list[dict[str, Tensor]] = []
        _, stopped = self.world.agree(self.seconds, stop())
        while self.progress < 1.0 and not stopped:
            metrics.append(self.train_step())
            if self.step % check_every == 0 and self.optimizer.skipped_in_row >= MAX_SKIPPED_IN_ROW:
                raise TrainingDiverged(
                    f"stopped at step {self.step}: {MAX_SKIPPED_IN_ROW} steps in a row had a non-finite loss or "
                    "gradient; lower the learning rate, or check the data and the decoder's likelihood."
                )
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

    def _row(self, means: dict[str, float | None], steps: int) -> dict[str, Any]:
        """The means over the steps since the last row, and the state of the run."""
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 3), **means}
        config = self.config
        row |= {
            "decoder_evaluations": self.decoder_evaluations,
            "beta": self.beta.item(),
            "temperature_floor": self.beta.item(),
            "learning_rate": config.learning_rate * self.learning_rate_factor,
            "code_usage": code_usage(self.world.total(self._usage.sum(0))[:, : self._codes]).item(),
            "skipped": int(self.optimizer.skipped),
        }
        if "ESS" in row and config.trust_region in ("ess", "adaptive"):
            row["ess_target"] = config.ess_fraction
        finished = self.progress >= 1.0
        every = config.validate_every if self.world.is_first and len(self.validation) else 0
        if every and (self.step // every > (self.step - steps) // every or finished):
            row |= {f"validation_{name}": value for name, value in self.validate().items()}
        return row

    def validate(self) -> dict[str, float | None]:
        """β-ELBO (at β's final value), log-likelihood and PSNR on at most `validation_size` of the validation split.

        Of a problem's decisions: the reward in the log-likelihood's place, the greedy decision's in that of the PSNR.
        """
        evaluation = evaluate(
            self.autoencoder,
            self.validation,
            beta=self.config.beta_end,
            value_range=self.splits.value_range,
            targets=self.validation_targets,
            importance_data=0,  # what a curve shows needs one code per datum
            enumerable=0,
            seed=self.config.seed,
        )
        self.agent.train()
        names = ("beta_elbo", "log_likelihood", "psnr" if self.config.problem is None else "reward_greedy")
        return {name: _finite(evaluation.metrics[name]) for name in names}

    def _random_states(self) -> dict[str, Tensor]:
        """Of this process."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides the next step, as tensors and JSON. All processes that train together call it at once."""
        tensors = {
            **{f"model.{name}": value for name, value in self.autoencoder.state_dict().items()},
            **{f"agent.{name}": value for name, value in self._agent_tensors().items()},
            **{f"learner.{name}": value for name, value in self.agent.optimizer_tensors().items()},
            **{f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()},
            "beta": self.beta,
            "usage": self.world.total(self._usage),
        }
        for rank, states in enumerate(self.world.of_all(self._random_states())):
            tensors |= {f"random.{kind}{rank or ''}": state for kind, state in states.items()}
        info = {
            "step": self.step,
            "seconds": self.seconds,
            "decoder_evaluations": self.decoder_evaluations,
            "fingerprint": self.fingerprint,
            "score_precision": self.score_precision,
            "config": dataclasses.asdict(self.config),
        }
        return tensors, info

    def _agent_tensors(self) -> dict[str, Tensor]:
        """The agent's state beyond the model's: each tensor once, however many names it has."""
        seen = {id(value) for value in self.autoencoder.state_dict(keep_vars=True).values()}
        tensors = {}
        for name, value in self.agent.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                seen.add(id(value))
                tensors[name] = value
        return tensors

    def _load_agent_tensors(self, tensors: dict[str, Tensor]) -> None:
        own = self._agent_tensors()
        if set(own) != set(tensors):
            raise KeyError(f"the agent's state has other entries: {', '.join(sorted(set(own) ^ set(tensors)))}")
        for name, value in tensors.items():
            own[name].data.copy_(value)

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Takes up the state that `state` gave.

        Raises:
            ValueError: the state does not fit this run's settings.
        """
        parts: dict[str, dict[str, Tensor]] = {
            name: {} for name in ("model", "agent", "learner", "optimizer", "random")
        }
        for name, value in tensors.items():
            prefix, _, rest = name.partition(".")
            if rest:
                parts[prefix][rest] = value
        try:
            self.autoencoder.load_state_dict(parts["model"])
            self._load_agent_tensors(parts["agent"])
            self.agent.load_optimizer_tensors(parts["learner"])
            self.optimizer.load_tensors(parts["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"the checkpoint does not fit this run: {' '.join(str(error).split())[:200]}") from error
        if self.graphed:
            self._update = GraphedUpdate(self._learn)  # the optimiser's state lies elsewhere now
        self.beta.copy_(tensors["beta"])
        self.step, self.seconds = info["step"], info["seconds"]
        self.decoder_evaluations = info["decoder_evaluations"]
        self.score_precision = info.get("score_precision", "float32")  # as it began, whatever "auto" is here
        self._usage.copy_(tensors["usage"] if self.world.is_first else torch.zeros_like(tensors["usage"]))
        rank = self.world.rank or ""
        if f"cpu{rank}" in parts["random"]:
            torch.set_rng_state(parts["random"][f"cpu{rank}"])
        else:  # more processes than before
            torch.manual_seed(self.config.seed + SEED_STRIDE * self.world.rank + self.step)
        if self.device.type == "cuda" and f"cuda{rank}" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"][f"cuda{rank}"], self.device)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device cuda was asked for, and PyTorch sees no GPU here; use --device auto or cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def _has_bfloat16_units(device: torch.device) -> bool:
    """Whether a CPU multiplies matrices faster in bfloat16."""
    tell = getattr(torch.cpu, "get_capabilities", None)  # older PyTorch does not
    return device.type == "cpu" and tell is not None and bool(tell().get("amx_bf16"))


def _keeps_to_the_device(part: nn.Module | CodeMask) -> bool:
    """Whether a GPU may record what a module, or a mask, does: this project's and PyTorch's own, and those that say so.

    What counts is said in the class's own body, or by the module itself: a subclass may do otherwise.
    """
    own = type(part).__module__.partition(".")[0] in ("daps_rl", "torch")
    keeps = vars(part).get("on_device", own or vars(type(part)).get("on_device") is True)
    mask = getattr(part, "mask", None)
    return bool(keeps) and (not isinstance(mask, CodeMask) or _keeps_to_the_device(mask))


def _means(metrics: list[dict[str, Tensor]], world: World) -> dict[str, float | None]:
    """Means over steps and processes, copied to the host in one go."""
    names = list(metrics[0])
    means = torch.stack([torch.stack([m[name].float() for m in metrics]).mean() for name in names])
    means = world.total(means) / world.size
    return {name: _finite(value) for name, value in zip(names, means.tolist(), strict=True)}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN: None instead."""
    return value if value is not None and math.isfinite(value) else None
