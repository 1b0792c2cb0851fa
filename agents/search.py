"""Black-box searches for one code, behind the interface of agents: what a user takes where nothing is to be learned.

They propose codes, are told their rewards, and keep the best: the policy is `PointPolicy`, the same code whatever is
observed. Where contexts differ there is nothing that they could do. Of a mask they know nothing but the low reward of
what it forbids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.agents.base import Agent, AgentLoss, AgentSpec, Score
from daps_rl.functional import SAMPLES, acceptance_probability
from daps_rl.functional.checks import check_positive_integers
from daps_rl.names import did_you_mean
from daps_rl.policies import PointPolicy

NONE = float("-inf")  # the reward of what has not been evaluated
SETTINGS = {"policy": "point", "batch_size": 1, "samples": 8}


class SearchAgent(Agent):
    """Base of the searches: a step proposes K codes for each of the B contexts, all of which are one, and is told them.

    A search of your own writes `propose` and `tell`, and keeps its state in buffers.

    Args:
        policy: whose code is the best so far.
        samples: K.
    Raises:
        ValueError: the policy is no `PointPolicy`.
    """

    learns_rate = False
    settings: ClassVar[dict[str, Any]] = SETTINGS

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES) -> None:
        super().__init__(policy, samples=samples)
        if not isinstance(policy, PointPolicy):
            raise ValueError(f"{type(self).__name__} keeps one code; its policy is a PointPolicy (--policy point).")
        self.num_tokens, self.vocab_size = policy.num_tokens, policy.vocab_size
        self.best = nn.Buffer(torch.tensor(NONE))  # reward of the policy's code
        self.context: Tensor | None = None  # the one that all observations are

    @property
    def code(self) -> Tensor:
        """The best code so far. int64 [T]."""
        assert isinstance(self.policy, PointPolicy)
        return self.policy.code

    def propose(self, count: int) -> Tensor:
        """Returns codes to try, int64 [M, T]."""
        raise NotImplementedError

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        """Takes up the rewards [M] of the codes that were proposed. [M, T]."""
        raise NotImplementedError

    @torch.no_grad()
    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        """Tries a batch of codes; there is nothing to descend."""
        if self.context is None:
            self.context = observation[:1].clone()
        if (observation != self.context).any():
            raise ValueError(
                f"{type(self).__name__} looks for one code, and these contexts want one each; take an agent that "
                "learns a policy (daps), and --search for what it proposes."
            )
        proposed = self.propose(len(observation) * self.samples)
        codes = proposed.view(len(observation), self.samples, -1)
        # Scored as if drawn from the uniform prior, from which the KL is 0: the reward is the problem's own.
        log_prob = torch.full(codes.shape[:2], -self.num_tokens * math.log(self.vocab_size), device=codes.device)
        reward = score(codes, log_prob).flatten().to(self.best)
        reward = torch.where(reward.isnan(), NONE, reward)
        value, index = reward.max(0)
        if value > self.best:
            self.best.copy_(value)
            self.code.copy_(proposed[index])
        self.tell(proposed, reward)
        yield AgentLoss(None, codes, {"best": self.best.clone()})

    def check_count(self, count: int) -> None:
        """Raises ValueError unless a code is asked for from each of the K chains that go on side by side."""
        if count != self.samples:
            name = type(self).__name__
            raise ValueError(f"{name} has samples = {self.samples} chains, got {count} codes; --batch-size 1.")

    def random_codes(self, count: int) -> Tensor:
        """Uniform codes. int64 [M, T]."""
        return torch.randint(self.vocab_size, (count, self.num_tokens), device=self.code.device)


def changed(codes: Tensor, position: Tensor, shift: Tensor, vocab_size: int) -> Tensor:
    """Codes [M, T] whose token at a position, int64 [M], is another one, by shifts of 1 … V-1 [M]."""
    token = codes.gather(1, position.unsqueeze(1))
    return codes.scatter(1, position.unsqueeze(1), (token + shift.unsqueeze(1)) % vocab_size)


class LocalSearch(SearchAgent):
    """Restarted local search over codes that differ in one token.

    It goes to the best of the neighbours that a step tries if that is better, in a random order; where all T·(V − 1)
    have been tried in vain it starts anew, from the best of as many random codes.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES) -> None:
        super().__init__(policy, samples=samples)
        self.current, self.value = nn.Buffer(self.code.clone()), nn.Buffer(torch.tensor(NONE))
        self.order = nn.Buffer(torch.zeros(self.num_tokens * (self.vocab_size - 1), dtype=torch.int64))
        self.tried = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def propose(self, count: int) -> Tensor:
        if self.value == NONE:
            return self.begin(count)
        at = int(self.tried)
        move = self.order[at : at + count]
        codes = self.random_codes(count)  # where fewer than these are left to try
        codes[: len(move)] = changed(
            self.current.repeat(len(move), 1), move % self.num_tokens, 1 + move // self.num_tokens, self.vocab_size
        )
        return codes

    def begin(self, count: int) -> Tensor:
        """Returns codes of which the best is where a search begins. int64 [M, T]."""
        return self.random_codes(count)

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        value, index = reward.max(0)
        if value > self.value:
            self.current.copy_(codes[index])
            self.value.copy_(value)
            self.order.copy_(torch.randperm(len(self.order), device=codes.device))
            self.tried.zero_()
            return
        self.tried.add_(len(codes))
        if self.tried >= len(self.order):
            self.value.fill_(NONE)


