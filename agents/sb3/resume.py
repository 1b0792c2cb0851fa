"""Random states: what a saved model needs beside its weights to go on as if it had never stopped; seeds of groups."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from daps_rl.agents.sb3.beta import env_attribute
from daps_rl.envs.sb3_vec_env import OneObjectVecEnv

if TYPE_CHECKING:
    from daps_rl.agents.sb3.daps import DAPS


def seed_groups(model: DAPS) -> None:
    """Has the K environments of a context start the next reset from one seed, where they do not share it by themselves.

    Every call gives seeds of its own.
    """
    samples, seed = model.samples_per_context, model.seed
    if model.env is None or samples is None or env_attribute(model.env, "samples_per_context") is not None:
        return
    base = model.env.unwrapped
    if seed is None:
        first = int(torch.randint(2**31 - base.num_envs, ()))
    else:
        first = (seed + 1_000_003 * model.seedings) % (2**31 - base.num_envs)
    base._seeds = [first + i // samples for i in range(base.num_envs)]
    model.seedings += 1


def read_state(env: VecEnv) -> dict[str, Any]:
    """Random states of torch, numpy and Python, and the environments as they stand.

    Raises:
        ValueError: the environments live in other processes.
    """
    base = env.unwrapped
    if base.has_attr("set_state"):
        places = [0] if isinstance(base, OneObjectVecEnv) else range(base.num_envs)
        envs: Any = [base.env_method("get_state", indices=[i])[0] for i in places]
    elif isinstance(base, DummyVecEnv):
        envs = cloudpickle.dumps(base.envs)
    else:
        raise ValueError(
            f"random_state needs environments of this process, got {type(base).__name__}; use DummyVecEnv."
        )
    return {
        "torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all(),
        "numpy": np.random.get_state(), "python": random.getstate(), "envs": envs,
    }  # fmt: skip


def write_state(state: dict[str, Any], env: VecEnv) -> None:
    """Takes up what `read_state` gave."""
    base, envs = env.unwrapped, state["envs"]
    if isinstance(envs, bytes):
        base.envs = cloudpickle.loads(envs)  # type: ignore[attr-defined]  # a DummyVecEnv's
    else:
        for i, one in enumerate(envs):
            base.env_method("set_state", one, indices=[i])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
