"""A contextual bandit of your own arrays: the learner hears only whether its class was right, never which one is.

python examples/bandit.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from daps_rl.config import make_config
from daps_rl.envs.classification import ClassificationBandit
from daps_rl.training import Trainer


class Wine(ClassificationBandit):
    """scikit-learn's wine: 13 features, 3 cultivars. Any features and labels do."""

    def __init__(self) -> None:
        data = load_wine()
        super().__init__(data.data, data.target, name="wine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="daps")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    splits = Wine().splits()
    config = make_config(
        problem="__main__:Wine", agent=options.agent, steps=20 if options.smoke else options.steps, batch_size=32
    )
    trainer = Trainer(config, splits)
    for row in trainer.run():
        if row["step"] % 50 == 0:
            print(f"step {row['step']}  mean reward {row['log_likelihood']:.2f}")
    chosen = trainer.autoencoder.cpu().encode(splits.test, deterministic=True)[:, 0]
    told = LogisticRegression(max_iter=1000).fit(splits.train, splits.train_labels)
    print(f"right classes on the test split: {(chosen == splits.test_labels).float().mean():.1%}")
    print(f"a supervised model, which is told them: {told.score(splits.test, splits.test_labels):.1%}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
