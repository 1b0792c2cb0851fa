"""Policies by name: what a name stands for is a policy, the embedding of its tokens in the decoder, and a prior.

And priors over codes by name.

`settings` are those of a model, `daps_rl.config.ModelConfig`, which takes its choices from here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from daps_rl.columns import Columns
from daps_rl.data.errors import one_line
from daps_rl.linear import Linear
from daps_rl.policies.autoregressive import AutoregressivePolicy
from daps_rl.policies.ends import EndEmbedding, EndHead
from daps_rl.policies.factorized import FactorizedPolicy
from daps_rl.policies.latents import Codebook, GaussianPolicy, PointPolicy, QuantizerPolicy, fsq_levels
from daps_rl.policies.lattice import LatticeEmbedding, LatticeHead
from daps_rl.policies.masks import EndToken
from daps_rl.policies.observation import ObservationEncoder, TokenEncoder
from daps_rl.priors import AutoregressivePrior, IndependentPrior, NormalPrior, UniformPrior

SIZES = ("observation_shape", "num_tokens", "embed_dim", "num_heads", "num_layers", "mlp_ratio")  # of an encoder


def _take(settings: Any, *names: str) -> dict[str, Any]:
    """The sizes of an encoder, and further settings of those names; of data of several columns, the encoder too.

    Vectors and series are cut into as many patches as there are tokens, or as there are pieces of them.
    """
    taken = {name: getattr(settings, name) for name in (*SIZES, *names)}
    columns, shape = Columns(settings.column_kinds), settings.observation_shape
    if settings.column_kinds:
        shape = (*shape[:-1], columns.features)
    pieces = shape[0] if len(shape) in (1, 2) else settings.num_tokens
    taken["num_patches"] = settings.num_patches or min(settings.num_tokens, pieces)
    if settings.column_kinds:
        sizes = {name: taken[name] for name in ("embed_dim", "num_heads", "num_layers", "mlp_ratio")}
        encoder = ObservationEncoder(shape, num_patches=taken["num_patches"], **sizes)
        taken["encoder"] = nn.Sequential(columns, encoder)
    return taken


def _head(settings: Any, decoder: nn.Module) -> nn.Module | None:
    """A head on the lattice of the decoder's tokens, where it has one and the settings ask for it."""
    own_lattice = getattr(decoder, "token_lattice", None)
    lattice = getattr(decoder, "embed", None) if own_lattice is None else own_lattice()
    if isinstance(lattice, EndEmbedding):
        lattice = lattice.tokens
    head: nn.Module | None = None
    if settings.token_vectors == "lattice" and isinstance(lattice, LatticeEmbedding):
        head = LatticeHead(settings.embed_dim, lattice)
    if settings.end_token:
        tokens = head or Linear(settings.embed_dim, settings.vocab_size)
        return EndHead(tokens, settings.embed_dim, settings.num_tokens)
    return head


def _mask(settings: Any) -> EndToken | None:
    """The rule by which codes end, where they do."""
    return EndToken(settings.vocab_size, settings.min_tokens) if settings.end_token else None


def _writer(settings: Any, decoder: nn.Module) -> dict[str, Any]:
    """What a policy that writes tokens takes beside the sizes of its encoder."""
    return {"vocab_size": settings.num_symbols, "head": _head(settings, decoder), "mask": _mask(settings)}


def _autoregressive(settings: Any, decoder: nn.Module) -> nn.Module:
    taken = _take(settings, "num_code_layers", "aligned_patches")
    return AutoregressivePolicy(**taken, **_writer(settings, decoder))


def _factorized(settings: Any, decoder: nn.Module) -> nn.Module:
    return FactorizedPolicy(**_take(settings), **_writer(settings, decoder))


def _quantizer(settings: Any, decoder: nn.Module) -> nn.Module:
    embed = getattr(decoder, "embed", None)
    if not isinstance(embed, Codebook):
        raise ValueError(
            f"policy {settings.policy!r} quantises with the decoder's codebook, and {type(decoder).__name__} has none; "
            "build the decoder with embed=daps_rl.policies.Codebook(...)."
        )
    encoder = TokenEncoder(outputs=settings.decoder_embed_dim, **_take(settings))
    return QuantizerPolicy(encoder, embed, settings.num_tokens, settings.vocab_size)


