"""Searches behind the interface of agents: what they try, what they keep, and that a resumed one goes on alike."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from daps_rl import DiscreteAutoencoder
from daps_rl.agents import SEARCHES, LocalSearch, SearchAgent, find_agent
from daps_rl.cli import main
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.envs import find_problem
from daps_rl.evaluation import evaluate
from daps_rl.policies import PointPolicy
from daps_rl.training import Trainer

NEVERGRAD = "nevergrad:DiscreteLenglerOnePlusOne"
NAMES = [*SEARCHES, NEVERGRAD]
T = 8


def trainer(name, steps, problem=f"nk{T}", **options):
    if name == NEVERGRAD:
        pytest.importorskip("nevergrad")
    config = make_config(problem=problem, agent=name, steps=steps, validate_every=0, device="cpu", **options)
    return Trainer(config, find_problem(problem).splits())


def best_of_all(problem):
    codes = torch.tensor(list(itertools.product(range(2), repeat=T)))
    rewards = problem.reward(torch.ones(1, 1, 1), codes[None])[0]
    return codes[rewards.argmax()], rewards.max().item()


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_the_best_decision_and_keeps_it(name):
    search = trainer(name, 200)
    list(search.run())
    code, reward = best_of_all(find_problem(f"nk{T}"))
    assert torch.equal(search.autoencoder.policy.code, code)
    assert torch.equal(search.autoencoder.encode(torch.ones(3, 1), deterministic=True), code.expand(3, -1))
    assert search.agent.best.item() == pytest.approx(reward)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_stopped_and_resumed_is_the_search_that_was_not(name):
    whole = trainer(name, 12)
    list(whole.run())
    first = trainer(name, 12)
    list(first.run(stop=lambda: first.step == 5))
    tensors, info = first.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    second = trainer(name, 12)
    second.load_state(tensors, info)
    list(second.run())
    expected, found = whole.state()[0], second.state()[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_local_search_tries_every_neighbour_once_and_then_starts_anew():
    policy = PointPolicy(3, 4)
    search = LocalSearch(policy, samples=2)
    search.tell(torch.tensor([[1, 2, 3], [0, 0, 0]]), torch.tensor([5.0, 1.0]))
    seen = []
    while search.value > float("-inf"):
        codes = search.propose(2)
        seen += codes[: len(search.order) - int(search.tried)].tolist()
        search.tell(codes, torch.zeros(2))
    here = [1, 2, 3]
    neighbours = [[*here[:t], v, *here[t + 1 :]] for t in range(3) for v in range(4) if v != here[t]]
    assert sorted(seen) == sorted(neighbours)
    assert search.propose(5).shape == (5, 3)  # random ones


def test_annealing_takes_what_is_worse_as_often_as_the_temperature_says():
    torch.manual_seed(0)
    search = find_agent("annealing").cls(PointPolicy(3, 2), samples=20_000, cooling=1.0)
    start = torch.zeros(20_000, 3, dtype=torch.int64)
    search.tell(start, torch.tensor([0.0, 2.0]).repeat(10_000))
    deviation = search.deviation.item()
    assert deviation == pytest.approx(1.0, rel=1e-3)  # of 0 and 2
    search.tell(1 - start, search.values - 0.7)
    share = search.chains[:, 0].double().mean().item()
    assert share == pytest.approx(torch.tensor(-0.7 / deviation).exp().item(), abs=0.01)


def test_nan_is_never_the_best():
    search = LocalSearch(PointPolicy(2, 2), samples=2)
    scored = iter([torch.tensor([[torch.nan, -3.0]]), torch.tensor([[torch.nan, torch.nan]])])
    for _ in range(2):
        list(search.losses(torch.ones(1, 1), lambda codes, log_prob: next(scored), torch.zeros(())))
    assert search.best == -3.0


def test_of_a_mask_it_knows_nothing_but_the_reward():
    search = trainer("local-search", 3, problem="nguyen1")
    list(search.run())
    assert search.agent.best == -1.0  # of a formula that is none


def test_a_policy_without_floating_point_weights_is_evaluated_on_the_data_as_they_are():
    model = trainer("local-search", 1, problem="tsp20").autoencoder
    x = load("digits").test[:4].flatten(1)[:, :40].view(4, 20, 2) / 16 + 0.25
    found = evaluate(model, x, beta=0.0, importance_data=0, enumerable=0)
    trip = x.roll(-1, 1) - x
    assert found.metrics["reward_greedy"] == pytest.approx(-40.0)  # zeros are no trip
    model.policy.code.copy_(torch.arange(20))
    found = evaluate(model, x, beta=0.0, importance_data=0, enumerable=0)
    assert found.metrics["reward_greedy"] == pytest.approx(-trip.norm(dim=-1).sum(-1).mean().item(), rel=1e-5)


def test_what_it_cannot_search_is_said():
    with pytest.raises(ValueError, match="looks for one code, and these contexts want one each"):
        list(Trainer(make_config(agent="local-search", steps=1, batch_size=8), load("digits")).run())
    with pytest.raises(ValueError, match="looks for one code, and these contexts want one each"):
        list(trainer("annealing", 2, problem="tsp20").run())  # one context at a step, and another at the next
    with pytest.raises(ValueError, match="its policy is a PointPolicy"):
        LocalSearch(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"cooling must be >= 1, got 0\.5"):
        trainer("annealing", 1, agent_options={"cooling": 0.5})
    with pytest.raises(ValueError, match="Annealing has samples = 8 chains, got 16 codes; --batch-size 1"):
        list(trainer("annealing", 1, batch_size=2).run())


def test_nevergrads_names(monkeypatch):
    pytest.importorskip("nevergrad")
    with pytest.raises(ValueError, match=r"no optimiser 'DiscreteOnePlusTwo'.*try nevergrad:DiscreteOnePlusOne"):
        find_agent("nevergrad:DiscreteOnePlusTwo")
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    with pytest.raises(ImportError, match=r"install it with pip install 'daps-rl\[search\]'"):
        find_agent(NEVERGRAD)


class Zeros(SearchAgent):
    """A search of one's own."""

    def propose(self, count):
        return torch.zeros(count, self.num_tokens, dtype=torch.int64)

    def tell(self, codes, reward):
        pass


def test_one_of_ones_own():
    search = trainer(f"{__name__}:Zeros", 2)
    list(search.run())
    assert search.autoencoder.policy.code.tolist() == [0] * T


def test_beside_agents_that_learn(tmp_path, capsys):
    command = f"compare --problem nk{T} --agents daps,local-search --steps 6 --seeds 1 --jobs 1 --out {tmp_path / 'c'}"
    small = ["--set", "daps:samples=16,embed_dim=8,num_heads=2"]
    assert main([*command.split(), *small]) == 0
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert "local-search" in text
    model = DiscreteAutoencoder.from_pretrained(tmp_path / "c" / "runs" / "local-search-seed0" / "model")
    assert isinstance(model.policy, PointPolicy)
