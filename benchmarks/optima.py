"""The best rewards of the combinatorial problems' validation and test splits: envs/optima/NAME.json.

    pip install 'daps-rl[solvers]'
    python benchmarks/optima.py                   # all that the documentation reports on
    python benchmarks/optima.py tsp20 tsp100

Round trips by Lin-Kernighan-Helsgaun (elkai), knapsacks by CP-SAT (OR-tools), deliveries by PyVRP's
hybrid genetic search, cuts by looking at all, NK landscapes and orienteering by dynamic programming.
"""

from __future__ import annotations

import argparse
import itertools
import json

import torch
from torch import Tensor

from daps_rl.envs import DiscreteProblem, find_problem
from daps_rl.envs.cvrp import CVRP
from daps_rl.envs.knapsack import STEPS, Knapsack
from daps_rl.envs.maxcut import MaxCut, OneCut
from daps_rl.envs.orienteering import ROUNDING, Orienteering
from daps_rl.envs.problem import OPTIMA
from daps_rl.envs.search import NKLandscape
from daps_rl.envs.tsp import TSP

DISTANCE_UNITS = 1_000_000  # of a unit length: LKH's distances are whole numbers
FIRST = {"cvrp20": {"test": 200}, "cvrp50": {"test": 200}}
"""Of problems whose solver takes long, the first contexts of a split alone."""
DELIVERY_UNITS = 10_000  # PyVRP's too, and what its penalties are made for
CODES_AT_ONCE = 2**17


def best_decision(problem: DiscreteProblem, x: Tensor) -> Tensor:
    """An optimal decision for one context. x [*x] → [T]."""
    if isinstance(problem, TSP):
        import elkai

        distances = (torch.cdist(x.double(), x.double()) * DISTANCE_UNITS).round().long()
        return torch.tensor(elkai.DistanceMatrix(distances.tolist()).solve_tsp(runs=10)[:-1])
    if isinstance(problem, Knapsack):
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        taken = [model.new_bool_var(f"{i}") for i in range(problem.num_tokens)]
        value, weight = (x.T.double() * STEPS).round().long().tolist()
        model.add(sum(w * t for w, t in zip(weight, taken, strict=True)) <= round(problem.capacity * STEPS))
        model.maximize(sum(v * t for v, t in zip(value, taken, strict=True)))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        if solver.solve(model) != cp_model.OPTIMAL:
            raise RuntimeError(f"{problem.name}: CP-SAT did not prove an optimum.")
        return torch.tensor([int(solver.value(t)) for t in taken])
    if isinstance(problem, CVRP):
        return best_deliveries(problem, x)
    raise ValueError(f"{problem.name} has no solver here.")


def best_deliveries(problem: CVRP, x: Tensor) -> Tensor:
    """The best deliveries that PyVRP finds until many iterations find no better. x [*x] → [T]."""
    import pyvrp
    import pyvrp.stop

    model = pyvrp.Model()
    places = [model.add_location(0, 0) for _ in x]  # distances say where
    depot = model.add_depot(places[0])
    model.add_vehicle_type(problem.size, capacity=problem.capacity, start_depot=depot, end_depot=depot)
    for place, demand in zip(places[1:], x[1:, 2].tolist(), strict=True):
        model.add_client(place, delivery=round(demand * problem.capacity))
    distances = (torch.cdist(x[:, :2].double(), x[:, :2].double()) * DELIVERY_UNITS).round().long().tolist()
    for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
        model.add_edge(one, other, distances[i][j])
    patience = pyvrp.stop.NoImprovement(max(400, 10 * len(places)))
    found = model.solve(patience, seed=0, display=False, collect_stats=False)
    if not found.is_feasible():
        raise RuntimeError(f"{problem.name}: PyVRP found nothing feasible.")
    stops = [visit.idx + 1 if visit.is_client() else 0 for route in found.best.routes() for visit in list(route)[1:]]
    return torch.tensor((stops + [0] * problem.num_tokens)[: problem.num_tokens])


def best_visits(problem: Orienteering, contexts: Tensor) -> Tensor:
    """The prizes of the best tours, by dynamic programming over sets of places and the last of them. [N, *x] → [N].

    Of every set only the ways are kept from which the depot can still be reached in time (Held and Karp, 1962).
    """
    best = torch.zeros(len(contexts), dtype=torch.float64)
    bit = 1 << torch.arange(problem.num_tokens)
    for number, x in enumerate(contexts.double()):
        distances, home = torch.cdist(x[1:, :2], x[1:, :2]), (x[1:, :2] - x[0, :2]).norm(dim=-1)
        sets, lengths = bit, home.where(torch.eye(len(bit), dtype=torch.bool), torch.inf)  # [S]; [S, n], by the last
        while len(sets):
            lengths = lengths.where(lengths + home <= problem.length + ROUNDING, torch.inf)
            kept = lengths.isfinite().any(1)
            sets, lengths = sets[kept], lengths[kept]
            if len(sets):
                members = sets[:, None] & bit != 0
                best[number] = max(best[number], (members.double() @ x[1:, 2]).amax())
                last = (lengths[:, :, None] + distances).amin(1)  # [S, n] with one place more
                grown, places = (~members & last.isfinite()).nonzero(as_tuple=True)
                sets, which = (sets[grown] | bit[places]).unique(return_inverse=True)
                longer = torch.full((len(sets), len(bit)), torch.inf, dtype=torch.float64)
                longer[which, places] = last[grown, places]
                lengths = longer
    return best.float()


