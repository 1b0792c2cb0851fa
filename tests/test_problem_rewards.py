"""daps_rl.envs' other problems: the rewards, masks and optima of each, against hand-made oracles."""

from __future__ import annotations

import itertools
import json
import math
import pickle

import numpy as np
import pytest
import scipy.optimize
import torch
from problems import bits, contexts

from daps_rl.config import make_config
from daps_rl.envs import Constant, find_problem
from daps_rl.envs.classification import ClassificationBandit
from daps_rl.envs.maxcut import OneCut, Sides
from daps_rl.envs.regression import END, NGUYEN, TOKENS, Nguyen, infix
from daps_rl.envs.search import NKLandscape

# Rewards


def test_the_length_of_a_round_trip():
    x, problem = contexts("tsp5"), find_problem("tsp5")
    order = [0, 3, 1, 4, 2]
    points = x[1].numpy()
    length = sum(np.linalg.norm(points[a] - points[b]) for a, b in zip(order, order[1:] + order[:1], strict=True))
    reward = problem.reward(x[:, None], torch.tensor(order).expand(3, 2, 5))
    assert reward.shape == (3, 2)
    assert reward[1, 0].item() == pytest.approx(-length, rel=1e-6)
    assert problem.reward(x[:1, None], torch.tensor([[[0, 1, 2, 3, 3]]])).item() == -10.0  # a city is left out


def test_the_value_of_a_knapsack():
    problem, x = find_problem("knapsack6"), contexts("knapsack6")
    codes = bits(6)
    reward = problem.reward(x[:, None], codes.expand(3, -1, -1))
    for row, code in itertools.product(range(3), range(64)):
        value, weight = (sum(x[row, i, column].item() for i in range(6) if codes[code, i]) for column in (0, 1))
        expected = value / 1.5 if weight <= 1.5 else -(weight - 1.5) / 1.5
        assert reward[row, code].item() == pytest.approx(expected, abs=1e-6)
    density = x[..., 0] / x[..., 1]
    assert (density.diff(dim=-1) <= 0).all()


def test_the_weight_of_a_cut():
    problem, x = find_problem("maxcut6"), contexts("maxcut6")
    code = torch.tensor([0, 1, 1, 0, 1, 0])
    between = sum(x[2, i, j].item() for i, j in itertools.combinations(range(6), 2) if code[i] != code[j])
    reward = problem.reward(x[:, None], code.expand(3, 1, 6))
    assert reward[2, 0].item() == pytest.approx(between / 6, abs=1e-6)
    torch.testing.assert_close(reward, problem.reward(x[:, None], 1 - code.expand(3, 1, 6)))
    policy = problem.make_policy(make_config(problem="maxcut6", steps=1).model_config((6, 6), "gaussian"))
    assert (policy(x).sample((20,))[..., 0] == 0).all()  # of a cut and its mirror image one is left


def test_one_graphs_cut():
    problem = find_problem("cut6")
    graph, code = problem.weights.value, torch.tensor([0, 1, 1, 0, 1, 0])
    between = sum(graph[i, j].item() for i, j in itertools.combinations(range(6), 2) if code[i] != code[j])
    assert problem.reward(torch.ones(1, 1, 1), code.expand(1, 1, 6)).item() == pytest.approx(between / 6, abs=1e-6)
    assert OneCut(6, seed=1).name == "cut6-seed1"
    assert (OneCut(6, seed=1).weights.value != graph).any()
    for size in (1, 33):
        with pytest.raises(ValueError, match=rf"size must lie in 2 … 32, got {size}"):
            OneCut(size)


def test_a_constant_is_copied_to_a_device_once():
    constant, meta = Constant(torch.arange(3)), torch.device("meta")
    assert constant.on(torch.device("cpu")) is constant.value
    assert constant.on(meta).is_meta
    assert constant.on(meta) is constant.on(meta)
    again = pickle.loads(pickle.dumps(constant))  # with no device but its own
    assert again.on(torch.device("cpu")) is again.value
    assert torch.equal(again.value, constant.value)


