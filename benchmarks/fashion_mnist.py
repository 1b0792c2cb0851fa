"""Fashion-MNIST, binarised, codes of 8 tokens of 256: quality at a budget of steps or minutes, on the test split.

python benchmarks/fashion_mnist.py --settings published --steps 2000 --seeds 0 1 2
python benchmarks/fashion_mnist.py --settings default --minutes 10 --seeds 0
python benchmarks/fashion_mnist.py --settings default --agent daps --minutes 10 --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from common import write_row

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.runs.session import evaluate_splits
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=("published", "default"), default="published")
    parser.add_argument("--agent")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--centered", action="store_true")
    parser.add_argument("--trust-region")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = load("fashion-mnist", options.data_dir)
    for seed in options.seeds:
        config = make_config(
            "mnist" if options.settings == "published" else None,
            data="fashion-mnist",
            agent=options.agent,
            steps=options.steps,
            minutes=options.minutes,
            seed=seed,
            centered=options.centered or None,
            trust_region=options.trust_region,
            log_every=1,
            validate_every=0,
        )
        trainer = Trainer(config, splits)
        worst, bound = 0.0, 0
        for row in trainer.run():
            if row["temperature"] > row["beta"] * (1 + 1e-6):
                worst = max(worst, abs(row["ESS"] / config.ess_fraction - 1.0))
            else:
                bound += 1
            if row["step"] % 250 == 0:
                print(f"step {row['step']}  {row['seconds']:.0f} s  β-ELBO {row['beta_elbo']:.1f}", flush=True)
        write_row(
            "fashion_mnist",
            {
                "settings": options.settings,
                "agent": config.agent,
                "seed": seed,
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "steps_per_second": trainer.step / trainer.seconds,
                "ess_worst_relative_error": worst,
                "steps_at_floor": bound,
                "skipped": int(trainer.optimizer.skipped),
                **evaluate_splits(trainer.autoencoder, splits, config.beta_end),
                "config": dataclasses.asdict(config),
            },
        )


if __name__ == "__main__":
    main()
