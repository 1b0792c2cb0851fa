"""Codes that are drawings: the encoder learns to redraw digits with pen strokes, through a renderer without a gradient.

python examples/strokes.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.report import plot_sheet
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strokes", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--agent", default="daps-na")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    length = {"steps": 20} if options.smoke else {"minutes": options.minutes}
    config = make_config(agent=options.agent, decoder="strokes", num_tokens=7 * options.strokes, log_every=20, **length)
    splits = load("digits")
    trainer = Trainer(config, splits)
    for row in trainer.run():
        if row["step"] % 200 == 0 or options.smoke:
            print(f"step {row['step']}  log-likelihood {row['log_likelihood']:.1f}  KL {row['kl']:.1f}")
    model = trainer.autoencoder.cpu().eval()
    x = splits.test[:16]
    codes = model.encode(x, deterministic=True)
    print("the first test digit as a program:", codes[0].view(-1, 7).tolist())
    stages = {f"{i + 1} strokes": picture for i, picture in enumerate(model.decoder.stages(codes))}
    if not options.smoke:
        plot_sheet("strokes.png", {"original": x, **stages}, title="Digits, and their drawings stroke by stroke")
        print("look at strokes.png")
    error = (model.decode(model.encode(splits.test, deterministic=True)) - splits.test).square().mean()
    print(
        f"mean squared error of the drawn test digits {error:.3f}, of an empty page {splits.test.square().mean():.3f}"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
