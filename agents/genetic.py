"""A genetic algorithm as textbooks have it: a search to compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from daps_rl.agents.base import AgentSpec
from daps_rl.agents.search import NONE, SETTINGS, SearchAgent
from daps_rl.functional import SAMPLES
from daps_rl.functional.checks import check_positive_integers


class Genetic(SearchAgent):
    """A population of K codes: parents by tournament, two-point crossover, one mutation a code on average, elitism.

    Args:
        policy: see `SearchAgent`.
        samples: K, the population.
        tournament: codes of which the best becomes a parent.
    Raises:
        ValueError: tournament is not positive.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, tournament: int = 3) -> None:
        super().__init__(policy, samples=samples)
        check_positive_integers(tournament=tournament)
        self.tournament = tournament
        self.population = nn.Buffer(self.code.repeat(samples, 1))
        self.values = nn.Buffer(torch.full((samples,), NONE))

    def propose(self, count: int) -> Tensor:
        self.check_count(count)
        if (self.values == NONE).all():
            return self.random_codes(count)
        codes, other = self.parents(), self.parents()
        first, length = torch.randint(self.num_tokens, (2, count, 1), device=codes.device)
        places = torch.arange(self.num_tokens, device=codes.device)
        codes = torch.where((places - first) % self.num_tokens < length, other, codes)
        mutates = torch.rand(codes.shape, device=codes.device) < 1.0 / self.num_tokens
        shift = torch.randint(1, max(2, self.vocab_size), codes.shape, device=codes.device)
        return torch.where(mutates, (codes + shift) % self.vocab_size, codes)

    def parents(self) -> Tensor:
        """K codes, each the best of a tournament. int64 [K, T]."""
        rivals = torch.randint(self.samples, (self.samples, self.tournament), device=self.values.device)
        best = self.values[rivals].argmax(1, keepdim=True)
        return self.population[rivals.gather(1, best)[:, 0]]

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        best, worst = self.values.argmax(), reward.argmin()
        elite, value = self.population[best].clone(), self.values[best].clone()
        self.population.copy_(codes)
        self.values.copy_(reward)
        if value > reward[worst]:
            self.population[worst], self.values[worst] = elite, value


SPECS = (
    AgentSpec("genetic", Genetic, "cross, mutate and select (a genetic algorithm)", {**SETTINGS, "samples": 300},
              several_processes=False),
)  # fmt: skip
