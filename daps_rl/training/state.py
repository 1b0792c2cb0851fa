"""What decides a run's next step, as tensors by name: weights, optimisers, β, counts and random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.distributed import World
from daps_rl.training.learner import Learner

SEED_STRIDE = 1_000_003  # between the processes of a run


def seed_process(seed: int, world: World, step: int = 0) -> None:
    """Gives each process random numbers of its own."""
    torch.manual_seed(seed + SEED_STRIDE * world.rank + step)


def learner_tensors(learner: Learner) -> dict[str, Tensor]:
    """The learner's state. All processes that train together call it at once."""
    parts = {
        "model": learner.autoencoder.state_dict(),
        "agent": _agent_tensors(learner),
        "learner": learner.agent.optimizer_tensors(),
        "optimizer": learner.optimizer.tensors(),
        "random": _random_states(learner),
    }
    named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return {**named, "beta": learner.beta, "usage": learner.world.total(learner.usage)}


def load_learner_tensors(learner: Learner, tensors: dict[str, Tensor], *, step: int) -> None:
    """Takes up the state that `learner_tensors` gave.

    Args:
        learner: of the same settings.
        tensors: its state, on any device.
        step: that the state was taken at; it seeds a process that has no state, where there are more than there were.
    Raises:
        ValueError: the state does not fit the learner.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "agent", "learner", "optimizer", "random")}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if name:
            parts[part][name] = value
    try:
        learner.autoencoder.load_state_dict(parts["model"])
        _load_agent_tensors(learner, parts["agent"])
        learner.agent.load_optimizer_tensors(parts["learner"])
        learner.optimizer.load_tensors(parts["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint does not fit this run: {' '.join(str(error).split())[:200]}") from error
    learner.beta.copy_(tensors["beta"])
    learner.usage.copy_(tensors["usage"] if learner.world.is_first else torch.zeros_like(tensors["usage"]))
    _load_random_states(learner, parts["random"], step)


def _agent_tensors(learner: Learner) -> dict[str, Tensor]:
    """The agent's state beyond the model's: each tensor once, however many names it has."""
    seen = {id(value) for value in learner.autoencoder.state_dict(keep_vars=True).values()}
    tensors = {}
    for name, value in learner.agent.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value
    return tensors


def _load_agent_tensors(learner: Learner, tensors: dict[str, Tensor]) -> None:
    own = _agent_tensors(learner)
    if set(own) != set(tensors):
        raise KeyError(f"the agent's state has other entries: {', '.join(sorted(set(own) ^ set(tensors)))}")
    for name, value in tensors.items():
        own[name].data.copy_(value)


def _random_states(learner: Learner) -> dict[str, Tensor]:
    """Of torch's global generators in each process: "cpu" and "cuda", with the rank behind them but for the first."""
    states = {"cpu": torch.get_rng_state()}
    if learner.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(learner.device)
    of_all = enumerate(learner.world.of_all(states))
    return {f"{kind}{rank or ''}": state for rank, states in of_all for kind, state in states.items()}


def _load_random_states(learner: Learner, states: dict[str, Tensor], step: int) -> None:
    rank = learner.world.rank or ""
    if f"cpu{rank}" in states:
        torch.set_rng_state(states[f"cpu{rank}"])
    else:  # more processes than before
        seed_process(learner.config.seed, learner.world, step)
    if learner.device.type == "cuda" and f"cuda{rank}" in states:
        torch.cuda.set_rng_state(states[f"cuda{rank}"], learner.device)