@pytest.mark.parametrize("undecided", [0, 1, 2])
def test_what_a_cuts_policy_is_told(monkeypatch, undecided):
    """The pull by counting edges; the cuts as means over all sides of the undecided, which solve their equations."""
    monkeypatch.setattr("daps_rl.envs.maxcut.TEMPERATURES", [0.6] * 300)
    x, code = contexts("maxcut6", 1), torch.tensor([0, 1, 1, 0, 1, 0])
    vertex = 5 - undecided
    sides = Sides()
    told = sides.along(sides.features, x, code[None, None])[0, 0, vertex].double()
    graph, decided = x[0].double().numpy(), 2.0 * code.double().numpy()[:vertex] - 1.0

    def cut(side):
        """Of all six, in the mean."""
        known = np.append(decided, side)

        def residual(means):
            return np.tanh(-(graph @ np.append(known, means))[6 - undecided :] / 1.2) - means

        means = scipy.optimize.fsolve(residual, np.zeros(undecided)) if undecided else np.zeros(0)
        total = 0.0
        for rest in itertools.product((-1.0, 1.0), repeat=undecided):
            sides = np.append(known, rest)
            total += np.prod((1.0 + means * rest) / 2.0) * (graph * (1.0 - np.outer(sides, sides))).sum() / 4.0
        return total

    assert told[0].item() == pytest.approx(graph[vertex, :vertex] @ decided, abs=1e-5)
    assert told[1].item() == pytest.approx(cut(1.0) - cut(-1.0), abs=1e-4)


def test_an_nk_landscape_by_its_tables():
    problem = find_problem("nk6")
    code = torch.tensor([1, 0, 0, 1, 1, 1])
    total = 0.0
    for i in range(6):
        entry = sum(int(code[(i + j) % 6]) << j for j in range(5))
        total += problem.tables.value[i, entry].item()
    assert problem.reward(torch.ones(1, 1, 1), code.expand(1, 1, 6)).item() == pytest.approx(total / 6)


def test_barkers_sequence_has_the_best_merit_factor():
    barker = torch.tensor([1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1])
    problem = find_problem("labs13")
    assert problem.reward(torch.ones(1, 1, 1), barker.expand(1, 1, 13)).item() == pytest.approx(169 / 12)
    assert problem.optimum("test").item() == pytest.approx(169 / 12)


@pytest.mark.parametrize("size", [5, 10, 12])
def test_least_energies_by_looking_at_all(size):
    problem = find_problem(f"labs{size}")
    best = problem.reward(torch.ones(1, 1, 1), bits(size)[None]).max()
    assert problem.optimum("test").item() == pytest.approx(best.item())


