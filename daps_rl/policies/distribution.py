"""Distributions over codes: what all have in common, and the protocol by which callers draw and score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from daps_rl.functional import draw_categorical
from daps_rl.functional.checks import as_float

SampleShape: TypeAlias = torch.Size | list[int] | tuple[int, ...]
RelaxTokens: TypeAlias = Callable[[Tensor], Tensor]
"""Logits [..., V] → one-hot tokens [..., V] with a gradient, such as `functional.gumbel_softmax`."""


class Drawn(NamedTuple):
    """Codes and the log-probabilities they were drawn with; neither carries a gradient."""

    codes: Tensor  # [*S, B, T], int64
    log_prob: Tensor  # [*S, B], in nats


class RelaxedCodes(NamedTuple):
    """Codes drawn with a gradient, and the log-probabilities of every token given those before it."""

    one_hot: Tensor  # [B, K, T, V]
    log_probs: Tensor  # [B, K, T, V], in nats


class DiscreteCodes(Distribution):
    """Base of the distributions over codes: event shape [T], tokens of 0 … V-1."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, batch_shape: torch.Size, num_tokens: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        super().__init__(batch_shape, torch.Size([num_tokens]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Codes: T integers in 0 … V-1."""
        return constraints.independent(constraints.integer_interval(0, self.vocab_size - 1), 1)


class TokenSteps(Protocol):
    """Codes that are being written token by token, K for each of B contexts (one, where the batch shape is [])."""

    logits: Tensor
    """Of the next token, unnormalised, -inf for what may not come. [B, K, V]"""

    def advance(self, token: Tensor) -> None:
        """Writes a token of each code, int64 [B, K]. Not asked for after the last position."""

    def select(self, index: Tensor) -> None:
        """Goes on with these of each context's codes, as a beam does. int64 [B, K']."""


class IndependentSteps:
    """The steps of codes whose tokens are independent, by their log-probabilities [B, T, V]."""

    def __init__(self, log_probs: Tensor, samples: int) -> None:
        self._log_probs, self._position = log_probs.unsqueeze(1), 0
        self.logits = self._log_probs[:, :, 0].expand(-1, samples, -1)

    def advance(self, token: Tensor) -> None:
        self._position += 1
        self.logits = self._log_probs[:, :, self._position].expand_as(self.logits)

    def select(self, index: Tensor) -> None:
        self.logits = self.logits[:, :1].expand(-1, index.shape[1], -1)


class StepsUntilEnd(IndependentSteps):
    """The steps of codes whose tokens are independent up to the first end token, the last of V; see `EndToken`."""

    def __init__(self, log_probs: Tensor, samples: int) -> None:
        super().__init__(log_probs, samples)
        self._ended = torch.zeros(self.logits.shape[:2], dtype=torch.bool, device=log_probs.device)

    def advance(self, token: Tensor) -> None:
        super().advance(token)
        end = self.logits.shape[-1] - 1
        self._ended = self._ended | (token == end)
        self.logits = until_end(self.logits, self._ended)

    def select(self, index: Tensor) -> None:
        self._ended = self._ended.gather(1, index)
        self.logits = self.logits.gather(1, index.unsqueeze(-1).expand(-1, -1, self.logits.shape[-1]))


def until_end(log_probs: Tensor, ended: Tensor) -> Tensor:
    """Log-probabilities [..., V] where a code goes on, and of the end token, the last, alone where it has ended."""
    is_end = torch.arange(log_probs.shape[-1], device=log_probs.device) == log_probs.shape[-1] - 1
    certain = torch.where(is_end, 0.0, -math.inf).to(log_probs.dtype)
    return torch.where(ended.unsqueeze(-1), certain, log_probs)


class SequentialCodes(DiscreteCodes):
    """Base of the distributions that write codes token by token: `steps` is all that drawing takes."""

    any_start: bool = False
    """Whether the K codes of a context, drawn at once, begin with different tokens, see `CodeMask.any_start`."""

    def steps(self, samples: int) -> TokenSteps:
        """Begins K codes for each context, without a gradient."""
        raise NotImplementedError

    def unroll(self, samples: int, generator: torch.Generator | None, *, greedy: bool) -> Drawn:
        """Writes codes [K, B, T] with log-probabilities [K, B]: drawn, or the likeliest tokens one after another."""
        steps, num_tokens = self.steps(samples), self.event_shape[0]
        return write_codes(steps, num_tokens, generator, greedy=greedy, spread=self.any_start)

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws codes. [*sample_shape, B, T], int64, without gradient."""
        return self.draw(sample_shape, generator).codes

    @torch.no_grad()
    def draw(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Drawn:
        """Draws codes with their log-probabilities; see `CodePosterior`."""
        codes, log_prob = self.unroll(torch.Size(sample_shape).numel(), generator, greedy=False)
        shape = (*sample_shape, *self.batch_shape)
        return Drawn(codes.reshape(*shape, *self.event_shape), log_prob.reshape(shape))

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Greedy code: the likeliest token at each position given those before it. [B, T].

        Not always the likeliest code; finding that one takes a search.
        """
        return self.unroll(1, None, greedy=True).codes[0].reshape(*self.batch_shape, *self.event_shape)


