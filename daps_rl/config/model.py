"""The settings of data and model."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from daps_rl.config.settings import Settings, documented, setting
from daps_rl.data.errors import MAX_CORRUPT
from daps_rl.data.load import NAMES
from daps_rl.decoders import DECODERS, LIKELIHOODS
from daps_rl.decoders.likelihoods import MAX_VARIANCE, MIN_VARIANCE, VARIANCE
from daps_rl.decoders.resampling import NORMS
from daps_rl.kinds import POLICIES, PRIORS

_data, _code, _policy, _decoder = (
    functools.partial(setting, group=group) for group in ("data", "code", "policy", "decoder")
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
        0,
        "resize and crop images of a folder or of the hub to this many pixels; 0 for the data set's default",
        least=0,
        most=2**14,
    )
    image_column: str | None = _data(None, "take the images from this column of a hub data set")
    text_column: str | None = _data(None, "take texts from this column of a hub data set")
    hub_config: str | None = _data(None, "choose a configuration of a hub data set that has several")
    streaming: bool = _data(False, "read a hub data set as it comes, without keeping it")
    max_corrupt: int = _data(
        MAX_CORRUPT, "skip at most this many unreadable images of a folder or of a hub data set", least=0
    )
    seconds: float = _data(
        0.0, "cut or pad sounds to this many seconds; 0 for the data set's default", least=0, most=3600
    )
    window: int = _data(
        0, "cut series and texts into windows of this many steps or symbols; 0 for the default", least=0, most=2**16
    )
    symbols: str | None = _data(
        None, "read texts as characters, as bytes, or as the tokens of this file of the tokenizers library"
    )
    columns: str | None = _data(
        None, "take columns of a table as NAME=number, category, yes-no, label or skip, separated by commas"
    )
    data_workers: int = _data(2, "decode streamed images in this many processes", least=0, most=2**10)


@documented
@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Sizes of a code, and the policy and the decoder that are made for it."""

    observation_shape: tuple[int, ...] = _data((), "leave this to the data: it is the shape of one datum", above=0)
    column_kinds: tuple[str, ...] = _data((), "leave this to the data: it says what the entries of the last axis are")
    problem: str | None = _data(
        None,
        "solve a problem instead of encoding: tsp20, say, or package.module:Class of your own; it brings data, reward "
        "and code (docs/other-problems.md)",
        common=True,
    )
    num_tokens: int = _code(8, "give codes this many tokens (T)", above=0, most=2**16, common=True)
    vocab_size: int = _code(256, "choose each token among this many values (V)", least=2, most=2**20, common=True)
    end_token: bool = _code(False, "let codes end before they have all their tokens; a token price does so too")
    min_tokens: int = _code(1, "give codes that may end at least this many tokens", least=0)
    policy: str = _policy(
        "autoregressive", "draw tokens one after another or independently, or quantise instead", choices=tuple(POLICIES)
    )
    policy_options: dict[str, Any] = _policy(  # noqa: RUF009  # a field
        dict, "pass options to the quantiser, as NAME=VALUE,NAME=VALUE (see vector-quantize-pytorch)"
    )
    embed_dim: int = _policy(64, "give the policy's transformers this width", above=0, most=2**16)
    num_heads: int = _policy(4, "use this many attention heads", above=0, most=2**10)
    num_layers: int = _policy(2, "encode the datum by this many blocks", above=0, most=2**10)
    num_code_layers: int = _policy(1, "read the code so far by this many blocks (autoregressive)", above=0, most=2**10)
    mlp_ratio: float = _policy(
        4.0, "make feed-forward layers this many times as wide as the transformer", above=0, most=2**10
    )
    num_patches: int = _policy(0, "cut the datum into this many patches; 0 for as many as tokens", least=0, most=2**16)
    aligned_patches: bool = _policy(True, "add the encoded patches to the positions of an autoregressive policy's code")
    token_vectors: str = _policy(
        "lattice",
        "put tokens on a lattice, where the policy is a discretised Gaussian; or learn a free table for the decoder, "
        "apart from the policy's logits (separate; published)",
        choices=("lattice", "separate"),
    )
    prior: str = _code(
        "uniform",
        "take all codes for equally likely a priori; or learn how likely they are, token by token or each given those "
        "before it (docs/codes.md)",
        choices=tuple(PRIORS),
        common=True,
    )
    prior_classes: int = _code(
        0,
        "leave this to daps-rl fit-prior --labels: it is how many classes the prior is given",
        least=0,
        most=2**16,
    )
    prior_layers: int = _code(1, "give an autoregressive prior this many blocks", above=0, most=2**10)
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
        "sequence on texts, else mlp",
        choices=("auto", *DECODERS),
    )
    decoder_embed_dim: int = _decoder(64, "give a token this many numbers in the decoder", above=0, most=2**16)
    decoder_hidden: tuple[int, ...] = _decoder(
        (256, 512), "give the mlp decoder's hidden layers these widths", above=0, most=2**20
    )
    decoder_channels: int = _decoder(64, "give the resnet decoder this many channels", above=0, most=2**16)
    decoder_blocks: int = _decoder(2, "give the resnet decoder this many residual blocks", above=0, most=2**10)
    decoder_norm: str = _decoder(
        "group",
        "normalise in the resnet decoder; by batch, as published, a code's reward depends on its batch mates",
        choices=NORMS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.column_kinds and self.likelihood not in ("auto", "columns", "fixed_columns"):
            raise ValueError(
                f"likelihood must be columns or fixed_columns for data of several columns, got {self.likelihood}."
            )
        if self.prior != "uniform" and POLICIES[self.policy].vocabulary(self) is None:
            raise ValueError(f"prior must be uniform for policy {self.policy}, got {self.prior}; it has no codes.")
        self._check_ends()
        if not self.decoder_hidden:
            raise ValueError("decoder_hidden must be positive widths, got none; pass 64,256.")
        _ = self.bits  # raises where options of the policy make no sense

    def _check_ends(self) -> None:
        """Raises ValueError where codes are to end and cannot."""
        if not self.end_token:
            return
        if self.policy not in ("autoregressive", "factorized"):
            raise ValueError(
                f"codes of policy {self.policy!r} have no end token: nothing chooses how long they are; leave out "
                "token_price and end_token, or use an agent with a policy over codes (daps, daps-na)."
            )
        if self.problem is not None or self.decoder == "strokes":
            what = f"problem {self.problem!r}" if self.problem is not None else "decoder 'strokes'"
            raise ValueError(f"codes of {what} have all their tokens; leave out token_price and end_token.")
        if self.min_tokens > self.num_tokens:
            raise ValueError(f"min_tokens must be <= num_tokens, {self.num_tokens}, got {self.min_tokens}.")

    @property
    def num_symbols(self) -> int:
        """Symbols at a position: V, and the end token where codes may end."""
        return self.vocab_size + self.end_token

    @property
    def bits(self) -> float | None:
        """Size of a code, T·log2 V, in bits, of the longest where codes may end; None for continuous latents."""
        vocabulary = POLICIES[self.policy].vocabulary(self)
        return None if vocabulary is None else self.num_tokens * math.log2(vocabulary)


def latents_text(bits: float | None, *, ends: bool = False) -> str:
    """What a model encodes to, in words: codes of N bits, of up to N where they may end, or continuous latents."""
    return "continuous latents" if bits is None else f"codes of {'up to ' if ends else ''}{bits:g} bits"
