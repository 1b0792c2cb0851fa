"""What an end token is to the parts that have a vocabulary: a vector of its own for a decoder, a logit for a policy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.functional.checks import as_float
from daps_rl.linear import Linear


class EndEmbedding(nn.Module):
    """V tokens' vectors, from an embedding that has them, and one of the end token, V. Integers [...] → [..., E].

    The end token's begins as zeros: where a code has ended there is nothing.

    Args:
        tokens: has the V vectors as `weight` [V, E], such as `LatticeEmbedding` or `nn.Embedding`.
    """

    def __init__(self, tokens: nn.Module) -> None:
        super().__init__()
        self.tokens = tokens
        self.end = nn.Parameter(torch.zeros(1, self._vectors().shape[1]))

    def _vectors(self) -> Tensor:
        weight = self.tokens.weight
        assert isinstance(weight, Tensor)  # as said
        return weight

    @property
    def weight(self) -> Tensor:
        """All vectors. [V + 1, E]."""
        return torch.cat((self._vectors(), self.end))

    def forward(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.weight)


class EndHead(nn.Module):
    """Logits of V tokens, from a head that has them, and whether the code ends here. [..., D] → [..., V + 1].

    The last logit is the log-odds of an end, whatever the tokens' logits sum to. At the start half of the codes end at
    each position: the first tokens learn to say the most, and others are added as they become worth their price. From
    codes that begin long no token can be spared, as each says its own part.

    Of all that are drawn at least `early` end before they have T tokens: a policy that were certain of its lengths
    would never learn what one more or less is worth, nor a decoder to read the first tokens of a code.

    Args:
        tokens: gives the tokens' logits, [..., D] → [..., V].
        dim, num_tokens: D and T.
        early: share of the codes, in (0, 0.5); greedy codes do without.
    """

    def __init__(self, tokens: nn.Module, dim: int, num_tokens: int, early: float = 1 / 3) -> None:
        super().__init__()
        self.tokens, self.end = tokens, Linear(dim, 1)
        self.bound = -math.log((1.0 - early) ** (-1.0 / num_tokens) - 1.0)  # of the log-odds, either way
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.log_softmax(as_float(self.tokens(x)), dim=-1)
        odds = self.bound * torch.tanh(as_float(self.end(x)) / self.bound)
        return torch.cat((tokens, odds), dim=-1)
