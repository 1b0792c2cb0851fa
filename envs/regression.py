"""Symbolic regression: a formula, token by token, that goes through given points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_rl.envs.problem import Constant
from daps_rl.envs.search import Search
from daps_rl.policies import CodeMask

END = "end"
OPERATIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "x": (0, lambda x: x), "1": (0, torch.ones_like),
    "+": (2, torch.add), "-": (2, torch.sub), "*": (2, torch.mul), "/": (2, torch.div),
    "sin": (1, torch.sin), "cos": (1, torch.cos), "exp": (1, torch.exp), "log": (1, torch.log), END: (1, lambda y: y),
}  # fmt: skip
"""Tokens by name: how many values each takes from those that wait, and what it makes of them (of x if of none)."""
TOKENS = tuple(OPERATIONS)
"""The vocabulary."""
NEEDS = Constant(torch.tensor([needs for needs, _ in OPERATIONS.values()]))
"""How many values must wait for a token. It leaves one in their place."""

NGUYEN: dict[int, tuple[str, Callable[[Tensor], Tensor], tuple[float, float]]] = {
    1: ("x^3 + x^2 + x", lambda x: x**3 + x**2 + x, (-1.0, 1.0)),
    2: ("x^4 + x^3 + x^2 + x", lambda x: x**4 + x**3 + x**2 + x, (-1.0, 1.0)),
    3: ("x^5 + x^4 + x^3 + x^2 + x", lambda x: x**5 + x**4 + x**3 + x**2 + x, (-1.0, 1.0)),
    4: ("x^6 + ... + x", lambda x: x**6 + x**5 + x**4 + x**3 + x**2 + x, (-1.0, 1.0)),
    5: ("sin(x^2) cos(x) - 1", lambda x: torch.sin(x**2) * torch.cos(x) - 1, (-1.0, 1.0)),
    6: ("sin(x) + sin(x + x^2)", lambda x: torch.sin(x) + torch.sin(x + x**2), (-1.0, 1.0)),
    7: ("log(x + 1) + log(x^2 + 1)", lambda x: torch.log(x + 1) + torch.log(x**2 + 1), (0.0, 2.0)),
    8: ("sqrt(x)", torch.sqrt, (0.0, 4.0)),
}
"""Formula, function and interval of the benchmark's problems in one variable."""
POINTS = 20
USUAL_TOKENS = 20  # enough for all of them


