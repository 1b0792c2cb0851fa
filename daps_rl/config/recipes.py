"""From a few options to all settings: defaults, then what data, problem or preset and the agent bring, then options."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from daps_rl.agents import AgentSpec, find_agent
from daps_rl.config.presets import FEW_ROWS, KIND_RECIPES, OTHER_DATA, PUBLISHED, PUBLISHED_FOR_ALL, RECIPES
from daps_rl.config.run import TrainConfig
from daps_rl.config.settings import declared_in
from daps_rl.data.load import kind_of
from daps_rl.data.table_cells import has_few_rows
from daps_rl.envs.problem import find_problem
from daps_rl.kernels.build import find_compiler

LONG = 5_000_000
"""Tokens that are drawn in a run of about a minute on one core; compiling takes twenty seconds, once."""


def make_config(preset: str | None = None, **options: Any) -> TrainConfig:
    """Settings of a run: defaults, then the data's recipe or the published preset, the agent's, then `options`.

    `policy_samples` then follows from K where none of them says it, and `cpu_kernels` from the length of the run and
    from what is installed.

    Args:
        preset: a name of `PUBLISHED`, in place of the data set's recipe.
        options: of `TrainConfig`; None counts as not given, and so does "auto" for cpu_kernels.
    Raises:
        ValueError: an option is unknown or makes no sense.
    """
    known = declared_in(TrainConfig)
    if unknown := sorted(name for name, value in options.items() if name not in known and value is not None):
        raise ValueError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(known))}.")
    not_given = {name: (None, "auto") if known[name].auto else (None,) for name in known}
    options = {name: value for name, value in options.items() if value not in not_given.get(name, (None,))}
    base: dict[str, Any] = {"agent": TrainConfig.agent}
    if options.get("problem") is None and preset is None:
        base |= _data_recipe(options)
    spec = find_agent(options.get("agent", base["agent"]))
    if options.get("problem") is not None:
        base |= _problem_recipe(preset, options, spec)
    elif preset is None:
        base |= spec.recipe
    elif preset in PUBLISHED:
        base |= {**PUBLISHED_FOR_ALL, **PUBLISHED[preset]}
    else:
        raise ValueError(f"config must be one of {', '.join(PUBLISHED)}, got {preset!r}.")
    base |= spec.settings
    options |= {name: {**base.get(name, {}), **value} for name, value in options.items() if isinstance(value, dict)}
    settings = {**base, **options}
    if "steps" in options and "minutes" not in options:
        settings["minutes"] = None
    if "minutes" in options and "steps" not in options:
        settings["steps"] = None
    config = TrainConfig(**settings)
    derived: dict[str, Any] = {} if "cpu_kernels" in settings else {"cpu_kernels": _kernels_pay(config, spec)}
    if "policy_samples" not in settings and config.policy == "autoregressive" and spec.scores_some:
        derived["policy_samples"] = math.ceil(config.ess_fraction * config.samples - 1e-9)
    return dataclasses.replace(config, **derived)


def _kernels_pay(config: TrainConfig, spec: AgentSpec) -> bool:
    """Whether a policy has compiled passes, here, in a run that is long enough to earn what compiling them takes."""
    has_passes = config.policy == "autoregressive" and not config.end_token and config.problem is None
    has_passes = has_passes and config.precision == "float32" and not spec.cls.needs_decoder_gradient
    on_cpu = sys.platform == "linux" and (config.device == "cpu" or not torch.cuda.is_available())
    if config.minutes is not None:
        is_long = config.minutes >= 1.0
    else:
        assert config.steps is not None
        is_long = config.steps * config.batch_size * config.samples * config.num_tokens >= LONG
    return has_passes and on_cpu and is_long and bool(find_compiler())


def _data_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Our settings for data of that name, else for the kind that files and folders show before they are loaded."""
    data, data_dir = os.fspath(options.get("data", TrainConfig.data)), options.get("data_dir")
    if data in RECIPES:
        return RECIPES[data]
    kind = kind_of(data, data_dir, text_column=options.get("text_column"))
    if kind == "table" and has_few_rows(Path(data_dir or "", data).expanduser(), FEW_ROWS):
        kind = "small table"
    return KIND_RECIPES.get(kind or "", OTHER_DATA)


def _problem_recipe(preset: str | None, options: dict[str, Any], spec: AgentSpec) -> dict[str, Any]:
    """What a problem says of a run, beside the agent's own settings; None in its recipe leaves one to the agent."""
    if preset is not None or options.get("data") not in (None, options["problem"]):
        raise ValueError("--problem brings its own data and settings; leave out --data and --config.")
    problem = find_problem(options["problem"])
    own = {"num_tokens": problem.num_tokens, "vocab_size": problem.vocab_size}
    for name, value in own.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name} of {problem.name} is {value}, got {options[name]}; leave it out.")
    recipe = {**spec.recipe, **problem.recipe}
    length = {} if "steps" in recipe else {"minutes": 5.0}
    settings = {**length, "policy_samples": 0, **recipe, **own, "data": options["problem"]}
    return {name: value for name, value in settings.items() if value is not None}
