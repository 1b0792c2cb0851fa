"""The comparisons of docs/other-problems.md: other discrete problems than encoding, at equal evaluations of the reward.

    python benchmarks/problems.py                  # everything
    python benchmarks/problems.py tsp20            # one of them
    python benchmarks/problems.py tsp20 --steps 5000 --seeds 5
    python benchmarks/problems.py --report         # the page again, from the rows that are committed

Two runs at a time, one thread each. To tune: `python benchmarks/tune.py --problem ...`, whose rates go into `own`; none
are there yet, and all agents run at the recipe's rate.
"""

from __future__ import annotations

import tune
from parts import Page, Part

AGENTS = "daps,rloo,grpo,ppo,reinforce"


def part(problem: str, steps: int, validate_every: int, *own: str, agents: str = AGENTS) -> Part:
    """Three seeds, at equal steps, which are equal evaluations: every agent has B·K a step."""
    return Part(
        agents,
        seeds=3,
        steps=steps,
        own=own,
        data=("--problem", problem),
        reference="daps",
        validate_every=validate_every,
    )


PARTS = {
    "bandit-digits": part("bandit-digits", 500, 25),
    "reverse8": part("reverse8", 600, 50),
    "nk20": part("nk20", 400, 25),
    "maxcut20": part("maxcut20", 400, 50),
    "knapsack50": part("knapsack50", 150, 25),
    "tsp20": part("tsp20", 600, 50),
}

if __name__ == "__main__":
    PAGE = Page("other-problems", "problem", PARTS)
    PAGE.main(__doc__, after=lambda: PAGE.put("tuning", tune.table(problems=True)))