def write_codes(
    steps: TokenSteps,
    num_tokens: int,
    generator: torch.Generator | None = None,
    *,
    greedy: bool = False,
    temperature: float = 1.0,
    spread: bool = False,
) -> Drawn:
    """Writes codes to their end: drawn, or the likeliest tokens one after another.

    Args:
        steps: codes that have been begun, K for each of B contexts.
        num_tokens: T.
        generator: of the draws.
        greedy: take the likeliest tokens.
        temperature: that each token's logits are divided by.
        spread: draw the first tokens of the K codes so that they differ as much as their distribution lets them.
    Returns:
        codes [K, B, T]; the log-probabilities with which they were written, in nats, [K, B].
    """
    tokens, log_prob = list[Tensor](), torch.zeros(())
    for position in range(num_tokens):
        if position:
            steps.advance(tokens[-1])
        logits = steps.logits if temperature == 1.0 else steps.logits / temperature
        token, of_token = choose_token(logits, generator, greedy=greedy, spread=spread and not position)  # [B, K] each
        tokens.append(token)
        log_prob = log_prob.to(of_token) + of_token
    return Drawn(torch.stack(tokens, dim=-1).transpose(0, 1), log_prob.transpose(0, 1))


def choose_token(
    logits: Tensor, generator: torch.Generator | None, *, greedy: bool, spread: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws a token, or takes the likeliest, by logits [..., V]; with its log-probability, in nats. [...] each.

    Those of the dimension before V, spread, are a systematic sample: each is drawn by its own K-th of the distribution,
    and one of them at random as without.
    """
    probs = torch.softmax(as_float(logits), dim=-1)
    if greedy:
        token = logits.argmax(-1, keepdim=True)
    else:
        shape = (*probs.shape[:-1], 1)
        uniform = torch.rand(shape, generator=generator, device=probs.device, dtype=probs.dtype)
        if spread:
            count = shape[-2]
            uniform = (uniform[..., :1, :] + torch.arange(count, device=probs.device).unsqueeze(-1)) / count
        token = draw_categorical(probs, uniform)
    return token[..., 0], probs.gather(-1, token)[..., 0].log()


@runtime_checkable
class CodePosterior(Protocol):
    """A distribution over codes that scores its own draws in fewer passes than `sample` and `log_prob` take.

    Batch shape [B], event shape [T]. A plain `torch.distributions.Distribution` need not have these methods: callers go
    through the functions `draw` and `score_drawn`, which then fall back on `sample` and `log_prob`.
    """

    def draw(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Drawn:
        """Draws codes, K per context for (K,), and scores them in the same pass, without gradient."""

    def score_drawn(self, codes: Tensor, log_prob: Tensor) -> Tensor:
        """log q(z|x), in nats, with gradient, of all or some of the codes [*S, B, T] that this object drew. [*S, B].

        log_prob is what `draw` gave for them; its value may be used instead of another pass. [*S, B].
        """


@torch.no_grad()
def draw(posterior: Distribution, sample_shape: SampleShape = ()) -> Drawn:
    """Draws codes [*sample_shape, B, T] with their log-probabilities, without gradient."""
    if isinstance(posterior, CodePosterior):
        return posterior.draw(sample_shape)
    codes = posterior.sample(torch.Size(sample_shape))
    return Drawn(codes, posterior.log_prob(codes))


def score_drawn(posterior: Distribution, codes: Tensor, log_prob: Tensor) -> Tensor:
    """Scores codes [*S, B, T] that this very object drew with log_prob [*S, B], with gradient. [*S, B], in nats."""
    if isinstance(posterior, CodePosterior):
        return posterior.score_drawn(codes, log_prob)
    return posterior.log_prob(codes)
