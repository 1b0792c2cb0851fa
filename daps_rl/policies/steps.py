"""Codes that are being written token by token: the state of a mask along them, and what a transformer keeps of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from daps_rl.policies.layers import KeyValueCache

if TYPE_CHECKING:
    from daps_rl.policies.code_transformer import CodeTransformer, Context


class MaskedSteps:
    """The state of a transformer's mask along codes that are being written; no mask allows everything."""

    def __init__(self, net: CodeTransformer, context: Context, samples: int) -> None:
        self.mask, self.position, self.samples = net.mask, 0, samples
        if self.mask is not None:
            self.state = self.mask.start(context.observation, samples)

    def features(self) -> Tensor | None:
        """The mask's features before the next token, [B, K, F]; None where it has none."""
        if self.mask is None or not self.mask.num_features:
            return None
        return self.mask.features(self.state, self.position)

    def masked(self, logits: Tensor) -> Tensor:
        """[B, K, V], of the next token."""
        allowed = self.allowed()
        return logits if allowed is None else torch.where(allowed, logits, -math.inf)

    def allowed(self) -> Tensor | None:
        """What the next token may be, bool [B, K, V]; None for anything."""
        if self.mask is None:
            return None
        allowed = self.mask.allowed(self.state, self.position)
        if allowed.device.type == "cpu" and not allowed.any(-1).all():  # a GPU is not waited for
            raise ValueError(
                f"{type(self.mask).__name__} allows no token at position {self.position} of some code; a mask must "
                "leave at least one at every position."
            )
        return allowed

    def advance(self, token: Tensor) -> None:
        """Takes in the token that was chosen. [B, K]."""
        if self.mask is not None:
            self.state = self.mask.advance(self.state, self.position, token)
        self.position += 1

    def select(self, rows: Tensor, batch: int) -> None:
        """Goes on with these of the B·K codes, as many for each of the B contexts. int64 [B·K']."""

        def chosen(state: Tensor) -> Tensor:
            of_context = state.shape[1] != self.samples  # what is the same for all codes of a context: [B, 1, ...]
            return state if of_context else state.flatten(0, 1)[rows].unflatten(0, (batch, -1))

        if self.mask is not None:
            self.state = tuple(map(chosen, self.state)) if isinstance(self.state, tuple) else chosen(self.state)
        self.samples = len(rows) // batch


class CachedSteps:
    """The steps of a transformer that keeps the keys and values of what it has written; see `TokenSteps`."""

    def __init__(self, net: CodeTransformer, context: Context, samples: int) -> None:
        self._net, self._context, self._mask = net, context, MaskedSteps(net, context, samples)
        like = context.keys_values[0][0]
        batch, (heads, _, head_dim) = len(like), like.shape[1:]
        shape = (batch * samples, heads, net.num_tokens, head_dim)
        self._caches = [KeyValueCache(shape, like) for _ in net.blocks]
        self.logits = self._mask.masked(self._first(batch, samples, (batch, heads, 1, head_dim)))

    def _first(self, batch: int, samples: int, shape: tuple[int, int, int, int]) -> Tensor:
        """Logits of the first token, [B, K, V], computed once for the K codes of a context, which begin alike."""
        firsts = [KeyValueCache(shape, self._context.keys_values[0][0]) for _ in self._caches]
        features = MaskedSteps(self._net, self._context, 1).features()
        start = self._net.start.expand(batch, 1, 1, -1)
        logits = self._net.step(start, self._context, firsts, features)  # [B, 1, V]
        for cache, first in zip(self._caches, firsts, strict=True):
            cache.fill(first, samples)
        return logits.expand(-1, samples, -1)

    @torch.no_grad()
    def advance(self, token: Tensor) -> None:
        self._mask.advance(token)
        last = self._net.embed_tokens(token.unsqueeze(-1), self._context)
        logits = self._net.step(last, self._context, self._caches, self._mask.features())
        self.logits = self._mask.masked(logits)

    def select(self, index: Tensor) -> None:
        batch, samples = self.logits.shape[:2]
        rows = (index + samples * torch.arange(batch, device=index.device)[:, None]).flatten()
        for cache in self._caches:
            cache.select(rows)
        self._mask.select(rows, batch)
        self.logits = self.logits.flatten(0, 1)[rows].unflatten(0, index.shape)
