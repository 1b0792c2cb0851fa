"""Pickles of plain arrays, read without running what they hold."""

import io
import pickle
from typing import Any

import numpy as np

from daps_rl.data.errors import DataError, one_line

# All that a pickled array or string of bytes names: how numpy rebuilds an array, its two types, and Python 2's bytes.
_rebuild_array = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy._core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode(_latin(encoding)),
}


def read_plain_pickle(raw: bytes, where: str) -> Any:
    """The dictionaries, lists, numbers, strings and arrays of a pickle; strings of Python 2 as bytes.

    A pickle is a program that names functions and calls them. This reader knows the five above and no others.

    Raises:
        DataError: the pickle is damaged, or names anything else.
    """
    try:
        return _PlainUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    # A damaged pickle is a damaged program: there is no end to the ways in which it can fail.
    except Exception as error:
        raise DataError(f"{where} must be a whole pickle, got: {one_line(error)}; fetch the file again") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"its pickle must hold plain arrays, got {module}.{name}, which could run code; "
                "nothing was run: delete the file, and fetch it from its official place"
            )
        return _ALLOWED[module, name]


def _latin(encoding: str) -> str:
    """The one encoding that pickled bytes are written in."""
    if encoding != "latin1":
        raise DataError(f"its pickled bytes must be encoded in latin1, got {encoding!r}; fetch the file again")
    return encoding
