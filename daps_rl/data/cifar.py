"""CIFAR-10: 60,000 colour photographs of 32 x 32 in ten classes, from its official files or the hub."""

import math
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daps_rl.data.errors import DataError, MissingDataError, one_line
from daps_rl.data.held_out import cut_missing
from daps_rl.data.hub import read_hub_arrays
from daps_rl.data.images import colour_splits
from daps_rl.data.splits import Splits
from daps_rl.data.unpickle import read_plain_pickle

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


def load_cifar10(data_dir: Path | None) -> Splits:
    """CIFAR-10: 45,000 for training, 5,000 for validation, 10,000 for the test; [3, 32, 32], standardised.

    The validation split is a tenth of the training files, drawn by a permutation with a fixed seed.

    Args:
        data_dir: holds one of `PLACES`, the first that is there, or is one of them itself; None asks the hub.
    """
    if data_dir is None:
        arrays = read_hub_arrays("cifar10", HUB_ID, "img", 3, _remedies)
        arrays |= {split: arrays[split].transpose(0, 3, 1, 2) for split in BATCHES}
    else:
        arrays = _read_place(_find(data_dir))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    pixels = {split: tensors.pop(split) for split in BATCHES}
    labels: dict[str, Tensor | None] = {**tensors}
    cut_missing(pixels, labels, "cifar10")
    return colour_splits("cifar10", pixels, labels)


def _remedies(reason: str) -> str:
    return (
        f"cifar10 needs its official files or the hub, got {reason}; use --data-dir (data_dir=) with a folder that "
        f"holds one of {', '.join(PLACES)}, or `pip install daps-rl[datasets]` and a connection"
    )


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
    for file, raw in _archived(place) if os.path.isfile(place) else _in_folder(place):
        name, binary = file.removesuffix(".bin"), file.endswith(".bin")
        if name not in batches or binary:  # the binary version comes first where a folder holds both
            pixels, labels = (_read_binary if binary else _read_pickle)(raw, f"{place}: {file}")
            if len(labels) != IMAGES_PER_FILE or labels.min() < 0 or labels.max() >= CLASSES:
                raise DataError(
                    f"{place}: {file} must have {IMAGES_PER_FILE} labels of 0 to {CLASSES - 1}, got {len(labels)}, or "
                    "others; fetch the file again"
                )
            batches[name] = pixels.reshape(-1, *SHAPE), labels
    missing = [name for name in NAMES if name not in batches]
    if missing:
        raise MissingDataError(f"{place} must hold {', '.join(NAMES)}, but lacks {', '.join(missing)}; fetch it again")
    arrays = {}
    for split, names in BATCHES.items():
        for key, part in ((split, 0), (f"{split}_labels", 1)):
            arrays[key] = np.concatenate([batches[name][part] for name in names])
    return arrays


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in (file for stem in NAMES for file in (stem, f"{stem}.bin")):
        path = folder / name
        if os.path.isfile(path):
            try:
                _check_size(path.stat().st_size, f"{folder}: {name}")
                yield name, path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} must be readable, got: {one_line(error)}; check its permissions") from error


def _archived(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in an archive, read as a stream: nothing is written to disk, and other members are passed over."""
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name.removesuffix(".bin") in NAMES:
                    _check_size(member.size, f"{archive}: {name}")
                    content = tar.extractfile(member)
                    assert content is not None  # the member is a file
                    yield name, content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive} must be a whole tar archive, got: {one_line(error)}; fetch it again") from error


def _check_size(size: int, where: str) -> None:
    """Before anything is read: a file of the binary version has one size, one of the Python version at most another."""
    binary = where.endswith(".bin")
    least = IMAGES_PER_FILE * (PIXELS + binary)
    most = least if binary else least + PICKLE_OVERHEAD
    if not least <= size <= most:
        raise DataError(f"{where} must have {least} to {most} bytes, got {size}; fetch the file again")


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
    return data, np.array(labels, dtype=np.int64)
