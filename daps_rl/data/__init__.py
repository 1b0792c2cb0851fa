"""Data sets as fixed training, validation and test tensors: files, Debian, scikit-learn or the Hugging Face hub."""

from daps_rl.data.arrays import from_arrays
from daps_rl.data.errors import DataError, MissingDataError
from daps_rl.data.load import load
from daps_rl.data.splits import LIKELIHOODS, SPLITS, Splits

__all__ = ["LIKELIHOODS", "SPLITS", "DataError", "MissingDataError", "Splits", "from_arrays", "load"]