def _gaussian(settings: Any, decoder: nn.Module) -> nn.Module:
    encoder = TokenEncoder(outputs=2 * settings.decoder_embed_dim, **_take(settings))
    return GaussianPolicy(encoder, settings.num_tokens, settings.vocab_size)


def _lattice(settings: Any) -> nn.Module | None:
    sizes = (settings.vocab_size, settings.decoder_embed_dim)
    tokens = LatticeEmbedding(*sizes) if settings.token_vectors == "lattice" else None
    return EndEmbedding(tokens or nn.Embedding(*sizes)) if settings.end_token else tokens


def _codebook(settings: Any) -> nn.Module:
    """A codebook, tried once: options that vector-quantize-pytorch takes may still change the shapes of codes."""
    shape = (2, settings.num_tokens, settings.decoder_embed_dim)
    try:
        codebook = Codebook(settings.policy, settings.vocab_size, settings.decoder_embed_dim, settings.policy_options)
        if settings.policy_options and torch.get_default_device().type != "meta":
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):  # as in training, where it learns
                tried = copy.deepcopy(codebook)
                embedded, codes, loss = tried.quantize(torch.randn(shape))
                shapes = [tuple(made.shape) for made in (embedded, tried(codes), codes, loss)]
            if shapes != [shape, shape, shape[:-1], ()]:
                raise ValueError(f"they make codes of shape {shapes[2]} and vectors of shape {shapes[0]} of {shape}")
    except ImportError:
        raise
    except Exception as error:  # the library checks by assertions, and by what its networks then raise
        raise ValueError(
            f"policy_options {settings.policy_options} do not suit {settings.policy} ({one_line(error)}); see the "
            "options of vector-quantize-pytorch, or leave them out."
        ) from error
    return codebook


def _fsq_vocabulary(settings: Any) -> int:
    return math.prod(fsq_levels(settings.vocab_size, settings.policy_options.get("levels")))


def _sizes(settings: Any) -> tuple[int, int, int]:
    """T, the symbols that a position can hold, and the classes of a learned prior."""
    vocabulary = POLICIES[settings.policy].vocabulary(settings)
    return settings.num_tokens, (vocabulary or settings.vocab_size) + settings.end_token, settings.prior_classes


PRIORS: dict[str, Callable[[Any], nn.Module]] = {
    "uniform": lambda settings: UniformPrior(*_sizes(settings)[:2], _mask(settings)),
    "independent": lambda settings: IndependentPrior(*_sizes(settings), mask=_mask(settings)),
    "autoregressive": lambda settings: AutoregressivePrior(
        *_sizes(settings),
        mask=_mask(settings),
        embed_dim=settings.embed_dim,
        num_heads=settings.num_heads,
        num_layers=settings.prior_layers,
        mlp_ratio=settings.mlp_ratio,
    ),
}
"""Priors over codes by name, as functions of a model's settings."""


class PolicyKind(NamedTuple):
    """What the name of a policy stands for, as functions of a model's settings."""

    policy: Callable[[Any, nn.Module], nn.Module]  # for a decoder
    # What the decoder reads tokens with (None for a table of its own), a prior over what the policy gives, and how many
    # codes a token can take (None for continuous latents).
    embedding: Callable[[Any], nn.Module | None] = _lattice
    prior: Callable[[Any], nn.Module] = lambda settings: PRIORS[settings.prior](settings)
    vocabulary: Callable[[Any], int | None] = lambda settings: settings.vocab_size


POLICIES = {
    "autoregressive": PolicyKind(_autoregressive),
    "factorized": PolicyKind(_factorized),
    "vq": PolicyKind(_quantizer, embedding=_codebook),
    "fsq": PolicyKind(_quantizer, embedding=_codebook, vocabulary=_fsq_vocabulary),
    "point": PolicyKind(lambda settings, decoder: PointPolicy(settings.num_tokens, settings.vocab_size)),
    "gaussian": PolicyKind(
        _gaussian,
        embedding=lambda settings: nn.Identity(),  # its latents are vectors already
        prior=lambda settings: NormalPrior(settings.num_tokens, settings.decoder_embed_dim),
        vocabulary=lambda settings: None,
    ),
}
"""Policies by name; a quantiser ("vq", "fsq"), continuous latents ("gaussian") and one code for all ("point", of a
search) are there to compare with."""
