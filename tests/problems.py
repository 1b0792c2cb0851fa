"""Problems small enough to enumerate, so that what an agent can reach at best is known exactly; and codes to test with.

A learning test of a new agent, by its name or its class, is a loop over them:

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_my_agent_learns(problem):
        assert learns(MyAgent, problem()) > 0.95  # 0 is random, 1 the best there is

Shapes: B contexts, K codes per context, T positions, V tokens per position, D features; C = V^T codes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from daps_rl.agents import Agent, AgentLoss, Conditions, PathwiseAgent, Scorer, make_agent
from daps_rl.config import make_config
from daps_rl.decoders import MLPDecoder
from daps_rl.envs import find_problem
from daps_rl.policies import AutoregressivePolicy, FactorizedPolicy


@dataclass(frozen=True)
class Problem:
    """What each of all codes is worth in each context; the objective is E_q[value] − β·KL(q ‖ prior), in nats.

    Attributes:
        x: contexts. [B, D].
        codes: all of them, in the order of `value`. [C, T].
        value: of every code; with a decoder, log p(x|z). [B, C].
        beta: weight of the KL at the end of training; it falls from `beta_start` in the first half.
        prior: over codes.
        decoder: for agents that learn through its gradient; None where `value` is no decoder's.
        kind: of policy, unless another is asked for.
    """

    x: Tensor
    codes: Tensor
    value: Tensor
    vocab_size: int
    prior: Distribution
    beta: float = 0.0
    beta_start: float = 0.0
    decoder: nn.Module | None = None
    kind: type[nn.Module] = AutoregressivePolicy

    def policy(self, kind: type[nn.Module] | None = None, seed: int = 1) -> nn.Module:
        kind = kind or self.kind
        torch.manual_seed(seed)
        sizes = {"embed_dim": 16, "num_heads": 2}
        sizes |= {"num_patches": 1, "aligned_patches": True} if kind is AutoregressivePolicy else {"num_layers": 1}
        return kind((self.x.shape[1],), self.codes.shape[1], self.vocab_size, **sizes)

    def beta_at(self, share: float) -> float:
        """Returns β where that share of the training is done."""
        return self.beta and self.beta_start * (self.beta / self.beta_start) ** min(1.0, 2.0 * share)

    def reward(self, codes: Tensor, log_prob: Tensor, beta: Tensor) -> Tensor:
        """Returns value − β·(log q − log p), written out. codes [B, K, T], log_prob [B, K] → [B, K]."""
        powers = self.vocab_size ** torch.arange(codes.shape[-1] - 1, -1, -1)
        return self.value.gather(1, (codes * powers).sum(-1)) - beta * (log_prob - self.prior.log_prob(codes))

    @property
    def log_optimum(self) -> Tensor:
        """log q* of every code: p(z)·exp(value / β) / Z, the exact maximiser for β > 0. [B, C]."""
        return torch.log_softmax(self.prior.log_prob(self.codes) + self.value / self.beta, -1)

    @torch.no_grad()
    def log_prob(self, policy: nn.Module) -> Tensor:
        """Returns the policy's log-probability of every code. [B, C]."""
        return policy(self.x).log_prob(self.codes[:, None].expand(-1, len(self.x), -1)).T

    def objective(self, log_q: Tensor) -> float:
        """Returns the mean over contexts of a distribution's objective, exactly. log_q [B, C]."""
        kl = torch.where(log_q.isfinite(), log_q, 0.0) - self.prior.log_prob(self.codes)
        return (log_q.exp() * (self.value - self.beta * kl)).sum(-1).mean().item()

    def divergence(self, policy: nn.Module) -> float:
        """Returns KL(q ‖ q*) of the worst context, in nats, for β > 0."""
        log_q = self.log_prob(policy)
        return (log_q.exp() * (log_q - self.log_optimum)).sum(-1).max().item()

    @property
    def optimum(self) -> float:
        """What no policy can do better than."""
        if self.beta > 0.0:
            return self.objective(self.log_optimum)
        return self.value.max(-1).values.mean().item()

    @property
    def random(self) -> float:
        """The objective of codes at random."""
        return self.objective(torch.full_like(self.value, -math.log(len(self.codes))))

    def score(self, policy: nn.Module) -> float:
        """Returns how far a policy has come from random, 0, to the optimum, 1; exactly."""
        return (self.objective(self.log_prob(policy)) - self.random) / (self.optimum - self.random)


def all_codes(num_tokens: int, vocab_size: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=num_tokens)))


def uniform(num_tokens: int, vocab_size: int) -> Distribution:
    return Independent(Categorical(logits=torch.zeros(num_tokens, vocab_size)), 1)


