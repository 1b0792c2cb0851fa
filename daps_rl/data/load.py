"""One call for every data set: by name, by path, or from the hub."""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from daps_rl.data.bible import load_bible
from daps_rl.data.cifar import load_cifar10
from daps_rl.data.corpus import SUFFIXES as TEXT_SUFFIXES
from daps_rl.data.corpus import load_hub_texts, load_text_file, load_text_folder
from daps_rl.data.digits import load_digits
from daps_rl.data.endless import stream_hub
from daps_rl.data.errors import MAX_CORRUPT, DataError, MissingDataError
from daps_rl.data.files import SUFFIXES, load_file
from daps_rl.data.folder import IMAGE_SIZE, load_image_folder
from daps_rl.data.handwriting import load_handwriting
from daps_rl.data.hub import HubError, download_hub, find_image_column, hub_splits, open_hub
from daps_rl.data.mnist import FASHION_MNIST, IDX_FILES, MNIST, find_idx_files, load_idx_folder, load_image_source
from daps_rl.data.photographs import load_photographs
from daps_rl.data.picture import SUFFIXES as IMAGE_SUFFIXES
from daps_rl.data.plain import walk_files
from daps_rl.data.series import SUFFIXES as SERIES_SUFFIXES
from daps_rl.data.series import load_series_folder
from daps_rl.data.sound import load_sound_folder
from daps_rl.data.splits import Splits
from daps_rl.data.spoken_and_written import load_spoken_and_written
from daps_rl.data.spoken_digits import load_babble, load_spoken_digits
from daps_rl.data.table import load_named, load_penguins, load_table
from daps_rl.data.table_cells import SUFFIXES as TABLE_SUFFIXES
from daps_rl.data.waves import SUFFIXES as SOUND_SUFFIXES
from daps_rl.names import did_you_mean, import_named

NAMED: dict[str, Callable[..., Splits]] = {
    "digits": load_digits,
    "fashion-mnist": partial(load_image_source, FASHION_MNIST),
    "mnist": partial(load_image_source, MNIST),
    "cifar10": load_cifar10,
    "photographs": load_photographs,
    "spoken-digits": load_spoken_digits,
    "spoken-digits-babble": load_babble,
    "spoken-and-written": load_spoken_and_written,
    "handwriting": load_handwriting,
    "text": load_bible,
    **{name: partial(load_named, name) for name in ("wine", "breast-cancer", "iris", "diabetes")},
    "penguins": load_penguins,
}
"""What loads a data set of that name, given those of the options that it takes."""
NAMES = tuple(NAMED)
FILES: tuple[tuple[Sequence[str], str, Callable[..., Splits]], ...] = (
    (SUFFIXES, "arrays", load_file),
    (TEXT_SUFFIXES, "text", load_text_file),
    (TABLE_SUFFIXES, "table", load_table),
)
"""Files by their suffixes: the kind of data that they hold, and what loads one."""
FOLDERS: tuple[tuple[Sequence[str], str, Callable[..., Splits]], ...] = (
    (IMAGE_SUFFIXES, "images", load_image_folder),
    (SOUND_SUFFIXES, "sound", load_sound_folder),
    (SERIES_SUFFIXES, "series", load_series_folder),
    (TEXT_SUFFIXES, "text", load_text_folder),
)
"""Folders by the suffixes of the files in them, the first that is there."""
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Why a data set does not take an option.
REASONS = {
    "data_dir": "ships inside Python packages",
    "binarize": "has colours or greys that are standardised",
    "image_size": "has images of one size, which stay as they are",
    "image_column": "has no columns",
    "text_column": "is no data set of the hub",
    "hub_config": "is no data set of the hub",
    "streaming": "is no data set of the hub",
    "max_corrupt": "must be whole",
    "seconds": "is no sound",
    "window": "is no series and no text",
    "symbols": "is no text",
    "columns": "is no table",
}
DEFAULTS = {"streaming": False, "max_corrupt": MAX_CORRUPT}  # None for the other options