def test_answers():
    prompt = torch.tensor([[3.0, 1.0, 2.0]])[:, None]
    codes = torch.tensor([[[2, 1, 3], [1, 2, 3], [2, 2, 2]]])
    assert find_problem("reverse3").reward(prompt, codes).tolist() == [
        [2.0, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    ]
    assert find_problem("sort3").reward(prompt, codes)[0, 1].item() == 2.0


def test_sums_by_pythons_own_numbers():
    problem = find_problem("add3")
    for prompt in problem.splits().test[:20]:
        text = "".join(str(int(digit)) for digit in prompt)
        total = str(int(text[:3]) + int(text[3:])).zfill(4)[::-1]
        right = torch.tensor([int(digit) for digit in total])
        wrong = right.clone()
        wrong[2] = (wrong[2] + 1) % 10
        assert problem.reward(prompt[None, None], torch.stack((right, wrong))[None]).tolist() == [[2.0, 0.75]]


def closes(text: str) -> bool:
    """Whether brackets are balanced, by striking out pairs."""
    while (shorter := text.replace("()", "").replace("[]", "")) != text:
        text = shorter
    return not text


def test_brackets_by_striking_out_pairs():
    problem = find_problem("brackets3")
    codes = torch.tensor(list(itertools.product(range(4), repeat=3)))
    prompts = problem.splits().test[:30]
    assert len(prompts.unique(dim=0)) > 10
    for prompt in prompts:
        texts = ["".join("([)]"[int(token)] for token in (*prompt, *code)) for code in codes]
        balanced = [text for text in texts if closes(text)]
        expected = []
        for text in texts:
            begun = sum(any(text[: 3 + n] == other[: 3 + n] for other in balanced) for n in (1, 2, 3))
            expected.append(begun / 3 + closes(text))
        reward = problem.reward(prompt[None, None], codes[None])[0]
        torch.testing.assert_close(reward, torch.tensor(expected))


BINARY, UNARY = ("+", "-", "*", "/"), ("sin", "cos", "exp", "log")


def formula(code: tuple[int, ...]) -> str | None:
    """A postfix formula as Python's own text; None where it is none."""
    waiting: list[str] = []
    names = [TOKENS[token] for token in code]
    ended = names.index(END) if END in names else len(names)
    if any(name != END for name in names[ended:]):
        return None
    for name in names[:ended]:
        takes = 2 if name in BINARY else 1 if name in UNARY else 0
        if len(waiting) < takes:
            return None
        values = [waiting.pop() for _ in range(takes)][::-1]
        waiting.append(name if not takes else f"({name.join(values)})" if takes == 2 else f"np.{name}({values[0]})")
    return waiting[0] if len(waiting) == 1 else None


def test_formulas_and_their_mask_by_pythons_own_parser():
    problem, length = Nguyen(5, num_tokens=4), 4
    codes = torch.tensor(list(itertools.product(range(len(TOKENS)), repeat=length)))
    texts = [formula(tuple(code)) for code in codes.tolist()]
    valid = torch.tensor([text is not None for text in texts])
    allowed = problem.mask.along(problem.mask.allowed, torch.ones(1, 1), codes[None])[0]
    assert torch.equal(allowed.gather(-1, codes.unsqueeze(-1)).all(-2)[:, 0], valid)
    reward = problem.reward(torch.ones(1, 1, 1), codes[None])[0]
    assert (reward[~valid] == -1.0).all()
    x = problem.x.value.double().numpy()
    y = np.sin(x**2) * np.cos(x) - 1
    with np.errstate(all="ignore"):
        for text, paid in zip(texts, reward.tolist(), strict=True):
            if text is not None:
                error = np.sqrt(np.mean((eval(text, {"np": np, "x": x}) - y) ** 2)) / y.std()
                if error < 1e6:  # else rounding of 1 / 0 and its like
                    assert paid == pytest.approx(1 / (1 + error), rel=1e-3)


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "x x x 1 + * 1 + *"), (2, "x x x x 1 + * 1 + * 1 + *"), (3, "x x x x x 1 + * 1 + * 1 + * 1 + *"),
     (4, "x x * x + x x * x x * 1 + * 1 + *"), (5, "x x * sin x cos * 1 -"), (6, "x sin x x x * + sin +"),
     (7, "x 1 + x x * 1 + * log"), (8, "x log 1 1 1 + / * exp")],
)  # fmt: skip
def test_the_function_itself_is_paid_one(number, text):
    problem = find_problem(f"nguyen{number}")
    names = text.split()
    code = torch.tensor([TOKENS.index(name) for name in (*names, *[END] * (20 - len(names)))])
    assert problem.reward(torch.ones(1, 1, 1), code[None, None]).item() == pytest.approx(1.0, abs=1e-5)
    assert infix(code).count("(") == sum(name in BINARY or name in UNARY for name in names)
    assert problem.formula == NGUYEN[number][0]
    assert problem.optimum("test").item() == 1.0
    assert Nguyen(number, num_tokens=5).optimum("test") is None


def test_only_the_right_class_is_paid():
    x, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 4
    problem = ClassificationBandit(x, y)
    splits = problem.splits()
    assert problem.vocab_size == 4
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [14, 2, 4]
    targets = splits.test_targets
    codes = torch.arange(4).view(1, 4, 1).expand(4, -1, -1)
    reward = problem.reward(targets[:, None], codes)
    assert (reward.argmax(1) == splits.test_labels).all()
    assert (reward.sum(1) == 1.0).all()
    with pytest.raises(ValueError, match=r"one class 0, 1, .* for each of 20 rows"):
        ClassificationBandit(x, y[:3])


def test_infeasible_decisions_are_paid_less_than_feasible_ones():
    for name in ("tsp5", "knapsack6"):
        problem, x = find_problem(name), contexts(name)
        codes = torch.tensor(list(itertools.product(range(problem.vocab_size), repeat=problem.num_tokens)))
        allowed = problem.mask.along(problem.mask.allowed, x, codes.expand(3, -1, -1))
        feasible = allowed.gather(-1, codes.expand(3, -1, -1).unsqueeze(-1)).all(-2)[..., 0]
        reward = problem.reward(x[:, None], codes.expand(3, -1, -1))
        if name == "tsp5":  # trips that begin elsewhere are trips all the same
            feasible = feasible | (codes.sort(-1).values == torch.arange(5)).all(-1)
        for row in range(3):
            assert reward[row][~feasible[row]].max() < reward[row][feasible[row]].min()


# Optima


