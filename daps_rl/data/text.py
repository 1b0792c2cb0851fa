"""Texts: windows of characters, of bytes, or of the tokens of a file of the `tokenizers` library."""

from __future__ import annotations

import gzip
import lzma
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from daps_rl.data.errors import DataError, one_line
from daps_rl.data.kind import Array, Kind, Measure
from daps_rl.data.plain import as_utf8, open_plain
from daps_rl.files import write_atomically
from daps_rl.functional.bounds import in_bits
from daps_rl.report.texts import mark_texts, plot_texts

FORMS = ("characters", "bytes", "tokens")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MOST_BYTES = 2**27  # of all texts together: at most half a gigabyte of windows
PICTURED = 256  # symbols of a window, at most
END = -1  # of a text, among code points, bytes and tokens


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """Windows of texts, [window, 1]: at each place the number of a symbol.

    The last symbol says that a text has ended, and fills its last window; it, and what a decoder puts behind it, is
    written as nothing. The one before it stands for unknown characters, of bytes and tokens there are none.

    Args:
        window: length of a window, in symbols.
        symbols: "characters", "bytes" or "tokens".
        vocabulary: the characters in order, or the content of the tokenizer's file; empty for bytes.
    Raises:
        DataError: a value makes no sense.
        ImportError: the library `tokenizers` is needed, and not installed.
    """

    measures: ClassVar[dict[str, Measure]] = {
        "symbol_accuracy": Measure("right symbols", "", ".1%", 1),
        "exact": Measure("windows all right", "", ".1%", 1),
        "bits_per_symbol": Measure("code and what it leaves open", "bits", ".2f", -1),
        "gzip_bits_per_symbol": Measure("gzip", "bits", ".2f", -1),
        "xz_bits_per_symbol": Measure("xz", "bits", ".2f", -1),
    }
    window: int
    symbols: str = "characters"
    vocabulary: str = ""

    def __post_init__(self) -> None:
        if type(self.window) is not int or self.window < 1:
            raise DataError(f"window must be a whole number of symbols >= 1, got {self.window!r}; pass 16")
        if self.symbols not in FORMS:
            raise DataError(f"symbols must be one of {', '.join(FORMS)}, got {self.symbols!r}; choose one")
        if self.symbols == "characters" and (not self.vocabulary or len({*self.vocabulary}) < len(self.vocabulary)):
            raise DataError("vocabulary must hold each character once, and one at least; train anew")
        _ = self.table

    @cached_property
    def table(self) -> tuple[str, ...]:
        """What each symbol looks like; "" for the end of a text."""
        if self.symbols == "characters":
            return (*self.vocabulary, UNKNOWN, "")
        if self.symbols == "bytes":
            return (*map(chr, range(256)), "")
        pieces = []
        for number in range(1 + max(self._tokenizer.get_vocab().values(), default=-1)):  # there may be gaps
            space = " " if str(self._tokenizer.id_to_token(number)).startswith("▁") else ""
            pieces.append(space + self._tokenizer.decode([number], skip_special_tokens=False))
        return (*pieces, "")

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"category:{len(self.table)}",)

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        right, there = (self._ended(decoded) == x.long()).flatten(1), (x != len(self.table) - 1).flatten(1)
        share = (right & there).sum(1) / there.sum(1)
        return {"symbol_accuracy": share, "exact": right.all(1).float()}

    def summary(self, metrics: Mapping[str, float | None], data: Tensor) -> dict[str, float]:
        """Returns bits for each symbol of a split: of code and text given the code, of gzip, and of xz.

        The first is a whole code's, T·log2 V or, under a prior that is not uniform, −log2 p(z), and −log2 p(x|z) of the
        window; the other two pack the split as one text.
        """
        content, count = self.content(data), int((data != len(self.table) - 1).sum())
        found = {
            "gzip_bits_per_symbol": 8 * len(gzip.compress(content, mtime=0)) / count,
            "xz_bits_per_symbol": 8 * len(lzma.compress(content, preset=lzma.PRESET_EXTREME | 9)) / count,
        }
        bits, log_likelihood = metrics.get("rate", metrics.get("bits")), metrics.get("log_likelihood")
        if bits is None or log_likelihood is None:
            return found
        return {"bits_per_symbol": (bits - in_bits(log_likelihood)) * len(data) / count, **found}

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        pieces = {label: self.pieces(data[:, :PICTURED]) for label, data in rows.items()}
        plot_texts(path, pieces, title=title)
        beside = path.with_suffix(".txt")
        write_atomically(beside, mark_texts(pieces).encode())
        return [path, beside]

    def read(self, path: Path) -> Array:
        with open_plain(path, "a text file") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"{path} must hold at most {MOST_BYTES / 2**20:.0f} MiB, got more; take a part of it")
        return self.windows(content, str(path))

    def write(self, path: Path, data: Tensor) -> str:
        content = self.content(data)
        path = path if path.suffix else path.with_suffix(".txt")
        write_atomically(path, content)
        return f"{path}: {len(data)} windows, {len(content)} bytes of text"

    def prepare(self, x: Any) -> Array:
        """Returns windows [N, window, 1] of a text, or of each of several texts of at most a window's length."""
        if isinstance(x, str | bytes):
            return self.windows(_as_bytes(x), "the text")
        if not isinstance(x, list | tuple) or not x or not all(isinstance(text, str | bytes) for text in x):
            return x
        parts = [self.windows(_as_bytes(text), f"text {index}") for index, text in enumerate(x)]
        for index, part in enumerate(parts):
            if len(part) > 1:
                raise DataError(
                    f"text {index} must hold at most {self.window} {self.symbols}, got {x[index]!r:.60}; cut it, or "
                    "pass it alone"
                )
        return np.concatenate(parts)

    def windows(self, content: bytes, where: str) -> np.ndarray:
        """Returns a text's windows, the last one filled up. float32 [N, window, 1].

        Raises:
            DataError: there is nothing, no UTF-8, or a character that training had not; with its line and column.
        """
        units = self.units(content, where)
        if not len(units):
            raise DataError(f"{where} must hold text, got none; write something into it")
        numbers = self.numbers(units)
        if self.symbols == "characters" and len(unknown := np.flatnonzero(numbers == len(self.vocabulary))):
            text, place = as_text(content, where), int(unknown[0])
            line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
            raise DataError(
                f"{where} must hold characters that training had, got {text[place]!r} in line {line}, column {column}; "
                "replace it, or train on such texts, or on --symbols bytes"
            )
        return self.numbers(cut(units, self.window)).astype(np.float32)[..., None]

    def units(self, content: bytes, where: str) -> np.ndarray:
        """Returns code points, bytes or tokens of a text. int32 [n]."""
        if self.symbols == "bytes":
            return np.frombuffer(content, np.uint8).astype(np.int32)
        text = as_text(content, where)
        if self.symbols == "characters":
            return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int32)
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def numbers(self, units: np.ndarray) -> np.ndarray:
        """Returns the symbols of code points, bytes or tokens, of any shape."""
        if self.symbols == "characters":
            return self._numbers[units]
        return np.where(units == END, len(self.table) - 1, units)

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The symbols of all code points, and at last that of END, which is -1. int32."""
        numbers = np.full(sys.maxunicode + 2, len(self.vocabulary), np.int32)
        numbers[list(map(ord, self.vocabulary))] = np.arange(len(self.vocabulary))
        numbers[END] = len(self.table) - 1
        return numbers

    def pieces(self, data: Tensor) -> list[list[str]]:
        """Returns the symbols of each window as they look. [N, L, 1]."""
        return [[self.table[number] for number in row] for row in self._ended(data).flatten(1).tolist()]

    def content(self, data: Tensor) -> bytes:
        """Returns windows as one text: joined, without what is behind a text's end. [N, L, 1]."""
        every = self._ended(data).flatten()
        numbers = every[every != len(self.table) - 1].tolist()
        if self.symbols == "bytes":
            return bytes(numbers)
        if self.symbols == "tokens":
            return str(self._tokenizer.decode(numbers, skip_special_tokens=False)).encode()
        return "".join(self.table[number] for number in numbers).encode()

    def _ended(self, data: Tensor) -> Tensor:
        """Windows with nothing but ends behind the first end. [N, L, 1] → int64."""
        numbers, end = data.round().long(), len(self.table) - 1
        return numbers.where((numbers == end).cummax(1).values.logical_not(), end)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizers = _import_tokenizers()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(self.vocabulary)
        except Exception as error:  # it raises Exception itself
            raise DataError(f"vocabulary must be a file of the tokenizers library, got: {one_line(error)}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def cut(units: np.ndarray, window: int) -> np.ndarray:
    """Returns the windows of a text's code points, bytes or tokens, the last one filled up. [N, window]."""
    return np.pad(units, (0, -len(units) % window), constant_values=END).reshape(-1, window)


def _import_tokenizers() -> Any:
    """Returns the library, or raises an ImportError of one line."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(f"tokens need the tokenizers library; pip install 'daps-rl[text]' ({error})") from error
    return tokenizers


def as_text(content: bytes, where: str) -> str:
    """Returns UTF-8 as text; a DataError with the line where it is none."""
    try:
        return as_utf8(content)
    except ValueError as error:
        raise DataError(f"{where} must be text, got {error}; convert it, or pass --symbols bytes") from error
