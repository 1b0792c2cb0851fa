"""Settings of a model and of a run: one frozen dataclass each, the only home of every default."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

POLICIES = ("autoregressive", "factorized", "vq", "fsq", "gaussian")
DECODERS = ("auto", "mlp", "resnet", "sequence", "strokes")
TOKEN_VECTORS = ("lattice", "shared", "separate")
DECODER_NORMS = ("group", "batch", "none")
LEARNING_RATE_SCHEDULES = ("constant", "cosine")
GRADIENT_CLIPS = ("adaptive", "norm", "none")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of policy and decoder.

    Attributes:
        observation_shape: shape of one datum, from the data.
        problem: a discrete decision in the place of encoding (docs/other-problems.md): its name, or
            package.module:Class of your own. It brings data, reward, T, V and a policy of its own.
        num_tokens: T, tokens of a code.
        vocab_size: V, codes per token.
        policy: "autoregressive" or "factorized"; to compare with, a quantiser ("vq", "fsq") or continuous latents
            ("gaussian").
        policy_options: of the quantiser, as NAME=VALUE,NAME=VALUE; see vector-quantize-pytorch.
        embed_dim: width of the policy's transformers.
        num_heads: attention heads.
        num_layers: blocks on the x-side.
        num_code_layers: blocks on the code's side of an autoregressive policy.
        mlp_ratio: width of the feed-forward layers over embed_dim.
        num_patches: patches of the datum; 0 for as many as tokens.
        aligned_patches: add the encoded patches to the positions of an autoregressive policy's code.
        likelihood: "bernoulli", "gaussian", "fixed_gaussian", or "auto" for what suits the data.
        variance: of the fixed_gaussian likelihood.
        min_variance, max_variance: bounds of the gaussian likelihood's variance.
        decoder: "mlp", "resnet" (images), "sequence" (time by features), "strokes" (a fixed renderer of pen strokes,
            seven tokens each, without a gradient), or "auto": resnet for images of colour or of 64 pixels and more,
            else mlp.
        decoder_embed_dim: of a token in the decoder.
        token_vectors: what the decoder reads, and the policy writes with: "lattice" (points of a lattice, on which the
            policy is a discretised Gaussian; not published, learns much faster), "shared" (a free table, and the
            policy's logits are similarities to its vectors) or "separate" (a free table, and a linear layer to the
            logits; published).
        decoder_hidden: widths of the MLP decoder's hidden layers.
        decoder_channels, decoder_blocks: of the ResNet decoder.
        decoder_norm: of the ResNet decoder: "group", "batch" (published; a code's reward then depends on its batch
            mates) or "none".
    """

    observation_shape: tuple[int, ...] = ()
    problem: str | None = None
    num_tokens: int = 8
    vocab_size: int = 256
    policy: str = "autoregressive"
    policy_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    embed_dim: int = 64
    num_heads: int = 4
    num_layers: int = 1
    num_code_layers: int = 1
    mlp_ratio: float = 4.0
    num_patches: int = 0
    aligned_patches: bool = True
    likelihood: str = "auto"
    variance: float = 0.25
    min_variance: float = 1e-3
    max_variance: float = 1.0
    decoder: str = "auto"
    decoder_embed_dim: int = 64
    token_vectors: str = "lattice"
    decoder_hidden: tuple[int, ...] = (256, 512)
    decoder_channels: int = 64
    decoder_blocks: int = 2
    decoder_norm: str = "group"

    def __post_init__(self) -> None:
        _one_of("policy", self.policy, POLICIES)
        _one_of("likelihood", self.likelihood, ("auto", "bernoulli", "gaussian", "fixed_gaussian"))
        _positive(self, "num_tokens", "embed_dim", "num_heads", "num_layers", "num_code_layers", "mlp_ratio")
        _positive(self, "variance", "min_variance", "max_variance", "decoder_embed_dim", "decoder_channels")
        _positive(self, "decoder_blocks")
        _one_of("decoder", self.decoder, DECODERS)
        _one_of("decoder_norm", self.decoder_norm, DECODER_NORMS)
        _one_of("token_vectors", self.token_vectors, TOKEN_VECTORS)
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be >= 2, got {self.vocab_size}.")
        if self.vocab_size > 2**20 or self.num_tokens > 2**16:
            raise ValueError(
                f"a code of {self.num_tokens} tokens of {self.vocab_size} is too large; "
                "use at most 65,536 tokens of 1,048,576."
            )
        if self.num_patches < 0:
            raise ValueError(f"num_patches must be >= 0, got {self.num_patches}; 0 takes num_tokens.")
        if not self.decoder_hidden or min(self.decoder_hidden) < 1:
            raise ValueError(f"decoder_hidden must be positive widths, got {self.decoder_hidden}; pass 64,256.")

    @property
    def bits(self) -> float | None:
        """Size of a code, T·log2 V, in bits (FSQ's V is the product of its levels); None for continuous latents."""
        if self.policy == "gaussian":
            return None
        if self.policy == "fsq":
            from daps_rl.policies.latents import fsq_levels

            levels = self.policy_options.get("levels") or fsq_levels(self.vocab_size)
            return self.num_tokens * math.log2(math.prod(levels))
        return self.num_tokens * math.log2(self.vocab_size)