def test_stored_optima_are_those_of_a_second_method():
    nk = find_problem("nk20")
    codes = (torch.arange(2**20)[:, None] >> torch.arange(20)) & 1
    best = max(nk.reward(torch.ones(1, 1, 1), part[None]).max().item() for part in codes.split(2**16))
    assert nk.optimum("test").item() == pytest.approx(best, abs=1e-5)
    cut, x = find_problem("maxcut20"), contexts("maxcut20", 1)
    best = max(cut.reward(x[:, None], part[None]).max().item() for part in codes[: 2**19].split(2**16))
    assert cut.optimum("test")[0].item() == pytest.approx(best, abs=1e-5)
    one, climbed = find_problem("cut30"), -math.inf
    for start in torch.randint(2, (200, 30), generator=torch.Generator().manual_seed(0)):
        climbed = max(climbed, climb(one, start))
    assert one.optimum("test").item() == pytest.approx(climbed, abs=1e-5)
    pack = find_problem("knapsack50")
    values, weights = (contexts("knapsack50", 1)[0] * 4096).round().long().T.numpy()
    table = np.zeros(int(pack.capacity * 4096) + 1, dtype=np.int64)
    for value, weight in zip(values, weights, strict=True):
        table[weight:] = np.maximum(table[weight:], table[:-weight] + value)
    assert pack.optimum("test")[0].item() == pytest.approx(table[-1] / 4096 / pack.capacity, abs=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_stored_prizes_are_those_of_the_best_tour(number):
    problem, x = find_problem("op20"), contexts("op20", number + 1)[number]
    distance, prizes = torch.cdist(x[:, :2], x[:, :2]).tolist(), x[:, 2].tolist()
    best = 0.0

    def extend(at, left, prize, others):
        """Depth first; what could still be reached says what is worth trying."""
        nonlocal best
        best = max(best, prize)
        near = [i for i in others if distance[at][i] + distance[i][0] <= left]
        if prize + sum(prizes[i] for i in near) > best:
            for i in sorted(near, key=lambda i: distance[at][i] / prizes[i]):
                extend(i, left - distance[at][i], prize + prizes[i], [j for j in near if j != i])

    extend(0, problem.length, 0.0, range(1, len(x)))
    assert len(problem.optimum("test")) == 1000
    assert problem.optimum("test")[number].item() == pytest.approx(best, abs=1e-5)


def climb(problem, code: torch.Tensor) -> float:
    """The reward that no change of one bit makes better."""
    one, flips = torch.ones(1, 1, 1), torch.eye(len(code), dtype=torch.int64)
    best = -math.inf
    while True:
        near = code ^ flips
        rewards = problem.reward(one, near[None])[0]
        if rewards.max().item() <= best + 1e-7:
            return best
        best, code = rewards.max().item(), near[rewards.argmax()]


def two_opt(points: np.ndarray) -> float:
    """A round trip that no exchange of two edges makes shorter."""
    order, n = np.arange(len(points)), len(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    improved = True
    while improved:
        improved = False
        for i, j in itertools.combinations(range(1, n), 2):
            a, b, c, d = order[i - 1], order[i], order[j], order[(j + 1) % n]
            if distance[a, c] + distance[b, d] < distance[a, b] + distance[c, d] - 1e-12:
                order[i : j + 1] = order[i : j + 1][::-1]
                improved = True
    return distance[order, np.roll(order, -1)].sum()


@pytest.mark.parametrize("name", ["tsp20", "tsp50"])
def test_no_simple_search_beats_the_stored_round_trips(name):
    best, x = -find_problem(name).optimum("test"), contexts(name, 20)
    assert len(best) == 1000
    found = np.array([two_opt(points.numpy()) for points in x])
    ratio = found / best[:20].numpy()
    assert (ratio > 1.0 - 1e-4).all()
    assert ratio.mean() < 1.15


def test_gaps_are_against_the_optimum(tmp_path, monkeypatch):
    monkeypatch.setattr("daps_rl.envs.problem.OPTIMA", tmp_path)
    problem = find_problem("tsp5")
    columns = {"log_likelihood": torch.tensor([-5.0, -3.0]), "reward_greedy": torch.tensor([-4.0, -2.0])}
    assert problem.gaps(columns, "test") == {}
    (tmp_path / "tsp5.json").write_text(json.dumps({"test": [-4.0, -2.0]}))
    assert problem.gaps(columns, "test") == {"gap": pytest.approx((0.25 + 0.5) / 2), "gap_greedy": 0.0}


def test_a_landscapes_name_tells_its_optimum():
    assert find_problem("nk20").optimum("test") is not None
    assert NKLandscape(20, neighbours=2).optimum("test") is None
    assert find_problem("nk3").name == "nk3"
