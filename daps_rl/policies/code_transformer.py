"""The transformer that writes codes: next-token logits given an encoded datum, and the state of a mask meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.functional.checks import as_float, in_full_precision
from daps_rl.linear import Linear
from daps_rl.policies.distribution import TokenSteps
from daps_rl.policies.layers import Cache, DecoderBlock, PointerHead, sinusoidal_positions
from daps_rl.policies.masks import CodeMask, EndToken, check_ends
from daps_rl.policies.steps import CachedSteps
from daps_rl.recompute import in_microbatches

LARGEST_LOGITS = 2**26  # entries of [B, K, T, V] in memory at once, in scoring
CPU_TOKENS = 2**12  # scored at a time on a CPU, so that more of what a layer writes is in the cache for the next


class Context(NamedTuple):
    """An encoded datum, as the code's side reads it."""

    keys_values: list[tuple[Tensor, Tensor]]  # per block, each [B, H, P, D/H]
    aligned: Tensor | None  # [B, 1, T, D], added to the tokens' embeddings; None for cross-attention alone
    items: Tensor | None = None  # [B, V, D], embeddings of tokens that are the context's items
    keys: Tensor | None = None  # [B, V, D], of a pointer to them
    observation: Any = None  # [B, *x], where a mask reads it

    def split(self, size: int) -> list[Context]:
        """Cuts it into parts of so many contexts each; the last has those that are left."""
        blocks = [list(zip(keys.split(size), values.split(size), strict=True)) for keys, values in self.keys_values]
        count = len(blocks[0])
        others = [[None] * count if value is None else value.split(size) for value in self[1:]]
        return [Context([block[i] for block in blocks], *(other[i] for other in others)) for i in range(count)]


