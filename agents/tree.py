"""A policy in which each token depends on one other: the tree of largest likelihood, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

TINY = 1e-30  # a probability that no smoothing leaves
LARGEST = 8192  # T·V: 256 MiB


class CodeTree(nn.Module):
    """Chow and Liu's tree over T tokens: log q(z) = Σ_t b_t(z_t) + Σ_edges W_tu(z_t, z_u), normalised.

    b are the log-probabilities of single tokens, and W those of pairs less those of their tokens. It begins uniform.

    Args:
        num_tokens: T.
        vocab_size: V.
        smoothing: share of the uniform distribution that is mixed into what is fitted, in (0, 1]; what is drawn stays
            varied by it.
        edges: whether there are any; without, tokens are independent.
    Raises:
        ValueError: smoothing is out of range, or T·V too large.
    References:
        Chow, Liu (1968), Approximating discrete probability distributions with dependence trees.
    """

    def __init__(self, num_tokens: int, vocab_size: int, *, smoothing: float = 0.05, edges: bool = True) -> None:
        super().__init__()
        if num_tokens * vocab_size > LARGEST:
            raise ValueError(
                f"a CodeTree needs num_tokens · vocab_size <= {LARGEST:,}, as it has a number for all pairs of tokens' "
                f"values, got {num_tokens} · {vocab_size}; take --agent local-search."
            )
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in (0, 1], got {smoothing}; it is a share of the uniform policy.")
        self.num_tokens, self.vocab_size, self.smoothing, self.edges = num_tokens, vocab_size, smoothing, edges
        self.bias = nn.Buffer(torch.empty(num_tokens, vocab_size))
        self.pairs = nn.Buffer(torch.empty(num_tokens, vocab_size, num_tokens, vocab_size))  # 0 off the edges
        self.parent = nn.Buffer(torch.empty(num_tokens, dtype=torch.int64))  # of each token; -1 for none
        self.reset()

    def reset(self) -> None:
        """Makes it uniform."""
        self.bias.fill_(-math.log(self.vocab_size))
        self.pairs.zero_()
        self.parent.fill_(-1)

    @torch.no_grad()
    def fit(self, codes: Tensor, weights: Tensor) -> None:
        """Sets the tree of largest weighted likelihood Σ_m w_m log q(z_m): its pairs have the most mutual information.

        Args:
            codes: int64 [M, T].
            weights: not negative, summing to 1. [M].
        """
        t, v, share = self.num_tokens, self.vocab_size, self.smoothing
        tokens = one_hot(codes, v).flatten(1).to(self.bias)  # [M, T·V]
        joint = ((weights.to(tokens)[:, None] * tokens).T @ tokens).view(t, v, t, v)
        single = (1 - share) * joint.sum((2, 3)).div(t) + share / v  # each token with all T
        self.reset()
        self.bias.copy_(single.clamp_min(TINY).log())
        if not self.edges:
            return
        joint = (1 - share) * joint + share / v**2
        dependence = joint.clamp_min(TINY).log() - self.bias[:, :, None, None] - self.bias
        information = (joint * dependence).sum((1, 3))  # [T, T], in nats
        self.parent.copy_(torch.tensor(widest_tree(information)))
        child = torch.arange(1, t, device=codes.device)
        parent = self.parent[1:]
        self.pairs[child, :, parent] = dependence[child, :, parent]
        self.pairs[parent, :, child] = dependence[parent, :, child]

    def logits(self, codes: Tensor) -> Tensor:
        """Log-probability of each token's values given all others, but for what is the same for all. [M, T, V]."""
        tokens = one_hot(codes, self.vocab_size).flatten(1).to(self.bias)
        size = self.num_tokens * self.vocab_size
        return (self.bias.flatten() + tokens @ self.pairs.view(size, size)).unflatten(1, self.bias.shape)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Of codes [M, T]; [M], in nats."""
        tokens = one_hot(codes, self.vocab_size)
        return ((self.logits(codes) + self.bias) * tokens).sum((1, 2)) / 2.0  # each edge is in two logits

    def sample(self, count: int) -> Tensor:
        """Draws codes: of each token a value for every value of its parent, then what follows from the root's.

        Every round doubles how far up the tree the value is known by which a token's is chosen. int64 [M, T].
        """
        token, root = torch.arange(self.num_tokens, device=self.parent.device), self.parent < 0
        ancestor = torch.where(root, token, self.parent)
        given = self.bias.unsqueeze(1) + self.pairs[token, :, ancestor].transpose(1, 2)  # [T, V of the parent, V]
        draws = torch.multinomial(given.exp().flatten(0, 1), count, replacement=True)  # [T·V, M]
        value = draws.T.unflatten(1, given.shape[:2])  # [M, T, V], by the value of the ancestor
        value = torch.where(root[:, None], value[..., :1], value)
        for _ in range(self.num_tokens.bit_length()):
            value, ancestor = value.gather(-1, value[:, ancestor]), ancestor[ancestor]
        return value[..., 0]


def widest_tree(information: Tensor) -> list[int]:
    """The spanning tree with the most information on its edges, by Prim, from token 0.

    Args:
        information: of each pair, symmetric. [T, T].
    Returns:
        each token's parent, -1 of token 0.
    """
    pairs = information.tolist()
    parent, best = {0: -1}, {token: (value, 0) for token, value in enumerate(pairs[0]) if token}
    while best:
        token = max(best, key=best.__getitem__)
        parent[token] = best.pop(token)[1]
        best = {other: max(known, (pairs[token][other], token)) for other, known in best.items()}
    return [parent[token] for token in range(len(pairs))]
