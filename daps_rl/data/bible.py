"""The King James Bible of Debian's package bible-kjv-text: 4.1 million characters, one verse a line."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

from daps_rl.data.corpus import WINDOW, text_splits
from daps_rl.data.errors import MissingDataError
from daps_rl.data.plain import open_plain
from daps_rl.data.splits import Splits

PACKAGED = Path("/usr/lib/bible.data")
HEADER = struct.Struct(">4s80sII")  # magic, comment, bytes of a window, how many windows
CLEAR = 256  # the first code that stands for no byte


def load_bible(*, data_dir: Path | None = None, window: int = WINDOW, symbols: str = "characters") -> Splits:
    """Splits of windows of the Bible's verses, without their numbers, one a line; see `text_splits`.

    Args:
        data_dir: a folder with `bible.data`; None for where Debian's package puts it.
        window, symbols: see `daps_rl.data.load`.
    Raises:
        MissingDataError: there is no such file.
        DataError: it is damaged, or an option makes no sense.
    """
    path = PACKAGED if data_dir is None else Path(data_dir) / PACKAGED.name
    if not path.exists():
        raise MissingDataError(
            f"text needs {path}, which is not there; `apt install bible-kjv-text`, or pass data_dir with its bible.data"
        )
    return text_splits("text", {"train": [read_verses(path)]}, {}, window=window, symbols=symbols)


def read_verses(path: Path) -> bytes:
    """Returns the verses of a `bible.data`, each on a line of its own, without book, chapter and number.

    The file is that of `bible(1)`: a header, where each window of 64 KiB begins, and the windows, each packed as by
    compress(1). The first line is a title.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is damaged.
    """
    with open_plain(path, "the bible.data of Debian's bible-kjv-text") as file:
        content = file.read()
        magic, _, size, count = HEADER.unpack_from(content)
        if magic != b"EC02":
            raise ValueError(f"magic {magic!r}, not EC02")
        starts = struct.unpack_from(f">{count + 1}I", content, HEADER.size)
        windows = [unpack(content[start:end]) for start, end in itertools.pairwise(starts)]
        if {len(window) for window in windows[:-1]} - {size}:
            raise ValueError("windows of other lengths than its header says")
    _, _, verses = b"".join(windows).partition(b"\n")
    return re.sub(rb"^\S+ ", b"", verses, flags=re.MULTILINE)


def unpack(packed: bytes) -> bytes:
    """Returns what compress(1) packed, without its header, up to a CLEAR: LZW with codes of 9 to 16 bits.

    Raises:
        IndexError: a code stands for nothing.
    """
    table = [bytes([byte]) for byte in range(CLEAR)] + [b""]
    entries: list[bytes] = []
    start, index, width = 0, 0, 9  # of the codes of one width, which come in groups of 8, `width` bytes each
    while 8 * start + (index + 1) * width <= 8 * len(packed):
        place, shift = divmod(index * width, 8)
        three = int.from_bytes(packed[start + place : start + place + 3], "little")
        code = three >> shift & ((1 << width) - 1)
        if code == CLEAR:
            break
        last = entries[-1] if entries else b""
        entries.append(last + last[:1] if last and code == len(table) else table[code])
        if last:
            table.append(last + entries[-1][:1])
        index += 1
        if len(table) >= 1 << width and width < 16:
            start, index, width = start - (-index // 8) * width, 0, width + 1
    return b"".join(entries)
