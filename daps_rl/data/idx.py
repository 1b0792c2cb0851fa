"""Reader of IDX files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from daps_rl.data.errors import DataError, MissingDataError, one_line

UNSIGNED_BYTE = 0x08
# role -> name and number of dimensions
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The unsigned bytes of one IDX file, gzipped if its name ends in `.gz`.

    Layout: two zero bytes, the type code (0x08), the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the values.

    Returns:
        uint8, read-only, of the shape that the file states, which has `ndim` dimensions.
    Raises:
        DataError: the file cannot be read, is not such a file, or is shorter or longer than it states.
    """
    raw = _read_bytes(path)
    magic = struct.pack(">HBB", 0, UNSIGNED_BYTE, ndim)
    header = 4 + 4 * ndim
    if raw[: len(magic)] != magic:
        raise DataError(
            f"{path} must start with the IDX magic {magic.hex()} (unsigned bytes, {ndim} dimensions), "
            f"got {raw[: len(magic)].hex() or 'an empty file'}; fetch the file again"
        )
    if len(raw) < header:
        raise DataError(f"{path} must have an IDX header of {header} bytes, got {len(raw)}; fetch the file again")
    shape = struct.unpack(f">{ndim}I", raw[len(magic) : header])
    size = math.prod(shape)
    if size == 0 or len(raw) - header != size:
        raise DataError(
            f"{path} must hold at least one value, and as many as its header states: {list(shape)} is {size}, "
            f"got {len(raw) - header}; fetch the file again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be readable, got: {one_line(error)}; check its permissions") from error
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} must be a gzip file, got: {one_line(error)}; fetch the file again") from error


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Those of the four files that a folder holds, by role; each plain or `.gz`, `-idx3-` or `.idx3-`."""
    found = {}
    for role, (name, _) in IDX_FILES.items():
        spellings = [spelling + suffix for suffix in ("", ".gz") for spelling in (name, name.replace("-idx", ".idx"))]
        paths = [folder / spelling for spelling in spellings if os.path.isfile(folder / spelling)]
        if paths:
            found[role] = paths[0]
    return found


def read_idx_folder(folder: Path) -> dict[str, np.ndarray]:
    """The four files of a folder, uint8: train and test [N, H, W], train_labels and test_labels [N].

    Raises:
        MissingDataError: the folder, or a file in it, is not there.
        DataError: a file is damaged, or the files do not fit each other.
    """
    paths = find_idx_files(folder)
    missing = [name for role, (name, _) in IDX_FILES.items() if role not in paths]
    if missing:
        state = "lacks " + ", ".join(missing) if os.path.isdir(folder) else "is not a folder"
        needed = ", ".join(name for name, _ in IDX_FILES.values())
        raise MissingDataError(
            f"{folder} must be a folder with {needed} (each may end in .gz), but it {state}; put the files there"
        )
    arrays = {role: read_idx(paths[role], ndim) for role, (_, ndim) in IDX_FILES.items()}
    for split in ("train", "test"):
        images, labels = arrays[split], arrays[f"{split}_labels"]
        if len(labels) != len(images):
            raise DataError(
                f"{paths[f'{split}_labels']} must hold one label for each of the {len(images)} images in "
                f"{paths[split].name}, got {len(labels)}; take both files from one source"
            )
    if arrays["test"].shape[1:] != arrays["train"].shape[1:]:
        raise DataError(
            f"{paths['test']} must hold images of shape {list(arrays['train'].shape[1:])} as {paths['train'].name} "
            f"does, got {list(arrays['test'].shape[1:])}; take both files from one source"
        )
    return arrays
