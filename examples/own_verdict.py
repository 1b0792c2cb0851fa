"""A verdict that nobody can differentiate: whether a digit keeps its holes. Offline, a few minutes.

An 8, a 0 and a 3 differ in how many holes they have, and squared error cares little for one pixel that opens a ring.
The same codes of 4 bits are trained for the likelihood alone, and for the verdict beside it.

python examples/own_verdict.py [--smoke]
From the repository: daps-rl train --reward examples.own_verdict:same_holes
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.training import Trainer
from daps_rl.verdicts import Verdicts


def holes(pictures: Tensor) -> np.ndarray:
    """How many regions of paper the ink encloses. [M, 1, H, W] → [M]."""
    padded = np.pad(pictures[:, 0].numpy() < 0.4, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    return np.array([label(paper)[1] - 1 for paper in padded])


def same_holes(truth: Tensor, decoded: Tensor) -> np.ndarray:
    """Minus the difference in the number of holes. [M]."""
    return -np.abs(holes(truth) - holes(decoded)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    splits = load("digits")
    for name, weights in {"likelihood alone": {"holes": 0.0}, "and the verdict": None}.items():
        config = make_config(
            num_tokens=1, vocab_size=16, batch_size=64, steps=5 if options.smoke else 400, validate_every=0
        )
        trainer = Trainer(config, splits, verdicts=Verdicts({"holes": same_holes}, weights))
        *_, last = trainer.run()
        model = trainer.autoencoder.cpu().eval()
        decoded = model.decode(model.encode(splits.test, deterministic=True))
        kept = (same_holes(splits.test, decoded) == 0).mean()
        print(f"{name}: {kept:.0%} of the test digits keep their holes, log-likelihood {last['log_likelihood']:.1f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
