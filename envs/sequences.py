"""Answers to prompts, rewarded by a checker: the shape of fine-tuning a language model by a verifiable reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig
from daps_rl.envs.problem import DiscreteProblem, transformer_sizes
from daps_rl.policies import ItemEncoder
from daps_rl.policies.layers import sinusoidal_positions

DIGITS = 10


class PromptEncoder(ItemEncoder):
    """Transformer over a prompt of tokens, given as whole numbers in floating point. [B, L] → [B, L, D]."""

    def __init__(self, length: int, vocab_size: int, config: ModelConfig) -> None:
        super().__init__(nn.Embedding(vocab_size, config.embed_dim), **transformer_sizes(config))
        self.positions = nn.Buffer(sinusoidal_positions(length, config.embed_dim), persistent=False)

    def forward(self, prompt: Tensor) -> Tensor:
        return self.mix(self.embed(prompt.long()) + self.positions)


class Answers(DiscreteProblem):
    """A prompt has right answers, and a checker knows them; every token that is right counts.

    Observation:
        the prompt, tokens in floating point. [L].
    Action:
        the answer, T tokens.
    Reward:
        the share of the answer's tokens that are right, and 1 more if all are.
    Optimum:
        2.

    Args:
        size: how large a prompt is.
    """

    kind = ""
    prompt_vocab_size = DIGITS
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 2, "num_code_layers": 1, "aligned_patches": False,
        "batch_size": 128, "samples": 8, "beta_start": 0.01, "beta_end": 1e-3, "learning_rate": 1e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 8) -> None:
        if size < 1:
            raise ValueError(f"a prompt needs at least one token, got {size}.")
        self.name = f"{self.kind}{size}"
        self.prompt_length = self.num_tokens = size
        self.vocab_size = DIGITS

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.prompt_vocab_size, (count, self.prompt_length), generator=generator)

    def right(self, prompt: Tensor, codes: Tensor) -> Tensor:
        """Which tokens of answers are right. int64 prompts [B, 1, L], codes [B, K, T] → bool [B, K, T]."""
        raise NotImplementedError

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        right = self.right(target.long(), codes)
        return right.float().mean(-1) + right.all(-1).float()

    def optimum(self, split: str) -> Tensor:
        return torch.full((len(self.splits()[split]),), 2.0, dtype=torch.float64)

    def make_encoder(self, config: ModelConfig) -> nn.Module:
        return PromptEncoder(self.prompt_length, self.prompt_vocab_size, config)


class Reverse(Answers):
    """The prompt's digits backwards."""

    kind = "reverse"
    on_device = True

    def right(self, prompt: Tensor, codes: Tensor) -> Tensor:
        return codes == prompt.flip(-1)


class Sort(Answers):
    """The prompt's digits in order."""

    kind = "sort"
    on_device = True

    def right(self, prompt: Tensor, codes: Tensor) -> Tensor:
        return codes == prompt.sort(-1).values


class Add(Answers):
    """The sum of two numbers of n digits each, in n + 1 digits, the last one first, as one adds by hand.

    The prompt is one number and then the other, the first digit first.
    """

    kind = "add"
    on_device = True

    def __init__(self, size: int = 4) -> None:
        super().__init__(size)
        if size > 18:
            raise ValueError(f"numbers of more than 18 digits do not fit 64 bits, got {size}.")
        self.prompt_length, self.num_tokens = 2 * size, size + 1

    def right(self, prompt: Tensor, codes: Tensor) -> Tensor:
        places = DIGITS ** torch.arange(self.num_tokens, device=prompt.device)  # 1, 10, …
        numbers = prompt.unflatten(-1, (2, -1)) * places[:-1].flip(0)
        return codes == numbers.sum((-1, -2)).unsqueeze(-1) // places % DIGITS


class Brackets(Answers):
    """Closes what a prompt of n brackets of two kinds has opened, by n more: ( [ ) ] are 0 … 3.

    Many answers are right. A token is, as long as it and all before it can be part of one: no bracket closes another
    kind, or none, and what is open can still be closed.
    """

    kind = "brackets"
    on_device = True
    prompt_vocab_size = 4

    def __init__(self, size: int = 8) -> None:
        super().__init__(size)
        self.vocab_size = self.prompt_vocab_size

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        tokens = torch.empty(count, self.prompt_length, dtype=torch.int64)
        stack = Stack((count,), self.prompt_length)
        for i in range(self.prompt_length):
            kind, closes = torch.randint(2, (2, count), generator=generator)
            closes = closes.bool() & (stack.depth > 0)
            tokens[:, i] = torch.where(closes, 2 + stack.top(), kind)
            stack.read(tokens[:, i])
        return tokens

    def right(self, prompt: Tensor, codes: Tensor) -> Tensor:
        tokens = torch.cat((prompt.expand(*codes.shape[:-1], -1), codes), dim=-1)
        stack = Stack(codes.shape[:-1], tokens.shape[-1], codes.device)
        fits = torch.ones(codes.shape[:-1], dtype=torch.bool, device=codes.device)
        right = []
        for i, token in enumerate(tokens.unbind(-1)):
            fits = fits & stack.read(token) & (stack.depth < tokens.shape[-1] - i)
            right.append(fits)
        return torch.stack(right[self.prompt_length :], dim=-1)


class Stack:
    """Open brackets of many sequences at once: which kind, and how many, at most `length`."""

    def __init__(self, shape: Sequence[int], length: int, device: torch.device | None = None) -> None:
        self.kinds = torch.zeros(*shape, length + 1, dtype=torch.int64, device=device)
        self.depth = torch.zeros(*shape, dtype=torch.int64, device=device)

    def top(self) -> Tensor:
        """The kind that was opened last, 0 or 1; 0 where none is open."""
        return self.kinds.gather(-1, (self.depth - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)

    def read(self, token: Tensor) -> Tensor:
        """Takes in one bracket of each sequence; True where it opens, or closes what was opened last."""
        opens, kind = token < 2, token % 2
        fits = opens | ((self.depth > 0) & (kind == self.top()))
        place = torch.where(opens, self.depth, self.kinds.shape[-1] - 1).unsqueeze(-1)  # the last is for nothing
        self.kinds = self.kinds.scatter(-1, place, kind.unsqueeze(-1))
        self.depth = (self.depth + torch.where(opens, 1, -1)).clamp(min=0)
        return fits
