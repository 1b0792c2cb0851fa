"""The settings of agent and run, and all four groups (data, model, agent, run) side by side."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daps_rl.config.model import DataConfig, ModelConfig
from daps_rl.config.settings import Settings, declared_in, documented, setting
from daps_rl.data.load import own_data
from daps_rl.decoders import suitable_decoder
from daps_rl.functional import ESS_FRACTION, SAMPLES
from daps_rl.names import DEVICES, weighted_name

PRECISIONS = ("float32", "bfloat16")
TARGETS = ("target_bits", "target_psnr", "target_log_likelihood")
OF_COLUMNS = {"gaussian": "columns", "fixed_gaussian": "fixed_columns"}

_agent, _optimizer, _length, _output, _machine = (
    functools.partial(setting, group=group) for group in ("agent", "optimiser", "length", "output", "machine")
)


@documented
@dataclass(frozen=True, kw_only=True)
class AgentConfig(Settings):
    """Which agent learns, and by which steps."""

    agent: str = _agent(
        "daps", "let this agent learn (list below), sb3:NAME, or package.module:Class of your own", common=True
    )
    agent_options: dict[str, Any] = _agent(  # noqa: RUF009  # a field
        dict, "pass more options to the agent, as NAME=VALUE,NAME=VALUE"
    )
    batch_size: int = _agent(256, "use this many data per step (B)", above=0, common=True)
    samples: int = _agent(SAMPLES, "draw this many codes for each datum (K)", above=0, most=2**20, common=True)
    decoder_samples: int = _agent(
        1, "let the decoder learn from this many of the K codes, 0 for all; the others cost a third less", least=0
    )
    policy_samples: int = _agent(
        0,
        "score the policy with a gradient on this many of the K codes, 0 for all; if not given, agents like daps with "
        "an autoregressive policy, on data and without --config, take ess_fraction · K",
        least=0,
    )
    microbatch: int = _agent(
        0, "bound memory by this many data at a time, at the price of one more forward pass; 0 for no bound", least=0
    )
    beta: str = _agent(
        "schedule",
        "let the weight of the KL (β) decay from beta_start to beta_end, or be a tenth of the batches' temperature",
        choices=("schedule", "auto"),
    )
    beta_start: float = _agent(0.5, "weigh the KL by this at first; the weight (β) decays exponentially", above=0)
    beta_end: float = _agent(0.01, "weigh the KL by this at the end", above=0)
    rate_weight: float = _agent(
        0.0,
        "reward codes for being short in a file too: by this (λ) times their log-probability under the prior",
        least=0,
        common=True,
    )
    target_bits: float | None = _agent(
        None, "let λ follow, so that codes take this many bits under their prior (docs/codes.md)", above=0, common=True
    )
    target_psnr: float | None = _agent(None, "or so that they take as few as reach this PSNR in dB", above=0)
    target_log_likelihood: float | None = _agent(None, "or this log-likelihood in nats")
    reward: tuple[str, ...] = _agent(
        (),
        "reward codes by this verdict too, beside the likelihood: classifier, classifier-right, ssim, edit-distance, "
        "stoi or package.module:function of your own, with :WEIGHT behind it in place of the rule's; repeatable "
        "(docs/verdicts.md)",
        common=True,
    )
    token_price: float = _agent(
        0.0,
        "let each token of a code cost this many nats of its reward; codes then end where they are long enough",
        least=0,
        common=True,
    )
    ess_fraction: float = _agent(ESS_FRACTION, "aim at this effective sample size, as a fraction of K", above=0, most=1)
    trust_region: str = _agent("ess", "bound a step by ess or kl exactly, or take a fixed or an adaptive temperature")
    centered: bool = _agent(True, "centre the weights: the same expected gradient, with a smaller variance")
    learning_rate: float = _optimizer(
        4e-3, "let AdamW learn at this rate; agents and problems bring their own", above=0
    )
    learning_rate_schedule: str = _optimizer(
        "cosine", "keep the rate, or warm it up and let it fall to a fiftieth", choices=("constant", "cosine")
    )
    warmup_steps: int = _optimizer(100, "warm up for this many steps of the cosine schedule", least=0)
    weight_decay: float = _optimizer(1e-4, "let AdamW decay the weights by this", least=0)
    gradient_clip: str = _optimizer(
        "adaptive",
        "clip gradients unit by unit relative to the weights, or by their norm",
        choices=("adaptive", "norm", "none"),
    )
    clip_at: float = _optimizer(1.0, "clip them at this", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start < self.beta_end:
            raise ValueError(
                f"beta_start must be >= beta_end, got {self.beta_start} and {self.beta_end}; beta decays over the run."
            )
        if len(weighing := rate_settings(vars(self))) > 1:
            raise ValueError(f"rate has one weight, and {' and '.join(weighing)} would each set it; give one of them.")
        labels = [name.rpartition(":")[2] for name in self.reward_names]
        if len(set(labels)) < len(labels):
            raise ValueError(f"each reward must be named once, got {', '.join(self.reward)}; leave one of them out.")

    @property
    def target(self) -> tuple[str, float] | None:
        """The setting that says what a run is to reach, and its value; or None."""
        return next(((name, getattr(self, name)) for name in TARGETS if getattr(self, name) is not None), None)

    @property
    def reward_names(self) -> list[str]:
        """Names of the verdicts in the reward, without their weights."""
        return [weighted_name(text)[0] for text in self.reward]


@documented
@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """How long a run is, where it runs, and what it leaves behind."""

    steps: int | None = _length(None, "train for this many steps", above=0, common=True)
    minutes: float | None = _length(None, "or train for this many minutes", above=0, common=True)
    seed: int = _length(0, "seed the weights, the order of the data and all draws", least=0, common=True)
    device: str = _machine("auto", "train here; auto for a GPU where there is one", choices=DEVICES)
    precision: str = _machine("float32", "multiply matrices in this precision", choices=PRECISIONS)
    score_precision: str = _machine(
        "auto",
        "score codes without a gradient in this precision; auto for bfloat16 on a CPU that has instructions for it",
        choices=("auto", *PRECISIONS),
    )
    cpu_kernels: bool = _machine(
        False,
        "take an autoregressive policy's passes on a CPU through compiled kernels: faster, and the same but for "
        "rounding; auto where there is a C++ compiler and a run of a minute or more",
        auto=True,
    )
    cuda_graph: bool = _machine(True, "record the training step on a GPU once and replay it, where the agent allows")
    log_every: int = _output(10, "write a row of metrics.jsonl every N steps", above=0)
    validate_every: int = _output(250, "validate every N steps; 0 for never", least=0)
    validation_size: int = _output(1000, "validate on at most this many data", above=0)
    checkpoint_every: int = _output(500, "save a checkpoint every N steps", above=0)
    tensorboard: bool = _output(False, "log for TensorBoard too")
    fid_weights: str | None = _output(
        None, "measure FID at the end, with this file of Inception's weights (colour images, docs/metrics.md)"
    )
    lpips_weights: str | None = _output(None, "measure LPIPS at the end, with this file of AlexNet's weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("exactly one of steps and minutes must be given; they are the length of the run.")


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, AgentConfig, ModelConfig, DataConfig):
    """Settings of a run: those of its data, its model, its agent and the run itself, side by side.

    A token price switches the end token on.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_price:
            object.__setattr__(self, "end_token", True)
        self._check_ends()

    def model_config(
        self, observation_shape: tuple[int, ...], likelihood: str, columns: tuple[str, ...] = ()
    ) -> ModelConfig:
        """The model's part of the settings, with what the data decides filled in.

        A Gaussian, or one of fixed variance, is that of the numbers among several columns.
        """
        values = {name: getattr(self, name) for name in declared_in(ModelConfig)}
        if columns:
            values["likelihood"] = OF_COLUMNS.get(self.likelihood, self.likelihood)
        chosen = {"likelihood": likelihood, "decoder": suitable_decoder(observation_shape, columns)}
        chosen = {name: value for name, value in chosen.items() if values[name] == "auto"}
        return ModelConfig(**{**values, "observation_shape": observation_shape, "column_kinds": columns, **chosen})

    @property
    def named(self) -> set[str | None]:
        """What may be code of one's own: the names of the agent, and those of `data_code` and the verdicts."""
        return {self.agent, *self.data_code, *self.reward_names}

    @property
    def data_code(self) -> tuple[str | None, str | None]:
        """What loading the data imports, where it is code of somebody's: a problem, or the function that gives them."""
        return self.problem, own_data(self.data)


