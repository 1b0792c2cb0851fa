"""The identity bandit: token t of the code is to be x_t, and the mean reward is at most 1. Every agent, five seeds.

    python benchmarks/identity.py

Seven contexts with 16 codes each, 400 steps; beside the agents a random one (untrained) and an ablated one (uniform
weights: it imitates its own codes, whatever they brought). A couple of minutes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from common import write_row
from torch import Tensor, nn

from daps_rl.agents import AGENTS, DAPS, Agent, make_agent
from daps_rl.agents.sb3.adapter import SB3_AGENTS
from daps_rl.config import make_config
from daps_rl.objectives import FixedTemperature
from daps_rl.policies import FactorizedPolicy

TOKENS, VOCAB, CONTEXTS, SAMPLES, STEPS, SEEDS = 3, 5, 7, 16, 400, range(5)
RATE = 3e-3


def agents() -> dict[str, Callable[[nn.Module], Agent]]:
    """What makes each agent from a policy."""
    made: dict[str, Callable[[nn.Module], Agent]] = {}
    for name, spec in AGENTS.items():
        if not spec.cls.needs_decoder_gradient and name not in ("daps-na", "daps-fixed"):  # the same class as daps
            made[name] = lambda policy, cls=spec.cls: cls(policy, samples=SAMPLES)
    for name in SB3_AGENTS:
        config = make_config(agent=name, steps=1, batch_size=CONTEXTS, samples=SAMPLES)
        made[name] = functools.partial(make_agent, config)
    flat = FixedTemperature(1e9)
    made["uniform weights"] = lambda policy: DAPS(policy, samples=SAMPLES, trust_region=flat, centered=False)
    return made


def learn(make: Callable[[nn.Module], Agent], seed: int, steps: int) -> float:
    """Mean reward after training."""
    torch.manual_seed(seed)
    target = torch.randint(VOCAB, (CONTEXTS, TOKENS))
    x = torch.nn.functional.one_hot(target, VOCAB).float().flatten(1)
    policy = FactorizedPolicy((TOKENS * VOCAB,), TOKENS, VOCAB, embed_dim=16, num_heads=2, num_layers=1)
    agent = make(policy)

    def score(codes: Tensor, log_prob: Tensor | None = None) -> Tensor:
        return (codes == target[:, None]).float().mean(-1)

    optimizer = torch.optim.Adam(agent.trained() or [torch.nn.Parameter(torch.zeros(()))])
    for step in range(steps):
        agent.learning_rate = RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = agent.learning_rate
        for out in agent.losses(x, score, torch.tensor(0.0)):
            if out.loss is not None:  # else the agent has taken its own step
                optimizer.zero_grad()
                out.loss.backward()
                optimizer.step()
    return score(policy(x).sample((500,)).transpose(0, 1)).mean().item()


def main() -> None:
    torch.set_num_threads(1)
    for name, make in agents().items():
        for seed in SEEDS:
            write_row("identity", {"agent": name, "seed": seed, "steps": STEPS, "reward": learn(make, seed, STEPS)})
    for seed in SEEDS:
        write_row("identity", {"agent": "random", "seed": seed, "steps": 0, "reward": learn(agents()["daps"], seed, 0)})


if __name__ == "__main__":
    main()
