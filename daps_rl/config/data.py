"""Settings of the data."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from daps_rl.config.settings import Settings, documented, setting
from daps_rl.data.corrupt import MAX_CORRUPT
from daps_rl.data.load import NAMES

_data = functools.partial(setting, group="data")


@documented
@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Which data a run learns from, and how they are read."""

    data: str = _data(
        "digits",
        f"learn from a data set ({', '.join(NAMES)}), from a file or a folder, or from a data set of the hub "
        "(owner/name)",
        common=True,
    )
    data_dir: str | None = _data(None, "look for the data set's files in this folder, and only there")
    image_size: int = _data(
        0, "resize and crop images of a folder or of the hub to so many pixels; 0 for the data set's default", least=0
    )
    image_column: str | None = _data(None, "take the images from this column of a hub data set")
    hub_config: str | None = _data(None, "choose a configuration of a hub data set that has several")
    streaming: bool = _data(False, "read a hub data set as it comes, without keeping it")
    max_corrupt: int = _data(
        MAX_CORRUPT, "skip at most so many unreadable images of a folder or of a hub data set", least=0
    )
    data_workers: int = _data(2, "decode streamed images in so many processes", least=0)
