"""Fashion-MNIST, MNIST and any folder of their form: 28 x 28 grey images in four IDX files, or on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from daps_rl.data.arrays import from_mapping
from daps_rl.data.errors import DataError
from daps_rl.data.hub import read_hub_arrays
from daps_rl.data.idx import IDX_FILES, find_idx_files, read_idx_folder
from daps_rl.data.splits import Splits

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


def load_image_source(source: ImageSource, data_dir: Path | None, binarize: bool | None) -> Splits:
    """A named data set of MNIST's form: from `data_dir` alone, or else from the system's folder, then from the hub."""
    if data_dir is None and source.system_dir and len(find_idx_files(source.system_dir)) == len(IDX_FILES):
        data_dir = source.system_dir
    if data_dir is not None:
        return load_idx_folder(source.name, data_dir, binarize)
    arrays = read_hub_arrays(source.name, source.hub_id, "image", 1, partial(_remedies, source))
    return _cut_validation(source.name, arrays, binarize)


def load_idx_folder(name: str, folder: Path, binarize: bool | None) -> Splits:
    """Splits from a folder with the four IDX files; 1 where a pixel is above 127, unless `binarize` is False.

    The last twelfth of the training file is the validation split: of the official 60,000 training images the first
    55,000 are for training and the last 5,000 for validation. The test file (10,000) is the test split.
    """
    return _cut_validation(name, read_idx_folder(folder), binarize)


def _cut_validation(name: str, arrays: Mapping[str, np.ndarray], binarize: bool | None) -> Splits:
    count = len(arrays["train"])
    if count < 2:
        raise DataError(f"{name}: the training file must hold two images or more, got {count}; add images")
    cut = count - max(1, count // VALIDATION_SHARE)
    first = {key: arrays[key][:cut] for key in ("train", "train_labels")}
    last = {key.replace("train", "validation"): arrays[key][cut:] for key in first}
    return from_mapping({**arrays, **first, **last}, name, binarize=binarize is not False)


def _remedies(source: ImageSource, reason: str) -> str:
    looked = f"no files in {source.system_dir} and " if source.system_dir else ""
    debian = f"`apt-get install {source.debian_package}`, " if source.debian_package else ""
    return (
        f"{source.name} needs its four IDX files or the hub, got {looked}{reason}; "
        f"use --data-dir (data_dir=) with a folder of the files, {debian}"
        "or `pip install daps-rl[datasets]` and a connection"
    )
