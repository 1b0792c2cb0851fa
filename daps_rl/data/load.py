"""One call for every data set: by name, by path, or from the hub."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from daps_rl.data.cifar import load_cifar10
from daps_rl.data.corrupt import MAX_CORRUPT
from daps_rl.data.digits import load_digits
from daps_rl.data.endless import stream_hub
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.files import SUFFIXES, load_file
from daps_rl.data.folder import holds_images, load_image_folder
from daps_rl.data.hub import load_hub, open_images
from daps_rl.data.idx import IDX_FILES, find_idx_files
from daps_rl.data.mnist import FASHION_MNIST, MNIST, load_idx_folder, load_image_source
from daps_rl.data.photographs import IMAGE_SIZE, load_photographs
from daps_rl.data.splits import Splits

SOURCES = {source.name: source for source in (FASHION_MNIST, MNIST)}
IDX_OPTIONS = ("data_dir", "binarize")


def _images(name: str, o: Mapping[str, Any]) -> Splits:
    return load_image_source(SOURCES[name], o["data_dir"], o["binarize"])


class Named(NamedTuple):
    """A data set by name: what loads it, given all options, and those that it takes."""

    load: Callable[[Mapping[str, Any]], Splits]
    takes: tuple[str, ...]


NAMED = {
    "digits": Named(lambda o: load_digits(binarize=bool(o["binarize"])), ("binarize",)),
    "fashion-mnist": Named(lambda o: _images("fashion-mnist", o), IDX_OPTIONS),
    "mnist": Named(lambda o: _images("mnist", o), IDX_OPTIONS),
    "cifar10": Named(lambda o: load_cifar10(o["data_dir"]), ("data_dir",)),
    "photographs": Named(lambda o: load_photographs(_size(o["image_size"], IMAGE_SIZE)), ("image_size",)),
}
NAMES = tuple(NAMED)
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
STREAM_SIZE = 64  # pixels: images of folders and of the hub, unless image_size says otherwise
# Why a data set does not take an option.
REASONS = {
    "data_dir": "ships inside Python packages",
    "binarize": "has colours or greys that are standardised",
    "image_size": "has images of one size, which stay as they are",
    "image_column": "has no columns",
    "hub_config": "is no data set of the hub",
    "streaming": "is no data set of the hub",
    "max_corrupt": "must be whole",
}
DEFAULTS = {"streaming": False, "max_corrupt": MAX_CORRUPT}  # None for the other options


def load(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    binarize: bool | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    hub_config: str | None = None,
    streaming: bool = False,
    max_corrupt: int = MAX_CORRUPT,
) -> Splits:
    """A data set, by name, by path or from the Hugging Face hub; docs/data.md says more of each.

    - "digits": 1,257 / 180 / 360 images of 8 x 8, shipped inside scikit-learn. Grey unless `binarize=True`.
    - "fashion-mnist", "mnist": 55,000 / 5,000 / 10,000 images of 28 x 28. Binary unless `binarize=False`. Fashion-MNIST
      is read from `data_dir`, else from Debian's package dataset-fashion-mnist, else from the Hugging Face hub;
      MNIST from `data_dir`, else from the hub.
    - "cifar10": 45,000 / 5,000 / 10,000 colour images of 32 x 32, from `data_dir`, else from the hub.
    - "photographs": 20,000 / 1,000 / 2,000 colour patches of photographs inside scikit-learn and scikit-image.
    - a folder with the four IDX files of MNIST's form: the same, of any size; a twelfth of the training file is the
      validation split.
    - any other folder with images: decoded as training needs them.
    - a `.npy`, `.npz` or `.safetensors` file: see `from_arrays`.
    - "owner/name", or any other name that is no path: an image data set of the hub.

    A name comes before a folder of the same name; write `./digits` or `Path("digits")` for the folder. A path that is
    there comes before the hub.

    Args:
        name_or_path: one of the above.
        data_dir: where to look, and then only there: the folder with a named data set's files, or the folder that
            a relative path starts from.
        binarize: 0 and 1 (likelihood "bernoulli") or not; None is the data set's own default.
        image_size: height and width, in pixels, of photographs (32) and of the images of folders and the hub (64).
        image_column: of a hub data set with more than one column of images.
        hub_config: of a hub data set with more than one configuration (`name=` of `datasets.load_dataset`).
        streaming: read a hub data set over the network as training goes, in place of downloading it first.
        max_corrupt: how many unreadable images of a folder or a hub data set may be skipped.
    Raises:
        MissingDataError: (a FileNotFoundError and a ValueError) the data are not there.
        DataError: (a ValueError) the name is unknown, a file is damaged or does not fit, or the data set does not take
            an option.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    options = {
        "data_dir": folder,
        "binarize": binarize,
        "image_size": image_size,
        "image_column": image_column,
        "hub_config": hub_config,
        "streaming": streaming,
        "max_corrupt": max_corrupt,
    }
    if isinstance(name_or_path, str) and name_or_path in NAMES:
        named = NAMED[name_or_path]
        _take_only(name_or_path, options, *named.takes)
        return named.load(options)
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise _unknown(name_or_path)
    path = Path(name_or_path).expanduser()
    if folder is not None and path.is_absolute():
        raise DataError(
            f"a path must be relative to be looked for in data_dir, got {str(path)!r} with data_dir {str(folder)!r}; "
            "leave one of them out"
        )
    path = path if folder is None else folder / path
    if os.path.isdir(path):  # unlike path.is_dir(), no error where a parent folder is closed
        return _load_folder(path, options)
    if path.suffix.lower() in SUFFIXES:
        _take_only(f"the file {path}", options, "data_dir", "binarize")
        return load_file(path, binarize=binarize)
    if isinstance(name_or_path, str) and folder is None and HUB_ID.fullmatch(name_or_path) and not path.exists():
        return _load_hub(name_or_path, options)
    raise _unknown(name_or_path)


