"""The data that a run's settings name."""

from __future__ import annotations

from daps_rl.config import TrainConfig
from daps_rl.data import Splits, load
from daps_rl.envs.problem import find_problem


def load_data(config: TrainConfig) -> Splits:
    """Returns the data that the settings name; a problem's own contexts."""
    if config.problem is not None:
        return find_problem(config.problem).splits()
    return load(
        config.data,
        config.data_dir,
        image_size=config.image_size or None,
        image_column=config.image_column,
        hub_config=config.hub_config,
        streaming=config.streaming,
        max_corrupt=config.max_corrupt,
    )
