"""Data sets as training, validation and test splits: arrays, files, folders of images, packages, or the hub."""

from daps_rl.data.arrays import from_arrays
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.feed import Feed
from daps_rl.data.load import load
from daps_rl.data.noise import noise
from daps_rl.data.order import DataOrder
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