class Backend(Protocol):
    """Another implementation of a transformer's passes, such as `daps_rl.kernels` attaches."""

    def supports(self, net: CodeTransformer, context: Context) -> bool:
        """Whether it can make passes over this context, as the transformer is now."""

    def draw(self, net: CodeTransformer, context: Context, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draws a code by each row of numbers [B, K, T] in [0, 1); the likeliest tokens, K = 1, with None. No gradient.

        Returns:
            codes [B, K, T], int64; their log-probabilities [B, K], in nats.
        """

    def log_prob(self, net: CodeTransformer, context: Context, codes: Tensor, known: Tensor | None) -> Tensor:
        """log q(z|x), in nats, with gradient; `known` is its value where that is known. Codes [B, K, T] → [B, K].

        A token outside the vocabulary raises an IndexError.
        """


class CodeTransformer(nn.Module):
    """Causal transformer over code tokens, cross-attending to an encoded context; gives the next token's logits.

    A learned start embedding, outside the vocabulary, stands before the first token. With a readout, the encoded
    datum is also brought to T positions and added there, so that a token's own part of the datum is at hand without
    attention.

    Args:
        token_sizes: how many tokens each of the T positions may take, each at most V: the others have probability 0
            there. All V if None.
        head: instead of a linear layer, any module [..., embed_dim] → [..., V].
        pointer: the tokens are the V items that the context consists of (`ItemEncoder`, say): a pointer over them is
            the head, and their encodings are the tokens' embeddings.
        mask: which tokens may come next, by the datum and the tokens before; the others have probability exactly 0, in
            sampling and in scoring. Its `features` are added to the tokens' embeddings.
    Raises:
        ValueError: token_sizes or an `EndToken` do not fit T and V, or both head and pointer are given.
    """

    backend: Backend | None = None
    """What makes the passes that it supports; None for PyTorch alone. See `daps_rl.kernels.use_cpu_kernels`."""

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        *,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        mlp_ratio: float,
        readout: nn.Module | None = None,
        token_sizes: Sequence[int] | None = None,
        head: nn.Module | None = None,
        pointer: bool = False,
        mask: CodeMask | None = None,
    ) -> None:
        super().__init__()
        if pointer and head is not None:
            raise ValueError("a pointer is a head; leave out head= or pointer=True.")
        if token_sizes is not None and (
            len(token_sizes) != num_tokens or not 1 <= min(token_sizes) <= max(token_sizes) <= vocab_size
        ):
            raise ValueError(
                f"token_sizes must be {num_tokens} numbers in 1 … {vocab_size} (num_tokens and vocab_size), "
                f"got {list(token_sizes)}; vocab_size is the largest of them."
            )
        if isinstance(mask, EndToken):
            check_ends(mask, num_tokens, vocab_size)
        self.num_tokens, self.vocab_size, self.num_heads = num_tokens, vocab_size, num_heads
        self.mask = mask
        self.readout = readout
        # [T, V], which tokens a position may take; None where it may take them all.
        self.allowed: Tensor | None
        allowed = None if token_sizes is None else torch.arange(vocab_size) < torch.tensor(token_sizes)[:, None]
        self.register_buffer("allowed", allowed, persistent=False)
        self.start = nn.Parameter(torch.randn(embed_dim) * 0.02)
        self.embed: nn.Module  # of a token, or of the item that it is
        if pointer:
            self.embed = Linear(embed_dim, embed_dim)
        else:
            self.embed = nn.Embedding(vocab_size, embed_dim)
            nn.init.normal_(self.embed.weight, std=0.02)
        self.positions = nn.Buffer(sinusoidal_positions(num_tokens, embed_dim), persistent=False)
        self.blocks = nn.ModuleList(DecoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = PointerHead(embed_dim) if pointer else head or Linear(embed_dim, vocab_size)
        features = 0 if mask is None else mask.num_features
        self.embed_features = Linear(features, embed_dim) if features else None

    def backend_for(self, context: Context) -> Backend | None:
        """The backend, where there is one and it supports passes over this context."""
        return self.backend if self.backend is not None and self.backend.supports(self, context) else None

    def prepare(self, encoded: Tensor, observation: Tensor | None = None) -> Context:
        """All that the code's side needs of a datum, computed once per context. encoded [B, P, D]."""
        aligned = None if self.readout is None else self.readout(encoded).unsqueeze(1)
        keys_values = [cast(DecoderBlock, block).cross.keys_values(encoded) for block in self.blocks]
        items = keys = None
        if isinstance(self.head, PointerHead):
            if encoded.shape[1] != self.vocab_size:
                raise ValueError(
                    f"a pointer's tokens are the context's items: vocab_size is {self.vocab_size}, and the encoder "
                    f"gives {encoded.shape[1]} items; make them as many."
                )
            items, keys = self.embed(encoded), in_full_precision(self.head.keys, encoded)
        return Context(keys_values, aligned, items, keys, None if self.mask is None else observation)

    def begin(self, context: Context, samples: int) -> TokenSteps:
        """Begins K codes for each context, without a gradient."""
        return CachedSteps(self, context, samples)

    def embed_tokens(self, tokens: Tensor, context: Context) -> Tensor:
        """int64 [B, K, L], or one-hot with a gradient [B, K, L, V], → [B, K, L, D]."""
        if torch.is_floating_point(tokens):
            items = context.items
            table = cast(nn.Embedding, self.embed).weight if items is None else items.unsqueeze(1)  # [..., V, D]
            return tokens.to(table.dtype) @ table
        if context.items is None:
            return self.embed(tokens)
        b, k, length = tokens.shape
        index = tokens.reshape(b, k * length, 1).expand(-1, -1, context.items.shape[-1])
        return context.items.gather(1, index).view(b, k, length, -1)

    def logits(self, x: Tensor, context: Context) -> Tensor:
        """[B, K, D] or [B, K, L, D] → [..., V], before any mask."""
        keys = () if context.keys is None else (context.keys,)
        return in_full_precision(self.head, self.norm(x), *keys)

    def input_at(self, embedded: Tensor, context: Context, start: int) -> Tensor:
        """Adds positions start … start+L-1 and the datum's share of them. embedded [B, K, L, D] → [B, K, L, D]."""
        stop = start + embedded.shape[2]
        x = embedded + self.positions[start:stop]
        return x if context.aligned is None else x + context.aligned[:, :, start:stop]

    def forward(self, codes: Tensor, context: Context) -> Tensor:
        """Teacher-forced logits of all tokens at once. codes [B, K, T] → [B, K, T, V]."""
        return self.masked_logits(self.hidden(codes, context), codes, context)

    def log_prob(self, codes: Tensor, context: Context, known: Tensor | None = None) -> Tensor:
        """Teacher-forced log-probabilities, in nats, with gradient. codes [B, K, T] → [B, K].

        Where their value is known [B, K], a backend need not compute it again. On a CPU some contexts at a time,
        `CPU_TOKENS`. Logits of more than `LARGEST_LOGITS` entries are made, and in the backward pass made again, for
        some contexts at a time.
        """
        if codes.shape[-1] == self.num_tokens and (backend := self.backend_for(context)):
            return backend.log_prob(self, context, codes, known)
        size = max(1, CPU_TOKENS // codes[0].numel())
        if codes.device.type != "cpu" or size >= len(codes):
            return self._log_prob(codes, context)
        parts = zip(codes.split(size), context.split(size), strict=True)
        return torch.cat([self._log_prob(*part) for part in parts])

    def _log_prob(self, codes: Tensor, context: Context) -> Tensor:
        at_once = max(1, LARGEST_LOGITS // (codes[0].numel() * self.vocab_size))
        rows = {name: value for name in ("keys", "observation") if (value := getattr(context, name)) is not None}

        def score(hidden: Tensor, part: Tensor, *values: Tensor) -> Tensor:
            of_part: dict[str, Any] = dict(zip(rows, values, strict=True))
            logits = self.masked_logits(hidden, part, context._replace(**of_part))
            nll = F.cross_entropy(as_float(logits).flatten(0, 2), part.flatten(), reduction="none")
            return -nll.view(part.shape).sum(-1)

        return in_microbatches(score, self.hidden(codes, context), codes, *rows.values(), size=at_once, draws=False)

    def hidden(self, codes: Tensor, context: Context) -> Tensor:
        """The blocks' outputs, which the logits are made of. codes [B, K, T] → [B, K, T, D]."""
        b, k, _ = codes.shape
        start = self.start.expand(b, k, 1, -1)
        x = self.input_at(torch.cat((start, self.embed_tokens(codes[..., :-1], context)), dim=2), context, 0)
        if self.embed_features is not None:
            mask = cast(CodeMask, self.mask)
            features = mask.along(mask.features, context.observation, codes)
            x = x + self.embed_features(features.to(x.dtype))
        for block, keys_values in zip(self.blocks, context.keys_values, strict=True):
            x = block(x, keys_values)
        return x

    def masked_logits(self, hidden: Tensor, codes: Tensor, context: Context) -> Tensor:
        """hidden [B, K, T, D], codes [B, K, T] → [B, K, T, V], -inf for what may not come next."""
        logits = self.masked(self.logits(hidden, context), slice(None))
        if self.mask is None:
            return logits
        return torch.where(self.mask.along(self.mask.allowed, context.observation, codes), logits, -math.inf)

    def masked(self, logits: Tensor, position: slice | int) -> Tensor:
        """-inf where a position may not take a token, 0 where any start is as good. [..., V] at one, or [..., T, V]."""
        if self.mask is not None and self.mask.any_start:
            is_first = torch.arange(self.num_tokens, device=logits.device)[position] == 0
            logits = torch.where(is_first.unsqueeze(-1), 0.0, logits)
        return logits if self.allowed is None else torch.where(self.allowed[position], logits, -math.inf)

    def step(
        self, embedded: Tensor, context: Context, caches: Sequence[Cache], features: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token from the embedding of the last, and the mask's features [B, K, F]. → [B, K, V]."""
        position = caches[0].length
        x = self.input_at(embedded, context, position)
        if self.embed_features is not None:
            x = x + self.embed_features(cast(Tensor, features).to(x.dtype)).unsqueeze(2)
        for block, keys_values, cache in zip(self.blocks, context.keys_values, caches, strict=True):
            x = block(x, keys_values, cache)
        return self.masked(self.logits(x[:, :, 0], context), position)
