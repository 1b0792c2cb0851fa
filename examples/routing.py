"""Routes by a policy that points at places: trained in groups over all starts, searched from all starts and views.

python examples/routing.py [--problem cvrp20] [--smoke]
"""

from __future__ import annotations

import argparse

import torch

from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.search import Search
from daps_rl.training import Trainer

SEARCHES = ("multistart", "augment:8", "multistart+augment:8", "best-of:160")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="tsp20", help="tspN, cvrpN or opN")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--agent", default="daps")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    length = {"steps": 5, "batch_size": 16} if options.smoke else {"minutes": options.minutes}
    problem = find_problem(options.problem)
    splits = problem.splits()
    trainer = Trainer(make_config(problem=problem.name, agent=options.agent, log_every=50, **length), splits)
    for row in trainer.run():
        print(f"step {row['step']}  mean reward of drawn routes {row['log_likelihood']:.3f}")
    test = splits.test[:20] if options.smoke else splits.test
    for how in SEARCHES:
        found = evaluate(trainer.autoencoder, test, beta=0.0, importance_data=0, search=Search.parse(how))
        greedy, best = found.metrics["reward_greedy"], found.metrics["reward_search"]
        line = f"{how}: mean reward {best:.4f}, of greedy routes {greedy:.4f}"
        gaps = problem.gaps(found.columns, "test")
        print(line + (f"; gaps to the best known {gaps['gap_search']:.2%}, {gaps['gap_greedy']:.2%}" if gaps else ""))
    if not options.smoke:
        codes = trainer.autoencoder.cpu().encode(splits.test[:4], search="multistart+augment:8")
        draw(splits.test[:4], codes)


def draw(contexts: torch.Tensor, codes: torch.Tensor) -> None:
    """Routes through four contexts, in routes.png; the depot, where there is one, is larger."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(contexts), figsize=(3 * len(contexts), 3))
    for axes, places, code in zip(panels, contexts, codes, strict=True):
        has_depot = places.shape[1] > 2
        stops = [0, *code.tolist(), 0] if has_depot else [*code.tolist(), code[0].item()]
        axes.plot(*places[stops, :2].T, "-", color="0.6")
        axes.scatter(*places[:, :2].T, s=[60 if has_depot and i == 0 else 12 for i in range(len(places))], zorder=2)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    figure.tight_layout()
    figure.savefig("routes.png", dpi=120)
    print("look at routes.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