def all_codes(num_tokens: int) -> Tensor:
    """[2^T, T]."""
    return (torch.arange(2**num_tokens)[:, None] >> torch.arange(num_tokens)) & 1


def best_rewards(problem: DiscreteProblem, contexts: Tensor) -> Tensor:
    """[N, *x] → [N]."""
    if isinstance(problem, OneCut):
        return most_of_halves(problem)
    if isinstance(problem, Orienteering):
        return best_visits(problem, contexts)
    if isinstance(problem, NKLandscape):
        return best_of_circle(problem).expand(len(contexts))
    if isinstance(problem, MaxCut):
        if problem.num_tokens > 22:
            raise ValueError(f"{problem.name} is too large to look at all its decisions.")
        codes = all_codes(problem.num_tokens)
        return most_of_cuts(problem, contexts, codes[: len(codes) // 2])  # the others have the sides' names exchanged
    rewards: list[Tensor] = []
    for x in contexts:
        code = best_decision(problem, x)
        rewards.append(problem.reward(x[None, None], code[None, None])[0, 0])
    return torch.stack(rewards)


def best_of_circle(problem: NKLandscape) -> Tensor:
    """Dynamic programming around the circle, for each choice of the first k bits: of 2^k windows at a time. 0-dim.

    A window holds k bits, the first of which is its lowest; one more makes the entry of a table.
    """
    tables, n = problem.tables.value.double(), problem.num_tokens
    k = tables.shape[1].bit_length() - 2
    window, bit = torch.arange(2**k), torch.arange(2)
    entry = window[:, None] + (bit << k)  # [2^k, 2], as problem.reward makes it of k + 1 bits
    best = torch.tensor(-torch.inf, dtype=torch.float64)
    for first in range(2**k):
        value = torch.where(window == first, 0.0, -torch.inf).double()  # of bits 0 … k-1
        for i in range(n):  # bit i leaves the window, bit i + k enters; those from n on are the first ones again
            enters = value[:, None] + tables[i][entry]  # [2^k, 2]
            if i + k >= n:
                enters[:, 1 - (first >> (i + k - n) & 1)] = -torch.inf
            value = torch.full_like(value, -torch.inf).scatter_reduce(
                0, (entry >> 1).flatten(), enters.flatten(), "amax"
            )
        best = torch.maximum(best, value[first])
    return best / n


def most_of_cuts(problem: MaxCut, contexts: Tensor, codes: Tensor) -> Tensor:
    """Products of all pairs of sides with all graphs' weights, a part of the cuts at a time."""
    n = problem.num_tokens
    rows, columns = torch.tensor(list(itertools.combinations(range(n), 2))).T
    weights = contexts[:, rows, columns]  # [N, E]
    best = torch.full((len(contexts),), -torch.inf)
    for part in codes.split(CODES_AT_ONCE // 8):
        apart = (part[:, rows] != part[:, columns]).float()  # [M, E]
        best = torch.maximum(best, (apart @ weights.T).amax(0))
    return best / n


def most_of_halves(problem: OneCut) -> Tensor:
    """All sides of the first half of the vertices with all of the others: one product of matrices has every pair."""
    weights, n = problem.weights.value.double(), problem.num_tokens
    first, second = (2.0 * all_codes(size).double() - 1.0 for size in (n // 2, n - n // 2))
    first = first[: len(first) // 2]  # the other half has the sides' names exchanged
    w11, w12, w22 = weights[: n // 2, : n // 2], weights[: n // 2, n // 2 :], weights[n // 2 :, n // 2 :]
    alone = ((second @ w22) * second).sum(-1)
    within = torch.tensor(torch.inf, dtype=torch.float64)
    for part in first.split(256):
        pairs = ((part @ w11) * part).sum(-1, keepdim=True) + alone + 2.0 * (part @ w12) @ second.T
        within = torch.minimum(within, pairs.amin())
    return ((weights.sum() - within) / (4.0 * n)).reshape(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["tsp20", "tsp50", "cvrp20", "op20", "knapsack50", "maxcut20", "cut30", "nk20", "nk50", "nk100"]
    parser.add_argument("problems", nargs="*", default=known)
    for name in parser.parse_args().problems:
        problem = find_problem(name)
        splits = problem.splits()
        solved = FIRST.get(name, {split: len(splits[split]) for split in ("validation", "test")})
        best = {split: best_rewards(problem, splits[split][:count]) for split, count in solved.items()}
        OPTIMA.mkdir(exist_ok=True)
        rounded: dict[str, list[float | None]]
        rounded = {split: [round(value, 6) for value in values.tolist()] for split, values in best.items()}
        for split, values in rounded.items():  # of the others nobody knows
            values += [None] * (len(splits[split]) - len(values))
        (OPTIMA / f"{name}.json").write_text(json.dumps(rounded) + "\n")
        print(name, {split: round(values.mean().item(), 4) for split, values in best.items()}, flush=True)


if __name__ == "__main__":
    main()
