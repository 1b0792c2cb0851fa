"""Fashion-MNIST, MNIST and any folder of their form: 28 x 28 grey images in four IDX files, or on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from daps_rl.data.errors import DataError
from daps_rl.data.hub import read_hub_arrays
from daps_rl.data.idx import IDX_FILES, find_idx_files, read_idx_folder
from daps_rl.data.images import image_splits
from daps_rl.data.splits import Splits

WHITE = 255
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


def load_image_source(source: ImageSource, data_dir: Path | None, *, binarize: bool = True) -> Splits:
    """A named data set of MNIST's form, from the first place that has it.

    With `data_dir`, from there and nowhere else. Otherwise from the system's folder, then from the hub.
    See `load_idx_folder` for the splits and the values.

    Raises:
        MissingDataError: the data are not there.
        DataError: a file is damaged.
    """
    if data_dir is not None:
        return load_idx_folder(source.name, data_dir, binarize=binarize)
    if source.system_dir is not None and len(find_idx_files(source.system_dir)) == len(IDX_FILES):
        return load_idx_folder(source.name, source.system_dir, binarize=binarize)
    arrays = read_hub_arrays(source.name, source.hub_id, "image", 1, partial(_remedies, source))
    return _cut_validation(source.name, arrays, binarize=binarize)


def load_idx_folder(name: str, folder: Path, *, binarize: bool = True) -> Splits:
    """Splits from a folder with the four IDX files.

    The last twelfth of the training file is the validation split: of the official 60,000 training images the first
    55,000 are for training and the last 5,000 for validation. The test file (10,000) is the test split.

    Args:
        name: of the data set.
        folder: holds the four files, each plain or `.gz`.
        binarize: 1 where a pixel is above 127, 0 elsewhere (likelihood "bernoulli"); otherwise pixel / 255
            ("fixed_gaussian").
    Raises:
        MissingDataError: the folder, or a file in it, is not there.
        DataError: a file is damaged, or the files do not fit each other.
    """
    return _cut_validation(name, read_idx_folder(folder), binarize=binarize)


def _cut_validation(name: str, arrays: Mapping[str, np.ndarray], *, binarize: bool) -> Splits:
    count = len(arrays["train"])
    if count < 2:
        raise DataError(f"{name}: the training file must hold two images or more, got {count}; add images")
    cut = count - max(1, count // VALIDATION_SHARE)
    images, labels = arrays["train"], arrays["train_labels"]
    return image_splits(
        name,
        {"train": images[:cut], "validation": images[cut:], "test": arrays["test"]},
        {"train": labels[:cut], "validation": labels[cut:], "test": arrays["test_labels"]},
        maximum=WHITE,
        binarize=binarize,
    )


def _remedies(source: ImageSource, reason: str) -> str:
    looked = f"no files in {source.system_dir} and " if source.system_dir else ""
    debian = f"`apt-get install {source.debian_package}`, " if source.debian_package else ""
    return (
        f"{source.name} needs its four IDX files or the hub, got {looked}{reason}; "
        f"use --data-dir (data_dir=) with a folder of the files, {debian}"
        "or `pip install daps-rl[datasets]` and a connection"
    )
