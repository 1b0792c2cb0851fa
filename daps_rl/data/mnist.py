"""Fashion-MNIST, MNIST and any folder of their form: 28 x 28 grey images in four IDX files, or on the hub."""

import gzip
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daps_rl.data.arrays import from_arrays
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.files import open_plain
from daps_rl.data.hub import read_hub_arrays
from daps_rl.data.splits import Splits

# role -> name and number of dimensions
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}
UNSIGNED_BYTE = 0x08
GZIP_MOST = 1032  # as much longer a file can be unzipped
VALIDATION_SHARE = 12  # one twelfth: 5,000 of the official 60,000 training images


@dataclass(frozen=True)
class ImageSource:
    """Where a data set of MNIST's form can be found when no folder is given."""

    name: str
    hub_id: str
    system_dir: Path | None = None
    debian_package: str | None = None


FASHION_MNIST = ImageSource(
    "fashion-mnist",
    hub_id="zalando-datasets/fashion_mnist",
    system_dir=Path("/usr/share/datasets/fashion-mnist"),
    debian_package="dataset-fashion-mnist",
)
MNIST = ImageSource("mnist", hub_id="ylecun/mnist")


def load_image_source(source: ImageSource, data_dir: Path | None = None, binarize: bool | None = None) -> Splits:
    """A named data set of MNIST's form: from `data_dir` alone, or else from the system's folder, then from the hub."""
    if data_dir is None and source.system_dir and len(find_idx_files(source.system_dir)) == len(IDX_FILES):
        data_dir = source.system_dir
    if data_dir is not None:
        return load_idx_folder(source.name, data_dir, binarize)
    debian = f", `apt-get install {source.debian_package}`" if source.debian_package else ""
    files = f"a folder of the four IDX files{debian}"
    return _cut_validation(source.name, read_hub_arrays(source.name, source.hub_id, "image", 1, files), binarize)


def load_idx_folder(name: str, folder: Path, binarize: bool | None = None) -> Splits:
    """Splits from a folder with the four IDX files; 1 where a pixel is above 127, unless `binarize` is False.

    The last twelfth of the training file is the validation split: of the official 60,000 training images the first
    55,000 are for training and the last 5,000 for validation. The test file (10,000) is the test split.

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
    return _cut_validation(name, arrays, binarize)


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Those of the four files that a folder holds, by role; each plain or `.gz`, `-idx3-` or `.idx3-`."""
    found = {}
    for role, (name, _) in IDX_FILES.items():
        spellings = [spelling + suffix for suffix in ("", ".gz") for spelling in (name, name.replace("-idx", ".idx"))]
        paths = [folder / spelling for spelling in spellings if os.path.isfile(folder / spelling)]
        if paths:
            found[role] = paths[0]
    return found


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The unsigned bytes of one IDX file, gzipped if its name ends in `.gz`.

    Layout: two zero bytes, the type code (0x08), the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the values.

    Returns:
        uint8, read-only, of the shape that the file states, which has `ndim` dimensions.
    Raises:
        DataError: the file cannot be read, is not such a file, or is shorter or longer than it states.
    """
    magic, zipped = bytes([0, 0, UNSIGNED_BYTE, ndim]), path.suffix == ".gz"
    with open_plain(path, "a gzip file" if zipped else "a readable file") as plain:
        file = gzip.GzipFile(fileobj=plain) if zipped else plain
        header = file.read(4 + 4 * ndim)
        if header[:4] != magic or len(header) < 4 + 4 * ndim:
            raise DataError(
                f"{path} must start with the IDX magic {magic.hex()} (unsigned bytes, {ndim} dimensions) and a header "
                f"of {4 + 4 * ndim} bytes, got {header[:4].hex() or 'an empty file'} and {len(header)} bytes; fetch "
                "the file again"
            )
        shape = struct.unpack(f">{ndim}I", header[4:])
        size, most = math.prod(shape), os.path.getsize(path) * (GZIP_MOST if zipped else 1)
        raw = file.read(min(size, most) + 1)
    if size == 0 or len(raw) != size:
        raise DataError(
            f"{path} must hold at least one value, and as many as its header states: {list(shape)} is {size}, "
            f"got {'more' if len(raw) > size else len(raw)}; fetch the file again"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _cut_validation(name: str, arrays: dict[str, np.ndarray], binarize: bool | None) -> Splits:
    count = len(arrays["train"])
    if count < 2:
        raise DataError(f"{name}: the training file must hold two images or more, got {count}; add images")
    cut = count - max(1, count // VALIDATION_SHARE)
    first = {key: arrays[key][:cut] for key in ("train", "train_labels")}
    last = {key.replace("train", "validation"): arrays[key][cut:] for key in first}
    return from_arrays(**{**arrays, **first, **last}, name=name, binarize=binarize is not False)
