"""Policies on an encoder's features, one for each token: what a bottleneck draws codes from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from daps_rl.functional.checks import check_transformer_sizes
from daps_rl.linear import Linear
from daps_rl.policies.autoregressive import AutoregressiveCategorical
from daps_rl.policies.code_transformer import CodeTransformer
from daps_rl.policies.ends import EndHead
from daps_rl.policies.factorized import FactorizedCategorical, FactorizedUntilEnd, independent_codes
from daps_rl.policies.masks import EndToken


def end_head(dim: int, num_tokens: int | None, mask: EndToken | None) -> nn.Module | None:
    """Logits of all symbols where codes end, [..., dim] → [..., V + 1]; None where they do not."""
    return None if mask is None or num_tokens is None else EndHead(Linear(dim, mask.end), dim, num_tokens)


class FactorizedHead(nn.Module):
    """q(z|x) = Π_t q(z_t|x), each token from its own feature. [B, T, dim] → FactorizedCategorical.

    Where codes end, FactorizedUntilEnd.
    """

    def __init__(self, dim: int, vocab_size: int, num_tokens: int | None = None, mask: EndToken | None = None) -> None:
        super().__init__()
        self.norm, self.mask = nn.LayerNorm(dim), mask
        self.head = end_head(dim, num_tokens, mask) or Linear(dim, vocab_size)

    def forward(self, features: Tensor) -> FactorizedCategorical | FactorizedUntilEnd:
        return independent_codes(self.head(self.norm(features)), self.mask)


class AutoregressiveHead(nn.Module):
    """q(z|x) = Π_t q(z_t | z_<t, x), by a causal transformer. [B, T, dim] → AutoregressiveCategorical."""

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        num_tokens: int,
        num_heads: int,
        num_layers: int,
        mlp_ratio: float,
        mask: EndToken | None = None,
    ) -> None:
        super().__init__()
        check_transformer_sizes(dim, num_heads, num_layers)
        self.norm = nn.LayerNorm(dim)
        sizes: dict[str, Any] = {"embed_dim": dim, "num_heads": num_heads, "num_layers": num_layers}
        readout = nn.Identity()  # each feature also stands at its own token
        sizes |= {"mlp_ratio": mlp_ratio, "mask": mask, "head": end_head(dim, num_tokens, mask)}
        self.transformer = CodeTransformer(num_tokens, vocab_size, readout=readout, **sizes)

    def forward(self, features: Tensor) -> AutoregressiveCategorical:
        encoded = self.norm(features)
        return AutoregressiveCategorical(self.transformer, self.transformer.prepare(encoded, encoded))