def load(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    binarize: bool | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    hub_config: str | None = None,
    streaming: bool = False,
    max_corrupt: int = MAX_CORRUPT,
    seconds: float | None = None,
    window: int | None = None,
    symbols: str | None = None,
    columns: str | None = None,
) -> Splits:
    """A data set, by name, by path or from the Hugging Face hub; docs/data.md says more of each.

    - "digits": 1,257 / 180 / 360 images of 8 x 8, shipped inside scikit-learn. Grey unless `binarize=True`.
    - "fashion-mnist", "mnist": 55,000 / 5,000 / 10,000 images of 28 x 28. Binary unless `binarize=False`. Fashion-MNIST
      is read from `data_dir`, else from Debian's package dataset-fashion-mnist, else from the Hugging Face hub;
      MNIST from `data_dir`, else from the hub.
    - "cifar10": 45,000 / 5,000 / 10,000 colour images of 32 x 32, from `data_dir`, else from the hub.
    - "photographs": 20,000 / 1,000 / 2,000 colour patches of photographs inside scikit-learn and scikit-image.
    - "handwriting": 9,395 / 1,175 / 1,092 characters as points along pen strokes, from the package kanjivg.
    - a folder with the four IDX files of MNIST's form: the same, of any size; a twelfth of the training file is the
      validation split.
    - any other folder with images: decoded as training needs them.
    - "spoken-digits", "spoken-digits-babble": 3,600 / 1,200 / 1,200 clips that espeak-ng speaks, in voices of their own
      in each split; kept in the user's cache folder, or in `data_dir`.
    - any other folder with WAV or FLAC files: sounds of one length, as log-mel frames.
    - any other folder with `.bvh` or `.csv` files: series, a recording each, cut into windows.
    - a `.npy`, `.npz` or `.safetensors` file: see `from_arrays`; but floats [N, steps, features] that do not all lie
      in [0, 1] are series.
    - "wine", "breast-cancer", "iris", "diabetes": tables of 150 to 569 rows, shipped inside scikit-learn; "penguins" of
      344 rows, some with missing values, inside the package palmerpenguins.
    - a `.csv` or `.parquet` file: rows of a table.
    - "text": the King James Bible of Debian's package bible-kjv-text, cut into windows; or a `.txt` file, or a folder
      of them.
    - "spoken-and-written": the spoken digits, each with a picture of the same digit and its label, three times: encoded
      from the sound, from the picture, and from both.
    - "package.module:function": what a function of one's own gives, called with those of the options that are given.
    - "owner/name", or any other name that is no path: a data set of the hub, of images, or of texts in `text_column`.

    A name comes before a folder of the same name; write `./digits` or `Path("digits")` for the folder. A path that is
    there comes before the hub.

    Args:
        name_or_path: one of the above.
        data_dir: where to look, and then only there: the folder with a named data set's files, or the folder that
            a relative path starts from.
        binarize: 0 and 1 (likelihood "bernoulli") or not; None is the data set's own default.
        image_size: height and width, in pixels, of photographs (32) and of the images of folders and the hub (64).
        image_column: of a hub data set with more than one column of images.
        text_column: of a hub data set: what texts to cut into windows.
        hub_config: of a hub data set with more than one configuration (`name=` of `datasets.load_dataset`).
        streaming: read a hub data set over the network as training goes, in place of downloading it first.
        max_corrupt: how many unreadable files of a folder or a hub data set may be skipped.
        seconds: length of a sound, cut or padded to it.
        window: length of a series, in steps, or of a text, in symbols.
        symbols: "characters" or "bytes" of a text, or the path of a tokenizer's file.
        columns: kinds of a table's columns, NAME=KIND separated by commas; found where it does not say.
    Raises:
        MissingDataError: (a FileNotFoundError and a ValueError) the data are not there.
        DataError: (a ValueError) the name is unknown, a file is damaged or does not fit, or the data set does not take
            an option.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise DataError(
            f"image_size must be a positive whole number of pixels, got {image_size!r}; pass 32 for photographs, 64 "
            "for images of a folder or the hub"
        )
    folder = None if data_dir is None else Path(data_dir).expanduser()
    options: dict[str, Any] = {
        "data_dir": folder, "binarize": binarize, "image_size": image_size, "image_column": image_column,
        "text_column": text_column,
        "hub_config": hub_config, "streaming": streaming, "max_corrupt": max_corrupt, "seconds": seconds,
        "window": window, "symbols": symbols, "columns": columns,
    }  # fmt: skip
    given = {option: value for option, value in options.items() if value != DEFAULTS.get(option)}
    if isinstance(name_or_path, str) and name_or_path in NAMED:
        return _call(NAMED[name_or_path], name_or_path, given)
    if own := own_data(name_or_path):
        return _call_own(own, given)
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise _unknown(name_or_path)
    path = Path(name_or_path).expanduser()
    if folder is not None and path.is_absolute():
        raise DataError(
            f"a path must be relative to be looked for in data_dir, got {str(path)!r} with data_dir {str(folder)!r}; "
            "leave one of them out"
        )
    path = path if folder is None else given.pop("data_dir") / path
    if (reader := _find_reader(path)) is not None:
        _, what, loader = reader
        return _call(loader, what, given)
    if os.path.isdir(path):  # unlike path.is_dir(), no error where a parent folder is closed
        needed = ", ".join(name for name, _ in IDX_FILES.values())
        kinds = ", ".join(kind for _, kind, _ in FOLDERS)
        raise MissingDataError(f"{path} must be a folder with {needed}, or with {kinds}, but has none; put them there")
    hub_id = name_or_path if isinstance(name_or_path, str) else ""
    if folder is None and HUB_ID.fullmatch(hub_id) and not os.path.lexists(path):
        try:
            if text_column is not None:
                return _call(partial(load_hub_texts, hub_id), hub_id, given, "is read for its texts")
            return _call(partial(_load_hub, hub_id), hub_id, given)
        except HubError as error:
            raise _unknown(hub_id, str(error)) from error.__cause__
    raise _unknown(name_or_path)


def kind_of(data: str, data_dir: str | None = None, *, text_column: str | None = None) -> str | None:
    """Returns the kind that data are of, one of `kind.KINDS`, as far as it can be told before they are loaded.

    None for data sets that have a name, code of one's own, and where nothing is known yet.

    Args:
        data: what `load` takes.
        data_dir, text_column: as of `load`.
    """
    if data in NAMED or own_data(data):
        return None
    reader = _find_reader(Path(data_dir or "", data).expanduser())
    if reader is None:
        return None if text_column is None else "text"
    return reader[0]


def _find_reader(path: Path) -> tuple[str, str, Callable[..., Splits]] | None:
    """What is at a path, as a kind and in words, and what loads it; None where no file of ours is."""
    if os.path.isdir(path):
        if find_idx_files(path):
            return "images", f"the folder {path} of IDX files", partial(load_idx_folder, str(path), path)
        for suffixes, kind, loader in FOLDERS:
            if any(True for _ in walk_files(path, suffixes)):
                return kind, f"the folder {path} of {kind}", partial(loader, path)
        return None
    for suffixes, kind, loader in FILES:
        if path.suffix.lower() in suffixes:
            return kind, f"the file {path}", partial(loader, path)
    return None


def own_data(name: object) -> str | None:
    """Returns the name of data where it is package.module:function, which loading them imports, else None."""
    return name if isinstance(name, str) and OWN.fullmatch(name) else None


def _call_own(name: str, given: Mapping[str, Any]) -> Splits:
    """What a function of one's own gives; DataError where that, or what is named, is another thing."""
    made = import_named("data", name, "package.module:function")
    made = _call(made, name, given) if callable(made) else made
    if not isinstance(made, Splits):
        raise DataError(
            f"data {name!r} must be a function that returns daps_rl.data.Splits, got a {type(made).__name__}; see "
            "daps_rl.data.from_arrays"
        )
    return made


