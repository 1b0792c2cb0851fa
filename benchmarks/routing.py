"""Routes at the field's strength: greedy, from all starts, in all views; and drawn routes a second beside RL4CO.

    python benchmarks/routing.py tsp20 --agents daps rloo --seeds 0 --steps 3000    # trains, measures, appends rows
    python benchmarks/routing.py --speed tsp20 cvrp20    # a minute; RL4CO's part where it is installed

One thread; seconds are of the processor. Gaps are to the best known (`benchmarks/optima.py`), on the test split.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Row, markdown, read_rows, write_row

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.session import load_run, train_run
from daps_rl.search import Search

NAME, SPEED = "routing", "routing_speed"
SEARCHES = ("greedy", "multistart", "augment:8", "multistart+augment:8")
SIZES = {"embed_dim": 64, "num_layers": 3}  # of both models whose speed is measured
BATCH, SAMPLES = 64, 20


def measure(model: DiscreteAutoencoder, problem_name: str, how: str) -> Row:
    """Returns what a search finds on the test split."""
    problem = find_problem(problem_name)
    test = problem.splits().test
    start = time.process_time()
    found = evaluate(model, test, beta=0.0, importance_data=0, search=Search.parse(how))
    seconds = time.process_time() - start
    known = problem.optimum("test")
    return {
        "search": how, "gap": problem.gaps(found.columns, "test").get("gap_search"),
        "reward": found.metrics["reward_search"], "evaluations": found.metrics["search_evaluations"],
        "data": len(test), "known": 0 if known is None else int(known.isfinite().sum()), "seconds": seconds,
    }  # fmt: skip


def train_and_measure(problem: str, agent: str, seed: int, steps: int, folder: Path) -> None:
    """Trains a run whose rows are not all there, and measures it."""
    about = {"problem": problem, "agent": agent, "seed": seed, "steps": steps}
    done = {row["search"] for row in read_rows(NAME) if about.items() <= row.items()}
    left = [how for how in SEARCHES if how not in done]
    if not left:
        return
    run = RunFolder(folder / f"{problem}-{agent}-{seed}-{steps}")
    config = make_config(problem=problem, agent=agent, seed=seed, steps=steps, validate_every=0)
    start = time.process_time()
    train_run(config, find_problem(problem).splits(), run)
    about |= {"minutes": (time.process_time() - start) / 60.0, "routes": steps * config.batch_size * config.samples}
    model = load_run(run.path, "cpu")[2]
    for how in left:
        write_row(NAME, {**about, **measure(model, problem, how)})


def routes_a_second(draw: Callable[[], object]) -> float:
    """Returns drawn routes per second of processor time, the best of five."""
    torch.set_num_threads(1)  # RL4CO's import sets another number
    draw()
    times = []
    for _ in range(5):
        start = time.process_time()
        draw()
        times.append(time.process_time() - start)
    return BATCH * SAMPLES / min(times)


def measure_speed(name: str) -> None:
    """Writes how many routes a second an untrained policy of ours draws, and RL4CO's attention model of that size."""
    problem = find_problem(name)
    x = problem.splits().test[:BATCH]
    config = make_config(problem=name, steps=1, **SIZES).model_config(tuple(x.shape[1:]), "gaussian")
    policy = problem.make_policy(config).eval()
    with torch.no_grad():
        write_row(
            SPEED, {"problem": name, "model": "daps-rl", "routes": routes_a_second(lambda: policy(x).sample((20,)))}
        )
    try:
        from rl4co.envs import get_env
        from rl4co.models import AttentionModelPolicy
    except ImportError as error:
        print(f"RL4CO's part is left out: {error}")
        return
    env = get_env(name[:-2], generator_params={"num_loc": int(name[-2:])}, check_solution=False)
    other = AttentionModelPolicy(
        env_name=env.name, embed_dim=64, num_heads=4, num_encoder_layers=3, feedforward_hidden=256
    )
    instances = env.reset(batch_size=[BATCH])
    other.eval()

    def draw() -> None:
        other(instances.clone(), env, decode_type="multistart_sampling", num_starts=SAMPLES, calc_reward=False)

    with torch.no_grad():
        write_row(SPEED, {"problem": name, "model": "rl4co", "routes": routes_a_second(draw)})


def table() -> str:
    """Returns the gaps of each problem, agent and search, means over seeds."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in read_rows(NAME):
        key = (f"`{row['problem']}`", f"`{row['agent']}`", f"{row['routes']:,}")
        groups.setdefault(key, {}).setdefault(row["search"], []).append(row)
    lines = []
    for key, found in groups.items():
        cells = [percent([row["gap"] for row in found.get(how, ())]) for how in SEARCHES]
        first = next(iter(found.values()))
        lines.append([*key, f"{statistics.fmean(row['minutes'] for row in first):.1f}", *cells, f"{len(first)}"])
    return markdown(
        ["problem", "agent", "routes in training", "minutes", *(f"`{how}`" for how in SEARCHES), "seeds"], lines
    )


def speed_table() -> str:
    """Returns how many routes a second each model draws, by the last row of it."""
    last = {(f"`{row['problem']}`", row["model"]): f"{row['routes']:,.0f}" for row in read_rows(SPEED)}
    return markdown(["problem", "model", "routes a second"], [[*key, routes] for key, routes in last.items()])


def percent(gaps: list[float | None]) -> str:
    """Returns the mean of gaps that are known; without any, why."""
    if not gaps:
        return "not measured"
    known = [gap for gap in gaps if gap is not None]
    return f"{statistics.fmean(known):.2%}" if known else "not known"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=["tsp20"])
    parser.add_argument("--agents", nargs="+", default=["daps"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--runs", type=Path, default=Path("runs/routing"), help="where the models are, or will be")
    parser.add_argument("--speed", action="store_true", help="measure drawn routes a second instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for problem in options.problems:
        if options.speed:
            measure_speed(problem)
            continue
        for agent in options.agents:
            for seed in options.seeds:
                train_and_measure(problem, agent, seed, options.steps, options.runs)


if __name__ == "__main__":
    main()
