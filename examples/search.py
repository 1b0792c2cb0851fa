"""Black-box search: DAPS as an estimation-of-distribution algorithm: bits, a formula, and a function of your own.

python examples/search.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from daps_rl.config import make_config
from daps_rl.envs.problem import find_problem
from daps_rl.envs.regression import Nguyen, infix
from daps_rl.envs.search import Search
from daps_rl.training import Trainer


class Polynomial(Search):
    """Five coefficients in -3 … 3, to fit x⁴ - 2x² + x - 1 at 21 points."""

    num_tokens, vocab_size = 5, 7

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        powers = torch.linspace(-1.0, 1.0, 21)[:, None] ** torch.arange(5)  # [21, 5]
        wanted = powers @ torch.tensor([-1.0, 1.0, -2.0, 0.0, 1.0])
        return -((codes - 3.0) @ powers.T - wanted).square().mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="daps")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    for name in ("nk20", "nguyen1", "__main__:Polynomial"):
        problem = find_problem(name)
        steps = 10 if options.smoke else options.steps
        trainer = Trainer(
            make_config(problem=name, agent=options.agent, steps=steps, validate_every=0), problem.splits()
        )
        for row in trainer.run():
            if row["step"] % 50 == 0:
                print(f"{problem.name} step {row['step']}  mean reward of the population {row['log_likelihood']:.4f}")
        code = trainer.autoencoder.cpu().encode(torch.ones(1, 1), deterministic=True)
        reward = problem.reward(torch.ones(1, 1, 1), code[None]).item()
        best = problem.optimum("test")
        found = infix(code[0]) if isinstance(problem, Nguyen) else code[0].tolist()
        print(f"{problem.name}: {found} has {reward:.4f}", "" if best is None else f"of {best.item():.4f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
