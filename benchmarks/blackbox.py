"""Evaluations until the best is found: agents that learn, and the searches that a user would take first.

    pip install 'daps-rl[search]'
    python benchmarks/blackbox.py                     # two hours on one core; skips what has a row
    python benchmarks/blackbox.py --draw              # docs/images/blackbox.png from the rows

A run ends when it has evaluated the best decision there is, or spent its evaluations. The best are known: of NK
landscapes by dynamic programming, of cuts by looking at all, of sequences from the literature (benchmarks/optima.py).
Agents have the settings of the problem's recipe; searches try 8 decisions at a time, Nevergrad's one. What was chosen
for the searches was chosen on NK landscapes of seeds 1 to 10, which are not measured here.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from common import IMAGES, Row, markdown, read_rows, write_row
from optima import best_of_circle
from torch import Tensor

from daps_rl.agents import Agent, Conditions, Memetic, make_agent
from daps_rl.agents.search import NONE
from daps_rl.config import make_config
from daps_rl.decoders import RewardDecoder
from daps_rl.envs import find_problem
from daps_rl.envs.search import NKLandscape
from daps_rl.functional import solve_temperature, target_weights
from daps_rl.policies import PointPolicy
from daps_rl.report.figures import FAINT, SERIES, WIDTH, dress, new_figure, save
from daps_rl.training import Trainer

NAME, NEAR = "blackbox", 0.01  # of the best, what counts as near it
PROBLEMS, BUDGET = ("nk20", "nk50", "nk100", "labs20", "labs30", "cut30"), 60_000  # evaluations
OTHERS = tuple(f"nk50-k4-seed{seed}" for seed in range(21, 31))  # landscapes like nk50's; nothing was tuned on them
TITLES = {
    "nk20": "`nk20`", "nk50": "`nk50`", "others": "10 more like `nk50`", "nk100": "`nk100`", "labs20": "`labs20`",
    "labs30": "`labs30`", "cut30": "`cut30`",
}  # fmt: skip
ONE = {"samples": 1}
AGENTS: dict[str, dict[str, Any]] = {
    "memetic": {},
    "local-search": {},
    "iterated-local-search": {},
    "annealing": {},
    "genetic": {},
    "daps": {},
    "nevergrad:DiscreteOnePlusOne": ONE,
    "nevergrad:DiscreteLenglerOnePlusOne": ONE,
    "nevergrad:PortfolioDiscreteOnePlusOne": ONE,
}
"""Settings of a run by a name in the tables: the agent's, unless they say another."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "memetic, tokens independent": {"agent": "memetic", "agent_options": {"edges": False}},
    "memetic, crossover": {"agent": "__main__:Crossover"},
}
GOALS = {"near": "within 1 % of the best", "found": "the best"}


class Crossover(Memetic):
    """`Memetic` without a policy: it mixes two archived codes, drawn by the same weights, and tries every change."""

    def begin(self, count: int) -> Tensor:
        known = self.archived > NONE
        if 2 * known.sum() < len(known):
            return self.random_codes(count)
        reward = self.archived[known].unsqueeze(0)
        weights = target_weights(reward, solve_temperature(reward, self.ess_fraction))
        mother, father = self.archive[known][torch.multinomial(weights[0], 2 * count, replacement=True)].chunk(2)
        return torch.where(torch.rand(mother.shape) < 0.5, mother, father)

    def imitate(self) -> None:
        pass


class Seen:
    """A problem's reward that counts decisions, and remembers when one was near the best, and the best."""

    def __init__(self, problem: Any) -> None:
        best = problem.optimum("test")
        self.problem, self.optimum = problem, (best_of_circle(problem) if best is None else best).item()
        self.bounds = {"near": self.optimum * (1 - NEAR), "found": self.optimum * (1 - 1e-6)}
        self.at: dict[str, int] = {}
        self.count, self.best = 0, float("-inf")

    def __call__(self, target: Tensor, codes: Tensor) -> Tensor:
        reward: Tensor = self.problem.reward(target, codes)
        values = reward.flatten().double()
        for name, bound in self.bounds.items():
            if name not in self.at and (values >= bound).any():
                self.at[name] = self.count + int((values >= bound).int().argmax()) + 1
        self.count, self.best = self.count + len(values), max(self.best, values.max().item())
        return reward


def run(name: str, agent: str, seed: int, budget: int = BUDGET) -> None:
    """Searches for at most so many evaluations, and writes a row."""
    problem = NKLandscape(50, seed=int(name.partition("-seed")[2])) if name in OTHERS else find_problem(name)
    seen, splits = Seen(problem), problem.splits()
    options = {
        "problem": name.partition("-")[0],
        "agent": agent,
        "seed": seed,
        "validate_every": 0,
        "device": "cpu",
        **{**AGENTS, **ABLATIONS}[agent],
    }
    sizes = make_config(**options, steps=1)
    steps = budget // (sizes.batch_size * sizes.samples)
    config = make_config(**options, steps=steps)
    shape = problem.target_shape(splits.observation_shape)
    start = time.perf_counter()
    if config.policy == "point":
        torch.manual_seed(seed)
        search(make_agent(config, PointPolicy(problem.num_tokens, problem.vocab_size)), seen, steps)
    else:
        decoder = RewardDecoder(seen, problem.num_tokens, problem.vocab_size, shape)
        for _ in Trainer(config, splits, decoder=decoder).run(stop=lambda: "found" in seen.at):
            pass
    write_row(
        NAME,
        {"problem": name, "agent": agent, "seed": seed, "budget": budget,
         **{goal: seen.at.get(goal) for goal in GOALS}, "evaluations": seen.count,
         "gap": 1 - seen.best / seen.optimum, "seconds": time.perf_counter() - start},
    )  # fmt: skip


