"""Routing problems: masks, rewards, symmetries and searches against enumeration and plain Python."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import contexts

from daps_rl import DiscreteAutoencoder
from daps_rl.codes import Search, find_codes
from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.policies import AutoregressivePolicy, CodeMask, DeliverOnce, VisitOnce, VisitWithin

SMALL = ("tsp4", "cvrp3", "op3")
B = 3


def all_codes(problem) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(problem.vocab_size), repeat=problem.num_tokens)))


def model_of(name: str, seed: int = 0) -> DiscreteAutoencoder:
    problem, x = find_problem(name), contexts(name)
    torch.manual_seed(seed)
    config = make_config(problem=name, steps=1, embed_dim=16, num_layers=1).model_config(tuple(x.shape[1:]), "gaussian")
    model = DiscreteAutoencoder.from_config(config).eval()
    with torch.no_grad():  # far from uniform, so that greedy decisions differ
        model.policy.transformer.head.query.weight.mul_(30.0)
    assert problem.name == name
    return model


def length(x, stops) -> float:
    places = x[list(stops), :2].tolist()
    return sum(math.dist(a, b) for a, b in zip(places, places[1:] + places[:1], strict=True))


def worth(problem, x, code) -> float | None:
    """What a decision is worth, in plain Python; None where it is not feasible, or not written as the mask has it."""
    code, n = list(code), problem.vocab_size - 1
    if problem.name.startswith("tsp"):
        return -length(x, code) if sorted(code) == list(range(n + 1)) else None
    customers = [stop for stop in code if stop]
    if problem.name.startswith("op"):
        end = len(customers)
        tidy = code[end:] == [0] * (len(code) - end) and len(set(customers)) == end
        feasible = tidy and length(x, [0, *customers]) <= problem.length
        return sum(x[stop, 2].item() for stop in customers) if feasible else None
    if sorted(customers) != list(range(1, n + 1)):
        return None
    last = max(i for i, stop in enumerate(code) if stop)
    trips = [[]]
    for stop in code[: last + 1]:
        trips.append([]) if stop == 0 else trips[-1].append(stop)
    loads = [sum(round(x[stop, 2].item() * problem.capacity) for stop in trip) for trip in trips]
    feasible = all(trips) and max(loads) <= problem.capacity
    return -sum(length(x, [0, *trip]) for trip in trips) if feasible else None


# Policies


@pytest.mark.parametrize("name", SMALL)
def test_a_policy_writes_all_feasible_decisions_and_no_others(name):
    problem, x = find_problem(name), crowded(name)
    model, codes = model_of(name).double(), all_codes(problem)
    posterior = model.policy(x.double())
    with torch.no_grad():
        log_prob = posterior.log_prob(codes[:, None].expand(-1, B, -1)).T  # [B, C]
    feasible = torch.tensor([[worth(problem, row, code) is not None for code in codes.tolist()] for row in x])
    assert torch.equal(log_prob > -math.inf, feasible)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(B, dtype=torch.float64))
    drawn, of_drawn = posterior.draw((50,))
    torch.testing.assert_close(posterior.log_prob(drawn), of_drawn)
    assert (of_drawn > -math.inf).all()


def crowded(name: str) -> torch.Tensor:
    """Contexts in which not everything is possible: the demands of three customers exceed what a vehicle carries."""
    x = contexts(name)
    if name.startswith("cvrp"):
        x[:, 1:, 2] = torch.tensor([[9.0, 9.0, 9.0], [9.0, 8.0, 4.0], [7.0, 5.0, 8.0]]) / 20.0
    return x


@pytest.mark.parametrize("name", ["tsp6", "cvrp6", "op6"])
def test_sampling_and_scoring_agree_and_gradients_are_finite(name):
    x, model = contexts(name).double(), model_of(name).double()
    posterior = model.policy(x)
    codes, drawn = posterior.draw((7,))
    scored = posterior.log_prob(codes)
    torch.testing.assert_close(scored, drawn)
    (scored.sum() + posterior.entropy(num_samples=2).sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.policy.parameters())
    with pytest.raises(ValueError, match="a policy of glimpses draws no relaxed codes"):
        posterior.relaxed_sample(lambda logits: logits)


def test_any_start_is_as_likely_and_a_group_has_them_all():
    x, model = contexts("tsp4"), model_of("tsp4").double()
    posterior = model.policy(x.double())
    orders = torch.tensor(list(itertools.permutations(range(4))))
    with torch.no_grad():
        probability = posterior.log_prob(orders[:, None].expand(-1, B, -1)).exp()  # [24, B]
    of_start = torch.stack([probability[orders[:, 0] == first].sum(0) for first in range(4)])
    torch.testing.assert_close(of_start, torch.full((4, B), 0.25, dtype=torch.float64))
    starts = posterior.sample((8,))[..., 0].sort(0).values
    assert (starts == torch.arange(4).repeat_interleave(2)[:, None]).all()
    single = torch.stack([posterior.sample()[..., 0] for _ in range(1000)]).flatten()
    assert (single.bincount(minlength=4) / 3000 - 0.25).abs().max() < 4.0 * math.sqrt(0.25 * 0.75 / 3000)


def test_a_group_with_fewer_codes_than_starts_is_a_fair_sample():
    """Of three codes of four tokens each token comes first in three of four groups, and no two codes begin alike."""
    posterior = model_of("tsp4").policy(contexts("tsp4"))
    starts = torch.stack([posterior.sample((3,))[..., 0] for _ in range(1000)])  # [1000, 3, B]
    share = torch.stack([(starts == first).any(1).double().mean() for first in range(4)])
    assert (share - 0.75).abs().max() < 4.0 * math.sqrt(0.75 * 0.25 / 1000)


def test_a_transformer_that_reads_all_tokens_keeps_to_any_start_too():
    torch.manual_seed(0)
    mask = VisitOnce(4, any_start=True)
    sizes = {"embed_dim": 8, "num_heads": 2, "num_patches": 2}
    posterior = AutoregressivePolicy((4, 2), 4, 4, **sizes, mask=mask)(contexts("tsp4"))
    codes, log_prob = posterior.draw((4,))
    torch.testing.assert_close(posterior.log_prob(codes), log_prob)
    assert (codes[..., 0].sort(0).values == torch.arange(4)[:, None]).all()
    logits = posterior.token_logits(codes)
    assert (logits[:, :, 0] == 0.0).all()
    assert logits[:, :, 1].isfinite().sum(-1).eq(3).all()


@pytest.mark.parametrize("mask", [VisitOnce(4), VisitOnce(4, any_start=True)])
def test_all_positions_at_once_are_one_after_another(mask):
    codes = torch.randint(4, (B, 40, 4))
    x = contexts("tsp4")
    assert torch.equal(mask.along(mask.allowed, x, codes), CodeMask.along(mask, mask.allowed, x, codes))


def test_what_masks_tell():
    """What is left of a load and of a length, counted from whole codes."""
    x = crowded("cvrp3")
    deliver = DeliverOnce(20, column=2)
    told = deliver.along(deliver.features, x, torch.tensor([[[1, 0, 2, 3, 0]]]).expand(B, 1, -1))[1, 0, :, 0]
    torch.testing.assert_close(told, torch.tensor([20.0, 11.0, 20.0, 12.0, 8.0]) / 20.0)
    within, x = VisitWithin(2.0), contexts("op3")
    told = within.along(within.features, x, torch.tensor([[[2, 1, 0]]]).expand(B, 1, -1))[0, 0, :, 0]
    first, second = (math.dist(x[0, a, :2], x[0, b, :2]) for a, b in ((0, 2), (2, 1)))
    torch.testing.assert_close(told, torch.tensor([2.0, 2.0 - first, 2.0 - first - second]) / 2.0)


@pytest.mark.parametrize(
    ("options", "scored"), [({}, 7), ({"samples": 4}, 2), ({"agent": "rloo"}, 0), ({"problem": "knapsack50"}, 0)]
)
def test_how_many_routes_of_a_group_are_scored_follows_from_the_agent(options, scored):
    assert make_config(**{"problem": "tsp20", "steps": 1, **options}).policy_samples == scored


# Problems


@pytest.mark.parametrize("name", SMALL)
def test_rewards_are_those_of_plain_python_and_less_for_what_cannot_be(name):
    problem, x = find_problem(name), crowded(name)
    codes = all_codes(problem)
    reward = problem.reward(x[:, None], codes.expand(B, -1, -1))
    for row in range(B):
        expected = [worth(problem, x[row], code) for code in codes.tolist()]
        feasible = [i for i, value in enumerate(expected) if value is not None]
        torch.testing.assert_close(reward[row, feasible], torch.tensor([expected[i] for i in feasible]))
        assert reward[row].min() < reward[row, feasible].min() or len(feasible) == len(codes)


def test_deliveries_as_published():
    for size, capacity in ((20, 30), (50, 40)):
        problem, x = find_problem(f"cvrp{size}"), contexts(f"cvrp{size}", 1000)
        assert (problem.capacity, x.shape) == (capacity, (1000, size + 1, 3))
        demands = x[..., 2] * capacity
        assert (demands[:, 0] == 0.0).all()
        assert torch.equal(demands[:, 1:].round().unique(), torch.arange(1.0, 10.0))
        assert demands[:, 1:].mean().item() == pytest.approx(5.0, abs=0.1)


def test_prizes_as_published():
    problem, x = find_problem("op20"), contexts("op20", 100)
    assert problem.length == 2.0
    away = (x[:, 1:, :2] - x[:, :1, :2]).norm(dim=-1)
    prizes = x[:, 1:, 2] * 100.0
    assert (x[:, 0, 2] == 0.0).all()
    assert torch.equal(prizes.amax(1).round(), torch.full((100,), 100.0))
    assert ((prizes - 1.0 - 99.0 * away / away.amax(1, keepdim=True)).abs() <= 1.0 + 1e-4).all()


@pytest.mark.parametrize("name", ["tsp5", "cvrp5", "op5"])
def test_every_decision_is_worth_the_same_in_all_views(name):
    problem, x = find_problem(name), contexts(name)
    codes = model_of(name).policy(x).sample((20,)).transpose(0, 1)
    views = problem.views(x, 8)
    assert torch.equal(views[0], x)
    assert len(views) == 8
    for one, other in itertools.combinations(views, 2):
        assert (one - other).abs().max() > 0.1
    for view in views:
        assert (view >= 0.0).all()
        torch.testing.assert_close(problem.reward(view[:, None], codes), problem.reward(x[:, None], codes))
    with pytest.raises(ValueError, match="a square has 8 symmetries, got augment:9"):
        problem.views(x, 9)


def test_no_simple_rule_beats_the_stored_deliveries():
    """The nearest customer that can be served."""
    problem, x = find_problem("cvrp20"), contexts("cvrp20", 200)
    best, mask = problem.optimum("test")[:200], problem.mask
    away = (x[:, None, :, :2] - x[:, :, None, :2]).norm(dim=-1)  # [B, from, to]
    state, at, tokens = mask.start(x, 1), torch.zeros(200, 1, dtype=torch.int64), []
    for position in range(problem.num_tokens):
        way = away.gather(1, at[..., None].expand(-1, -1, x.shape[1]))
        liked = -way
        liked[..., 0] = -1e9  # the depot where nothing else is allowed
        at = torch.where(mask.allowed(state, position), liked, -math.inf).argmax(-1)
        state = mask.advance(state, position, at)
        tokens.append(at)
    reward = problem.reward(x[:, None], torch.stack(tokens, -1))[:, 0]
    assert (reward <= best + 1e-4).all()
    assert 1.1 < reward.mean() / best.mean() < 1.4


# Searches


@pytest.mark.parametrize("name", SMALL)
def test_multistart_is_the_best_of_the_greedy_decisions_after_each_first_token(name):
    problem, x, model = find_problem(name), crowded(name), model_of(name)
    posterior, codes = model.policy(x), all_codes(problem)
    with torch.no_grad():
        log_prob = posterior.log_prob(codes[:, None].expand(-1, B, -1)).T
        token = torch.log_softmax(posterior.token_logits(codes[:, None].expand(-1, B, -1)), -1)
        token = token.gather(-1, codes[:, None, :, None].expand(-1, B, -1, 1))[..., 0].transpose(0, 1)  # [B, C, T]
    found = model.search("multistart", x)
    for row in range(B):
        best = -math.inf
        for first in range(problem.vocab_size):
            after = (codes[:, 0] == first) & (log_prob[row] > -math.inf)
            for position in range(1, problem.num_tokens):  # the likeliest token of those that are left, by and by
                likeliest = token[row, after, position].amax() if after.any() else 0.0
                after &= token[row, :, position] == likeliest
            best = max([best, *(worth(problem, x[row], code) for code in codes[after].tolist())])
        assert found.score[row].item() == pytest.approx(best, abs=1e-5)
        assert worth(problem, x[row], found.codes[row].tolist()) == pytest.approx(best, abs=1e-5)
    assert (found.evaluations == 1 + problem.vocab_size).all()


@pytest.mark.parametrize("how", ["augment:4", "multistart+augment:4", "beam:3+augment:4"])
def test_augmented_searches_are_the_best_of_all_views(how):
    problem, x, model = find_problem("cvrp6"), contexts("cvrp6"), model_of("cvrp6")
    found, alone = model.search(how, x), Search.parse(how.replace("+augment:4", "").replace("augment:4", "greedy"))
    of_views = [model.search(alone, view) for view in problem.views(x, 4)]
    scores = torch.stack([of_view.score for of_view in of_views])
    torch.testing.assert_close(found.score, scores.amax(0))
    assert scores.amax(0).gt(scores[0]).any()  # or the test shows nothing
    torch.testing.assert_close(problem.reward(x[:, None], found.codes[:, None])[:, 0], found.score)
    assert torch.equal(found.evaluations, 4 * of_views[0].evaluations)


def test_evaluate_measures_a_search_of_routes():
    model, x = model_of("tsp6"), contexts("tsp6", 20)
    metrics = evaluate(model, x, beta=0.0, search=Search("multistart", augment=8)).metrics
    assert metrics["reward_search"] > metrics["reward_greedy"]
    assert metrics["search_evaluations"] == 8 * 7
    assert model.encode(x, search="multistart+augment:8").shape == (20, 6)


def test_what_has_no_symmetries_says_so():
    model, x = model_of("tsp4"), contexts("tsp4")
    with pytest.raises(ValueError, match=r"search augment:8 is in several views.*use model\.search"):
        find_codes("augment:8", x, model.policy(x), lambda x, z: x, vocab_size=4)
    with pytest.raises(ValueError, match="knapsack6 has no symmetries that augment:2 could use"):
        find_problem("knapsack6").views(contexts("knapsack6"), 2)
    own = DiscreteAutoencoder(model.policy, model.decoder, model.prior)
    with pytest.raises(ValueError, match="augment:8 is for problems with symmetries"):
        own.search("augment:8", x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: find_problem("cvrp1"), "at least 2 customers, got 1"),
        (lambda: find_problem("op1"), "at least 2 places, got 1"),
        (lambda: DeliverOnce(0, column=2), "capacity must be >= 1, got 0"),
        (lambda: VisitWithin(0.0), "length must be > 0, got 0.0"),
        (lambda: VisitOnce(4, 0, any_start=True), "any_start lets every code begin elsewhere, and first=0 none"),
    ],
)
def test_errors(make, says):
    with pytest.raises(ValueError, match=says):
        make()
