"""DAPS as a search for one code: a policy proposes, local search improves, and the policy imitates what came of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from daps_rl.agents.base import AgentSpec
from daps_rl.agents.search import NONE, SETTINGS, SearchAgent
from daps_rl.agents.tree import CodeTree
from daps_rl.functional import SAMPLES, solve_temperature, target_weights
from daps_rl.functional.checks import check_positive_integers
from daps_rl.functional.temperature import check_ess_fraction


class Memetic(SearchAgent):
    """Local search from codes that a learned policy draws, and only over changes that it holds possible.

    K local searches go on side by side. Each tries changes of one token in a random order, goes to the first that is
    better, and ends where none is. What it ended with joins the archive of the best codes. The policy, a `CodeTree`,
    has the largest likelihood of the archive, weighted by exp(reward / τ) with τ from the trust region; the next
    search begins at a code that it draws. Codes are drawn evenly until the archive is half full. It begins anew once as
    many searches as it has places have added nothing to it.

    Args:
        policy, samples: see `SearchAgent`; K searches.
        archive: codes that the policy is fitted to.
        ess_fraction: effective sample size of their weights to aim at, as a fraction of the archive.
        smoothing: of the policy, see `CodeTree`.
        patience: a change that makes a code less likely under the policy by more than this is not tried. In nats.
        edges: whether tokens depend on each other in the policy.
    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        samples: int = SAMPLES,
        archive: int = 60,
        ess_fraction: float = 0.3,
        smoothing: float = 0.05,
        patience: float = 3.0,
        edges: bool = True,
    ) -> None:
        super().__init__(policy, samples=samples)
        check_positive_integers(archive=archive)
        check_ess_fraction(ess_fraction)
        if archive * ess_fraction <= 2.0:
            need = f"archive must be > 2 / ess_fraction = {2.0 / ess_fraction:.3g}"
            raise ValueError(f"{need}, got {archive}; raise it: the policy is first fitted to half of it.")
        if not patience >= 0.0:
            raise ValueError(f"patience must be >= 0 nats, got {patience}; 3.0 tries changes down to 5 % as likely.")
        self.ess_fraction, self.patience = ess_fraction, patience
        self.tree = CodeTree(self.num_tokens, self.vocab_size, smoothing=smoothing, edges=edges)
        self.archive = nn.Buffer(self.code.repeat(archive, 1))
        self.archived = nn.Buffer(torch.full((archive,), NONE))  # rewards; NONE where there is no code yet
        self.stalled = nn.Buffer(torch.zeros((), dtype=torch.int64))  # searches since the archive has changed
        self.current = nn.Buffer(self.random_codes(samples))
        self.values = nn.Buffer(torch.full((samples,), NONE))  # NONE where a search is about to begin
        self.open = nn.Buffer(torch.zeros(samples, self.num_tokens, self.vocab_size, dtype=torch.bool))  # to be tried
        self.move = nn.Buffer(torch.zeros(samples, dtype=torch.int64))  # that is being tried

    def propose(self, count: int) -> Tensor:
        self.check_count(count)
        begins = self.values == NONE
        chances = self.open.flatten(1) | begins.unsqueeze(1)
        self.move.copy_(torch.multinomial(chances.float(), 1)[:, 0])
        position, token = self.move // self.vocab_size, self.move % self.vocab_size
        moved = self.current.scatter(1, position.unsqueeze(1), token.unsqueeze(1))
        return torch.where(begins.unsqueeze(1), self.current, moved)

    def tell(self, codes: Tensor, reward: Tensor) -> None:
        better = reward > self.values
        self.current[better], self.values[better] = codes[better], reward[better]
        self.open.flatten(1).scatter_(1, self.move.unsqueeze(1), False)
        self.open[better] = self.possible(codes[better])
        ended = ~self.open.flatten(1).any(1)  # or could not begin, with a code that has no reward
        if ended.any():
            for code, value in zip(self.current[ended], self.values[ended], strict=True):
                self.keep(code, value)
            if self.stalled >= len(self.archived):
                self.archived.fill_(NONE)
                self.stalled.zero_()
            if self.stalled == 0:
                self.imitate()
            self.current[ended], self.values[ended] = self.begin(int(ended.sum())), NONE

    def begin(self, count: int) -> Tensor:
        """Returns codes that searches begin at, int64 [M, T]."""
        return self.tree.sample(count)

    def possible(self, codes: Tensor) -> Tensor:
        """Which changes of a token the policy holds possible. bool [M, T, V]."""
        logits = self.tree.logits(codes)
        here = codes.unsqueeze(-1)
        return (logits >= logits.gather(-1, here) - self.patience).scatter(-1, here, False)

    def keep(self, code: Tensor, value: Tensor) -> None:
        """Puts a code [T] in the place of the worst of the archive, if it is better and not in it."""
        worst = self.archived.argmin()
        if value > self.archived[worst] and not (self.archive == code).all(-1)[self.archived > NONE].any():
            self.archive[worst], self.archived[worst] = code, value
            self.stalled.zero_()
        else:
            self.stalled.add_(1)

    def imitate(self) -> None:
        """Fits the policy to the archive, once it is half full."""
        known = self.archived > NONE
        if 2 * known.sum() < len(known):
            self.tree.reset()
        else:
            reward = self.archived[known].unsqueeze(0)
            weights = target_weights(reward, solve_temperature(reward, self.ess_fraction))
            self.tree.fit(self.archive[known], weights[0])


SPECS = (
    AgentSpec("memetic", Memetic, "imitate what local search makes of its proposals (DAPS)", SETTINGS,
              several_processes=False),
)  # fmt: skip
