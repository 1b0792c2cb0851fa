"""One call for every data set: by name or by path."""

import os
from pathlib import Path

from daps_rl.data.digits import load_digits
from daps_rl.data.errors import DataError
from daps_rl.data.files import SUFFIXES, load_file
from daps_rl.data.mnist import FASHION_MNIST, MNIST, load_idx_folder, load_image_source
from daps_rl.data.splits import Splits

SOURCES = {source.name: source for source in (FASHION_MNIST, MNIST)}


def load(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    binarize: bool | None = None,
) -> Splits:
    """A data set, by name or by path.

    - "digits": 1,257 / 180 / 360 images of 8 x 8, shipped inside scikit-learn. Grey unless `binarize=True`.
    - "fashion-mnist", "mnist": 55,000 / 5,000 / 10,000 images of 28 x 28. Binary unless `binarize=False`. Fashion-MNIST
      is read from `data_dir`, else from Debian's package dataset-fashion-mnist, else from the Hugging Face hub;
      MNIST from `data_dir`, else from the hub.
    - a folder with the four IDX files of MNIST's form: the same, of any size; a twelfth of the training file is the
      validation split.
    - a `.npy`, `.npz` or `.safetensors` file: see `from_arrays`.

    A name comes before a folder of the same name; write `./digits` or `Path("digits")` for the folder.

    Args:
        name_or_path: one of the above.
        data_dir: where to look, and then only there: the folder with a named data set's files, or the folder that
            a relative path starts from.
        binarize: 0 and 1 (likelihood "bernoulli") or not; None is the data set's own default.
    Raises:
        MissingDataError: (a FileNotFoundError and a ValueError) the data are not there.
        DataError: (a ValueError) the name is unknown, or a file is damaged or does not fit.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if isinstance(name_or_path, str) and name_or_path == "digits":
        if folder is not None:
            raise DataError(
                f"digits ships inside scikit-learn and takes no data_dir, got {str(folder)!r}; "
                "leave data_dir out, or pass the path of your files in place of the name"
            )
        return load_digits(binarize=bool(binarize))
    if isinstance(name_or_path, str) and name_or_path in SOURCES:
        return load_image_source(SOURCES[name_or_path], folder, binarize=binarize is not False)
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise _unknown(name_or_path)
    path = _locate(Path(name_or_path).expanduser(), folder)
    if os.path.isdir(path):  # unlike path.is_dir(), no error where a parent folder is closed
        return load_idx_folder(str(path), path, binarize=binarize is not False)
    if path.suffix.lower() in SUFFIXES:
        return load_file(path, binarize=binarize)
    raise _unknown(name_or_path)


def _locate(path: Path, folder: Path | None) -> Path:
    if folder is None:
        return path
    if path.is_absolute():
        raise DataError(
            f"a path must be relative to be looked for in data_dir, got {str(path)!r} with data_dir {str(folder)!r}; "
            "leave one of them out"
        )
    return folder / path


def _unknown(given: object) -> DataError:
    names = ", ".join(["digits", *SOURCES])
    got = os.fspath(given) if isinstance(given, os.PathLike) else given
    return DataError(
        f"data must be one of {names}, a folder with the four IDX files, or a {', '.join(SUFFIXES)} file, "
        f"got {got!r}; pass one of these"
    )
