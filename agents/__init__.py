"""Agents: policies over codes that learn from rewards. Imported as `daps_rl.agents`."""

from __future__ import annotations

from torch import nn

from daps_rl.agents.base import Agent, AgentLoss, Score
from daps_rl.agents.daps import DAPS
from daps_rl.config import TrainConfig

__all__ = ["AGENTS", "DAPS", "Agent", "AgentLoss", "Score", "make_agent"]


def _make_daps(config: TrainConfig, policy: nn.Module) -> Agent:
    return DAPS(
        policy,
        samples=config.samples,
        ess_fraction=config.ess_fraction,
        trust_region=config.trust_region,
        centered=config.centered,
    )


AGENTS = {"daps": _make_daps, "daps-na": _make_daps}
"""Agents by name: functions of the settings and the policy. "daps-na" comes with a factorised policy."""


def make_agent(config: TrainConfig, policy: nn.Module) -> Agent:
    """The agent that the settings name.

    Raises:
        ValueError: the name is not known, or the agent cannot do what the settings ask.
    """
    if config.agent not in AGENTS:
        raise ValueError(f"agent must be one of {', '.join(AGENTS)}, got {config.agent!r}.")
    return AGENTS[config.agent](config, policy)
