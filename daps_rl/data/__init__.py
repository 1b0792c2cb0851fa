"""Data sets as training, validation and test splits: arrays, files, folders of images, packages, or the hub."""

from daps_rl.data.arrays import from_arrays, noise
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.load import load
from daps_rl.data.order import DataOrder, Feed
from daps_rl.data.splits import LIKELIHOODS, SPLITS, Splits
from daps_rl.data.stream import ImageStream, Stream

__all__ = [
    "LIKELIHOODS",
    "SPLITS",
    "DataError",
    "DataOrder",
    "Feed",
    "ImageStream",
    "MissingDataError",
    "Splits",
    "Stream",
    "from_arrays",
    "load",
    "noise",
]
