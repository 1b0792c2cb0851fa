"""DiscreteAutoencoder: a trained policy, decoder and prior as one thing to encode, decode, save and load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig, config_from_dict
from daps_rl.decoders import DECODERS, LIKELIHOODS, CodeDecoder
from daps_rl.envs.problem import find_problem
from daps_rl.files import write_atomically
from daps_rl.kinds import POLICIES
from daps_rl.priors import UniformPrior

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class DiscreteAutoencoder(nn.Module):
    """Policy q(z|x), decoder p(x|z) and prior p(z).

    Args:
        policy: maps observations [B, *x] to a distribution over codes, batch shape [B], event shape [T].
        decoder: maps codes [..., T] to a distribution over x.
        prior: called without arguments, gives a distribution of event shape [T].
        config: the settings it was built from; None for parts of your own, which `from_pretrained` then asks for.
    """

    def __init__(
        self, policy: nn.Module, decoder: nn.Module, prior: nn.Module, config: ModelConfig | None = None
    ) -> None:
        super().__init__()
        self.policy, self.decoder, self.prior, self.config = policy, decoder, prior, config

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        policy: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        data_mean: Tensor | None = None,
    ) -> DiscreteAutoencoder:
        """Builds the parts that are not given; with a part of your own the config is not kept.

        A decoder that is built here starts at data_mean, the mean of the training data. Raises ValueError where the
        policy is a quantiser and the decoder has no codebook, or where there is no such problem.
        """
        own_parts = any(part is not None for part in (policy, decoder, prior))
        kind, problem = POLICIES[config.policy], None
        if config.problem is not None and (policy is None or decoder is None):
            problem = find_problem(config.problem)
        if decoder is None:
            decoder = problem.make_decoder(config.observation_shape) if problem else make_decoder(config, data_mean)
        if policy is None:
            policy = problem.make_policy(config) if problem else kind.policy(config, decoder)
        return cls(policy, decoder, prior or kind.prior(config), None if own_parts else config)

    @torch.no_grad()
    def encode(self, x: Tensor, num_samples: int | None = None, deterministic: bool = False) -> Tensor:
        """Codes of data: [B, *observation_shape] → int64 [B, T], or [B, K, T] with num_samples = K codes per datum.

        They are drawn, or greedy where `deterministic`. Raises ValueError where x has not the shape the policy takes.
        """
        distribution = self.policy(x)
        if num_samples is None:
            return distribution.mode if deterministic else distribution.sample()
        if deterministic:
            return distribution.mode.unsqueeze(1).expand(-1, num_samples, -1)
        return distribution.sample((num_samples,)).transpose(0, 1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z). Codes [..., T] → [..., *observation_shape]."""
        return self.decoder(z).mean

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), in nats. x [B, *x]; z [B, T] → [B], or z [B, K, T] → [B, K]. Continuous z have E behind T."""
        groups = z.ndim - (3 if torch.is_floating_point(z) else 2)
        return self.decoder(z).log_prob(x[(slice(None), *[None] * groups)])

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Means of p(x|z) for n codes drawn from the prior. [n, *observation_shape]."""
        return self.decode(self.prior().sample((n,)))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` to a folder, atomically, each file whole or not at all."""
        from safetensors.torch import save

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in self.state_dict().items()}
        config = {"format": "daps-rl", "model": None if self.config is None else dataclasses.asdict(self.config)}
        write_atomically(directory / WEIGHTS, save(tensors))
        write_atomically(directory / CONFIG, json.dumps(config, indent=2).encode() + b"\n")

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        policy: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        device: torch.device | str = "cpu",
        trust_problem: bool = False,
    ) -> DiscreteAutoencoder:
        """Reads what `save_pretrained` wrote. Nothing is unpickled and no code is run from the folder.

        Args:
            policy, decoder, prior: parts of your own, built as they were when saved; their weights are loaded.
            trust_problem: import the problem that the folder names, package.module:Class.
        Raises:
            ValueError: the folder is not a saved model, is damaged, does not fit the parts given, or names a problem
                that is not one of ours.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        for name in (CONFIG, WEIGHTS):
            if not (directory / name).is_file():
                raise ValueError(
                    f"{directory} holds no saved model: {name} is missing; "
                    "pass a folder that save_pretrained wrote, such as RUN/model."
                )
        try:
            values = json.loads((directory / CONFIG).read_text())
            if values.get("format") != "daps-rl":
                raise ValueError("config.json is not daps-rl's")
            tensors = load_file(directory / WEIGHTS)
        except (ValueError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{directory} is no readable daps-rl model ({_short(error)}); save it again.") from error
        if values.get("model") is None:
            if policy is None or decoder is None:
                raise ValueError(
                    f"{directory} was saved from parts of your own; pass them: from_pretrained(..., policy=, decoder=)."
                )
            model = cls(policy, decoder, prior or UniformPrior(*code_sizes(policy)))
        else:
            config = config_from_dict(values["model"], ModelConfig)
            if ":" in (config.problem or "") and not trust_problem:
                raise ValueError(
                    f"{directory} asks to import {config.problem}; if you trust it, pass trust_problem=True."
                )
            model = cls.from_config(config, policy=policy, decoder=decoder, prior=prior)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the weights in {directory} do not fit the model ({_short(error)}).") from error
        return model.to(device).eval()


def make_decoder(config: ModelConfig, data_mean: Tensor | None = None) -> nn.Module:
    """The decoder of data that a config describes, with its likelihood."""
    cls, likelihood = DECODERS[config.decoder], LIKELIHOODS[config.likelihood]
    parts: dict[str, Any] = {
        "likelihood": likelihood(**{name: getattr(config, name) for name in likelihood.model_settings or ()})
    }
    if issubclass(cls, CodeDecoder):
        parts |= {argument: getattr(config, name) for argument, name in cls.model_settings.items()}
        parts |= {"embed_dim": config.decoder_embed_dim, "data_mean": data_mean}
        parts["embed"] = POLICIES[config.policy].embedding(config)
    return cls(config.num_tokens, config.vocab_size, config.observation_shape, **parts)


def code_sizes(policy: nn.Module) -> tuple[int, int]:
    """(T, V) of a policy, which every policy carries as `num_tokens` and `vocab_size`; a ValueError without."""
    match getattr(policy, "num_tokens", None), getattr(policy, "vocab_size", None):
        case int(num_tokens), int(vocab_size):
            return num_tokens, vocab_size
    raise ValueError(f"the policy {type(policy).__name__} needs integer attributes num_tokens and vocab_size.")


def _short(error: Exception) -> str:
    """The first lines of an error, on one line."""
    return " ".join(str(error).split())[:200]
