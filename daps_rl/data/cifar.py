"""CIFAR-10: 60,000 colour photographs of 32 x 32 in ten classes, from its official files or the hub."""

import io
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.hub import read_hub_arrays
from daps_rl.data.images import colour_splits
from daps_rl.data.splits import Splits, cut_missing

HUB_ID = "uoft-cs/cifar10"
PLACES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-batches-py", "cifar-10-python.tar.gz")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
NAMES = tuple(name for names in BATCHES.values() for name in names)
IMAGES_PER_FILE = 10_000
SHAPE = (3, 32, 32)
CLASSES = 10
PIXELS = math.prod(SHAPE)
PICKLE_OVERHEAD = 4_000_000  # bytes of labels and file names in a file of the Python version, at most

Batch = tuple[np.ndarray, np.ndarray]  # uint8 [N, 3072], int64 [N]


def load_cifar10(data_dir: Path | None = None) -> Splits:
    """CIFAR-10: 45,000 for training, 5,000 for validation, 10,000 for the test; [3, 32, 32], standardised.

    The validation split is a tenth of the training files, drawn by a permutation with a fixed seed.

    Args:
        data_dir: holds one of `PLACES`, the first that is there, or is one of them itself; None asks the hub.
    """
    if data_dir is None:
        arrays = read_hub_arrays("cifar10", HUB_ID, "img", 3, f"a folder that holds one of {', '.join(PLACES)}")
        arrays |= {split: arrays[split].transpose(0, 3, 1, 2) for split in BATCHES}
    else:
        arrays = _read_place(_find(data_dir))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    pixels = {split: tensors.pop(split) for split in BATCHES}
    labels: dict[str, Tensor | None] = {**tensors}
    cut_missing(pixels, labels, "cifar10")
    return colour_splits("cifar10", pixels, labels)


def _find(data_dir: Path) -> Path:
    """The first of `PLACES` in a folder, or the folder or archive itself."""
    if os.path.isfile(data_dir) or any(os.path.isfile(data_dir / (NAMES[0] + suffix)) for suffix in ("", ".bin")):
        return data_dir
    for name in PLACES:
        if os.path.exists(data_dir / name):
            return data_dir / name
    state = "it holds none" if os.path.isdir(data_dir) else "it is neither a folder nor an archive"
    raise MissingDataError(f"{data_dir} must be or hold one of {', '.join(PLACES)}, but {state}; put the files there")


def _read_place(place: Path) -> dict[str, np.ndarray]:
    """Images and labels of train and test, as the files hold them: uint8 [N, 3, 32, 32], int64 [N]."""
    batches: dict[str, Batch] = {}
    try:
        for file, size, read in _files(place):
            name, binary = file.removesuffix(".bin"), file.endswith(".bin")
            if name in NAMES and (name not in batches or binary):  # a folder may hold both versions
                where, least = f"{place}: {file}", IMAGES_PER_FILE * (PIXELS + binary)
                most = least + (0 if binary else PICKLE_OVERHEAD)
                if not least <= size <= most:
                    raise DataError(f"{where} must have {least} to {most} bytes, got {size}; fetch the file again")
                pixels, labels = batches[name] = (_read_binary if binary else _read_pickle)(read(), where)
                if len(labels) != len(pixels) or labels.min() < 0 or labels.max() >= CLASSES:
                    needed = f"{IMAGES_PER_FILE} labels of 0 to {CLASSES - 1}"
                    raise DataError(f"{where} must have {needed}, got {len(labels)}, or others; fetch the file again")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        form = "a whole tar archive" if os.path.isfile(place) else "a readable folder"
        raise DataError(f"{place} must be {form}, got: {one_line(error)}; check it, or fetch it again") from error
    missing = [name for name in NAMES if name not in batches]
    if missing:
        raise MissingDataError(f"{place} must hold {', '.join(NAMES)}, but lacks {', '.join(missing)}; fetch it again")
    arrays = {}
    for split, names in BATCHES.items():
        arrays[split] = np.concatenate([batches[name][0] for name in names]).reshape(-1, *SHAPE)
        arrays[f"{split}_labels"] = np.concatenate([batches[name][1] for name in names])
    return arrays


def _files(place: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, size and reader of each file in a folder, or in an archive: one after the other, none written to disk."""
    if os.path.isdir(place):
        for path in filter(os.path.isfile, place.iterdir()):
            yield path.name, path.stat().st_size, path.read_bytes
        return
    with tarfile.open(place, "r|*") as tar:
        for member in tar:
            if member.isfile() and (content := tar.extractfile(member)) is not None:
                yield member.name.rpartition("/")[2], member.size, content.read


def _read_binary(raw: bytes, where: str) -> Batch:
    """Records of one label and 3,072 pixels: a plane of red, one of green, one of blue, each row by row."""
    records = np.frombuffer(raw, np.uint8).reshape(IMAGES_PER_FILE, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_pickle(raw: bytes, where: str) -> Batch:
    content = read_plain_pickle(raw, where)
    if not isinstance(content, dict) or not {b"data", b"labels"} <= set(content):
        raise DataError(f"{where} must hold a dictionary with data and labels, got another thing; fetch the file again")
    data, labels = content[b"data"], content[b"labels"]
    shape = (IMAGES_PER_FILE, PIXELS)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != shape:
        got = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{where}: data must be uint8 {list(shape)}, got {got}; fetch the file again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: labels must be a list of whole numbers, got another thing; fetch the file again")
    return data, np.array([min(max(label, -1), CLASSES) for label in labels])  # of any size, until they are checked


# All that a pickled array or string of bytes names: how numpy rebuilds an array, its two types, and Python 2's bytes.
_rebuild_array = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy._core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode(encoding),
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
