"""Learning rates for the comparison on Fashion-MNIST: the same number of trials for every agent, on validation data.

    python benchmarks/tune.py                        # all agents, two at a time, one thread each
    python benchmarks/tune.py --agents fsq vq        # some of them
    python benchmarks/tune.py --best                 # what the rows say, as options of `daps-rl compare`
    python benchmarks/tune.py --problem tsp20 --agents daps rloo grpo ppo reinforce --set '{"steps": 100}'
    python benchmarks/tune.py --problem bandit-digits --seeds 100 101 --area 10 ...

Every agent gets the same four learning rates (with --set, other settings too), one seed that the comparison does not
use, and about the same time: 500 steps for a factorised policy, 100 for an autoregressive one, whose steps cost more
(the rows of daps have 150). What has a row is not run again. Quantisers have no ELBO and are tuned by their
log-likelihood, the others by their β-ELBO, and on another problem than encoding by the reward of sampled decisions: at
the end, or with --area N the mean of its curve, validated every N steps.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from common import add_pool_options, area, markdown, read_rows, run_tasks, write_row

AGENTS = (
    "fsq", "vq", "vq-rotation", "gumbel-na", "gr-mck-na", "reinmax-na", "gaussian", "daps-na",
    "daps", "daps-fixed", "tpo", "rloo", "grpo", "ppo", "a2c", "reinforce", "reinforce-no-critic",
    "gumbel", "gr-mck", "reinmax",
)  # fmt: skip
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SEED = 100
COMPARED = ("problem", "data", "steps")  # settings in which trials are to agree
STEPS = {"autoregressive": 100}
OTHER_STEPS = 500


Key = tuple[str, float, str, int]


def key(row: dict[str, Any]) -> Key:
    """Of a trial: agent, rate, other settings, and how often its curve was validated, where it goes by the area."""
    return row["agent"], row["learning_rate"], json.dumps(row["settings"], sort_keys=True), row.get("every", 0)


def trials(problems: bool | None = None) -> dict[Key, list[dict[str, Any]]]:
    """The rows of each trial, one a seed: on images, on other problems, or all."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in read_rows("tune"):
        if problems in (None, "problem" in row["settings"]):
            found.setdefault(key(row), []).append(row)
    return found


def score(trial: list[dict[str, Any]]) -> float:
    """The mean over seeds, -inf where one failed."""
    return sum(map(_score, trial)) / len(trial)


def _score(row: dict[str, Any]) -> float:
    """The validation β-ELBO, or the log-likelihood where there is none; of a problem the reward, which stands there."""
    if "error" in row:
        return float("-inf")
    if row.get("every"):
        return float(row["area"])
    metrics = row["validation"]
    plain = metrics["beta_elbo"] is None or "problem" in row["settings"]
    value = metrics["log_likelihood" if plain else "beta_elbo"]
    return float("-inf") if value is None else value


def best(settings: dict[str, Any], every: int) -> dict[str, list[dict[str, Any]]]:
    """Each agent's best trial on the problem or data that the settings name, of so many steps, by the same score."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (agent, _, _, its), trial in trials().items():
        if its != every or any(trial[0]["settings"].get(name) != settings.get(name) for name in COMPARED):
            continue
        if agent not in found or score(trial) > score(found[agent]):
            found[agent] = trial
    return found


def table(*, problems: bool) -> str:
    """What each learning rate gave, the best in bold: on images, or on the other problems."""
    lines_of: dict[tuple[str, str, int], dict[float, list[dict[str, Any]]]] = {}
    for (agent, rate, *_), trial in trials(problems).items():
        settings = trial[0]["settings"]
        own = [(name, value) for name, value in settings.items() if name not in ("steps", "agent_options")]
        own += settings.get("agent_options", {}).items()
        said = ", ".join(str(value) if name == "problem" else f"{name} {value}" for name, value in own)
        said += f", area, {len(trial)} seeds" if trial[0].get("every") else ""
        lines_of.setdefault((agent, said, settings.get("steps", 0)), {})[rate] = trial
    rates = sorted({rate for by_rate in lines_of.values() for rate in by_rate})
    places = 4 if problems else 1
    lines = []
    ordered = sorted(lines_of.items(), key=lambda item: item[0][1].partition(",")[0]) if problems else lines_of.items()
    for (agent, said, _), by_rate in ordered:
        top = max(by_rate.values(), key=score)
        cells = []
        for rate in rates:
            trial = by_rate.get(rate, [])
            text = "" if not trial else "failed" if score(trial) == float("-inf") else f"{score(trial):.{places}f}"
            cells.append(f"**{text}**" if trial is top else text)
        lines.append([agent, said, str(top[0].get("steps", "")), *cells])
    return markdown(["agent", "settings", "steps", *(f"{rate:g}" for rate in rates)], lines)


def measure(agent: str, learning_rate: float, settings: dict[str, Any], seed: int, every: int) -> None:
    """One run, in a process of its own; writes its row."""
    import numpy as np
    import torch

    from daps_rl.config import make_config
    from daps_rl.training import Trainer, load_data

    torch.set_num_threads(1)
    row: dict[str, Any] = {"agent": agent, "learning_rate": learning_rate, "settings": settings, "seed": seed}
    row |= {"every": every} if every else {}
    try:
        what = {} if "problem" in settings else {"data": "fashion-mnist"}
        options: dict[str, Any] = {**what, "agent": agent, "seed": seed, "steps": 1, "device": "cpu", **settings}
        policy = make_config(**options).policy
        options |= {"steps": settings.get("steps", STEPS.get(policy, OTHER_STEPS)), "learning_rate": learning_rate}
        also = {"log_every": every} if every else {}
        config = make_config(**options, validate_every=every, validation_size=5000, **also)
        trainer = Trainer(config, load_data(config))
        log = [entry for entry in trainer.run() if "validation_log_likelihood" in entry]
        if every:
            row["area"] = area(
                *(np.array([entry[name] for entry in log]) for name in ("step", "validation_log_likelihood"))
            )
        row |= {
            "steps": trainer.step,
            "seconds": trainer.seconds,
            "decoder_evaluations": trainer.decoder_evaluations,
            "skipped_steps": int(trainer.optimizer.skipped),
            "validation": trainer.validate(),
        }
    except Exception as error:  # a row that says why
        row["error"] = f"{type(error).__name__}: {error}"
    write_row("tune", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--rates", type=float, nargs="+", default=LEARNING_RATES)
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other settings of these trials")
    parser.add_argument("--problem", help="another problem than Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="that no comparison uses")
    parser.add_argument("--area", type=int, default=0, metavar="STEPS", help="by the curve, validated every so often")
    parser.add_argument("--best", action="store_true")
    add_pool_options(parser)
    options = parser.parse_args()
    settings = {**options.set, **({} if options.problem is None else {"problem": options.problem})}
    if options.best:
        for agent, trial in best(settings, options.area).items():
            rate, own = trial[0]["learning_rate"], trial[0]["settings"]
            print(f"--set {agent}:learning_rate={rate}", f"# {score(trial):.4f} {own or ''}")
        return None
    if options.one:
        return measure(*options.one)
    done = {(*key(row), row["seed"]) for row in read_rows("tune")}
    tasks = [
        (agent, rate, settings, seed, options.area)
        for agent in options.agents
        for rate in options.rates
        for seed in options.seeds
        if (agent, rate, json.dumps(settings, sort_keys=True), options.area, seed) not in done
    ]
    return run_tasks(tasks, options.workers)


if __name__ == "__main__":
    main()
