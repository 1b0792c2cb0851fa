"""Range coding of codes by whole numbers, which a prior or a table of counts gives in the same way on both sides.

A decoder must have the very numbers that the encoder had. So one function walks through the codes for both: it hands
the numbers of each token to a `Writer`, which is given the tokens, or to a `Reader`, which finds them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

PRECISION = 24  # bits of a probability, those that constriction works with
SIDE_BY_SIDE = 512  # codes, or data, at most
NUMBERS_AT_ONCE = 2**21  # made for those that are coded side by side
# What files hold depends on all three: another value is another version of their format.

Module = TypeVar("Module", bound=nn.Module)


class WrongNumbers(ValueError):
    """A stream that was not written by these numbers."""


class Stream(Protocol):
    """One end of a stream of symbols, each of which is coded by whole numbers in proportion to its probabilities."""

    def code(self, numbers: np.ndarray, symbols: Tensor | None) -> Tensor:
        """Writes the symbols and returns them, or returns those that it reads, where none are given.

        Args:
            numbers: from `whole_numbers`. float64 [N, V].
            symbols: in 0 … V-1. int64 [N].
        """


class Writer:
    """The end that symbols go in at. Raises ImportError where constriction is not installed."""

    def __init__(self) -> None:
        stream = _constriction()
        self._encoder, self._family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)

    def code(self, numbers: np.ndarray, symbols: Tensor | None) -> Tensor:
        assert symbols is not None  # who writes has them
        if symbols.max() >= numbers.shape[-1]:
            raise ValueError(f"symbols must lie in 0 … {numbers.shape[-1] - 1}, got {symbols.max()}; encode anew.")
        self._encoder.encode(symbols.numpy().astype(np.int32), self._family, numbers)
        return symbols

    def to_bytes(self) -> bytes:
        """Returns what was written, in words of four bytes."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


class Reader:
    """The end that symbols come out at, of the bytes that a `Writer` made.

    Raises `WrongNumbers` where it notices that they were not written by the numbers that it is given. It may not
    notice: whoever reads compares a digest of the symbols.
    """

    def __init__(self, content: bytes) -> None:
        stream = _constriction()
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._decoder, self._family = stream.queue.RangeDecoder(words), stream.model.Categorical(perfect=False)

    def code(self, numbers: np.ndarray, symbols: Tensor | None = None) -> Tensor:
        try:
            return torch.from_numpy(self._decoder.decode(self._family, numbers).astype(np.int64))
        except AssertionError as error:  # what constriction raises then
            raise WrongNumbers("the stream was written by other numbers.") from error


def _constriction() -> Any:
    try:
        from constriction import stream
    except ImportError as error:
        raise ImportError("compressed files need constriction: pip install 'daps-rl[compress]'") from error
    return stream


def whole_numbers(logits: Tensor) -> np.ndarray:
    """Returns probabilities as whole numbers that add up to 2^24 − V. [..., V] → float64 [N, V].

    `constriction` adds one to each, and so makes them sum to 2^24 without rounding anything.

    Raises:
        ValueError: there are no such probabilities: a logit is NaN, or all of a row are −inf.
    """
    logits = logits.double().flatten(0, -2)
    probs, total = torch.softmax(logits, dim=-1), 2**PRECISION - logits.shape[-1]
    if not bool(probs.isfinite().all()):
        raise ValueError(
            "probabilities must be finite, got some that are not; the codes are none that the prior can write, or the "
            "model has not learned: encode, or train, anew."
        )
    numbers = (probs * total).floor()
    return _filled_up(numbers, total).numpy()


def _filled_up(numbers: Tensor, total: int) -> Tensor:
    """Adds to the largest of each row what the row lacks of the total. [N, V]."""
    largest = numbers.argmax(-1, keepdim=True)
    return numbers.scatter_add(-1, largest, total - numbers.sum(-1, keepdim=True))


class TokenNumbers(Protocol):
    """Codes that are coded token by token, N side by side."""

    def numbers(self) -> np.ndarray:
        """Returns the whole numbers of the next token. [N, V]."""

    def advance(self, token: Tensor) -> None:
        """Goes on to the next position, after these tokens. int64 [N]."""


class PriorNumbers:
    """The numbers of N codes by a prior's `steps`; see `daps_rl.policies.distribution.TokenSteps`."""

    def __init__(self, prior: nn.Module, count: int) -> None:
        distribution = prior()
        if not hasattr(distribution, "steps"):
            raise ValueError(
                f"compressing needs a prior that writes codes token by token, and {type(distribution).__name__} has no "
                "steps(samples); give it one, or code by a table of counts."
            )
        self._steps = distribution.steps(count)

    def numbers(self) -> np.ndarray:
        return whole_numbers(self._steps.logits)

    def advance(self, token: Tensor) -> None:
        self._steps.advance(token.unsqueeze(0))


class CountedNumbers:
    """The numbers of N codes by how often each token was counted at each position, in whole numbers throughout."""

    def __init__(self, counts: Tensor, count: int) -> None:
        total = 2**PRECISION - counts.shape[1]
        shares = (counts + 1) * total // (counts + 1).sum(-1, keepdim=True)
        self._table, self._count, self._position = _filled_up(shares, total).double().numpy(), count, 0

    def numbers(self) -> np.ndarray:
        return np.tile(self._table[self._position], (self._count, 1))

    def advance(self, token: Tensor) -> None:
        self._position += 1


def code_tokens(
    stream: Stream, begin: Callable[[int], TokenNumbers], codes: Tensor | None, shape: tuple[int, int], vocab_size: int
) -> Tensor:
    """Writes codes to a stream, or reads as many from one, in parts of the same size.

    Args:
        stream: a `Writer` or a `Reader`.
        begin: gives the numbers of so many codes.
        codes: to write, or None to read. int64 [N, T].
        shape: N and T.
        vocab_size: V.
    Returns:
        the codes. int64 [N, T].
    """
    count, num_tokens = shape
    found = torch.empty(shape, dtype=torch.int64)
    for rows in parts(count, vocab_size + 64 * num_tokens):
        given = None if codes is None else codes[rows]
        source, written = begin(len(found[rows])), found[rows]
        for position in range(num_tokens):
            if position:
                source.advance(written[:, position - 1])
            token = None if given is None else given[:, position]
            written[:, position] = stream.code(source.numbers(), token)
    return found


def parts(count: int, numbers_each: int) -> Iterator[slice]:
    """Yields the rows that are coded side by side, where so many numbers are made for each of `count` rows."""
    size = max(1, min(SIDE_BY_SIDE, NUMBERS_AT_ONCE // numbers_each))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@contextlib.contextmanager
def same_numbers() -> Iterator[None]:
    """Meanwhile torch computes in one thread and in float64, also what modules make on their own; no gradients."""
    threads, kind = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(kind)


def in_float64(module: Module) -> Module:
    """Returns a copy of a module on the CPU, in float64, as it is after training."""
    return copy.deepcopy(module).to("cpu", torch.float64).eval()
