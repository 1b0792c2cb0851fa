"""The memetic search, its tree of tokens, and the searches without learning that it is compared with."""

from __future__ import annotations

import itertools

import pytest
import torch

from daps_rl.agents import Genetic, IteratedLocalSearch, Memetic
from daps_rl.agents.tree import CodeTree, widest_tree
from daps_rl.config import make_config
from daps_rl.envs import find_problem
from daps_rl.policies import PointPolicy
from daps_rl.training import Trainer

NONE = float("-inf")


def every_code(num_tokens, vocab_size):
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=num_tokens)))


def fitted(num_tokens=4, vocab_size=3, smoothing=0.1, **options):
    """A tree fitted to codes of which two tokens hang together."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(vocab_size, (12, num_tokens), generator=generator)
    codes[:10, 3] = (codes[:10, 1] + 1) % vocab_size
    weights = torch.rand(12, generator=generator).softmax(0)
    tree = CodeTree(num_tokens, vocab_size, smoothing=smoothing, **options)
    tree.fit(codes, weights)
    return tree, codes, weights


def spanning_trees(size):
    pairs = list(itertools.combinations(range(size), 2))
    for edges in itertools.combinations(pairs, size - 1):
        reached = {0}
        for _ in edges:
            reached |= {b for a, b in edges if a in reached} | {a for a, b in edges if b in reached}
        if len(reached) == size:
            yield edges


def likelihood(edges, codes, weights):
    """The most that a tree with these edges can give weighted codes, from their shares. In nats, float64."""

    def entropy(*tokens):
        shares = {}
        for code, weight in zip(codes[:, list(tokens)].tolist(), weights.double().tolist(), strict=True):
            shares[tuple(code)] = shares.get(tuple(code), 0.0) + weight
        share = torch.tensor(list(shares.values()), dtype=torch.float64)
        return -(share * share.log()).sum().item()

    information = sum(entropy(a) + entropy(b) - entropy(a, b) for a, b in edges)
    return information - sum(entropy(token) for token in range(codes.shape[1]))


def test_a_tree_is_normalised_and_draws_what_it_says():
    tree, _, _ = fitted()
    codes = every_code(4, 3)
    probability = tree.log_prob(codes).double().exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-5)
    torch.manual_seed(0)
    drawn = tree.sample(100_000)
    count = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81)
    chi_square = ((count - 1e5 * probability).square() / (1e5 * probability)).sum().item()
    assert chi_square < 130.0  # of 80 degrees of freedom: more in 1 of 2,500 cases


def test_no_other_tree_has_a_larger_likelihood():
    tree, codes, weights = fitted(smoothing=1e-6)
    found = (weights * tree.log_prob(codes)).sum().item()
    best = max(likelihood(edges, codes, weights) for edges in spanning_trees(4))
    assert found == pytest.approx(best, abs=1e-4)
    alone, _, _ = fitted(smoothing=1e-6, edges=False)
    assert (weights * alone.log_prob(codes)).sum().item() == pytest.approx(likelihood((), codes, weights), abs=1e-4)


def test_the_widest_tree_of_three():
    information = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
    assert widest_tree(information) == [-1, 2, 0]


def test_smoothing_mixes_the_uniform_distribution_into_the_shares():
    tree = CodeTree(2, 2, smoothing=0.2)
    tree.fit(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0.75, 0.25]))
    expected = [[0.8 * 0.25 + 0.05, 0.8 * 0.75 + 0.05], [0.05, 0.05]]
    torch.testing.assert_close(tree.log_prob(every_code(2, 2)).exp().view(2, 2), torch.tensor(expected))


def test_logits_are_what_a_change_of_a_token_does_to_the_log_probability():
    tree, codes, _ = fitted()
    logits = tree.logits(codes)
    for token, value in itertools.product(range(4), range(3)):
        changed = codes.clone()
        changed[:, token] = value
        change = logits[:, token, value] - logits[torch.arange(12), token, codes[:, token]]
        torch.testing.assert_close(change, tree.log_prob(changed) - tree.log_prob(codes), atol=1e-5, rtol=0)


def test_the_policy_imitates_the_archive_weighted_inside_the_trust_region():
    search = Memetic(PointPolicy(3, 2), archive=8, ess_fraction=0.5, smoothing=0.1)
    codes, rewards = every_code(3, 2), torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0, 0.5, 4.0, 2.5])
    for code, reward in zip(codes, rewards, strict=True):
        search.keep(code, reward)
    search.imitate()
    low, high = 1e-3, 1e3
    for _ in range(200):  # bisection: 4 samples of 8
        middle = (low * high) ** 0.5
        weights = (rewards.double() / middle).softmax(0)
        low, high = (low, middle) if 1.0 / weights.square().sum() > 4.0 else (middle, high)
    expected = 0.9 * (weights[:, None] * codes).sum(0) + 0.05
    torch.testing.assert_close(search.tree.bias[:, 1].exp().double(), expected, atol=1e-4, rtol=0)


def test_codes_are_drawn_evenly_until_the_archive_is_half_full():
    search = Memetic(PointPolicy(3, 2), archive=4, ess_fraction=0.9)
    search.keep(torch.tensor([1, 1, 1]), torch.tensor(1.0))
    search.imitate()
    assert search.tree.log_prob(every_code(3, 2)).exp().tolist() == pytest.approx([0.125] * 8)
    search.keep(torch.tensor([1, 1, 0]), torch.tensor(1.0))
    search.imitate()
    assert search.tree.log_prob(torch.tensor([[1, 1, 0]])).exp().item() > 0.4


def test_the_archive_keeps_the_best_codes_once_each():
    search = Memetic(PointPolicy(2, 3), archive=4, ess_fraction=0.9)
    for code, value in zip(
        [*every_code(2, 3), torch.tensor([2, 2])], [3.0, 1, 4, 1, 5, 9, 2, 6, 5.5, 5.5], strict=True
    ):
        search.keep(code, torch.tensor(value))
    assert sorted(search.archived.tolist()) == [5.0, 5.5, 6.0, 9.0]
    assert sorted(search.archive.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert search.stalled == 1


def trainer(agent, steps, problem="nk8", **options):
    config = make_config(problem=problem, agent=agent, steps=steps, validate_every=0, device="cpu", **options)
    return Trainer(config, find_problem(problem).splits())


def test_every_archived_code_is_a_local_optimum():
    run = trainer("memetic", 300, agent_options={"patience": 1e9})
    agent, reward = run.agent, find_problem("nk8").reward
    seen = 0
    for _ in run.run():
        codes = agent.archive[agent.archived > NONE]
        neighbours = codes.unsqueeze(1) ^ torch.eye(8, dtype=torch.int64)
        value = reward(torch.ones(1, 1, 1), codes[None])[0]
        assert (reward(torch.ones(1, 1, 1), neighbours.flatten(0, 1)[None])[0].view(-1, 8) <= value[:, None]).all()
        seen = max(seen, len(codes))
    assert seen > 3


def test_only_changes_that_the_policy_holds_possible_are_tried():
    search = Memetic(PointPolicy(4, 3), patience=0.5)
    tree, codes, _ = fitted()
    search.tree.load_state_dict(tree.state_dict())
    possible = search.possible(codes)
    for token, value in itertools.product(range(4), range(3)):
        changed = codes.clone()
        changed[:, token] = value
        expected = (tree.log_prob(changed) - tree.log_prob(codes) >= -0.5) & (codes[:, token] != value)
        assert torch.equal(possible[:, token, value], expected)
    assert 12 < possible.sum() < 12 * 8  # of 12 codes with 8 changes each


def test_a_search_that_adds_nothing_begins_anew():
    """Every search ends at the one optimum of the number of ones."""
    torch.manual_seed(0)
    search, known, stalled = Memetic(PointPolicy(3, 2), samples=2, archive=8), [], []
    for _ in range(100):
        codes = search.propose(2)
        search.tell(codes, codes.sum(1).float())
        known.append(int((search.archived > NONE).sum()))
        stalled.append(int(search.stalled))
    anew = [step for step in range(1, 100) if known[step] < known[step - 1]]
    assert anew
    assert all(stalled[step - 1] in (6, 7) and stalled[step] == 0 for step in anew)
    assert max(known) == 1


def test_codes_without_a_reward_are_left():
    search = Memetic(PointPolicy(3, 2), samples=2)
    torch.manual_seed(0)
    for _ in range(200):
        codes = search.propose(2)
        search.tell(codes, torch.where(codes[:, 0] == 1, codes.sum(1).float(), NONE))
    known = search.archived > NONE
    assert search.archive[known].tolist() == [[1, 1, 1]]


def test_the_best_of_a_population_stays():
    torch.manual_seed(0)
    search = Genetic(PointPolicy(3, 2), samples=4)
    search.tell(torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]]), torch.tensor([9.0, 1.0, 2.0, 3.0]))
    search.tell(search.propose(4), torch.tensor([4.0, 0.5, 6.0, 7.0]))
    assert search.values.tolist() == [4.0, 9.0, 6.0, 7.0]
    assert search.population[1].tolist() == [1, 1, 1]


def test_a_child_is_two_parts_of_its_parents_with_a_mutation_a_code(monkeypatch):
    torch.manual_seed(0)
    search = Genetic(PointPolicy(10, 3), samples=20_000, tournament=1)
    search.tell(torch.ones(20_000, 10, dtype=torch.int64), torch.zeros(20_000))
    mutations = (search.propose(20_000) != 1).sum(1).double()
    assert mutations.mean().item() == pytest.approx(1.0, abs=0.03)  # 0.0067 is the error of the mean
    search.population[::2] = 0
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.ones(*size))
    child = search.propose(20_000)
    switches = (child != child.roll(1, 1)).sum(1)
    assert set(switches.tolist()) == {0, 2}  # around the circle
    assert child.double().mean().item() == pytest.approx(0.5, abs=0.01)


def test_parents_win_tournaments():
    torch.manual_seed(0)
    search = Genetic(PointPolicy(1, 2), samples=10_000, tournament=3)
    codes = torch.arange(10_000).unsqueeze(1) % 2
    search.tell(codes, codes[:, 0].double())
    assert search.parents().double().mean().item() == pytest.approx(1 - 0.5**3, abs=0.02)


def test_iterated_local_search_starts_anew_near_the_best():
    torch.manual_seed(0)
    search = IteratedLocalSearch(PointPolicy(12, 2), samples=2, kick=3)
    assert search.propose(1_000).double().mean().item() == pytest.approx(0.5, abs=0.03)
    search.code.copy_(torch.ones(12))
    search.best.fill_(1.0)
    changes = (search.propose(1_000) == 0).sum(1)
    assert changes.max() == 3
    assert changes.double().mean().item() == pytest.approx(1.5, abs=0.1)


def test_what_is_out_of_range_is_said():
    point = PointPolicy(8, 2)
    for options, match in (
        ({"archive": 0}, "archive must be an integer >= 1, got 0"),
        ({"archive": 6}, "archive must be > 2 / ess_fraction = 6.67, got 6; raise it"),
        ({"ess_fraction": 1.5}, r"ess_fraction must lie in \(1/K, 1\], got 1.5"),
        ({"patience": -1.0}, "patience must be >= 0 nats, got -1.0"),
        ({"patience": float("nan")}, "patience must be >= 0 nats, got nan"),
        ({"smoothing": 0.0}, r"smoothing must lie in \(0, 1\], got 0.0"),
    ):
        with pytest.raises(ValueError, match=match):
            Memetic(point, **options)
    with pytest.raises(ValueError, match=r"num_tokens · vocab_size <= 8,192.* got 64 · 256; take --agent local-search"):
        Memetic(PointPolicy(64, 256))
    with pytest.raises(ValueError, match="tournament must be an integer >= 1, got 0"):
        Genetic(point, tournament=0)
    with pytest.raises(ValueError, match="kick must be an integer >= 1, got 0"):
        IteratedLocalSearch(point, kick=0)
    for agent in ("memetic", "genetic"):
        with pytest.raises(ValueError, match=r"has samples = 8 chains, got 16 codes; --batch-size 1"):
            list(trainer(agent, 1, batch_size=2, samples=8).run())
