"""Which tokens may come next: rules that make every code that a policy writes a feasible one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CodeMask:
    """A rule, by the context and the tokens before, of which tokens a position may take.

    An autoregressive policy asks it while it draws, token by token, and again while it scores, so that both have the
    same tokens at probability exactly 0. A rule of one's own writes the three methods; what it remembers of a code (its
    state) is a tensor or a tuple of tensors. At every position at least one token must be allowed.

    A rule may also give the policy `features` of its state, such as what is left of a capacity: a network learns much
    faster from such a sum than it learns to add.

    With `on_device = True` in its body a class promises what a GPU that records a training step needs: that it reads no
    number of the host that changes from step to step, and asks none of the device (`.item()`, `if tensor:`).
    """

    num_features: int = 0
    """F, of `features`."""
    any_start: bool = False
    """Whether a code is worth the same whatever token it begins with, as a round trip is. The first token is then drawn
    uniformly among those allowed, and the K codes of a context begin with different ones, as far as there are any."""

    def start(self, observation: Tensor, samples: int) -> Any:
        """The state before the first token, of K codes per context. observation [B, *x] → state of [B, K, ...]."""
        raise self._missing("start(observation, samples)")

    def allowed(self, state: Any, position: int) -> Tensor:
        """The tokens that may stand at a position. bool [B, K, V]."""
        raise self._missing("allowed(state, position)")

    def advance(self, state: Any, position: int, token: Tensor) -> Any:
        """The state after a token, int64 [B, K], was written at a position; the state given stays as it is.

        Not asked for after the last position.
        """
        raise self._missing("advance(state, position, token)")

    def features(self, state: Any, position: int) -> Tensor:
        """What the policy sees of the state before it writes a position. [B, K, F]; called only where F > 0."""
        raise self._missing("features(state, position)")

    def _missing(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} needs a method {method}; write it, see CodeMask.")

    def along(self, ask: Callable[[Any, int], Tensor], observation: Tensor, codes: Tensor) -> Tensor:
        """What `allowed` or `features` says at all positions of whole codes [B, K, T]. [B, K, T, V] or [B, K, T, F]."""
        state = self.start(observation, codes.shape[1])
        rows = [ask(state, 0)]
        for position, token in enumerate(codes[..., :-1].unbind(-1)):
            state = self.advance(state, position, token)
            rows.append(ask(state, position + 1))
        return torch.stack(rows, dim=2)


class EndToken(CodeMask):
    """Codes as long as they need to be: a token that ends them, behind which nothing else stands.

    Of V + 1 symbols the last, V, is the end token: pass V + 1 for `vocab_size` of a policy and a decoder, and the mask
    to the policy. A code of L tokens is these and end tokens from there on, [..., T] as all codes; one of T tokens has
    none. So a prefix and end tokens are a code too, the one that ended there.

    Args:
        end: the end token, V.
        min_tokens: the shortest code has so many tokens, at most T.
    Raises:
        ValueError: end is not positive, or min_tokens is negative.
    """

    on_device = True

    def __init__(self, end: int, min_tokens: int = 1) -> None:
        if end < 1 or min_tokens < 0:
            raise ValueError(f"end must be >= 1 (V) and min_tokens >= 0, got {end} and {min_tokens}.")
        self.end, self.min_tokens = end, min_tokens

    def start(self, observation: Tensor, samples: int) -> Tensor:
        return observation.new_zeros((len(observation), samples), dtype=torch.bool)

    def allowed(self, state: Tensor, position: int | Tensor) -> Tensor:
        """See `CodeMask`; also of positions [T, 1] and states [..., T] at once."""
        is_end = torch.arange(self.end + 1, device=state.device) == self.end  # [V + 1]
        return torch.where(state.unsqueeze(-1), is_end, ~is_end | (position >= self.min_tokens))

    def advance(self, state: Tensor, position: int, token: Tensor) -> Tensor:
        return state | (token == self.end)

    def along(self, ask: Callable[[Any, int], Tensor], observation: Tensor, codes: Tensor) -> Tensor:
        """See `CodeMask`; all positions at once."""
        positions = torch.arange(codes.shape[-1], device=codes.device).unsqueeze(-1)
        return self.allowed(self.before(codes), positions)

    def before(self, codes: Tensor) -> Tensor:
        """Whether a code has ended before each position. int64 [..., T] → bool [..., T]."""
        ends = codes == self.end
        return ends.cumsum(-1) > ends

    def lengths(self, codes: Tensor) -> Tensor:
        """How many tokens stand before the end. int64 [..., T] → int64 [...]."""
        return (~self.before(codes) & (codes != self.end)).sum(-1)

    def close(self, codes: Tensor) -> Tensor:
        """The code that is read where another than the end token stands behind one. int64 [..., T]."""
        return torch.where(self.before(codes), self.end, codes)

    def of_any_length(self) -> EndToken:
        """The same rule without a fewest: every code that has ended is one."""
        return EndToken(self.end, min_tokens=0)

    def pad(self, codes: Tensor, num_tokens: int) -> Tensor:
        """The code of T tokens that a prefix is. int64 [..., L] → [..., T]."""
        missing = num_tokens - codes.shape[-1]
        return torch.nn.functional.pad(codes, (0, missing), value=self.end)


def check_ends(mask: EndToken, num_tokens: int, vocab_size: int) -> None:
    """Raises ValueError unless the mask is one by which codes end, for these sizes, the end token counted."""
    if not isinstance(mask, EndToken):
        raise ValueError(
            f"tokens that are independent can keep to an EndToken alone, got {type(mask).__name__}; use an "
            "AutoregressivePolicy."
        )
    if mask.end != vocab_size - 1 or mask.min_tokens > num_tokens:
        raise ValueError(
            f"an EndToken must have end = vocab_size - 1 and min_tokens <= num_tokens, {vocab_size - 1} and "
            f"{num_tokens}, got {mask.end} and {mask.min_tokens}; vocab_size counts the end token."
        )


def check_price(price: float, ends: EndToken | None) -> None:
    """Raises ValueError for a price that is negative, or of tokens of codes that have no end."""
    if not 0.0 <= price < math.inf or (price and ends is None):
        raise ValueError(
            f"token_price must be >= 0 and finite, and 0 for codes without an end token, got {price}; pass "
            "mask=daps_rl.policies.EndToken(V)."
        )


def end_token(policy: object) -> EndToken | None:
    """The rule by which the codes of a policy, or of its distribution, end: its `mask`; None where none does."""
    mask = getattr(policy, "mask", None)
    return mask if isinstance(mask, EndToken) else None


class VisitOnce(CodeMask):
    """Codes that are permutations: every token once. The state is what was visited, bool [B, K, V].

    Where the order has no beginning of its own, as in a round trip, say so: any token then is as good a start
    (`any_start`), or let `first` come first; else the policy chooses.
    """

    def __init__(self, vocab_size: int, first: int | None = None, *, any_start: bool = False) -> None:
        if any_start and first is not None:
            raise ValueError(f"any_start lets every code begin elsewhere, and first={first} none; leave out one.")
        self.vocab_size, self.first, self.any_start = vocab_size, first, any_start

    def start(self, observation: Tensor, samples: int) -> Tensor:
        return observation.new_zeros((len(observation), samples, self.vocab_size), dtype=torch.bool)

    def allowed(self, state: Tensor, position: int) -> Tensor:
        if position == 0 and self.first is not None:
            return (torch.arange(self.vocab_size, device=state.device) == self.first).expand_as(state)
        return ~state

    def advance(self, state: Tensor, position: int, token: Tensor) -> Tensor:
        return state.scatter(-1, token.unsqueeze(-1), True)

    def along(self, ask: Callable[[Any, int], Tensor], observation: Tensor, codes: Tensor) -> Tensor:
        """See `CodeMask`; all positions at once, by when each token was visited first."""
        if self.first is not None or type(self) is not VisitOnce:  # a class of the user's may forbid more
            return super().along(ask, observation, codes)
        positions = torch.arange(codes.shape[-1], device=codes.device)
        visited = codes.new_full((*codes.shape[:2], self.vocab_size), codes.shape[-1])
        visited = visited.scatter_reduce(-1, codes, positions.expand_as(codes), "amin")
        return visited.unsqueeze(2) >= positions.unsqueeze(-1)


class WithinCapacity(CodeMask):
    """Codes of 0 and 1, item by item: an item is taken (1) only if what is left of the capacity holds it.

    The observation has an item per row. The state is (weights [B, 1, T], what is left [B, K]). The policy sees what
    is left, and what would be if it took the next item, over the capacity, which every context has. An item's weight
    stands in a column of its features; weights that are sums of a few powers of two add up exactly.
    """

    num_features = 2

    def __init__(self, capacity: float, column: int) -> None:
        if not capacity > 0.0:
            raise ValueError(f"capacity must be > 0, got {capacity}; it is what the items' weights may add up to.")
        self.capacity, self.column = capacity, column

    def start(self, observation: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        weights = observation[..., self.column].unsqueeze(1)  # [B, 1, T]
        return weights, weights.new_full((len(observation), samples), self.capacity)

    def allowed(self, state: tuple[Tensor, Tensor], position: int) -> Tensor:
        weights, left = state
        fits = weights[..., position] <= left
        return torch.stack((torch.ones_like(fits), fits), dim=-1)

    def advance(self, state: tuple[Tensor, Tensor], position: int, token: Tensor) -> tuple[Tensor, Tensor]:
        weights, left = state
        return weights, left - weights[..., position] * token

    def features(self, state: tuple[Tensor, Tensor], position: int) -> Tensor:
        weights, left = state
        return torch.stack((left, left - weights[..., position]), dim=-1) / self.capacity
