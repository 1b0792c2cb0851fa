"""Encoders that draw no codes: quantisers and continuous latents, to compare with.

With a `TokenEncoder` they have the networks of `FactorizedPolicy`; only what becomes of its T outputs differs.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from daps_rl.policies.distribution import IndependentSteps, SampleShape

FSQ_LEVELS = {
    256: (8, 6, 5), 1024: (8, 5, 5, 5), 16384: (8, 8, 8, 6, 5), 65536: (8, 8, 8, 5, 5, 5),
}  # fmt: skip
"""Recommended levels by the vocabulary that they stand for (Mentzer et al., 2024, table 1), without those of
4,096, which make 4,375 codes."""


def fsq_levels(vocab_size: int, asked: Sequence[int] | None = None) -> tuple[int, ...]:
    """Levels of FSQ for a vocabulary: recommended ones, or those of 3 to 8 with the largest product of at most V.

    Levels that are asked for come before these, unless they make more than V codes, which is warned of.

    Raises:
        ValueError: V is below 3, or what is asked for are no whole numbers above 1.
    """
    if asked:
        if not isinstance(asked, list | tuple) or not all(type(level) is int and level > 1 for level in asked):
            raise ValueError(f"levels of FSQ must be whole numbers above 1, got {asked!r}; pass levels=[8,6,5].")
        if math.prod(asked) <= vocab_size:
            return tuple(asked)
        warnings.warn(
            f"levels {list(asked)} of FSQ make {math.prod(asked)} codes, more than vocab_size, {vocab_size}: "
            f"{list(fsq_levels(vocab_size))} stand in for them; raise vocab_size to have yours.",
            stacklevel=2,
        )
    if vocab_size in FSQ_LEVELS:
        return FSQ_LEVELS[vocab_size]
    if vocab_size < 3:
        raise ValueError(f"FSQ needs a vocab_size >= 3, got {vocab_size}; raise it.")
    most = math.ceil(math.log(vocab_size, 8))  # dimensions
    levels = (c for n in range(1, most + 2) for c in itertools.combinations_with_replacement(range(8, 2, -1), n))
    return max((c for c in levels if math.prod(c) <= vocab_size), key=lambda c: (math.prod(c), -len(c)))


LOG_VARIANCES = (-12.0, 6.0)  # bounds of a continuous latent's


class Quantized(NamedTuple):
    """What a quantiser makes of an encoder's outputs."""

    embedded: Tensor  # [B, T, E], with a gradient to the encoder's outputs
    codes: Tensor  # int64 [B, T]
    loss: Tensor  # 0-dim, the quantiser's own


