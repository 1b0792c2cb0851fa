"""A search for one decision, with a policy that learns which of its parts hang together, beside searches that do not.

python examples/memetic.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from daps_rl.config import make_config
from daps_rl.envs.problem import find_problem
from daps_rl.envs.search import Search
from daps_rl.training import Trainer


class Machine(Search):
    """60 switches of 4 positions. What a switch adds depends on it and the two next ones: tables of random numbers.

    Reward: the mean of what they add, each in 0 … 1.
    """

    num_tokens, vocab_size = 60, 4

    def __init__(self) -> None:
        self.tables = torch.rand(60, 4**3, generator=torch.Generator().manual_seed(20))

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        entry = codes + 4 * codes.roll(-1, -1) + 16 * codes.roll(-2, -1)  # [B, K, 60]
        return self.tables[torch.arange(60), entry].mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="+", default=["memetic", "iterated-local-search", "local-search"])
    parser.add_argument("--steps", type=int, default=7500, help="of 8 evaluations each")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    problem = find_problem("__main__:Machine")
    for agent in options.agents:
        steps = 200 if options.smoke else options.steps
        config = make_config(problem="__main__:Machine", agent=agent, steps=steps, validate_every=0)
        trainer = Trainer(config, problem.splits())
        for row in trainer.run():
            if row["step"] % 1500 == 0 or row["step"] == steps:
                print(f"{agent}: {row['best']:.4f} after {8 * row['step']} evaluations")
        code = trainer.autoencoder.cpu().encode(torch.ones(1, 1), deterministic=True)
        print(f"{agent}: {''.join(map(str, code[0].tolist()))}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
