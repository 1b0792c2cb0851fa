"""Settings of the model: what a code is, the policy that writes it, the decoder that reads it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from daps_rl.config.settings import Settings, documented, setting
from daps_rl.decoders import DECODERS, LIKELIHOODS
from daps_rl.decoders.likelihoods import MAX_VARIANCE, MIN_VARIANCE, VARIANCE
from daps_rl.decoders.resampling import NORMS
from daps_rl.kinds import POLICIES

LIKELIHOOD_NAMES = tuple(name for name, cls in LIKELIHOODS.items() if cls.model_settings is not None)
TOKEN_VECTORS = ("lattice", "shared", "separate")

_data = functools.partial(setting, group="data")
_code = functools.partial(setting, group="code")
_policy = functools.partial(setting, group="policy")
_decoder = functools.partial(setting, group="decoder")


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
    num_tokens: int = _code(8, "write codes of so many tokens (T)", above=0, most=2**16, common=True)
    vocab_size: int = _code(256, "choose each token among so many (V)", least=2, most=2**20, common=True)
    policy: str = _policy(
        "autoregressive", "draw tokens one after another or independently, or quantise instead", choices=tuple(POLICIES)
    )
    policy_options: dict[str, Any] = _policy(  # noqa: RUF009  # a field
        dict, "pass options to the quantiser, as NAME=VALUE,NAME=VALUE (see vector-quantize-pytorch)"
    )
    embed_dim: int = _policy(64, "give the policy's transformers this width", above=0)
    num_heads: int = _policy(4, "use so many attention heads", above=0)
    num_layers: int = _policy(2, "encode the datum by so many blocks", above=0)
    num_code_layers: int = _policy(1, "read the code so far by so many blocks (autoregressive)", above=0)
    mlp_ratio: float = _policy(4.0, "make feed-forward layers so many times as wide as the transformer", above=0)
    num_patches: int = _policy(0, "cut the datum into so many patches; 0 for as many as tokens", least=0)
    aligned_patches: bool = _policy(True, "add the encoded patches to the positions of an autoregressive policy's code")
    token_vectors: str = _policy(
        "lattice",
        "put tokens on a lattice, where the policy is a discretised Gaussian; or learn a free table for the decoder, "
        "to whose vectors the policy's logits are similarities (shared) or not (separate; published)",
        choices=TOKEN_VECTORS,
    )
    likelihood: str = _decoder(
        "auto",
        "score reconstructions by this likelihood; auto for what suits the data",
        choices=("auto", *LIKELIHOOD_NAMES),
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
    decoder_embed_dim: int = _decoder(64, "give a token so many numbers in the decoder", above=0)
    decoder_hidden: tuple[int, ...] = _decoder((256, 512), "give the mlp decoder's hidden layers these widths", above=0)
    decoder_channels: int = _decoder(64, "give the resnet decoder so many channels", above=0)
    decoder_blocks: int = _decoder(2, "give the resnet decoder so many residual blocks", above=0)
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


def latents_text(bits: float | None) -> str:
    """What a model encodes to, in words: codes of so many bits, or continuous latents (None)."""
    return "continuous latents" if bits is None else f"codes of {bits:g} bits"