class Codebook(nn.Module):
    """A quantiser of vector-quantize-pytorch as a decoder's embedding: `embed=Codebook(...)`.

    The decoder reads codes through it, and a `QuantizerPolicy` writes them with it.

    Args:
        kind: "vq" or "fsq", which has `fsq_levels`, whose product is at most V.
        options: of `VectorQuantize` or `FSQ`.
    Raises:
        ImportError: vector-quantize-pytorch is not installed.
        ValueError: FSQ has no levels for V.
    """

    def __init__(self, kind: str, vocab_size: int, embed_dim: int, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        try:
            from vector_quantize_pytorch import FSQ, VectorQuantize
        except ImportError as error:
            raise ImportError(
                "quantisers come from vector-quantize-pytorch; install it with pip install 'daps-rl[quantizers]'."
            ) from error
        options = dict(options or {})
        self.kind, self.size = kind, vocab_size  # codes that there are: FSQ's may be fewer than V
        self.quantizer: Any  # a VectorQuantize or an FSQ, whose ways to look codes up differ
        if kind == "vq":
            self.quantizer = VectorQuantize(embed_dim, vocab_size, **options)
        else:
            levels = fsq_levels(vocab_size, options.pop("levels", None))
            self.size = math.prod(levels)
            self.quantizer = FSQ(list(levels), dim=embed_dim, **options)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [..., T] → their vectors [..., T, E]."""
        vectors_of = self.quantizer.get_output_from_indices if self.kind == "vq" else self.quantizer.indices_to_codes
        return vectors_of(codes.flatten()).view(*codes.shape, -1)

    def quantize(self, features: Tensor) -> Quantized:
        """The nearest codes of an encoder's outputs [B, T, E]; a codebook learns from them where gradients are made."""
        looking = {} if torch.is_grad_enabled() or self.kind == "fsq" else {"freeze_codebook": True}
        embedded, codes, *loss = self.quantizer(features, **looking)
        return Quantized(embedded, codes.long(), loss[0].sum() if loss else features.new_zeros(()))


class PointCodes(Distribution):
    """All mass on one code per datum: batch shape [B], event shape [T]. What quantisers (VQ, FSQ) give.

    It has no density to learn from, and against a prior over codes no ELBO worth the name: `log_prob` raises.

    Args:
        codes: int64 [B, T].
        codebook: what has written them; without it nothing is known of codes that are near.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, codes: Tensor, codebook: Codebook | None = None) -> None:
        self.codes, self.codebook = codes, codebook
        super().__init__(codes.shape[:-1], codes.shape[-1:], validate_args=False)

    def sample(self, sample_shape: SampleShape = ()) -> Tensor:
        """The code, as often as asked for. [*sample_shape, B, T]."""
        return self.codes.expand(*sample_shape, *self.codes.shape)

    @property
    def mode(self) -> Tensor:
        """The code. [B, T]."""
        return self.codes

    @torch.no_grad()
    def steps(self, samples: int) -> IndependentSteps:
        """Codes to look for beside this one: logits are minus the squared distances of tokens' vectors to its own's.

        Raises:
            ValueError: there is no codebook.
        """
        if self.codebook is None:
            raise ValueError("codes near a point mass are those of its codebook, and it has none; use sweep:2.")
        vectors = self.codebook(torch.arange(self.codebook.size, device=self.codes.device))  # [V, E]
        return IndependentSteps(-torch.cdist(self.codebook(self.codes), vectors).square(), samples)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raises NotImplementedError: a point mass has no density."""
        raise NotImplementedError("a deterministic encoder has no log-probability; its KL and ELBO are not defined.")

    def entropy(self) -> Tensor:
        """Zero. [B]."""
        return torch.zeros(self.batch_shape, device=self.codes.device)


class QuantizerPolicy(nn.Module):
    """A deterministic encoder: called on observations [B, *x], gives `PointCodes` [B, T].

    The encoder gives each token's vector, [B, T, E]. The codebook stays the decoder's: it is held, not registered.
    """

    def __init__(self, encoder: nn.Module, codebook: Codebook, num_tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder, self.num_tokens, self.vocab_size = encoder, num_tokens, vocab_size
        self._codebook = (codebook,)

    @property
    def codebook_size(self) -> int:
        """Codes that a token can take."""
        return self._codebook[0].size

    def quantize(self, observation: Tensor) -> Quantized:
        """Codes with their vectors, and the quantiser's loss. In training mode the codebook learns too."""
        return self._codebook[0].quantize(self.encoder(observation))

    def forward(self, observation: Tensor) -> PointCodes:
        return PointCodes(self.quantize(observation).codes, self._codebook[0])


class PointPolicy(nn.Module):
    """The same code whatever is observed: called on observations [B, *x], gives `PointCodes` [B, T].

    It begins with zeros; a search puts the best code that it has found into `code`, int64 [T].
    """

    def __init__(self, num_tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        self.code = nn.Parameter(torch.zeros(num_tokens, dtype=torch.int64), requires_grad=False)

    def forward(self, observation: Tensor) -> PointCodes:
        return PointCodes(self.code.expand(len(observation), -1))


class GaussianPolicy(nn.Module):
    """Continuous latents: called on observations [B, *x], gives a diagonal Gaussian of event shape [T, E].

    No codes at all: the ceiling that codes of any size are held against. The encoder gives means and log-variances,
    [B, T, 2E]; num_tokens and vocab_size are T and V, for the record.
    """

    def __init__(self, encoder: nn.Module, num_tokens: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder, self.num_tokens, self.vocab_size = encoder, num_tokens, vocab_size

    def forward(self, observation: Tensor) -> Independent:
        mean, log_variance = self.encoder(observation).chunk(2, dim=-1)
        deviation = (0.5 * log_variance.clamp(*LOG_VARIANCES)).exp()
        return Independent(Normal(mean, deviation, validate_args=False), 2)
