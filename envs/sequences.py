"""Answers to prompts, paid by a checker: the shape of fine-tuning a language model by a verifiable reward."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig
from daps_rl.data import Splits
from daps_rl.envs.contexts import random_splits
from daps_rl.envs.problem import DiscreteProblem
from daps_rl.policies.layers import EncoderBlock, sinusoidal_positions

DIGITS = 10


class PromptEncoder(nn.Module):
    """Transformer over a prompt of tokens, given as whole numbers in floating point. [B, L] → [B, L, D].

    Args:
        length: L.
        vocab_size: of the prompt's tokens.
        embed_dim: D.
        num_heads, num_layers, mlp_ratio: of the transformer.
    """

    def __init__(
        self, length: int, vocab_size: int, embed_dim: int, *, num_heads: int, num_layers: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(length, embed_dim), persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, prompt: Tensor) -> Tensor:
        x = self.embed(prompt.long()) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Answers(DiscreteProblem):
    """A prompt of L digits has one right answer of as many; every token that is right is paid.

    Observation:
        the prompt, L digits in floating point. [L].
    Action:
        the answer, L digits.
    Reward:
        the share of the answer's tokens that are right, and 1 more if all are.
    Optimum:
        2.

    Args:
        size: L.
    """

    kind = ""
    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 2, "num_code_layers": 1, "aligned_patches": False,
        "batch_size": 128, "samples": 8, "beta_start": 0.01, "beta_end": 1e-3, "learning_rate": 1e-3, "minutes": 5.0,
    }  # fmt: skip

    def __init__(self, size: int = 8) -> None:
        if size < 1:
            raise ValueError(f"a prompt needs at least one token, got {size}.")
        self.name = f"{self.kind}{size}"
        self.num_tokens, self.vocab_size = size, DIGITS

    def answer(self, prompt: Tensor) -> Tensor:
        """The right answer. [..., L] → [..., L]."""
        raise NotImplementedError

    def splits(self) -> Splits:
        return random_splits(
            self.name,
            lambda count, generator: torch.randint(DIGITS, (count, self.num_tokens), generator=generator).float(),
        )

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        right = codes == self.answer(target).long()  # [B, K, L]
        return right.float().mean(-1) + right.all(-1).float()

    def optimum(self, split: str) -> Tensor:
        return torch.full((len(self.splits()[split]),), 2.0, dtype=torch.float64)

    def make_encoder(self, config: ModelConfig) -> nn.Module:
        return PromptEncoder(
            self.num_tokens,
            DIGITS,
            config.embed_dim,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            mlp_ratio=config.mlp_ratio,
        )


class Reverse(Answers):
    """The prompt backwards."""

    kind = "reverse"

    def answer(self, prompt: Tensor) -> Tensor:
        return prompt.flip(-1)


class Sort(Answers):
    """The prompt's digits in order."""

    kind = "sort"

    def answer(self, prompt: Tensor) -> Tensor:
        return prompt.sort(-1).values