def search(agent: Agent, seen: Seen, steps: int) -> None:
    """What the training loop does with a search, without all that it does for agents that learn a network."""
    context, beta = torch.ones(1, 1), torch.zeros(())
    for step in range(steps):
        agent.prepare(Conditions(progress=step / steps))
        list(agent.losses(context, lambda codes, log_prob: seen(context[None], codes), beta))
        if "found" in seen.at:
            return


def near(rows: Sequence[Row]) -> list[float]:
    """Evaluations until within 1 % of the best, the fewest first; infinite where that was not reached."""
    return sorted(math.inf if row["near"] is None else row["near"] for row in rows)


def median(rows: Sequence[Row]) -> str:
    """The median of those, or of the gaps at the end where half of the seeds have none; and how many seeds have."""
    found = near(rows)
    middle = statistics.median_high(found)
    text = f"{middle:,.0f}" if middle < math.inf else f"{statistics.median(row['gap'] for row in rows):.2%}"
    return f"{text} ({sum(value < math.inf for value in found)}/{len(found)})"


def median_interval(rows: Sequence[Row]) -> str:
    """The interval that holds the median with 95 % confidence, from order statistics; without assumptions."""
    found, cut, below = near(rows), 0, 0.5 ** len(rows)
    while 2 * below <= 0.05:
        cut += 1
        below += math.comb(len(found), cut) * 0.5 ** len(found)
    ends = (found[cut - 1], found[-cut]) if cut else (0.0, math.inf)
    return " … ".join(f"{end:,.0f}" if end < math.inf else f"over {BUDGET:,}" for end in ends)


def groups() -> dict[tuple[str, str], list[Row]]:
    """Rows of the whole budget by problem and agent; those of `OTHERS` as one problem, "others"."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in read_rows(NAME):
        if row["budget"] == BUDGET:
            found["others" if row["problem"] in OTHERS else row["problem"], row["agent"]].append(row)
    return found


def table() -> str:
    """Returns a line a problem and a column an agent: the median evaluations, see `median`."""
    rows = groups()
    agents = [agent for agent in AGENTS if any((problem, agent) in rows for problem in TITLES)]
    lines = [
        [title, *(median(rows[problem, agent]) if (problem, agent) in rows else "" for agent in agents)]
        for problem, title in TITLES.items()
    ]
    return markdown(["problem", *(f"`{agent}`" for agent in agents)], lines)


def ablation() -> str:
    """Returns a line an agent and a column a problem, with intervals of the median."""
    rows, problems = groups(), ("nk50", "others")
    texts = (median, median_interval)
    lines = [
        [f"`{agent}`", *(text(rows[p, agent]) if rows[p, agent] else "" for p in problems for text in texts)]
        for agent in ("memetic", *ABLATIONS, "iterated-local-search", "annealing", "genetic")
    ]
    return markdown(["agent", *(head for p in problems for head in (TITLES[p], "95 % interval"))], lines)


def draw() -> None:
    """Draws performance profiles: the share of seeds that are solved, a mean over problems, against evaluations."""
    rows = groups()
    drawn = [agent for agent in AGENTS if all((problem, agent) in rows for problem in PROBLEMS)]
    figure = new_figure(WIDTH, 520, "Share of seeds that are solved, against evaluations: mean of six problems")
    for (goal, title), axes in zip(GOALS.items(), figure.subplots(1, 2, sharey=True), strict=True):
        for agent, colour in zip(drawn, SERIES, strict=False):
            own = [(row[goal], 1 / len(rows[p, agent])) for p in PROBLEMS for row in rows[p, agent]]
            at = sorted((evaluations, share) for evaluations, share in own if evaluations is not None)
            shares = [total / len(PROBLEMS) for total in itertools.accumulate(share for _, share in at)]
            ends = [1, *(evaluations for evaluations, _ in at), BUDGET]
            axes.step(ends, [0, *shares, max(shares, default=0)], where="post", color=colour, label=agent)
        axes.set_xscale("log")
        axes.set_xlim(10, BUDGET)
        axes.grid(color=FAINT, linewidth=0.6)
        dress(axes, title, "evaluations", "share solved" if goal == "near" else "")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save(figure, IMAGES / "blackbox.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=[*PROBLEMS], choices=[*PROBLEMS, *OTHERS])
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=[*AGENTS, *ABLATIONS])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--budget", type=int, default=BUDGET, help="evaluations; the tables are of the default")
    parser.add_argument("--draw", action="store_true", help="draw the picture of the page, and measure nothing")
    options = parser.parse_args()
    if options.draw:
        draw()
        return
    torch.set_num_threads(1)
    done = {(row["problem"], row["agent"], row["seed"], row["budget"]) for row in read_rows(NAME)}
    for seed in options.seeds:
        for name in options.problems:
            for agent in options.agents:
                if (name, agent, seed, options.budget) not in done:
                    run(name, agent, seed, options.budget)


if __name__ == "__main__":
    main()