def _call(loader: Callable[..., Splits], name: str, given: Mapping[str, Any], reason: str | None = None) -> Splits:
    """What a loader makes of the options that were given; DataError for one that it does not take, with the reason."""
    for option, value in given.items():
        if option not in inspect.signature(loader).parameters:
            raise DataError(
                f"{name} {reason or REASONS[option]}, so it takes no {option}, got {str(value)!r}; leave {option} out"
            )
    return loader(**given)


def _load_hub(
    hub_id: str,
    *,
    image_size: int = IMAGE_SIZE,
    image_column: str | None = None,
    hub_config: str | None = None,
    streaming: bool = False,
    max_corrupt: int = MAX_CORRUPT,
) -> Splits:
    found = hub_splits(hub_id, open_hub(hub_id, name=hub_config, streaming=streaming))
    column = find_image_column(hub_id, found["train"].features, image_column)
    read = stream_hub if streaming else download_hub
    return read(hub_id, column, found, image_size=image_size, max_corrupt=max_corrupt)


def _unknown(given: object, reason: str | None = None) -> DataError:
    got = repr(os.fspath(given) if isinstance(given, os.PathLike) else given)
    remedy, kind = "pass one of these", DataError
    if reason is not None:
        got, kind = f"{got}, which is no path, and {reason}", MissingDataError
        remedy += ", and for the hub `pip install daps-rl[datasets]` and have a connection"
    return kind(
        f"data must be one of {', '.join(NAMES)}, a folder with the four IDX files or with "
        f"{', '.join(what for _, what, _ in FOLDERS)}, a {', '.join(s for suffixes, _, _ in FILES for s in suffixes)} "
        f"file, package.module:function of your own, or a data set of the hub (owner/name), got {got}; {remedy}"
        + did_you_mean(str(given), NAMES)
    )
