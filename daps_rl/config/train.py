"""All settings of a run, in one flat dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daps_rl.config.agent import AgentConfig
from daps_rl.config.data import DataConfig
from daps_rl.config.model import ModelConfig
from daps_rl.config.run import RunConfig
from daps_rl.config.settings import Settings, declared_in, documented
from daps_rl.decoders import suitable_decoder


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, AgentConfig, ModelConfig, DataConfig):
    """Settings of a run: those of its data, its model, its agent and the run itself, side by side."""

    def model_config(self, observation_shape: tuple[int, ...], likelihood: str) -> ModelConfig:
        """The model's part of the settings, with what the data decides filled in."""
        values = {name: getattr(self, name) for name in declared_in(ModelConfig)}
        values["observation_shape"] = tuple(observation_shape)
        if values["likelihood"] == "auto":
            values["likelihood"] = likelihood
        if values["decoder"] == "auto":
            values["decoder"] = suitable_decoder(values["observation_shape"])
        return ModelConfig(**values)


REMOVED = {"decoder_learning_rate": 0.0}
"""Settings of earlier versions, and the value at which a run is the same without them."""


def config_from_dict(values: dict[str, Any], cls: type[Settings] = TrainConfig) -> Any:
    """Settings read back from JSON (lists become tuples), of earlier versions too where they mean the same.

    Raises:
        ValueError: unknown or invalid entries.
    """
    values = {name: value for name, value in values.items() if name not in REMOVED or value != REMOVED[name]}
    if unknown := sorted(set(values) - set(declared_in(cls))):
        raise ValueError(
            f"unknown setting {', '.join(unknown)}; the file is from another version of daps-rl: use that one, or "
            "train anew."
        )
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