class WellFormed(CodeMask):
    """Formulas in postfix order: operators find their values, one value is left, and behind `end` there is only that.

    The state is how many values wait, and whether the formula has ended, both [B, K].
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def start(self, observation: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        waiting = observation.new_zeros((len(observation), samples), dtype=torch.int64)
        return waiting, waiting.bool()

    def allowed(self, state: tuple[Tensor, Tensor], position: int) -> Tensor:
        waiting, ended = (value.unsqueeze(-1) for value in state)
        needs = NEEDS.on(waiting.device)
        left = self.num_tokens - position - 1
        # Each further operator takes one value away, so that `left` of them must do to leave one.
        allowed = (waiting >= needs) & (waiting - needs <= left)
        end = torch.arange(len(TOKENS), device=waiting.device) == TOKENS.index(END)
        return torch.where(ended, end, allowed & (~end | (waiting == 1)))

    def advance(self, state: tuple[Tensor, Tensor], position: int, token: Tensor) -> tuple[Tensor, Tensor]:
        waiting, ended = state
        return waiting + 1 - NEEDS.on(token.device)[token], ended | (token == TOKENS.index(END))


class Nguyen(Search):
    """A formula for one of Nguyen's problems, from 20 points of it.

    Action:
        T tokens of `TOKENS`, in postfix order: x x * 1 + is x² + 1. A formula that ends early is followed by `end`.
    Reward:
        1 / (1 + e), where e is the root mean squared error over the function's own deviation; 0 where it is not finite
        at all points, and minus 1 for what is no formula.
    Optimum:
        1, the function itself.

    Args:
        size: the problem's number, 1 … 8 (those in one variable).
        num_tokens: T.
    References:
        Uy, Hoai, O'Neill, McKay, Galván-López (2011), Semantically-based crossover in genetic programming. Petersen et
        al. (2021), Deep symbolic regression (the reward).
    """

    on_device = True
    recipe: ClassVar[dict[str, Any]] = {**Search.recipe, "beta_start": 0.03, "beta_end": 3e-3}

    def __init__(self, size: int = 1, *, num_tokens: int = USUAL_TOKENS) -> None:
        if size not in NGUYEN:
            raise ValueError(f"Nguyen's problems in one variable are 1 … {max(NGUYEN)}, got {size}.")
        if num_tokens < 1:
            raise ValueError(f"a formula needs at least one token, got {num_tokens}.")
        self.name = f"nguyen{size}" if num_tokens == USUAL_TOKENS else f"nguyen{size}-tokens{num_tokens}"
        self.num_tokens, self.vocab_size = num_tokens, len(TOKENS)
        self.mask = WellFormed(num_tokens)
        self.formula, function, (low, high) = NGUYEN[size]
        # The middles of equal parts: no point is 0, by which a formula may divide.
        x = low + (high - low) * (torch.arange(POINTS) + 0.5) / POINTS
        self.x, self.y = Constant(x), Constant(function(x))

    def values(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What formulas give at the points, and which are formulas. [..., T] → [..., 20], bool [...]."""
        x, shape = self.x.on(codes.device), codes.shape[:-1]
        stack = x.new_zeros(*shape, self.num_tokens + 2, POINTS)
        waiting = torch.zeros(shape, dtype=torch.int64, device=codes.device)
        valid, ended = torch.ones_like(waiting, dtype=torch.bool), torch.zeros_like(waiting, dtype=torch.bool)
        for token in codes.unbind(-1):
            end, needs = token == TOKENS.index(END), NEEDS.on(codes.device)[token]
            valid &= (waiting >= needs) & (end | ~ended) & (~end | (waiting == 1))
            ended |= end
            top = waiting[..., None, None] - torch.arange(1, 3, device=codes.device)[:, None]  # [..., 2, 1]
            # The last value, and the one before it; any where there is none. [..., 20] each.
            first, second = stack.take_along_dim(top.clamp(0, self.num_tokens + 1), -2).unbind(-2)
            made = torch.zeros_like(first)
            operands = ((x.expand_as(first),), (first,), (second, first))
            for i, (count, function) in enumerate(OPERATIONS.values()):
                made = torch.where((token == i).unsqueeze(-1), function(*operands[count]), made)
            waiting = waiting + 1 - needs
            valid &= waiting >= 1
            place = (waiting - 1).clamp(0, self.num_tokens)
            here = F.one_hot(place, stack.shape[-2]).bool().unsqueeze(-1)  # [..., T + 2, 1]
            stack = torch.where(here, made.unsqueeze(-2), stack)
        return stack[..., 0, :], valid & (waiting == 1)

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        (values, valid), y = self.values(codes), self.y.on(codes.device)
        error = (values - y).square().mean(-1).sqrt() / y.std(correction=0)
        closeness = torch.where(error.isfinite(), 1.0 / (1.0 + error), 0.0)
        return torch.where(valid, closeness, -1.0)

    def optimum(self, split: str) -> Tensor | None:
        return torch.ones(1, dtype=torch.float64) if self.num_tokens >= USUAL_TOKENS else None


def infix(code: Tensor) -> str:
    """A formula as one writes it by hand, with all brackets. [T] → text."""
    waiting: list[str] = []
    for name in (TOKENS[token] for token in code.tolist()):
        if OPERATIONS[name][0] == 2:
            right, left = waiting.pop(), waiting.pop()
            waiting.append(f"({left} {name} {right})")
        elif OPERATIONS[name][0] == 0:
            waiting.append(name)
        elif name != END:
            waiting.append(f"{name}({waiting.pop()})")
    return waiting[0]
