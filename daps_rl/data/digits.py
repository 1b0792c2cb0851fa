"""The handwritten digits that ship inside scikit-learn: nothing to download."""

import numpy as np
import torch

from daps_rl.data.splits import Splits

NUM_VALIDATION = 180
NUM_TEST = 360
SPLIT_SEED = 0
WHITE = 16


def load_digits(*, binarize: bool | None = None) -> Splits:
    """scikit-learn's 1,797 digits, 8 x 8: 1,257 for training, 180 for validation, 360 for the test.

    The split is stratified by class and always the same: it does not depend on any global seed.

    Args:
        binarize: 1 where a pixel is at least 8 of 16, 0 elsewhere (likelihood "bernoulli"); otherwise pixel / 16
            ("fixed_gaussian").
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    rows, target = np.arange(len(digits.target)), digits.target
    rest, test = train_test_split(rows, test_size=NUM_TEST, stratify=target, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=NUM_VALIDATION, stratify=target[rest], random_state=SPLIT_SEED)
    images = torch.from_numpy(digits.images)[:, None].float() / WHITE  # [N, 1, 8, 8]
    images = (images >= 0.5).float() if binarize else images
    chosen = {"train": train, "validation": validation, "test": test}
    return Splits(
        name="digits",
        **{split: images[index] for split, index in chosen.items()},
        **{f"{split}_labels": torch.from_numpy(target[index]) for split, index in chosen.items()},
        likelihood="bernoulli" if binarize else "fixed_gaussian",
        value_range=(0.0, 1.0),
    )
