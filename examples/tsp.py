"""Round trips by a policy that points at cities: DAPS on the travelling salesman, against the optimum.

python examples/tsp.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch

from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cities", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--agent", default="daps")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    length = {"steps": 5, "batch_size": 16} if options.smoke else {"minutes": options.minutes}
    problem = find_problem(f"tsp{options.cities}")
    splits = problem.splits()
    trainer = Trainer(make_config(problem=problem.name, agent=options.agent, log_every=50, **length), splits)
    for row in trainer.run():
        print(f"step {row['step']}  mean length of a drawn trip {-row['log_likelihood']:.3f}")
    found = evaluate(trainer.autoencoder, splits.test, beta=0.0)
    print(f"greedy trips through the test cities: {-found.metrics['reward_greedy']:.3f}")
    for name, gap in problem.gaps(found.columns, "test").items():
        print(f"{name} to the optimum: {gap:.2%}")
    if not options.smoke:
        draw(splits.test[:4], trainer.autoencoder.cpu().encode(splits.test[:4], deterministic=True))


def draw(cities: torch.Tensor, trips: torch.Tensor) -> None:
    """Four greedy trips, in tsp.png."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(cities), figsize=(3 * len(cities), 3))
    for axes, points, trip in zip(panels, cities, trips, strict=True):
        x, y = points[[*trip.tolist(), trip[0].item()]].T
        axes.plot(x, y, "o-", markersize=4)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    figure.tight_layout()
    figure.savefig("tsp.png", dpi=120)
    print("look at tsp.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