def latents_text(bits: float | None) -> str:
    """What a model encodes to, in words: codes of so many bits, or continuous latents (None)."""
    return "continuous latents" if bits is None else f"codes of {bits:g} bits"


_NOT_NEGATIVE = (
    "weight_decay", "decoder_learning_rate", "warmup_steps", "validate_every", "seed", "microbatch", "image_size",
    "data_workers", "decoder_samples", "policy_samples", "max_corrupt",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """Settings of a run.

    Attributes:
        data: name of a data set or a path.
        data_dir: folder that the data set's files are in.
        image_size: pixels that images of a folder or a hub data set are resized and cropped to; 0 for the data set's
            default.
        image_column: column of a hub data set that holds the images; found by its type if not given.
        hub_config: which configuration of a hub data set that has several.
        streaming: read a hub data set as it comes, without keeping it.
        max_corrupt: unreadable files or images of a folder or a hub data set that may be skipped.
        data_workers: processes that decode streamed images.
        agent: the learner: daps, daps-na, daps-fixed, tpo, rloo, grpo, ppo, a2c, reinforce, reinforce-no-critic;
            sb3:daps, sb3:ppo, sb3:a2c; to compare with, through the decoder's gradient: gumbel, gumbel-na, gr-mck,
            gr-mck-na, reinmax, reinmax-na, vq, vq-rotation, fsq, gaussian; or package.module:Class of your own.
        agent_options: what else the agent takes, as NAME=VALUE,NAME=VALUE.
        steps: length of the run in training steps; or
        minutes: in minutes of training.
        seed: of weights, order of the data, and sampling.
        batch_size: B, contexts per step.
        samples: K, codes per context.
        decoder_samples: how many of the K codes the decoder learns from, 0 for all; the others are scored without a
            gradient, which costs a third.
        policy_samples: how many of the K codes `daps`, `tpo` and `rloo` score the policy on with a gradient, chosen by
            their weights without bias; 0 for all. If not given, all; but `daps`, `daps-fixed` and `sb3:daps` with an
            autoregressive policy, on data and without a published preset, take ess_fraction · K, rounded up.
        microbatch: contexts at a time, for bounded memory at the price of one more forward pass; 0 for all at once.
        beta_start, beta_end: weight of the KL, decaying exponentially over the run.
        learning_rate: of AdamW, for the policy.
        decoder_learning_rate: for the decoder; 0 for the same.
        learning_rate_schedule: "constant" or "cosine" (with a warm-up, down to a fiftieth).
        warmup_steps: of the cosine schedule.
        weight_decay: of AdamW.
        gradient_clip: "adaptive" (unit-wise, relative to the weights), "norm" (global) or "none".
        clip_at: the clip's bound.
        ess_fraction: the trust region's target, as a fraction of K.
        trust_region: "ess", "kl", "fixed" or "adaptive".
        centered: centred weights: the same expected gradient, with a smaller variance.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        precision: "float32", or "bfloat16" for the matrix products (logits, log-probabilities, weights, temperature and
            optimiser stay in float32).
        score_precision: for codes that are scored without a gradient: "float32", "bfloat16", or "auto" (bfloat16 on a
            CPU that has matrix units for it, float32 elsewhere).
        cpu_kernels: on a CPU, take an autoregressive policy's passes through compiled kernels: the same but for
            rounding, and faster. They need a C++ compiler, once for some 20 seconds.
        cuda_graph: on a GPU, record the training step once and replay it, where the agent allows.
        log_every: training steps per row of metrics.jsonl.
        validate_every: training steps between validations on at most `validation_size` data; 0 for never.
        validation_size: see validate_every.
        fid_weights: file of Inception's weights; with it the summary has the FID too (colour images, docs/metrics.md).
        lpips_weights: file of AlexNet's weights, likewise for LPIPS.
        checkpoint_every: training steps between checkpoints.
        tensorboard: log for TensorBoard too.
    """

    data: str = "digits"
    data_dir: str | None = None
    image_size: int = 0
    image_column: str | None = None
    hub_config: str | None = None
    streaming: bool = False
    max_corrupt: int = 100
    data_workers: int = 2
    agent: str = "daps"
    agent_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    batch_size: int = 256
    samples: int = 8
    decoder_samples: int = 1
    policy_samples: int = 0
    microbatch: int = 0
    beta_start: float = 0.5
    beta_end: float = 0.01
    learning_rate: float = 4e-3
    decoder_learning_rate: float = 0.0
    learning_rate_schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: str = "adaptive"
    clip_at: float = 1.0
    ess_fraction: float = 0.33
    trust_region: str = "ess"
    centered: bool = True
    device: str = "auto"
    precision: str = "float32"
    score_precision: str = "auto"
    cpu_kernels: bool = False
    cuda_graph: bool = True
    log_every: int = 10
    validate_every: int = 250
    validation_size: int = 1000
    fid_weights: str | None = None
    lpips_weights: str | None = None
    checkpoint_every: int = 500
    tensorboard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("exactly one of steps and minutes must be given; they are the length of the run.")
        if self.steps is not None:
            _positive(self, "steps")
        if self.minutes is not None:
            _positive(self, "minutes")
        _positive(self, "batch_size", "samples", "learning_rate", "beta_end", "log_every", "checkpoint_every")
        _positive(self, "clip_at", "validation_size")
        if self.beta_start < self.beta_end:
            raise ValueError(
                f"beta_start must be >= beta_end, got {self.beta_start} and {self.beta_end}; beta decays over the run."
            )
        _one_of("learning_rate_schedule", self.learning_rate_schedule, LEARNING_RATE_SCHEDULES)
        _one_of("gradient_clip", self.gradient_clip, GRADIENT_CLIPS)
        _one_of("device", self.device, DEVICES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("score_precision", self.score_precision, ("auto", *PRECISIONS))
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}.")

    def model_config(self, observation_shape: tuple[int, ...], likelihood: str) -> ModelConfig:
        """The model's part of the settings, with what the data decides filled in."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(ModelConfig)}
        values["observation_shape"] = tuple(observation_shape)
        if values["likelihood"] == "auto":
            values["likelihood"] = likelihood
        if values["decoder"] == "auto":
            values["decoder"] = _decoder_for(values["observation_shape"])
        return ModelConfig(**values)


def _decoder_for(observation_shape: tuple[int, ...]) -> str:
    """The decoder that suits data of that shape."""
    image = len(observation_shape) == 3
    return "resnet" if image and (observation_shape[0] >= 3 or min(observation_shape[1:]) >= 64) else "mlp"


PUBLISHED: dict[str, dict[str, Any]] = {
    # arXiv 2509.24716, appendix; what differs between the data sets. K = 8, AdamW at 3e-4, clip at 1.
    "mnist": {
        "data": "mnist", "num_tokens": 8, "vocab_size": 256, "embed_dim": 64, "num_layers": 1, "num_code_layers": 1,
        "likelihood": "bernoulli", "ess_fraction": 0.33, "beta_start": 0.5, "beta_end": 0.01,
        "batch_size": 256, "steps": 250_000,
    },
    "cifar10": {
        "data": "cifar10", "num_tokens": 64, "vocab_size": 512, "embed_dim": 128, "num_layers": 2, "num_code_layers": 2,
        "likelihood": "gaussian", "decoder": "resnet", "decoder_norm": "batch", "decoder_embed_dim": 128,
        "ess_fraction": 0.33, "beta_start": 6.0, "beta_end": 0.01, "batch_size": 256, "steps": 250_000,
    },
    "imagenet256": {
        "num_tokens": 1024, "vocab_size": 1024, "embed_dim": 128, "num_layers": 2, "num_code_layers": 2,
        "likelihood": "gaussian", "min_variance": 0.01, "decoder": "resnet", "decoder_norm": "batch",
        "decoder_embed_dim": 128, "ess_fraction": 0.25, "beta_start": 50.0, "beta_end": 1.0,
        "batch_size": 64, "steps": 300_000, "image_size": 256,
    },
    "motion": {
        "num_tokens": 64, "vocab_size": 1024, "embed_dim": 128, "num_layers": 2, "num_code_layers": 2,
        "likelihood": "fixed_gaussian", "variance": 0.25, "decoder": "sequence",
        "decoder_embed_dim": 128, "ess_fraction": 0.33, "beta_start": 3.0, "beta_end": 0.01,
        "batch_size": 256, "steps": 250_000,
    },
}  # fmt: skip
"""Published settings, by the data set they are for: options of `TrainConfig`. Those of ImageNet and of motion name no
data: they are yours to bring."""

PUBLISHED_SHAPES: dict[str, tuple[int, ...]] = {
    "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet256": (3, 256, 256), "motion": (64, 128),
}  # fmt: skip
"""Of a datum."""

_PUBLISHED_OPTIMISER = {
    "samples": 8, "learning_rate": 3e-4, "learning_rate_schedule": "constant", "weight_decay": 1e-4,
    "gradient_clip": "adaptive", "clip_at": 1.0, "trust_region": "ess", "centered": False, "mlp_ratio": 4.0,
    "decoder_hidden": (64, 256), "decoder_embed_dim": 64, "aligned_patches": False,
    "token_vectors": "separate", "decoder_samples": 0, "policy_samples": 0,
}  # fmt: skip

RECIPES: dict[str, dict[str, Any]] = {
    "digits": {
        "num_tokens": 8, "vocab_size": 16, "batch_size": 64, "minutes": 1.5, "likelihood": "fixed_gaussian",
        "variance": 0.02, "decoder_hidden": (64, 256), "beta_start": 0.05,
    },
}  # fmt: skip
"""Our own settings by data set: options of `TrainConfig` that differ from its defaults."""

OTHER_DATA: dict[str, Any] = {"agent": "daps-na", "minutes": 10.0}
"""The recipe for all other data: the factorised policy, whose steps are several times cheaper (docs/results.md)."""

_FACTORIZED: dict[str, Any] = {"policy": "factorized", "num_layers": 2, "mlp_ratio": 6.0}
_ONE_SAMPLE: dict[str, Any] = {"samples": 1}
_VQ: dict[str, Any] = {"kmeans_init": True, "threshold_ema_dead_code": 2, "rotation_trick": False}

AGENT_SETTINGS: dict[str, dict[str, Any]] = {
    "daps-na": _FACTORIZED,
    "daps-fixed": {"trust_region": "fixed"},
    "gumbel": _ONE_SAMPLE,
    "gumbel-na": {**_FACTORIZED, **_ONE_SAMPLE},
    "gr-mck": _ONE_SAMPLE,
    "gr-mck-na": {**_FACTORIZED, **_ONE_SAMPLE},
    "reinmax": _ONE_SAMPLE,
    "reinmax-na": {**_FACTORIZED, **_ONE_SAMPLE},
    "vq": {**_FACTORIZED, **_ONE_SAMPLE, "policy": "vq", "policy_options": _VQ},
    "vq-rotation": {
        **_FACTORIZED, **_ONE_SAMPLE, "policy": "vq", "policy_options": {**_VQ, "rotation_trick": True},
    },
    "fsq": {**_FACTORIZED, **_ONE_SAMPLE, "policy": "fsq"},
    "gaussian": {**_FACTORIZED, **_ONE_SAMPLE, "policy": "gaussian"},
}  # fmt: skip
"""What makes an agent what it is beside its class, with published settings or ours. One code per datum where the
gradient passes through the decoder: more cost as much again, for a gradient that is little less noisy."""

_AUTOREGRESSIVE: dict[str, Any] = {"policy": "autoregressive", "num_layers": 2}

# Tuned on digits (docs/results.md): policy gradients collapse at rates that weighted likelihood bears.
_AGENT_RATES = {
    "rloo": 1e-3, "grpo": 5e-4, "ppo": 1e-3, "a2c": 1e-3, "reinforce": 5e-4, "reinforce-no-critic": 5e-4,
    "sb3:ppo": 1e-3, "sb3:a2c": 5e-4,
}  # fmt: skip


_LEARN_FROM_SOME = ("daps", "daps-fixed", "sb3:daps")
"""Agents that score an autoregressive policy, whose passes cost the most of a step, on some of the K codes."""


def agent_recipe(agent: str) -> dict[str, Any]:
    """Our own settings by agent."""
    rate = {"learning_rate": _AGENT_RATES[agent]} if agent in _AGENT_RATES else {}
    return {**_AUTOREGRESSIVE, **rate, **AGENT_SETTINGS.get(agent, {})}


def make_config(preset: str | None = None, **options: Any) -> TrainConfig:
    """Settings of a run: defaults, then the data set's recipe or the published preset, the agent's, then `options`.

    `policy_samples` then follows from K where none of them says it.

    Args:
        preset: a name of `PUBLISHED`, in place of the data set's recipe.
        options: of `TrainConfig`; None counts as not given.
    Raises:
        ValueError: an option is unknown or makes no sense.
    """
    options = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(known))}.")
    if options.get("problem") is not None:
        base = _problem_recipe(preset, options)
    elif preset is None:
        base = RECIPES.get(options.get("data", TrainConfig.data), OTHER_DATA)
        agent = options.get("agent", base.get("agent", TrainConfig.agent))
        base = {**base, "agent": agent, **agent_recipe(agent)}
    else:
        _one_of("config", preset, tuple(PUBLISHED))
        agent = options.get("agent", TrainConfig.agent)
        base = {**_PUBLISHED_OPTIMISER, **PUBLISHED[preset], **AGENT_SETTINGS.get(agent, {})}
    options |= {name: {**base.get(name, {}), **value} for name, value in options.items() if isinstance(value, dict)}
    settings = {**base, **options}
    if "steps" in options and "minutes" not in options:
        settings["minutes"] = None
    if "minutes" in options and "steps" not in options:
        settings["steps"] = None
    config = TrainConfig(**settings)
    if "policy_samples" in settings or config.policy != "autoregressive" or config.agent not in _LEARN_FROM_SOME:
        return config
    return dataclasses.replace(config, policy_samples=math.ceil(config.ess_fraction * config.samples - 1e-9))


def _problem_recipe(preset: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What a problem says of a run, and the agent's own settings."""
    from daps_rl.envs.problem import find_problem  # a problem's settings stand beside it

    if preset is not None or options.get("data") not in (None, options["problem"]):
        raise ValueError("--problem brings its own data and settings; leave out --data and --config.")
    problem = find_problem(options["problem"])
    own = {"num_tokens": problem.num_tokens, "vocab_size": problem.vocab_size}
    for name, value in own.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name} of {problem.name} is {value}, got {options[name]}; leave it out.")
    agent = options.get("agent", TrainConfig.agent)
    recipe = {**agent_recipe(agent), **problem.recipe, **AGENT_SETTINGS.get(agent, {})}
    rates = recipe.pop("learning_rates", {})
    recipe |= {"learning_rate": rates[agent]} if agent in rates else {}
    length = {} if "steps" in recipe else {"minutes": 5.0}
    return {**length, "policy_samples": 0, **recipe, **own, "data": options["problem"], "agent": agent}


def config_from_dict(values: dict[str, Any], cls: type[ModelConfig] = TrainConfig) -> Any:
    """Settings read back from JSON (lists become tuples).

    Raises:
        ValueError: unknown or invalid entries.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown setting {', '.join(unknown)}; the file is from another version of daps-rl.")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return cls(**settings)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def _positive(config: ModelConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
