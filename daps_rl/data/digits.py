"""The handwritten digits that ship inside scikit-learn: nothing to download."""

import numpy as np

from daps_rl.data.images import image_splits
from daps_rl.data.splits import Splits

NUM_VALIDATION = 180
NUM_TEST = 360
SPLIT_SEED = 0
WHITE = 16


def load_digits(*, binarize: bool = False) -> Splits:
    """scikit-learn's 1,797 digits, 8 x 8: 1,257 for training, 180 for validation, 360 for the test.

    The split is stratified by class and always the same: it does not depend on any global seed.

    Args:
        binarize: 1 where a pixel is at least 8 of 16, 0 elsewhere (likelihood "bernoulli"); otherwise pixel / 16
            ("fixed_gaussian").
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    rows = np.arange(len(digits.target))
    rest, test = train_test_split(rows, test_size=NUM_TEST, stratify=digits.target, random_state=SPLIT_SEED)
    train, validation = train_test_split(
        rest, test_size=NUM_VALIDATION, stratify=digits.target[rest], random_state=SPLIT_SEED
    )
    chosen = {"train": train, "validation": validation, "test": test}
    return image_splits(
        "digits",
        {split: digits.images[index] for split, index in chosen.items()},
        {split: digits.target[index] for split, index in chosen.items()},
        maximum=WHITE,
        binarize=binarize,
    )