def _load_folder(path: Path, options: dict[str, Any]) -> Splits:
    """IDX files if there is one of them, else images."""
    if find_idx_files(path):
        _take_only(f"the folder {path} of IDX files", options, *IDX_OPTIONS)
        return load_idx_folder(str(path), path, options["binarize"])
    if not holds_images(path):
        needed = ", ".join(name for name, _ in IDX_FILES.values())
        raise MissingDataError(
            f"{path} must be a folder with {needed}, or with images, but has neither; put them there"
        )
    _take_only(f"the folder {path} of images", options, "data_dir", "image_size", "max_corrupt")
    size = _size(options["image_size"], STREAM_SIZE)
    return load_image_folder(path, image_size=size, max_corrupt=options["max_corrupt"])


def _load_hub(hub_id: str, options: dict[str, Any]) -> Splits:
    _take_only(hub_id, options, "image_size", "image_column", "hub_config", "streaming", "max_corrupt")
    size = _size(options["image_size"], STREAM_SIZE)
    how = {"name": options["hub_config"], "streaming": options["streaming"] or None}
    column, found = open_images(hub_id, options["image_column"], lambda why: str(_unknown(hub_id, why)), **how)
    read = stream_hub if options["streaming"] else load_hub
    return read(hub_id, column, found, image_size=size, max_corrupt=options["max_corrupt"])


def _take_only(name: str, options: dict[str, Any], *taken: str) -> None:
    """Raises DataError if an option was given that the data set cannot use."""
    for option, value in options.items():
        if option not in taken and value != DEFAULTS.get(option):
            raise DataError(
                f"{name} {REASONS[option]}, so it takes no {option}, got {str(value)!r}; leave {option} out"
            )


def _size(given: int | None, default: int) -> int:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise DataError(f"image_size must be a positive whole number of pixels, got {given!r}; pass {default}")
    return given


def _unknown(given: object, reason: str | None = None) -> DataError:
    got = repr(os.fspath(given) if isinstance(given, os.PathLike) else given)
    remedy = "pass one of these"
    if reason is not None:
        got += f", which is no path, and {reason}"
        remedy += ", and for the hub `pip install daps-rl[datasets]` and have a connection"
    return DataError(
        f"data must be one of {', '.join(NAMES)}, a folder with the four IDX files or with images, "
        f"a {', '.join(SUFFIXES)} file, or a data set of the hub (owner/name), got {got}; {remedy}"
    )
