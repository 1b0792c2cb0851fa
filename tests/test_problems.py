"""daps_rl.envs' other problems: rewards and optima against hand-made oracles, the libraries' checkers, learning."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import scipy.optimize
import torch
from torchrl.envs.utils import check_env_specs

from daps_rl import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import DataError, Splits
from daps_rl.decoders import RewardDecoder
from daps_rl.envs import (
    PROBLEMS,
    Constant,
    DiscreteProblem,
    EncodingEnv,
    EncodingVecEnv,
    EncodingVectorEnv,
    find_problem,
)
from daps_rl.envs.classification import ClassificationBandit
from daps_rl.envs.maxcut import OneCut, Sides
from daps_rl.envs.regression import BINARY, END, NGUYEN, TOKENS, UNARY, Nguyen, infix
from daps_rl.envs.search import NKLandscape
from daps_rl.evaluation import evaluate
from daps_rl.training import Trainer

SMALL = (
    "tsp5",
    "knapsack6",
    "maxcut6",
    "cut6",
    "bandit-digits",
    "nk6",
    "labs6",
    "reverse3",
    "sort3",
    "add2",
    "brackets3",
    "nguyen1",
)


def bits(count: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=count)))


def contexts(name: str, count: int = 3) -> torch.Tensor:
    return find_problem(name).splits().test[:count]


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
    """The pull by counting edges; the cuts as means over all sides of the undecided, whose means solve their equations."""
    monkeypatch.setattr("daps_rl.envs.maxcut.TEMPERATURES", [0.6] * 300)
    x, code = contexts("maxcut6", 1), torch.tensor([0, 1, 1, 0, 1, 0])
    vertex = 5 - undecided
    told = Sides().features_of(x, code[None, None])[0, 0, vertex].double()
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
    allowed = problem.mask.of(torch.ones(1, 1), codes[None])[0]
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


# Environments


@pytest.mark.parametrize("name", SMALL)
def test_torchrl_checks_the_env_and_random_actions_are_paid(name):
    env = find_problem(name).env([3, 2], seed=0)
    check_env_specs(env)
    assert env.rollout(1)["next", "reward"].isfinite().all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore:.*Box.*")
def test_gymnasium_and_sb3_check_the_env(name):
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = gymnasium.make("daps_rl/Problem-v0", problem=name, disable_env_checker=True).unwrapped
    check_env(env, skip_render_check=True)
    check_for_sb3(env)
    vector = gymnasium.make_vec("daps_rl/Problem-v0", num_envs=3, problem=name)
    vector.reset(seed=0)
    assert np.isfinite(vector.step(vector.action_space.sample())[1]).all()


def test_infeasible_decisions_are_paid_less_than_feasible_ones():
    for name in ("tsp5", "knapsack6"):
        problem, x = find_problem(name), contexts(name)
        codes = torch.tensor(list(itertools.product(range(problem.vocab_size), repeat=problem.num_tokens)))
        allowed = problem.mask.of(x, codes.expand(3, -1, -1))
        feasible = allowed.gather(-1, codes.expand(3, -1, -1).unsqueeze(-1)).all(-2)[..., 0]
        reward = problem.reward(x[:, None], codes.expand(3, -1, -1))
        if name == "tsp5":  # trips that begin elsewhere are trips all the same
            feasible = feasible | (codes.sort(-1).values == torch.arange(5)).all(-1)
        for row in range(3):
            assert reward[row][~feasible[row]].max() < reward[row][feasible[row]].min()


def test_what_is_scored_may_be_hidden_from_the_policy():
    """Each datum's target is its number; an action is paid for guessing it."""
    data, targets = torch.zeros(5, 2), torch.arange(5)

    def guessed(target, codes):
        assert target.shape[1:] == (1,)
        return (codes[..., 0] == target).float()

    sizes = {"num_tokens": 1, "vocab_size": 5, "targets": targets, "reward_fn": guessed}
    env = EncodingEnv(data, batch_size=[4, 5], **sizes, seed=0)
    check_env_specs(env)
    reset = env.reset()
    reset["action"] = torch.arange(5).view(1, 5, 1).expand(4, -1, -1).clone()
    reward = env.step(reset)["next", "reward"][..., 0]
    assert torch.equal(reward, (reset["target"] == torch.arange(5)).float())
    half = reset.clone().set("_reset", torch.tensor([[True] * 5, [False] * 5] * 2).unsqueeze(-1))
    assert torch.equal(env.reset(half)["target"][1], reset["target"][1])
    vector = EncodingVectorEnv(data, num_envs=5, samples_per_context=5, **sizes)
    vector.reset(seed=0)
    assert vector.step(np.arange(5)[:, None])[1].sum() == 1.0
    vec = EncodingVecEnv(data, num_contexts=1, samples_per_context=5, seed=0, **sizes)
    vec.reset()
    assert vec.step(np.arange(5)[:, None])[1].sum() == 1.0
    with pytest.raises(ValueError, match="targets must be one for each of the 5 data"):
        EncodingEnv(data, batch_size=[1, 1], **{**sizes, "targets": targets[:3]})


