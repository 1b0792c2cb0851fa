"""The file that compressed codes are in: a header of fixed size, and one or two streams, with a checksum over all."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

MAGIC, VERSION, DIGEST = b"DAPS", 1, 8  # the last in bytes
HEADER = struct.Struct("<4sBB4I8s8s8s")
"""Magic, version, how it was coded, T, V, N, bytes of the first stream; digests of model, content, and whole file."""
COUNTED, LOSSLESS = 1, 2  # bits of how it was coded


class Container(NamedTuple):
    """What a compressed file holds."""

    counted: bool  # by a table of counts; by the prior if not
    lossless: bool
    num_tokens: int
    vocab_size: int
    num_codes: int
    model: bytes  # digest of all that decoding needs, eight bytes as the next
    content: bytes  # digest of what was coded
    codes: bytes  # stream of the codes
    data: bytes  # stream of the data given the codes; empty if not lossless

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        how, size = COUNTED * self.counted + LOSSLESS * self.lossless, len(self.codes)
        sizes = (self.num_tokens, self.vocab_size, self.num_codes, size)
        start = HEADER.pack(MAGIC, VERSION, how, *sizes, self.model, self.content, b"")[:-8]
        return start + short_digest(start, self.codes, self.data) + self.codes + self.data

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "the file") -> Container:
        """Reads what `to_bytes` gave, and nothing else; `where` is what messages call it.

        Raises:
            ValueError: it is another file, of another version, or damaged.
        """
        if len(content) < HEADER.size or content[:4] != MAGIC:
            raise ValueError(f"{where} is damaged, or no file of daps-rl compress; restore a copy.")
        _, version, how, num_tokens, vocab_size, count, size, model, digest, whole = HEADER.unpack_from(content)
        start, streams = content[: HEADER.size - 8], content[HEADER.size :]
        if version != VERSION:
            raise ValueError(
                f"{where} is damaged, or of another version of daps-rl (format {version}, here {VERSION}); use the one "
                "that wrote it."
            )
        codes, data = streams[:size], streams[size:]
        fits = how <= COUNTED + LOSSLESS and count > 0 and size == len(codes) and (how & LOSSLESS or not data)
        if whole != short_digest(start, streams) or not fits or len(codes) % 4 or len(data) % 4:
            raise ValueError(f"{where} is damaged: its checksum does not match; restore a copy.")
        flags = bool(how & COUNTED), bool(how & LOSSLESS)
        return cls(*flags, num_tokens, vocab_size, count, model, digest, codes, data)


def short_digest(*parts: bytes) -> bytes:
    """Returns the first bytes of a SHA-256 digest of all parts, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()[:DIGEST]
