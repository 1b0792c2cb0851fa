"""Writing codes by glimpses: each token by one attention to the items that may come next, without a memory."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from daps_rl.linear import Linear
from daps_rl.policies.code_transformer import CodeTransformer, Context
from daps_rl.policies.layers import CrossAttention
from daps_rl.policies.steps import MaskedSteps

UNSEEN = -1e9  # a score whose weight is exactly 0, but finite: of codes that cannot be, nothing may be allowed


class GlimpseBlock(nn.Module):
    """Attention of a code's state to the items that may come next. [B, K, L, D] → [B, K, L, D]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.cross = CrossAttention(dim, num_heads)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        """allowed: bool [B, K, L, V], or None for all items."""
        (b, k, length, _), (keys, values) = x.shape, keys_values
        query = self.cross.query(x).view(b, k * length, self.cross.num_heads, -1).transpose(1, 2)
        scores = query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5  # [B, H, K·L, V]
        if allowed is not None:
            scores = torch.where(allowed.view(b, 1, k * length, -1), scores, UNSEEN)
        mixed = torch.softmax(scores, dim=-1) @ values
        return x + self.cross.out(mixed.transpose(1, 2).reshape(x.shape))


class GlimpseDecoder(CodeTransformer):
    """The code's side of a policy that points at items, without a memory of the tokens before.

    A token is chosen given the first token and the last, the mean of all items, and the mask's features; by one
    attention to the items that may come next, and a pointer to them. That is all there is to know where the mask has
    the rest, as in routes. A token costs a fraction of a transformer's, and the first glimpse sees what is left.

    Args:
        num_tokens, vocab_size, embed_dim, num_heads, mask: see `CodeTransformer`.
    References:
        Kool et al. (2019), Attention, learn to solve routing problems! Departures: what is attended to is added to the
        query instead of replacing it, and normalised before the pointer.
    """

    def __init__(self, num_tokens: int, vocab_size: int, *, embed_dim: int, num_heads: int, **options: Any) -> None:
        options |= {"embed_dim": embed_dim, "num_heads": num_heads, "num_layers": 0, "mlp_ratio": 1.0, "pointer": True}
        super().__init__(num_tokens, vocab_size, **options)
        self.blocks = nn.ModuleList([GlimpseBlock(embed_dim, num_heads)])
        self.embed_first = Linear(embed_dim, embed_dim, bias=False)
        self.embed_mean = Linear(embed_dim, embed_dim, bias=False)

    def prepare(self, encoded: Tensor, observation: Tensor | None = None) -> Context:
        """See `CodeTransformer`; what is aligned is the items' mean, [B, 1, 1, D]."""
        mean = self.embed_mean(encoded.mean(1))[:, None, None]
        return super().prepare(encoded, observation)._replace(aligned=mean)

    def hidden(self, codes: Tensor, context: Context) -> Tensor:
        """What the logits are made of. codes [B, K, T] → [B, K, T, D]."""
        last = self.embed_tokens(codes[..., :-1], context)
        last = last + self.embed_first(last[:, :, :1])
        features = allowed = None
        if self.mask is not None:
            allowed = self.mask.along(self.mask.allowed, context.observation, codes)
        if self.mask is not None and self.mask.num_features:
            features = self.mask.along(self.mask.features, context.observation, codes)
        start = self.start.expand(*codes.shape[:2], 1, -1)
        return self.look(torch.cat((start, last), dim=2), context, features, allowed)

    def look(self, x: Tensor, context: Context, features: Tensor | None, allowed: Tensor | None) -> Tensor:
        """The glimpse, of embedded tokens [B, K, L, D] and what the mask says, [B, K, L, F] and [B, K, L, V]."""
        x = x + cast(Tensor, context.aligned)
        if self.embed_features is not None and features is not None:
            x = x + self.embed_features(features.to(x.dtype))
        for block, keys_values in zip(self.blocks, context.keys_values, strict=True):
            x = block(x, keys_values, allowed)
        return x

    def begin(self, context: Context, samples: int) -> GlimpseSteps:
        return GlimpseSteps(self, context, samples)

    def step(self, *_: Any) -> Tensor:
        """Raises ValueError: there are no steps with a gradient."""
        raise ValueError("a policy of glimpses draws no relaxed codes; leave out glimpse=True.")


class GlimpseSteps:
    """The steps of a `GlimpseDecoder`; see `TokenSteps`."""

    def __init__(self, net: GlimpseDecoder, context: Context, samples: int) -> None:
        self._net, self._context, self._mask = net, context, MaskedSteps(net, context, samples)
        self._first: Tensor | None = None  # [B, K, 1, D]
        self.logits = self._look(net.start.expand(len(context.keys_values[0][0]), samples, 1, -1))

    @torch.no_grad()
    def advance(self, token: Tensor) -> None:
        self._mask.advance(token)
        last = self._net.embed_tokens(token.unsqueeze(-1), self._context)
        if self._first is None:
            self._first = self._net.embed_first(last)
        self.logits = self._look(last + self._first)

    def _look(self, x: Tensor) -> Tensor:
        """Logits [B, K, V] of the next token, by the embedding of the last."""
        net, allowed, features = self._net, self._mask.allowed(), self._mask.features()
        of_position = [None if value is None else value.unsqueeze(2) for value in (features, allowed)]
        hidden = net.look(x, self._context, *of_position)
        logits = net.masked(net.logits(hidden[:, :, 0], self._context), self._mask.position)
        return logits if allowed is None else torch.where(allowed, logits, -math.inf)

    def select(self, index: Tensor) -> None:
        batch, samples = self.logits.shape[:2]
        rows = (index + samples * torch.arange(batch, device=index.device)[:, None]).flatten()
        self._mask.select(rows, batch)
        self.logits = self.logits.flatten(0, 1)[rows].unflatten(0, index.shape)
        if self._first is not None:
            self._first = self._first.flatten(0, 1)[rows].unflatten(0, index.shape)
