"""What decides a run's next step, as tensors by name: weights, optimisers, β, counts and random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from daps_rl.distributed import World
from daps_rl.training.learner import Learner

SEED_STRIDE = 1_000_003  # between the processes of a run


def seed_process(seed: int, world: World, step: int = 0) -> None:
    """Gives each process random numbers of its own."""
    torch.manual_seed(seed + SEED_STRIDE * world.rank + step)


def learner_tensors(learner: Learner) -> dict[str, Tensor]:
    """The learner's state. All processes that train together call it at once."""
    random = {"cpu": torch.get_rng_state()}
    if learner.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(learner.device)
    of_all = enumerate(learner.world.of_all(random))
    parts = {
        "learner": learner.agent.optimizer_tensors(),
        "optimizer": learner.optimizer.tensors(),
        "random": {f"{kind}{rank or ''}": state for rank, states in of_all for kind, state in states.items()},
    }
    named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return {**_weights(learner), **named, "beta": learner.beta, "usage": learner.world.total(learner.usage)}


def load_learner_tensors(learner: Learner, tensors: dict[str, Tensor], *, step: int) -> None:
    """Takes up the state that `learner_tensors` gave, at that step: it seeds a process that was not there before.

    Raises:
        ValueError: the state does not fit the learner.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "agent", "learner", "optimizer", "random")}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if name:
            parts[part][key if part in ("model", "agent") else name] = value
    weights, own, random = parts["model"] | parts["agent"], _weights(learner), parts["random"]
    try:
        shapes, expected = ({name: value.shape for name, value in of.items()} for of in (weights, own))
        if other := sorted({name for name, _ in shapes.items() ^ expected.items()}):
            raise ValueError(f"model or agent has other weights: {', '.join(other)}")
        for name, value in weights.items():
            own[name].data.copy_(value)
        learner.agent.load_optimizer_tensors(parts["learner"])
        learner.optimizer.load_tensors(parts["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint does not fit this run: {' '.join(str(error).split())[:200]}") from error
    learner.beta.copy_(tensors["beta"])
    learner.usage.copy_(tensors["usage"] if learner.world.is_first else torch.zeros_like(tensors["usage"]))
    rank = learner.world.rank or ""
    if f"cpu{rank}" in random:
        torch.set_rng_state(random[f"cpu{rank}"])
    else:  # more processes than before
        seed_process(learner.config.seed, learner.world, step)
    if learner.device.type == "cuda" and f"cuda{rank}" in random:
        torch.cuda.set_rng_state(random[f"cuda{rank}"], learner.device)


def _weights(learner: Learner) -> dict[str, Tensor]:
    """Parameters and buffers of model and agent: each once, however many names it has."""
    both = nn.ModuleDict({"model": learner.autoencoder, "agent": learner.agent})
    first: dict[int, tuple[str, Tensor]] = {}
    for name, value in both.state_dict(keep_vars=True).items():
        first.setdefault(id(value), (name, value))
    return dict(first.values())