REMOVED = {"decoder_learning_rate": 0.0}
"""Settings of earlier versions, and the value at which a run is the same without them."""


def config_from_dict(values: dict[str, Any], cls: type[Settings] = TrainConfig) -> Any:
    """Settings read back from JSON, of earlier versions too where they mean the same.

    Raises:
        ValueError: unknown or invalid entries.
    """
    values = {name: value for name, value in values.items() if name not in REMOVED or value != REMOVED[name]}
    if unknown := sorted(set(values) - set(declared_in(cls))):
        raise ValueError(
            f"unknown setting {', '.join(unknown)}; the file is from another version of daps-rl: use that one, or "
            "train anew."
        )
    return cls(**values)


def rate_settings(values: Mapping[str, Any]) -> list[str]:
    """Returns the names of those settings that give log p(z) a weight in the reward."""
    names = [name for name in TARGETS if values.get(name) is not None]
    return [*names, "rate_weight"] if values.get("rate_weight") else names


def own_code(names: Iterable[str | None]) -> list[str]:
    """Returns those of the names, of agents, problems, kinds or data, that stand for code of somebody's."""
    return sorted({name for name in names if name is not None and ":" in name.removeprefix("sb3:")})


def check_trusted(names: Iterable[str | None], path: Path, trust: bool) -> None:
    """Raises ValueError where one of the names in a file is that of somebody's code, which is not trusted."""
    own = own_code(names)
    if own and not trust:
        raise ValueError(
            f"{path} asks to import and run {', '.join(own)}, code that is not part of daps-rl; if you know where it "
            "comes from, pass --trust (trust=True in Python)."
        )
