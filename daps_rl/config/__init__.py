"""Settings: four groups (data, model, agent, run), side by side in `TrainConfig`; presets; and recipes over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daps_rl.config.model import DataConfig, ModelConfig, latents_text
from daps_rl.config.presets import PUBLISHED, PUBLISHED_SHAPES
from daps_rl.config.run import AgentConfig, RunConfig, TrainConfig, check_trusted, config_from_dict, own_code

if TYPE_CHECKING:
    from daps_rl.config.recipes import make_config

__all__ = [
    "PUBLISHED",
    "PUBLISHED_SHAPES",
    "AgentConfig",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "check_trusted",
    "config_from_dict",
    "latents_text",
    "make_config",
    "own_code",
]


def __getattr__(name: str) -> Any:
    """`make_config` asks agents and problems for their settings, and so stands above them: it is imported last."""
    if name == "make_config":
        from daps_rl.config.recipes import make_config

        return make_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
