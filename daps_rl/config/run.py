"""Settings of a run: how long, on what machine, and what it leaves behind."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from daps_rl.config.settings import Settings, documented, setting

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")

_length = functools.partial(setting, group="length")
_output = functools.partial(setting, group="output")
_machine = functools.partial(setting, group="machine")


@documented
@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """How long a run is, where it runs, and what it leaves behind."""

    steps: int | None = _length(None, "train for so many steps", above=0, common=True)
    minutes: float | None = _length(None, "or train for so many minutes", above=0, common=True)
    seed: int = _length(0, "seed the weights, the order of the data and all draws", least=0, common=True)
    device: str = _machine("auto", "train here; auto for a GPU where there is one", choices=DEVICES)
    precision: str = _machine("float32", "multiply matrices in this precision", choices=PRECISIONS)
    score_precision: str = _machine(
        "auto",
        "score codes without a gradient in this precision; auto for bfloat16 on a CPU that has matrix units for it",
        choices=("auto", *PRECISIONS),
    )
    cpu_kernels: bool = _machine(
        False,
        "take an autoregressive policy's passes on a CPU through compiled kernels: faster, and the same but for "
        "rounding; needs a C++ compiler",
    )
    cuda_graph: bool = _machine(True, "record the training step on a GPU once and replay it, where the agent allows")
    log_every: int = _output(10, "write a row of metrics.jsonl every so many steps", above=0)
    validate_every: int = _output(250, "validate every so many steps; 0 for never", least=0)
    validation_size: int = _output(1000, "validate on at most so many data", above=0)
    checkpoint_every: int = _output(500, "save a checkpoint every so many steps", above=0)
    tensorboard: bool = _output(False, "log for TensorBoard too")
    fid_weights: str | None = _output(
        None, "measure FID at the end, with this file of Inception's weights (colour images, docs/metrics.md)"
    )
    lpips_weights: str | None = _output(None, "measure LPIPS at the end, with this file of AlexNet's weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("exactly one of steps and minutes must be given; they are the length of the run.")
