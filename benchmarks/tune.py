"""Learning rates for the comparison on Fashion-MNIST: the same number of trials for every agent, on validation data.

    python benchmarks/tune.py                        # all agents, two at a time, one thread each
    python benchmarks/tune.py --agents fsq vq        # some of them
    python benchmarks/tune.py --best                 # what the rows say, as options of `daps-rl compare`
    python benchmarks/tune.py --problem tsp20 --agents daps rloo grpo ppo reinforce --set '{"steps": 100}'

Every agent gets the same four learning rates (with --set, other settings too), one seed that the comparison does not
use, and about the same time: 500 steps for a factorised policy, 100 for an autoregressive one, whose steps cost more
(the rows of daps have 150). What has a row is not run again. Quantisers have no ELBO and are tuned by their
log-likelihood, the others by their β-ELBO, and on another problem than encoding by the reward of sampled decisions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import ROWS, write_row

AGENTS = (
    "fsq", "vq", "vq-rotation", "gumbel-na", "gr-mck-na", "reinmax-na", "gaussian", "daps-na",
    "daps", "daps-fixed", "tpo", "rloo", "grpo", "ppo", "a2c", "reinforce", "reinforce-no-critic",
    "gumbel", "gr-mck", "reinmax",
)  # fmt: skip
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SEED = 100
STEPS = {"autoregressive": 100}
OTHER_STEPS = 500


def rows() -> list[dict[str, Any]]:
    path = ROWS / "tune.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(row: dict[str, Any]) -> tuple[str, float, str]:
    return row["agent"], row["learning_rate"], json.dumps(row["settings"], sort_keys=True)


def score(row: dict[str, Any]) -> float:
    """The validation β-ELBO, or the log-likelihood where there is none; of a problem the reward, which stands there."""
    metrics = row["validation"]
    plain = metrics["beta_elbo"] is None or "problem" in row["settings"]
    value = metrics["log_likelihood" if plain else "beta_elbo"]
    return float("-inf") if value is None else value


def best(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each agent's best row on the problem or data that the settings name."""
    what = ("problem", "data")
    found: dict[str, dict[str, Any]] = {}
    for row in rows():
        if "error" in row or any(row["settings"].get(name) != settings.get(name) for name in what):
            continue
        if row["agent"] not in found or score(row) > score(found[row["agent"]]):
            found[row["agent"]] = row
    return found


def table(*, problems: bool) -> str:
    """What each learning rate gave, the best in bold: on images, or on the other problems."""
    trials: dict[tuple[str, str, int], dict[float, dict[str, Any]]] = {}
    for row in rows():
        if ("problem" in row["settings"]) == problems:
            own = [(name, value) for name, value in row["settings"].items() if name not in ("steps", "agent_options")]
            own += row["settings"].get("agent_options", {}).items()
            settings = ", ".join(str(value) if name == "problem" else f"{name} {value}" for name, value in own)
            length = row["settings"].get("steps", 0)
            trials.setdefault((row["agent"], settings, length), {})[row["learning_rate"]] = row
    rates = sorted({rate for by_rate in trials.values() for rate in by_rate})
    places = 4 if problems else 1
    lines = [
        f"| agent | settings | steps | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---" * (3 + len(rates)) + "|",
    ]
    ordered = sorted(trials.items(), key=lambda item: item[0][1].partition(",")[0]) if problems else trials.items()
    for (agent, settings, _), by_rate in ordered:
        top = max(by_rate.values(), key=lambda row: score(row) if "error" not in row else float("-inf"))
        cells = []
        for rate in rates:
            row = by_rate.get(rate)
            text = "" if row is None else "failed" if "error" in row else f"{score(row):.{places}f}"
            cells.append(f"**{text}**" if row is top else text)
        lines.append(f"| {agent} | {settings} | {top.get('steps', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(agent: str, learning_rate: float, settings: dict[str, Any]) -> None:
    """One run, in a process of its own; writes its row."""
    import torch

    from daps_rl.config import make_config
    from daps_rl.session import load_data
    from daps_rl.training import Trainer

    torch.set_num_threads(1)
    row: dict[str, Any] = {"agent": agent, "learning_rate": learning_rate, "settings": settings, "seed": SEED}
    try:
        what = {} if "problem" in settings else {"data": "fashion-mnist"}
        options: dict[str, Any] = {**what, "agent": agent, "seed": SEED, "steps": 1, **settings}
        policy = make_config(**options).policy
        options |= {"steps": settings.get("steps", STEPS.get(policy, OTHER_STEPS)), "learning_rate": learning_rate}
        config = make_config(**options, validate_every=0, validation_size=5000, device="cpu")
        trainer = Trainer(config, load_data(config))
        list(trainer.run())
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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {**options.set, **({} if options.problem is None else {"problem": options.problem})}
    if options.best:
        for agent, row in best(settings).items():
            print(f"--set {agent}:learning_rate={row['learning_rate']}", f"# {score(row):.2f} {row['settings'] or ''}")
        return None
    if options.one:
        agent, rate, settings = json.loads(options.one)
        return measure(agent, rate, settings)
    done = {key(row) for row in rows()}
    tasks = [(agent, rate, settings) for agent in options.agents for rate in options.rates]
    tasks = [t for t in tasks if (t[0], t[1], json.dumps(t[2], sort_keys=True)) not in done]

    def launch(task: tuple[str, float, dict[str, Any]]) -> None:
        subprocess.run([sys.executable, str(Path(__file__)), "--one", json.dumps(task)], check=False)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(launch, tasks))
    return None


if __name__ == "__main__":
    main()
