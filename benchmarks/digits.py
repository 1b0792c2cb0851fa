"""The demo's claim: after `daps-rl train` with no option, can a classifier of digits still read the reconstructions?

    python benchmarks/digits.py --seeds 0 1 2

A logistic regression is fitted on the original training digits and reads the test split's reconstructions.
"""

from __future__ import annotations

import argparse

import torch
from common import write_row
from sklearn.linear_model import LogisticRegression

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.runs.session import evaluate_splits
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--agent")
    options = parser.parse_args()
    splits = load("digits")
    assert splits.train_labels is not None
    assert splits.test_labels is not None
    reader = LogisticRegression(max_iter=2000)
    reader.fit(splits.train.flatten(1).numpy(), splits.train_labels.numpy())

    def read(images: torch.Tensor) -> float:
        return float(reader.score(images.flatten(1).numpy(), splits.test_labels.numpy()))

    for seed in options.seeds:
        config = make_config(seed=seed, agent=options.agent)
        trainer = Trainer(config, splits)
        for _ in trainer.run():
            pass
        model = trainer.autoencoder.eval().to("cpu")
        torch.manual_seed(0)
        write_row(
            "digits",
            {
                "agent": config.agent,
                "seed": seed,
                "bits": config.bits,
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "steps_per_second": trainer.step / trainer.seconds,
                "read_originals": read(splits.test),
                "read_sampled": read(model.decode(model.encode(splits.test))),
                "read_greedy": read(model.decode(model.encode(splits.test, deterministic=True))),
                **evaluate_splits(model, splits, config.beta_end),
            },
        )


if __name__ == "__main__":
    main()