def bandit() -> Problem:
    """One token of seven, each worth something else in each of four contexts: 0.5 at random, 0.84 at best."""
    value = torch.stack([torch.linspace(0.0, 1.0, 7).roll(shift) for shift in (0, 2, 3, 5)])
    return Problem(torch.eye(4), all_codes(1, 7), value, 7, uniform(1, 7), beta=0.1, beta_start=1.0)


def factorized() -> Problem:
    """Each token on its own is to repeat its part of the context: 0.2 at random, 1 at best."""
    target = torch.tensor([[0, 1, 2], [3, 4, 0], [1, 1, 1], [4, 2, 3]])
    codes = all_codes(3, 5)
    value = (codes == target[:, None]).float().mean(-1)
    return Problem(
        nn.functional.one_hot(target, 5).float().flatten(1), codes, value, 5, uniform(3, 5), kind=FactorizedPolicy
    )


def dependent() -> Problem:
    """The second token is to repeat the first, which counts half as much if it is the context's: 0.38 at random.

    With β > 0 all four pairs are wanted, and no product of two distributions is q*.
    """
    codes = all_codes(2, 4)
    value = (codes[:, 1] == codes[:, 0]).float() + 0.5 * (codes[:, 0] == torch.arange(3)[:, None]).float()
    return Problem(torch.eye(3), codes, value, 4, uniform(2, 4), beta=0.25, beta_start=1.0)


def encoding(beta: float = 1.0) -> Problem:
    """Three data, a frozen decoder that tells codes apart by a few nats, and a prior that is not uniform.

    The objective is the β-ELBO. At q* all codes of a group earn the same: weights are uniform and the temperature is
    at its floor β, an exact fixed point whatever K.
    """
    torch.manual_seed(0)
    decoder = MLPDecoder(2, 6, (5,), embed_dim=8, hidden=(16,)).requires_grad_(False)
    for layer in (decoder.layers[0], decoder.layers[2]):
        layer.weight.mul_(3.0)
    x, codes = torch.eye(5)[:3], all_codes(2, 6)
    logits = 0.5 * torch.randn(2, 6)
    prior = Independent(Categorical(logits=logits), 1)
    prior.token_log_probs = torch.log_softmax(logits, -1)  # for agents that differentiate the KL
    return Problem(x, codes, decoder(codes).log_prob(x[:, None]), 6, prior, beta, 8.0, decoder)


MakeAgent = str | Callable[..., Agent]
"""A name, as the command has it, or a class: called with a policy, `samples=` and its options."""


def make(agent: MakeAgent, problem: Problem, policy: nn.Module | None = None, samples: int = 32, **options) -> Agent:
    """Returns an agent by its name, as the command has it, or of a class of one's own."""
    if not isinstance(agent, str):
        return agent(policy or problem.policy(), samples=samples, **options)
    config = make_config(agent=agent, steps=1, batch_size=len(problem.x), samples=samples, agent_options=options)
    kind = FactorizedPolicy if config.policy == "factorized" else None
    return make_agent(config, policy or problem.policy(kind))


def train(
    agent: Agent, problem: Problem, steps: int, learning_rate: float, *, pay_kl: bool = True, floor: bool = True
) -> AgentLoss:
    """Trains by Adam with a cosine; returns what the agent said of its last step.

    Args:
        pay_kl, floor: False leaves the KL out of the reward, or β out of what the agent knows: ablations.
    """
    beta, zero = torch.zeros(()), torch.zeros(())
    trained = agent.trained()  # nothing where the agent has an optimiser of its own
    optimizer = torch.optim.Adam(trained) if trained else None
    for step in range(steps):
        beta.fill_(problem.beta_at(step / steps))
        rate = learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        agent.prepare(Conditions(progress=step / steps, learning_rate=rate))
        paid = beta if pay_kl else zero
        if isinstance(agent, PathwiseAgent):
            score = Scorer(problem.decoder, problem.prior, problem.x, paid)
        else:
            score = partial(problem.reward, beta=paid)
        for out in agent.losses(problem.x, score, beta if floor else zero):
            if optimizer:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                out.loss.backward()
                optimizer.step()
    return out


def learns(
    agent: MakeAgent, problem: Problem, steps: int = 250, *, learning_rate: float = 2e-2, samples: int = 32, **options
) -> float:
    """Trains an agent and returns its exact score: 0 is what codes at random reach, 1 the best there is.

    Args:
        agent: a name such as "daps" or "sb3:ppo", or a subclass of Agent.
        options: for the agent (`policy=` too: another one than the problem's).
    """
    made = make(agent, problem, samples=samples, **options)
    train(made, problem, steps, learning_rate)
    return problem.score(made.policy)


PROBLEMS = [bandit, factorized, dependent, encoding]

# Codes and contexts of the problems that the package brings


def bits(count: int) -> Tensor:
    return all_codes(count, 2)


def contexts(name: str, count: int = 3) -> Tensor:
    return find_problem(name).splits().test[:count]
