"""What a run must know of an agent before it makes one; it stands in the agent's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daps_rl.agents.base import Agent

FACTORIZED: Mapping[str, Any] = {"policy": "factorized", "num_layers": 2, "mlp_ratio": 6.0}
"""Settings of an agent with a factorised policy, as wide in all as an autoregressive one."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent by name. A class of one's own says the same by class attributes of the names from `settings` on.

    Attributes:
        name: `--agent`.
        cls: the class.
        help: what it does, a line that begins with a verb.
        settings: of a run, that make the agent what it is under any preset.
        recipe: more of them, as tuned by us; a published preset brings its own.
        several_processes: whether it can train in several.
        scores_some: whether an autoregressive policy, whose passes cost the most of a step, is scored on
            ess_fraction · K of the codes unless settings say otherwise.
    """

    name: str
    cls: type[Agent]
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    several_processes: bool = True
    scores_some: bool = False


def spec_of(name: str, cls: type[Agent]) -> AgentSpec:
    """The description of an agent that is not registered, from the attributes of its class."""
    names = ("settings", "recipe", "several_processes", "scores_some")
    own = {key: getattr(cls, key) for key in names if hasattr(cls, key)}
    return AgentSpec(name, cls, (cls.__doc__ or name).partition("\n")[0], **own)
