"""Agents: policies over codes that learn from rewards. Imported as `daps_rl.agents`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from daps_rl.agents import (
    daps,
    genetic,
    memetic,
    pathwise,
    policy_gradient,
    search,
)  # an agent is registered by its file
from daps_rl.agents.base import Agent, AgentLoss, AgentSpec, Conditions, Draw, Score, spec_of
from daps_rl.agents.daps import DAPS, TPO
from daps_rl.agents.genetic import Genetic
from daps_rl.agents.memetic import Memetic
from daps_rl.agents.pathwise import GaussianVAE, GumbelRao, GumbelSoftmax, PathwiseAgent, Quantizer, ReinMax, Relaxation
from daps_rl.agents.policy_gradient import A2C, GRPO, PPO, RLOO, Reinforce, ReinforceNoCritic
from daps_rl.agents.scorer import Scorer
from daps_rl.agents.search import Annealing, IteratedLocalSearch, LocalSearch, Nevergrad, SearchAgent
from daps_rl.names import did_you_mean, import_class

__all__ = [
    "A2C",
    "AGENTS",
    "DAPS",
    "GRPO",
    "PPO",
    "RLOO",
    "SEARCHES",
    "TPO",
    "Agent",
    "AgentLoss",
    "AgentSpec",
    "Annealing",
    "Conditions",
    "DAPSTrainer",
    "Draw",
    "GaussianVAE",
    "Genetic",
    "GumbelRao",
    "GumbelSoftmax",
    "IteratedLocalSearch",
    "LocalSearch",
    "Memetic",
    "Nevergrad",
    "PathwiseAgent",
    "Quantizer",
    "ReinMax",
    "Reinforce",
    "ReinforceNoCritic",
    "Relaxation",
    "Score",
    "Scorer",
    "SearchAgent",
    "find_agent",
    "make_agent",
]

if TYPE_CHECKING:
    from daps_rl.agents.trainer import DAPSTrainer

AGENTS = {spec.name: spec for file in (daps, policy_gradient, pathwise) for spec in file.SPECS}
"""Agents by name, each as its own file describes it."""
SEARCHES = {spec.name: spec for file in (search, genetic, memetic) for spec in file.SPECS}
"""Searches for one code, by name: for problems whose contexts are all the same."""


def make_agent(config: Any, policy: nn.Module) -> Agent:
    """The agent that the settings name (a `daps_rl.config.TrainConfig`), with its policy; see `find_agent`."""
    return find_agent(config.agent).cls.from_config(config, policy)


def find_agent(name: str) -> AgentSpec:
    """The agent of that name: of `AGENTS` or `SEARCHES`, "sb3:NAME", "nevergrad:NAME", or "package.module:Class".

    Raises:
        ValueError: there is no such agent.
    """
    if spec := AGENTS.get(name) or SEARCHES.get(name):
        return spec
    host, _, rest = name.partition(":")
    if host == "sb3":
        from daps_rl.agents.sb3.adapter import find_sb3_agent  # brings Stable-Baselines3

        return find_sb3_agent(name)
    if host == "nevergrad":
        return search.find_nevergrad(name)
    if not rest:
        raise ValueError(
            f"agent must be one of {', '.join((*AGENTS, *SEARCHES))}, nevergrad:NAME or sb3:NAME for an algorithm of "
            f"theirs, or package.module:Class for one of your own, got {name!r}"
            f"{did_you_mean(name, (*AGENTS, *SEARCHES))}."
        )
    return spec_of(name, import_class("agent", name, Agent))


def __getattr__(name: str) -> object:
    """`DAPSTrainer` is imported when it is asked for: the training loop does not need TorchRL's trainers."""
    if name == "DAPSTrainer":
        from daps_rl.agents.trainer import DAPSTrainer

        return DAPSTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
