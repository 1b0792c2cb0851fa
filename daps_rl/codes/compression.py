"""Data as compressed bytes and back: codes by range coding, and with them, if asked for, the data themselves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder, code_sizes
from daps_rl.codes.coder import (
    CountedNumbers,
    PriorNumbers,
    Reader,
    Stream,
    TokenNumbers,
    Writer,
    WrongNumbers,
    code_tokens,
    in_float64,
    same_numbers,
)
from daps_rl.codes.container import DIGEST, Container
from daps_rl.codes.lossless import code_data
from daps_rl.codes.observations import Observations, decode_parts
from daps_rl.data.arrays import Array, as_codes
from daps_rl.data.kind import kind_to_json
from daps_rl.data.rows import Rows
from daps_rl.device import memory_size
from daps_rl.files import to_json
from daps_rl.policies import end_token
from daps_rl.tensor_file import load_tensors, save_tensors, tensors_digest

COUNTS = "counts.safetensors"
MOST_COUNTED = 2**38  # with it whole numbers stay within 64 bits


class Decompressed(NamedTuple):
    """What a compressed file holds."""

    codes: Tensor  # int64 [N, T]
    data: Tensor  # what the codes decode to, or the data themselves where the file is lossless. float32 [N, *x]


def compress(
    model: DiscreteAutoencoder, codes: Array, *, data: Rows | None = None, counts: Tensor | None = None
) -> bytes:
    """Returns codes as the content of a file, in −log2 p(z) bits each behind a header of 46 bytes.

    What it returns has been decompressed again and compared.

    Args:
        codes: from `model.encode`. int64 [N, T].
        data: what they are codes of, to write too, in −log2 p(x|z) bits each: zeros and ones, categories, or symbols,
            in any form that `model.encode` takes, or as `Observations` of a file, which are read some at a time.
            [N, *x]. None to write the codes alone.
        counts: code by this table instead of the prior, in whole numbers throughout, for files that are to be read on
            another machine. From `daps_rl.evaluation.count_codes`, int64 [T, V].
    Raises:
        ValueError: these are no codes, or no counts, of the model, its prior cannot be coded by, or such data cannot be
            written.
        ImportError: constriction is not installed.
    """
    check_streams(by_counts=counts is not None, lossless=data is not None)
    _check_counts(counts, *code_sizes(model.policy))
    codes, observed = _checked(model, codes, data)
    first, second = Writer(), Writer()
    with same_numbers():
        _code_tokens(model, first, codes, len(codes), counts)
    written = () if observed is None else code_data(second, in_float64(model.decoder), codes, observed)
    digest = hashlib.sha256()
    for _ in _digested(digest, codes, written):
        pass
    num_tokens, vocab_size = code_sizes(model.policy)
    container = Container(
        counted=counts is not None,
        lossless=data is not None,
        num_tokens=num_tokens,
        vocab_size=vocab_size,
        num_codes=len(codes),
        model=_model_digest(model, counts),
        content=digest.digest()[:DIGEST],
        codes=first.to_bytes(),
        data=second.to_bytes(),
    )
    content = container.to_bytes()
    wrong = "what was compressed does not decompress to the same; use another machine."
    for _ in _read_streams(model, Container.from_bytes(content), counts, wrong):
        pass
    return content


def check_streams(*, by_counts: bool, lossless: bool) -> None:
    """Raises ValueError where no file can be coded so."""
    if by_counts and lossless:
        raise ValueError(
            "lossless files cannot be coded by counts: their second stream needs the decoder's floating-point numbers; "
            "leave one of the two out."
        )


def _checked(model: DiscreteAutoencoder, codes: Array, data: Rows | None) -> tuple[Tensor, Observations | None]:
    """Codes [N, T], N > 0, on the CPU, and data [N, *x]; a ValueError where they are not of this model."""
    num_tokens, vocab_size = code_sizes(model.policy)
    if torch.as_tensor(codes).is_floating_point():
        raise ValueError("compressing needs codes, and this model has continuous latents; train one with codes.")
    codes = as_codes(codes, num_tokens, vocab_size).cpu()
    if codes.ndim != 2 or not len(codes):
        raise ValueError(f"codes must have shape [N, {num_tokens}], one or more, got {list(codes.shape)}.")
    if (ends := end_token(model.policy)) is not None:  # what stands behind an end is not read
        codes = ends.close(codes)
    if data is None:
        return codes, None
    observed = data if isinstance(data, Observations) else Observations(model, data)
    if len(observed) != len(codes):
        raise ValueError(f"codes must be one for each datum, got {len(codes)} of {len(observed)} data; pass as many.")
    return codes, observed


def decompress(
    model: DiscreteAutoencoder, content: bytes, *, counts: Tensor | None = None, where: str = "the file"
) -> Decompressed:
    """Returns codes and data of what `compress` returned: the very same, or an error.

    Args:
        counts: the table that they were coded by, if they were.
        where: what messages call the content.
    Raises:
        ValueError: the content is damaged, belongs to another model, or was made where numbers come out differently.
        ImportError: constriction is not installed.
    """
    entries = math.prod(model.config.observation_shape) if model.config else 0
    codes, parts = decompress_parts(model, content, counts=counts, where=where, bytes_each=4 * entries)
    return Decompressed(codes, torch.cat([*parts]))


def decompress_parts(
    model: DiscreteAutoencoder,
    content: bytes,
    *,
    counts: Tensor | None = None,
    where: str = "the file",
    bytes_each: int = 0,
) -> tuple[Tensor, Iterator[Tensor]]:
    """Returns what `decompress` does, but the data in parts [n, *x], each of which is made when it is asked for.

    Data that the file itself holds are known to be the very same at the end alone: the last part may raise ValueError.

    Args:
        bytes_each: that the caller keeps of each datum.
    """
    container = Container.from_bytes(content, where)
    counts = counts if container.counted else None
    _check_counts(counts, *code_sizes(model.policy))
    if container.counted and counts is None:
        raise ValueError(f"{where} was coded by counts, and there are none with the model; copy {COUNTS} too.")
    sizes = container.num_tokens, container.vocab_size
    if container.model != _model_digest(model, counts) or sizes != code_sizes(model.policy):
        raise ValueError(f"{where} was compressed with another model; pass the run that it was compressed with.")
    if container.num_codes * (8 * container.num_tokens + bytes_each) > memory_size():
        raise ValueError(
            f"{where} holds {container.num_codes:,} data, more than this machine's memory can; use another."
        )
    wrong = (
        f"{where} was compressed where numbers come out differently from here, on another machine or by another "
        "version of PyTorch; decompress it there, or compress it anew with --coder independent."
    )
    found = _read_streams(model, container, counts, wrong)
    codes = next(found)
    if container.lossless:
        return codes, found
    for _ in found:  # to its end, where codes are compared
        pass
    return codes, decode_parts(model, codes)


def _read_streams(
    model: DiscreteAutoencoder, container: Container, counts: Tensor | None, wrong: str
) -> Iterator[Tensor]:
    """Yields codes [N, T], then parts of the data where there are; in the end, a ValueError unless all are the same."""
    try:
        with same_numbers():
            codes = _code_tokens(model, Reader(container.codes), None, container.num_codes, counts)
        data = code_data(Reader(container.data), in_float64(model.decoder), codes, None) if container.lossless else ()
        digest = hashlib.sha256()
        yield from _digested(digest, codes, data)
        if digest.digest()[:DIGEST] != container.content:
            raise WrongNumbers("what was read is not what was written.")
    except WrongNumbers as error:
        raise ValueError(wrong) from error


def save_counts(folder: Path, counts: Tensor) -> Path:
    """Writes a table of counts beside a saved model, and returns where."""
    save_tensors(folder / COUNTS, "counts", {"counts": counts}, {})
    return folder / COUNTS


def load_counts(folder: Path, num_tokens: int, vocab_size: int) -> Tensor | None:
    """Reads what `save_counts` wrote, [T, V]; None where there is none.

    Raises:
        ValueError: it is damaged, or of another shape.
    """
    if not (folder / COUNTS).exists():
        return None
    tensors, _ = load_tensors(folder / COUNTS, "counts")
    counts = tensors.get("counts", torch.empty(0))
    try:
        _check_counts(counts, num_tokens, vocab_size)
    except ValueError as error:
        raise ValueError(f"{folder / COUNTS} does not hold counts: {error} Delete it.") from error
    return counts


def _check_counts(counts: Tensor | None, num_tokens: int, vocab_size: int) -> None:
    """Raises ValueError unless counts are a table of whole numbers [T, V] that can be coded by, or None."""
    if counts is None:
        return
    fits = counts.dtype == torch.int64 and counts.shape == (num_tokens, vocab_size)
    if not fits or not 0 <= counts.min() <= counts.max() <= MOST_COUNTED:
        raise ValueError(
            f"counts must be int64 [{num_tokens}, {vocab_size}], each of 0 … 2^38, got {counts.dtype} of shape "
            f"{list(counts.shape)}; pass what daps_rl.evaluation.count_codes gives."
        )


def _code_tokens(
    model: DiscreteAutoencoder, stream: Stream, codes: Tensor | None, count: int, counts: Tensor | None
) -> Tensor:
    num_tokens, vocab_size = code_sizes(model.policy)
    begin: Callable[[int], TokenNumbers]
    if counts is None:
        begin = functools.partial(PriorNumbers, in_float64(model.prior))
    else:
        begin = functools.partial(CountedNumbers, counts)
    return code_tokens(stream, begin, codes, (count, num_tokens), vocab_size)


def _model_digest(model: DiscreteAutoencoder, counts: Tensor | None) -> bytes:
    """Of all that decoding needs: decoder, prior or counts, the kind of data, and settings that are not the default.

    So neither another policy nor a setting that is new in a later version makes it another model, and for codes that
    are coded by counts no other prior does.
    """
    changed: dict[str, object] = {}
    for field in () if model.config is None else dataclasses.fields(model.config):
        value = getattr(model.config, field.name)
        if value != field.default and (counts is None or not field.name.startswith("prior")):
            changed[field.name] = value
    text = to_json({"model": changed, "kind": kind_to_json(model.kind)})
    source = model.prior.state_dict(prefix="prior.") if counts is None else {"counts": counts}
    tensors = {**model.decoder.state_dict(prefix="decoder."), **source}
    return bytes.fromhex(tensors_digest({name: each.cpu() for name, each in tensors.items()}, text))[:8]


def _digested(digest: Any, codes: Tensor, data: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields codes and then parts of data, as they are added to a digest of hashlib's."""
    digest.update(codes.numpy().astype("<i4").tobytes())
    yield codes
    for part in data:
        digest.update(part.numpy().astype("<f4").tobytes())
        yield part
