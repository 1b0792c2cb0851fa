"""Priors that are learned from codes: p(z), or p(z|y) for labels y."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from daps_rl.functional.checks import check_code_sizes, check_transformer_sizes
from daps_rl.policies.autoregressive import AutoregressiveCategorical
from daps_rl.policies.code_transformer import CodeTransformer
from daps_rl.policies.distribution import DiscreteCodes
from daps_rl.policies.factorized import FactorizedCategorical, FactorizedUntilEnd, independent_codes
from daps_rl.policies.masks import EndToken, check_ends
from daps_rl.priors.mixture import MixtureCodes

SHARPNESS = 10.0  # of an independent prior's table: at a policy's learning rate logits of size 1 lag behind the codes


class LearnedPrior(nn.Module):
    """Base: called without arguments, gives p(z), of batch shape []; with labels [B], p(z|y), of batch shape [B].

    Where there are classes, p(z) is the mixture of theirs by how frequent they are.

    Args:
        num_tokens, vocab_size: T and V.
        num_classes: C, of the labels 0 … C − 1; 0 for a prior without labels.
        mask: how codes end, where they do; V counts the end token.
    """

    def __init__(self, num_tokens: int, vocab_size: int, num_classes: int = 0, *, mask: EndToken | None = None) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        if num_classes < 0:
            raise ValueError(f"num_classes must be >= 0, got {num_classes}; 0 is a prior without labels.")
        self.num_tokens, self.vocab_size, self.num_classes = num_tokens, vocab_size, num_classes
        if mask is not None:
            check_ends(mask, num_tokens, vocab_size)
        self.mask = mask
        count = max(num_classes, 1)
        self.class_log_probs = nn.Buffer(-torch.full((count,), float(count)).log())
        """log p(y), in nats. [C], or [1]"""

    def of_classes(self, index: Tensor) -> DiscreteCodes:
        """p(z|y) of classes, int64 [B]; of the only one, 0, where there are no labels. Batch shape [B]."""
        raise NotImplementedError

    def forward(self, labels: Tensor | None = None) -> DiscreteCodes:
        if labels is None:
            every = torch.arange(len(self.class_log_probs), device=self.class_log_probs.device)
            return self.marginal(every)
        if not self.num_classes:
            raise ValueError("this prior knows no labels; fit one with labels: daps-rl fit-prior RUN --labels.")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"labels must lie in 0 … {self.num_classes - 1}, got {int(labels.min())} … {int(labels.max())}; the "
                "prior has no other classes."
            )
        return self.of_classes(labels)

    def marginal(self, every: Tensor) -> DiscreteCodes:
        """p(z), by the numbers of all classes [C]. Batch shape []."""
        return MixtureCodes(self.of_classes(every), self.class_log_probs)  # type: ignore[arg-type]


class IndependentPrior(LearnedPrior):
    """Independent tokens: a table of logits for each position, and class, in units of ten. See `LearnedPrior`."""

    def __init__(self, num_tokens: int, vocab_size: int, num_classes: int = 0, *, mask: EndToken | None = None) -> None:
        super().__init__(num_tokens, vocab_size, num_classes, mask=mask)
        self.logits = nn.Parameter(torch.zeros(max(num_classes, 1), num_tokens, vocab_size))

    def of_classes(self, index: Tensor) -> FactorizedCategorical | FactorizedUntilEnd:
        return independent_codes(SHARPNESS * self.logits[index], self.mask)

    def marginal(self, every: Tensor) -> DiscreteCodes:
        return super().marginal(every) if self.num_classes else independent_codes(SHARPNESS * self.logits[0], self.mask)


class AutoregressivePrior(LearnedPrior):
    """Each token given those before it, by the policy's own transformer; what it attends to is a vector of the class.

    Args:
        num_tokens, vocab_size, num_classes, mask: see `LearnedPrior`.
        embed_dim, num_heads, num_layers, mlp_ratio: of the transformer.
    """

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        num_classes: int = 0,
        *,
        mask: EndToken | None = None,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 1,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(num_tokens, vocab_size, num_classes, mask=mask)
        check_transformer_sizes(embed_dim, num_heads, num_layers)
        self.transformer = CodeTransformer(
            num_tokens,
            vocab_size,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            mlp_ratio=mlp_ratio,
            mask=mask,
        )
        self.classes = nn.Parameter(torch.randn(max(num_classes, 1), 1, embed_dim))

    def of_classes(self, index: Tensor) -> AutoregressiveCategorical:
        encoded = self.classes[index]
        return AutoregressiveCategorical(self.transformer, self.transformer.prepare(encoded, encoded))
