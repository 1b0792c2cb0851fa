"""What the training loop adds to AdamW: clipping, and steps that are skipped without asking the host."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from daps_rl.distributed import World


def adaptive_clip_(parameters: Iterable[nn.Parameter], clip_at: float, epsilon: float = 1e-3) -> None:
    """Adaptive gradient clipping, in place: each unit's gradient is at most `clip_at` times as long as its weights.

    A unit is a row of a matrix, or a whole vector. Weights shorter than `epsilon` count as that long.

    References:
        Brock et al. (2021), High-performance large-scale image recognition without normalization, eq. 3.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        axes = tuple(range(1, parameter.ndim)) or None
        length = torch.linalg.vector_norm(parameter.detach(), dim=axes, keepdim=True).clamp_min(epsilon)
        gradient = torch.linalg.vector_norm(parameter.grad, dim=axes, keepdim=True).clamp_min(1e-6)
        parameter.grad.mul_((clip_at * length / gradient).clamp(max=1.0))


class GuardedAdamW:
    """AdamW that leaves everything as it was where the loss or a gradient is not finite, and counts such steps.

    The decision is taken on the device: nothing is copied to the host, and a GPU may record the step in a CUDA graph.
    `skipped` counts all skipped steps, `skipped_in_row` those since the last good one.

    Args:
        parameters: what is trained; gradients are their mean over `world`, the processes that train together.
        learning_rate, weight_decay: of AdamW.
        gradient_clip: "adaptive", "norm" or "none", at the bound `clip_at`.
        device: of the parameters.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
        gradient_clip: str,
        clip_at: float,
        device: torch.device,
        world: World,
    ) -> None:
        self.parameters, self.world = list(dict.fromkeys(parameters)), world  # one that two parts share once
        self.learning_rate, on_gpu = learning_rate, device.type == "cuda"
        # A rate that lies on the device can change between the replays of a graph.
        rate = torch.tensor(float(learning_rate), device=device) if on_gpu else learning_rate
        group = {"params": self.parameters, "lr": rate}  # which may be empty
        self.optimizer = torch.optim.AdamW([group], weight_decay=weight_decay, fused=True, capturable=on_gpu)
        self.gradient_clip, self.clip_at = gradient_clip, clip_at
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_row = torch.zeros((), device=device)

    def set_rate(self, factor: float) -> None:
        """Makes the learning rate what it was at first, multiplied by `factor`."""
        (group,) = self.optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(self.learning_rate * factor)
        else:
            group["lr"] = self.learning_rate * factor

    def step(self, loss: Tensor) -> None:
        """Descends a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mean_loss = self.world.average_gradients(self.parameters, loss)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = ~(norm.isfinite() & mean_loss.isfinite())
        if self.gradient_clip == "adaptive":
            adaptive_clip_(self.parameters, self.clip_at)
        elif self.gradient_clip == "norm":
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_at, norm)
        # The hook of torch's gradient scaler: the fused step does nothing where found_inf is 1.
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # read by the fused step
        self.optimizer.step()
        self.skipped += bad
        self.skipped_in_row.add_(1.0).mul_(bad)

    def has_stepped(self) -> bool:
        """Whether a step was taken: the fused optimiser counts no other."""
        return any(bool(values["step"] > 0) for values in self.optimizer.state.values())

    def tensors(self) -> dict[str, Tensor]:
        """State, flat."""
        counts = {"skipped": self.skipped, "skipped_in_row": self.skipped_in_row}
        return {**optimizer_tensors(self.optimizer), **counts}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes up the state that `tensors` gave."""
        load_optimizer_tensors(self.optimizer, tensors)
        self.skipped.copy_(tensors["skipped"])
        self.skipped_in_row.copy_(tensors["skipped_in_row"])


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float | None) -> bool:
    """Descends a loss [], gradients clipped to a norm (None: no bound); returns whether the step was taken.

    Everything is left as it was where the loss or a gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    good = bool(norm.isfinite() & loss.detach().isfinite())
    if good:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return good


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: "INDEX.NAME", by the index of the parameter."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes up the state that `optimizer_tensors` gave; names without an index are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if name:
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def learning_rate_factor(step: int, progress: float, *, schedule: str, warmup_steps: int) -> float:
    """The learning rate over its base: 1 ("constant"), or a linear warm-up and a cosine down to a fiftieth ("cosine").

    It follows from the steps done and from the share of the run that is done, 0 … 1.
    """
    if schedule == "constant":
        return 1.0
    lowest = 0.02
    cosine = lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return cosine * min(1.0, (step + 1) / max(warmup_steps, 1))


def exponential_decay(progress: float, start: float, end: float) -> float:
    """start · (end / start)^progress: the published schedule of β."""
    return start * (end / start) ** min(progress, 1.0)