def test_splits_have_targets_everywhere_or_nowhere():
    x = torch.rand(4, 2)
    options = {"name": "x", "train": x, "validation": x, "test": x, "likelihood": "gaussian", "value_range": (0.0, 1.0)}
    with pytest.raises(DataError, match="all splits must have targets or none"):
        Splits(**options, train_targets=torch.rand(4, 1))
    with pytest.raises(DataError, match="one for each of 4 data"):
        Splits(**options, train_targets=torch.rand(3, 1))
    with_targets = [
        Splits(**options, train_targets=y, validation_targets=y, test_targets=y)
        for y in (torch.zeros(4), torch.ones(4))
    ]
    assert len({splits.fingerprint() for splits in (*with_targets, Splits(**options))}) == 3


# Rewards in the decoder's place


def test_a_reward_decoder_broadcasts_as_a_decoder_does():
    def reward(y, codes):
        assert y.ndim == codes.ndim == 3
        return y.sum(-1) * codes.sum(-1)

    decoder = RewardDecoder(reward, 2, 9, (3,))
    y, codes = torch.rand(4, 3), torch.randint(9, (5, 4, 2))
    expected = y.sum(-1) * codes.sum(-1)  # [5, 4]
    torch.testing.assert_close(decoder(codes).log_prob(y), expected)
    torch.testing.assert_close(decoder(codes[0]).log_prob(y), expected[0])
    torch.testing.assert_close(decoder(codes.transpose(0, 1)).log_prob(y[:, None]), expected.T)
    torch.testing.assert_close(decoder(codes[:, :1]).log_prob(y), y.sum(-1) * codes[:, :1].sum(-1))
    with pytest.raises(ValueError, match="integers"):
        decoder(torch.rand(4, 2, 8))
    with pytest.raises(ValueError, match="a reward must be"):
        RewardDecoder(lambda y, codes: y, 2, 9, (3,))(codes[0]).log_prob(y)
    with pytest.raises(NotImplementedError):
        _ = decoder(codes).mean


# Training


@pytest.mark.parametrize("agent", ["daps", "rloo", "ppo", "reinforce-no-critic", "sb3:ppo"])
def test_every_agent_takes_a_step_on_a_masked_problem(agent):
    problem = find_problem("tsp5")
    config = make_config(problem="tsp5", agent=agent, steps=2, batch_size=8, validate_every=1, embed_dim=16)
    trainer = Trainer(config, problem.splits())
    rewards = []
    trainer.autoencoder.decoder.reward_fn = lambda y, z: rewards.append(problem.reward(y, z)) or rewards[-1]
    list(trainer.run())
    assert min(reward.min() for reward in rewards) > -10.0  # no infeasible trip among them
    assert trainer.decoder_evaluations == 2 * 8 * config.samples


def test_a_bandit_is_learnt_from_its_rewards_alone():
    """Beside a random policy, and one whose target weights are all alike."""
    problem = find_problem("bandit-digits")
    splits = problem.splits()
    accuracy = {}
    alike = {"ess_fraction": 1.0, "centered": False}
    for name, options in {"daps": {}, "untrained": {"steps": 1}, "weights alike": alike}.items():
        trainer = Trainer(make_config(problem="bandit-digits", validate_every=0, **{"steps": 200, **options}), splits)
        list(trainer.run())
        found = evaluate(trainer.autoencoder, splits.test, beta=0.0, targets=splits.test_targets)
        accuracy[name] = found.metrics["reward_greedy"]
        gap = problem.gaps(found.columns, "test")["gap_greedy"]
        assert gap == pytest.approx(1.0 - accuracy[name], abs=1e-6)
    assert accuracy["daps"] > 0.8
    assert accuracy["untrained"] < 0.3
    assert accuracy["weights alike"] < accuracy["daps"] - 0.2


@pytest.mark.parametrize(
    ("name", "steps", "at_least", "others_below"),
    [("tsp6", 80, -2.5, -2.6), ("knapsack8", 40, 1.4, 1.35), ("reverse3", 150, 1.5, 0.3), ("brackets3", 100, 1.5, 0.6)],
)
def test_decisions_are_learnt_from_their_rewards_alone(name, steps, at_least, others_below):
    """Mean reward of drawn decisions, beside a random policy and one whose target weights are all alike.

    Measured: -2.36, 1.48, 1.93 and 1.87; others at most -2.76, 1.28, 0.14 and 0.40.
    """
    splits = find_problem(name).splits()
    shared = {"batch_size": 32, "embed_dim": 32, "learning_rate": 4e-3, "warmup_steps": 5, "validate_every": 0}
    alike = {"ess_fraction": 1.0, "centered": False}
    reached = []
    for options in ({}, {"steps": 1}, alike):
        trainer = Trainer(make_config(problem=name, **{**shared, "steps": steps, **options}), splits)
        list(trainer.run())
        reached.append(evaluate(trainer.autoencoder, splits.test[:200], beta=0.0).metrics["log_likelihood"])
    assert reached[0] > at_least
    assert max(reached[1:]) < others_below


