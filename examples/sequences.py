"""Answers to prompts, rewarded by a checker that only looks at them: reverse, sort, add, or close the brackets.

python examples/sequences.py [--problem add2] [--smoke]
"""

from __future__ import annotations

import argparse

from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="reverse4", help="reverse4, sort8, add2, brackets8, ...")
    parser.add_argument("--agent", default="daps")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    problem = find_problem(options.problem)
    splits = problem.splits()
    length = {"steps": 10, "batch_size": 16} if options.smoke else {"minutes": options.minutes}
    trainer = Trainer(make_config(problem=problem.name, agent=options.agent, log_every=50, **length), splits)
    for row in trainer.run():
        print(f"step {row['step']}  mean reward of a drawn answer {row['log_likelihood']:.2f} of 2")
    answers = trainer.autoencoder.cpu().encode(splits.test, deterministic=True)
    reward = problem.reward(splits.test[:, None], answers[:, None])[:, 0]
    shown = zip(splits.test[:5].int().tolist(), answers.tolist(), reward.tolist(), strict=False)
    for prompt, answer, worth in shown:
        print(prompt, "->", answer, "right" if worth == 2.0 else f"{worth:.2f}")
    print(f"right answers to the test prompts: {(reward == 2.0).float().mean():.1%}")


if __name__ == "__main__":
    main()
