"""The settings of a run in four groups (data, model, agent, run), and all of them side by side."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from daps_rl.config.settings import Settings, declared_in, documented, setting
from daps_rl.data.corrupt import MAX_CORRUPT
from daps_rl.data.load import NAMES
from daps_rl.decoders import DECODERS, LIKELIHOODS, suitable_decoder
from daps_rl.decoders.likelihoods import MAX_VARIANCE, MIN_VARIANCE, VARIANCE
from daps_rl.decoders.resampling import NORMS
from daps_rl.functional import ESS_FRACTION, SAMPLES
from daps_rl.kinds import POLICIES

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")

_data, _code, _policy, _decoder, _agent, _optimizer, _length, _output, _machine = (
    functools.partial(setting, group=group)
    for group in ("data", "code", "policy", "decoder", "agent", "optimiser", "length", "output", "machine")
)


@documented
@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Which data a run learns from, and how they are read."""

    data: str = _data(
        "digits",
        f"learn from a data set ({', '.join(NAMES)}), from a file or a folder, or from a data set of the hub "
        "(owner/name)",
        common=True,
    )
    data_dir: str | None = _data(None, "look for the data set's files in this folder, and only there")
    image_size: int = _data(
        0, "resize and crop images of a folder or of the hub to this many pixels; 0 for the data set's default", least=0
    )
    image_column: str | None = _data(None, "take the images from this column of a hub data set")
    hub_config: str | None = _data(None, "choose a configuration of a hub data set that has several")
    streaming: bool = _data(False, "read a hub data set as it comes, without keeping it")
    max_corrupt: int = _data(
        MAX_CORRUPT, "skip at most this many unreadable images of a folder or of a hub data set", least=0
    )
    data_workers: int = _data(2, "decode streamed images in this many processes", least=0)


@documented
@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Sizes of a code, and the policy and the decoder that are made for it."""

    observation_shape: tuple[int, ...] = _data((), "leave this to the data: it is the shape of one datum", above=0)
    problem: str | None = _data(
        None,
        "solve a problem instead of encoding: tsp20, say, or package.module:Class of your own; it brings data, reward "
        "and code (docs/other-problems.md)",
        common=True,
    )
    num_tokens: int = _code(8, "give codes this many tokens (T)", above=0, most=2**16, common=True)
    vocab_size: int = _code(256, "choose each token among this many values (V)", least=2, most=2**20, common=True)
    policy: str = _policy(
        "autoregressive", "draw tokens one after another or independently, or quantise instead", choices=tuple(POLICIES)
    )
    policy_options: dict[str, Any] = _policy(  # noqa: RUF009  # a field
        dict, "pass options to the quantiser, as NAME=VALUE,NAME=VALUE (see vector-quantize-pytorch)"
    )
    embed_dim: int = _policy(64, "give the policy's transformers this width", above=0)
    num_heads: int = _policy(4, "use this many attention heads", above=0)
    num_layers: int = _policy(2, "encode the datum by this many blocks", above=0)
    num_code_layers: int = _policy(1, "read the code so far by this many blocks (autoregressive)", above=0)
    mlp_ratio: float = _policy(4.0, "make feed-forward layers this many times as wide as the transformer", above=0)
    num_patches: int = _policy(0, "cut the datum into this many patches; 0 for as many as tokens", least=0)
    aligned_patches: bool = _policy(True, "add the encoded patches to the positions of an autoregressive policy's code")
    token_vectors: str = _policy(
        "lattice",
        "put tokens on a lattice, where the policy is a discretised Gaussian; or learn a free table for the decoder, "
        "to whose vectors the policy's logits are similarities (shared) or not (separate; published)",
        choices=("lattice", "shared", "separate"),
    )
    likelihood: str = _decoder(
        "auto",
        "score reconstructions by this likelihood; auto for what suits the data",
        choices=("auto", *(name for name, cls in LIKELIHOODS.items() if cls.model_settings is not None)),
    )
    variance: float = _decoder(VARIANCE, "fix the variance of the fixed_gaussian likelihood", above=0)
    min_variance: float = _decoder(MIN_VARIANCE, "bound the variance of the gaussian likelihood from below", above=0)
    max_variance: float = _decoder(MAX_VARIANCE, "bound it from above", above=0)
    decoder: str = _decoder(
        "auto",
        "decode by dense layers, by convolutions (images), by a transformer in time (time by features), or by a fixed "
        "renderer of pen strokes, seven tokens each; auto for resnet on images of colour or of 64 pixels and more, "
        "else mlp",
        choices=("auto", *DECODERS),
    )
    decoder_embed_dim: int = _decoder(64, "give a token this many numbers in the decoder", above=0)
    decoder_hidden: tuple[int, ...] = _decoder((256, 512), "give the mlp decoder's hidden layers these widths", above=0)
    decoder_channels: int = _decoder(64, "give the resnet decoder this many channels", above=0)
    decoder_blocks: int = _decoder(2, "give the resnet decoder this many residual blocks", above=0)
    decoder_norm: str = _decoder(
        "group",
        "normalise in the resnet decoder; by batch, as published, a code's reward depends on its batch mates",
        choices=NORMS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decoder_hidden:
            raise ValueError("decoder_hidden must be positive widths, got none; pass 64,256.")

    @property
    def bits(self) -> float | None:
        """Size of a code, T·log2 V, in bits; None for continuous latents."""
        vocabulary = POLICIES[self.policy].vocabulary(self)
        return None if vocabulary is None else self.num_tokens * math.log2(vocabulary)


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
    samples: int = _agent(SAMPLES, "draw this many codes for each datum (K)", above=0, common=True)
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
    beta_start: float = _agent(0.5, "weigh the KL by this at first; the weight (β) decays exponentially", above=0)
    beta_end: float = _agent(0.01, "weigh the KL by this at the end", above=0)
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
        "score codes without a gradient in this precision; auto for bfloat16 on a CPU that has matrix units for it",
        choices=("auto", *PRECISIONS),
    )
    cpu_kernels: bool = _machine(
        False,
        "take an autoregressive policy's passes on a CPU through compiled kernels: faster, and the same but for "
        "rounding; needs a C++ compiler",
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
    """Settings of a run: those of its data, its model, its agent and the run itself, side by side."""

    def model_config(self, observation_shape: tuple[int, ...], likelihood: str) -> ModelConfig:
        """The model's part of the settings, with what the data decides filled in."""
        values = {name: getattr(self, name) for name in declared_in(ModelConfig)}
        values["observation_shape"] = tuple(observation_shape)
        if values["likelihood"] == "auto":
            values["likelihood"] = likelihood
        if values["decoder"] == "auto":
            values["decoder"] = suitable_decoder(values["observation_shape"])
        return ModelConfig(**values)


REMOVED = {"decoder_learning_rate": 0.0}
"""Settings of earlier versions, and the value at which a run is the same without them."""


def config_from_dict(values: dict[str, Any], cls: type[Settings] = TrainConfig) -> Any:
    """Settings read back from JSON (lists become tuples), of earlier versions too where they mean the same.

    Raises:
        ValueError: unknown or invalid entries.
    """
    values = {name: value for name, value in values.items() if name not in REMOVED or value != REMOVED[name]}
    if unknown := sorted(set(values) - set(declared_in(cls))):
        raise ValueError(
            f"unknown setting {', '.join(unknown)}; the file is from another version of daps-rl: use that one, or "
            "train anew."
        )
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def latents_text(bits: float | None) -> str:
    """What a model encodes to, in words: codes of N bits, or continuous latents (None)."""
    return "continuous latents" if bits is None else f"codes of {bits:g} bits"