def test_search_finds_the_best_of_a_small_landscape():
    problem = find_problem("nk8")
    codes = bits(8)
    best = problem.reward(torch.ones(1, 1, 1), codes[None]).max().item()
    trainer = Trainer(make_config(problem="nk8", steps=150, samples=64, validate_every=0), problem.splits())
    list(trainer.run())
    metrics = evaluate(trainer.autoencoder, problem.splits().test, beta=0.0).metrics
    assert metrics["reward_best"] == pytest.approx(best)
    assert metrics["log_likelihood"] > best - 0.05  # exact: the mean over all 256 codes
    assert metrics["enumerated_codes"] == 256


def test_a_run_on_the_command_line(tmp_path: Path, capsys):
    from daps_rl.cli import main

    run = tmp_path / "run"
    assert main(["train", "--problem", "maxcut6", "--steps", "4", "--out", str(run), "--validate-every", "2"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"] == "maxcut6"
    assert summary["test"]["reward_greedy"] > -1.0
    assert "psnr" not in capsys.readouterr().out
    assert (run / "learning_curves.png").exists()
    model = DiscreteAutoencoder.from_pretrained(run / "model")
    x = contexts("maxcut6")
    assert model.encode(x, deterministic=True).shape == (3, 6)
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["reward_greedy"] == summary["test"]["reward_greedy"]
    command = ["compare", "--problem", "nk6", "--agents", "daps", "--steps", "3", "--seeds", "1"]
    assert main([*command, "--out", str(tmp_path / "cmp")]) == 0
    text = (tmp_path / "cmp" / "comparison.md").read_text()
    assert "reward, greedy decisions" in text
    assert "reward evaluations" in text
    assert "PSNR" not in text


class Ones(DiscreteProblem):
    """A problem of one's own: as many ones as there are."""

    num_tokens, vocab_size = 4, 2

    def splits(self):
        x = torch.ones(2, 3)
        return Splits(name="ones", train=x, validation=x, test=x, likelihood="gaussian", value_range=(0.0, 1.0))

    def reward(self, target, codes):
        return codes.sum(-1).float()


def test_a_problem_of_ones_own():
    problem = find_problem("test_problems:Ones")
    config = make_config(problem="test_problems:Ones", steps=80, batch_size=4, validate_every=0)
    trainer = Trainer(config, problem.splits())
    list(trainer.run())
    assert trainer.autoencoder.encode(torch.ones(1, 3), deterministic=True).tolist() == [[1, 1, 1, 1]]
    assert problem.name == "test_problems:Ones"


def test_a_saved_model_imports_nobodys_problem_unasked(tmp_path):
    config = make_config(problem="test_problems:Ones", steps=1).model_config((3,), "gaussian")
    DiscreteAutoencoder.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="asks to import test_problems:Ones"):
        DiscreteAutoencoder.from_pretrained(tmp_path)
    assert DiscreteAutoencoder.from_pretrained(tmp_path, trust_problem=True).encode(torch.ones(1, 3)).shape == (1, 4)


def test_a_landscapes_name_tells_its_optimum():
    assert find_problem("nk20").optimum("test") is not None
    assert NKLandscape(20, neighbours=2).optimum("test") is None
    assert find_problem("nk3").name == "nk3"


def test_a_factorised_policy_where_nothing_forbids_it():
    for name in ("maxcut6", "reverse3"):
        config = make_config(problem=name, agent="daps-na", steps=2, batch_size=4, validate_every=0)
        list(Trainer(config, find_problem(name).splits()).run())


# Errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"problem": "chess"}, "problem must be one of tsp20"),
        ({"problem": "no.where:X"}, "cannot be imported"),
        ({"problem": "daps_rl.data:Splits"}, "must be a subclass"),
        ({"problem": "tsp2"}, "at least 3 cities"),
        ({"problem": "tsp5", "data": "digits"}, "brings its own data"),
        ({"problem": "tsp5", "vocab_size": 7}, "vocab_size of tsp5 is 5, got 7"),
        ({"problem": "bandit-digits3"}, "bandit-digits has one size"),
        ({"problem": "daps_rl.envs.classification:ClassificationBandit"}, "cannot be made without arguments"),
    ],
)
def test_nonsense_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        make_config(steps=1, **options)


@pytest.mark.parametrize(("agent", "says"), [("daps-na", "keep to a mask"), ("fsq", "no decoder to quantise for")])
def test_agents_that_cannot_are_told_why(agent, says):
    with pytest.raises(ValueError, match=says):
        Trainer(make_config(problem="tsp5", agent=agent, steps=1), find_problem("tsp5").splits())


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_that_are_reported_on_can_be_made(name):
    problem = find_problem(name)
    assert problem.name == name
    assert make_config(problem=name).num_tokens == problem.num_tokens
    best = problem.optimum("test")
    assert best is not None
    assert best.isfinite().all()