class IteratedLocalSearch(LocalSearch):
    """Local search that starts anew not far away: at the best code so far, with a few tokens drawn evenly.

    Args:
        policy, samples: see `SearchAgent`.
        kick: how many tokens are drawn; some come out as they were.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, kick: int = 8) -> None:
        super().__init__(policy, samples=samples)
        check_positive_integers(kick=kick)
        self.kick = kick

    def begin(self, count: int) -> Tensor:
        if self.best == NONE:
            return self.random_codes(count)
        places = torch.rand(count, self.num_tokens, device=self.code.device).argsort(1)[:, : self.kick]
        return self.code.repeat(count, 1).scatter(1, places, self.random_codes(count))


class Annealing(SearchAgent):
    """Simulated annealing, K chains side by side, each of which proposes a change of one token at a step.

    A worse code is taken with probability exp(difference / temperature). The temperature falls geometrically over the
    run, from the deviation of random codes' rewards to a `cooling`-th of it.

    Args:
        policy, samples: see `SearchAgent`.
        cooling: by what the temperature is divided in all.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, cooling: float = 100.0) -> None:
        super().__init__(policy, samples=samples)
        if not cooling >= 1.0:
            raise ValueError(f"cooling must be >= 1, got {cooling}; it divides the temperature over the run.")
        self.cooling = cooling
        self.chains = nn.Buffer(self.code.repeat(samples, 1))
        self.values, self.deviation = nn.Buffer(torch.full((samples,), NONE)), nn.Buffer(torch.zeros(()))

    def propose(self, count: int) -> Tensor:
        self.check_count(count)
        if (self.values == NONE).all():
            return self.random_codes(count)
        position = torch.randint(self.num_tokens, (count,), device=self.code.device)
        shift = torch.randint(1, max(2, self.vocab_size), (count,), device=self.code.device)
        return changed(self.chains, position, shift, self.vocab_size)

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        if self.deviation == 0:
            known = reward[reward.isfinite()]
            self.deviation.copy_(known.std() if len(known) > 1 else known.new_tensor(1.0))
        temperature = self.deviation / self.cooling**self.progress
        probability = acceptance_probability(reward - self.values, temperature)
        taken = (self.values == NONE) | (torch.rand_like(reward) < probability)
        self.chains.copy_(torch.where(taken.unsqueeze(-1), codes, self.chains))
        self.values.copy_(torch.where(taken, reward, self.values))


class Nevergrad(SearchAgent):
    """Base of the optimisers of Nevergrad (Meta), `nevergrad:NAME`, over one choice for each token.

    A resumed run asks and tells again all that was told before, which gives the same state.

    Args:
        policy, samples: see `SearchAgent`.
        seed: of its random numbers.
    """

    run_settings: ClassVar[tuple[str, ...]] = ("samples", "seed")
    optimizer_name: ClassVar[str] = ""

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, seed: int = 0) -> None:
        super().__init__(policy, samples=samples)
        self.seed, self.told = seed, list[Tensor]()
        self._begin()

    def _begin(self) -> None:
        nevergrad = _nevergrad()
        choices = nevergrad.p.TransitionChoice(range(self.vocab_size), repetitions=self.num_tokens)
        choices.random_state.seed(self.seed)
        make = nevergrad.optimizers.registry[self.optimizer_name]
        self.optimizer = make(choices, budget=None, num_workers=self.samples)
        self.asked: list[Any] = []

    def propose(self, count: int) -> Tensor:
        self.asked = [self.optimizer.ask() for _ in range(count)]
        return torch.tensor([asked.value for asked in self.asked], device=self.code.device)

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        self.told.append(reward.cpu())
        for asked, value in zip(self.asked, reward.tolist(), strict=True):
            self.optimizer.tell(asked, -value if value > NONE else 1e30)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return {"told": torch.stack(self.told)} if self.told else {}

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.told = []
        self._begin()
        for reward in tensors.get("told", torch.zeros(0)):
            self.tell(self.propose(len(reward)), reward)


def _nevergrad() -> Any:
    try:
        import nevergrad
    except ImportError as error:
        raise ImportError(
            "nevergrad:NAME is a search of the package nevergrad; install it with pip install 'daps-rl[search]'."
        ) from error
    return nevergrad


def find_nevergrad(name: str) -> AgentSpec:
    """Returns the agent "nevergrad:NAME".

    Raises:
        ValueError: Nevergrad has no optimiser of that name.
        ImportError: it is not installed.
    """
    known = _nevergrad().optimizers.registry
    _, _, optimizer = name.partition(":")
    if optimizer not in known:
        near = did_you_mean(optimizer, known)
        raise ValueError(
            f"nevergrad has no optimiser {optimizer!r}{near}; try nevergrad:DiscreteOnePlusOne, "
            "nevergrad:DiscreteLenglerOnePlusOne or nevergrad:PortfolioDiscreteOnePlusOne."
        )
    cls = type(optimizer, (Nevergrad,), {"optimizer_name": optimizer})
    return AgentSpec(name, cls, f"search by {optimizer} of Nevergrad", SETTINGS, several_processes=False)


SPECS = (
    AgentSpec("local-search", LocalSearch, "change a token for the better, and start anew", SETTINGS,
              several_processes=False),
    AgentSpec("iterated-local-search", IteratedLocalSearch, "do so, and start anew near the best", SETTINGS,
              several_processes=False),
    AgentSpec("annealing", Annealing, "change a token, for the worse too while it is hot", SETTINGS,
              several_processes=False),
)  # fmt: skip
