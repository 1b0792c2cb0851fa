"""Agents: policies over codes that learn from rewards. Imported as `daps_rl.agents`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from daps_rl.agents.a2c import A2C
from daps_rl.agents.base import Agent, AgentLoss, Conditions, Draw, Score
from daps_rl.agents.daps import DAPS
from daps_rl.agents.pathwise import GaussianVAE, GumbelRao, GumbelSoftmax, PathwiseAgent, Quantizer, ReinMax, Relaxation
from daps_rl.agents.ppo import GRPO, PPO
from daps_rl.agents.reinforce import Reinforce, ReinforceNoCritic
from daps_rl.agents.rloo import RLOO
from daps_rl.agents.scorer import Scorer
from daps_rl.agents.tpo import TPO
from daps_rl.config import TrainConfig

__all__ = [
    "A2C",
    "AGENTS",
    "DAPS",
    "GRPO",
    "PPO",
    "RLOO",
    "TPO",
    "Agent",
    "AgentLoss",
    "Conditions",
    "DAPSTrainer",
    "Draw",
    "GaussianVAE",
    "GumbelRao",
    "GumbelSoftmax",
    "PathwiseAgent",
    "Quantizer",
    "ReinMax",
    "Reinforce",
    "ReinforceNoCritic",
    "Relaxation",
    "Score",
    "Scorer",
    "make_agent",
]

if TYPE_CHECKING:
    from daps_rl.agents.trainer import DAPSTrainer

MakeAgent = Callable[[TrainConfig, nn.Module], Agent]

AGENTS: dict[str, type[Agent]] = {
    "daps": DAPS,
    "daps-na": DAPS,
    "tpo": TPO,
    "rloo": RLOO,
    "grpo": GRPO,
    "ppo": PPO,
    "a2c": A2C,
    "reinforce": Reinforce,
    "reinforce-no-critic": ReinforceNoCritic,
    "daps-fixed": DAPS,
    "gumbel": GumbelSoftmax,
    "gumbel-na": GumbelSoftmax,
    "gr-mck": GumbelRao,
    "gr-mck-na": GumbelRao,
    "reinmax": ReinMax,
    "reinmax-na": ReinMax,
    "vq": Quantizer,
    "vq-rotation": Quantizer,
    "fsq": Quantizer,
    "gaussian": GaussianVAE,
}
"""Agents by name. Those in "-na" come with a factorised policy, and what else sets namesakes apart is in
`config.AGENT_SETTINGS`: "daps-fixed" has a fixed temperature, "vq-rotation" the rotation trick."""


def make_agent(config: TrainConfig, policy: nn.Module) -> Agent:
    """The agent that the settings name: of `AGENTS`, "sb3:NAME", or "package.module:Class" of your own.

    Raises:
        ValueError: the name is not known, or the agent cannot do what the settings ask.
    """
    return find_agent(config.agent)(config, policy)


def find_agent(name: str) -> MakeAgent:
    """What makes the agent of that name from settings and a policy.

    Raises:
        ValueError: there is no such agent.
    """
    if name in AGENTS:
        return AGENTS[name].from_config
    host, _, rest = name.partition(":")
    if host == "sb3":
        from daps_rl.agents.sb3.adapter import find_sb3_agent

        return find_sb3_agent(rest)
    if not rest:
        raise ValueError(
            f"agent must be one of {', '.join(AGENTS)}, sb3:NAME for an algorithm of Stable-Baselines3, or "
            f"package.module:Class for one of your own, got {name!r}."
        )
    try:
        made = getattr(importlib.import_module(host), rest)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"agent {name!r} cannot be imported ({error}); it must be package.module:Class.") from error
    if not (isinstance(made, type) and issubclass(made, Agent)):
        raise ValueError(f"agent {name!r} must be a subclass of daps_rl.agents.Agent; derive it from Agent.")
    return made.from_config


def __getattr__(name: str) -> object:
    """`DAPSTrainer` is imported when it is asked for: the training loop does not need TorchRL's trainers."""
    if name == "DAPSTrainer":
        from daps_rl.agents.trainer import DAPSTrainer

        return DAPSTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
