"""What the Gymnasium and SB3 environments share: arguments, spaces, a scored batch, and specs that copy nothing."""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from torch import Tensor, nn

from daps_rl.envs.default import Data
from daps_rl.envs.pictures import image_shape, side_by_side
from daps_rl.envs.processes import refuse_stale_copies
from daps_rl.envs.task import EncodingTask, HoldsTask, TaskArguments

PLAIN = (bool, int, float, str, bytes, os.PathLike, torch.device, type(None))


class Shared:
    """Holds an environment's argument by reference, so that deep copies of a Gymnasium spec carry the object itself.

    Gymnasium deep-copies a spec's keyword arguments in many places; a copied decoder would silently stop learning.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> Shared:
        return self


def unwrap(value: Any) -> Any:
    """The object that a `Shared` holds; anything else as it is."""
    return value.value if isinstance(value, Shared) else value


class Completion:
    """Says who completes an environment's reward, by `functional.complete_reward`, where it does not see log q.

    An environment whose reward is complete has None instead of a `Completion`.

    Attributes:
        by: who completes the reward; None where nobody does yet.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self._during: Hashable = None

    def claim(self, by: str, during: Hashable = None) -> None:
        """Says that it is `by` who completes the reward from now on.

        Args:
            by: a name, for the error.
            during: what the claim lasts for, such as a call of `learn`: a claim during anything else takes over.
        Raises:
            ValueError: another completes it already.
        """
        if self.by is not None and self._during in (None, during):
            raise ValueError(
                f"the reward is completed already by {self.by}, and {by} would subtract β·log q again; leave one out."
            )
        self.by, self._during = by, during


class TaskHost(HoldsTask):
    """Mixed into the environments of Gymnasium and SB3: an `EncodingTask` in groups, and who completes its reward."""

    completion: Completion
    render_mode: str | None
    _batch: EncodingBatch
    _spec: EnvSpec | None = None

    def _hold(
        self,
        data: Data | None,
        decoder: nn.Module | None,
        arguments: TaskArguments,
        render_mode: str | None,
        num_contexts: int = 1,
        samples_per_context: int = 1,
        decoder_optimizer: torch.optim.Optimizer | None = None,
    ) -> tuple[spaces.Box, spaces.MultiDiscrete]:
        """Makes the task, of arguments held by `Shared` or not; gives the spaces of one environment."""
        unwrapped: Any = {name: unwrap(value) for name, value in arguments.items()}
        task = EncodingTask.from_arguments(unwrap(data), unwrap(decoder), **unwrapped)
        self.task, self.completion = task, Completion()
        self._batch = batch = EncodingBatch(task, num_contexts, samples_per_context, unwrap(decoder_optimizer))
        try:
            refuse_stale_copies(task.decoder, unwrapped.get("beta", 0.0))
        except RuntimeError as error:
            batch.refusal = error
        shape = batch.host_data.shape[1:]
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        if render_mode is not None and image_shape(shape) is None:  # SB3 asks for frames of whatever it makes
            gymnasium.logger.warn(
                "render_mode 'rgb_array' needs images, [H, W], [C, H, W], [H, W, C] or a flat square, got data of "
                f"shape {shape}; there will be no frames."
            )
            render_mode = None
        self.render_mode = render_mode
        box = spaces.Box(batch.low, batch.high, shape, np.float32)
        return box, spaces.MultiDiscrete([task.vocab_size] * task.num_tokens)

    @property
    def decoder_optimizer(self) -> torch.optim.Optimizer | None:
        """What the decoder learns by, within each step; None where it does not."""
        return self._batch.optimizer

    @property
    def spec(self) -> EnvSpec | None:
        """The spec that Gymnasium made this environment from, its heavy arguments held by `Shared`."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = {
                name: value if isinstance(value, (*PLAIN, Shared)) else Shared(value)
                for name, value in spec.kwargs.items()
            }
        self._spec = spec

    def _frames(self) -> list[np.ndarray] | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array' when the environment is made.")
            return None
        return self._batch.frames()


class EncodingBatch:
    """B contexts, K environments on each, scored in one decoder call. Environment b·K + k is copy k of context b.

    Args:
        task: data, decoder, prior and β.
        num_contexts: B.
        samples_per_context: K.
        optimizer: if given, every step also descends the decoder's loss on the codes it has scored.
    Raises:
        ValueError: a size is not positive, or the optimiser does not hold trainable parameters of the decoder.
    """

    def __init__(
        self, task: EncodingTask, num_contexts: int, samples_per_context: int, optimizer: torch.optim.Optimizer | None
    ) -> None:
        for name, size in (("num_contexts", num_contexts), ("samples_per_context", samples_per_context)):
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}.")
        if optimizer is not None:
            _check_optimizer(optimizer, task.decoder)
        self.task, self.optimizer = task, optimizer
        self.num_contexts, self.samples_per_context = num_contexts, samples_per_context
        self.host_data = task.data.cpu().numpy()  # [N, *x]; shares memory with the task's where that is on the CPU
        low, high = float(self.host_data.min()), float(self.host_data.max())
        self.low, self.high = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
        # AsyncVectorEnv hands on what a worker raises in reset(), but of a failed constructor only an EOFError.
        self.refusal: RuntimeError | None = None
        self.index: np.ndarray | None = None  # [B], the data now to be encoded
        self.shown: np.ndarray | None = None  # [B], the data that `frames` shows
        self.shown_codes: Tensor | None = None  # [B, K, T], the codes of them

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "host_data"}  # the task has the data

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, host_data=state["task"].data.cpu().numpy())

    def draw(self, random: np.random.Generator) -> None:
        """New contexts, uniformly."""
        self.index = random.integers(len(self.host_data), size=self.num_contexts)

    def reset(self, random: np.random.Generator, *options: dict[str, Any] | None) -> np.ndarray:
        """The observation of new contexts, with no code to show yet. Raises ValueError for options: there are none."""
        if self.refusal is not None:
            raise self.refusal
        if any(options):
            raise ValueError(f"encoding environments have no reset options, got {options}; leave options out.")
        self.draw(random)
        self.shown = self.shown_codes = None
        return self.observation()

    def observation(self) -> np.ndarray:
        """The contexts, each K times, in memory of their own. [B·K, *x], float32."""
        return self.host_data[self._drawn().repeat(self.samples_per_context)]

    def step(self, actions: object) -> tuple[np.ndarray, np.ndarray]:
        """Scores a code in every environment, in one decoder call.

        Args:
            actions: [B·K, T], integers in 0 … V-1.
        Returns:
            reward and log_likelihood, each [B·K], float32, in nats.
        Raises:
            ResetNeeded: before the first reset.
            ValueError: the actions are no such codes.
        """
        index = self._drawn()
        codes = self._codes(actions)
        x = self.task.scored(torch.from_numpy(index).to(self.task.device)).unsqueeze(1)  # [B, 1, *y]
        reward, log_likelihood = self.task.reward(x, codes, self.optimizer)
        self.shown, self.shown_codes = index, codes
        return reward.flatten().cpu().numpy(), log_likelihood.flatten().cpu().numpy()

    @torch.no_grad()
    def frames(self) -> list[np.ndarray]:
        """Of every environment the datum last encoded beside its reconstruction, or grey. [H, W, 3], uint8, each."""
        index = self._drawn() if self.shown is None else self.shown
        originals = self.host_data[index.repeat(self.samples_per_context)]
        means = np.full_like(originals, (self.low + self.high) / 2)
        if self.task.decoder is not None and self.shown_codes is not None:
            means = self.task.decoder(self.shown_codes).mean.flatten(0, 1).float().cpu().numpy()
        pairs = zip(originals, means, strict=True)
        return [side_by_side([original, mean], self.low, self.high) for original, mean in pairs]

    def _drawn(self) -> np.ndarray:
        if self.index is None:
            raise ResetNeeded("there is no datum to encode yet; call reset() first.")
        return self.index

    def _codes(self, actions: object) -> Tensor:
        array = np.asarray(actions)
        shape = (self.num_contexts * self.samples_per_context, self.task.num_tokens)
        if array.dtype.kind not in "iu" or array.shape != shape:
            raise ValueError(
                f"actions must be integers of shape {shape} (environments, num_tokens), "
                f"got {array.dtype} of shape {array.shape}."
            )
        if array.min() < 0 or array.max() >= self.task.vocab_size:
            raise ValueError(
                f"actions must lie in 0 … {self.task.vocab_size - 1} (vocab_size - 1), "
                f"got values from {array.min()} to {array.max()}."
            )
        codes = torch.from_numpy(array.astype(np.int64)).to(self.task.device)
        return codes.view(self.num_contexts, self.samples_per_context, self.task.num_tokens)


def _check_optimizer(optimizer: torch.optim.Optimizer, decoder: nn.Module | None) -> None:
    if decoder is None:
        raise ValueError("decoder_optimizer needs a decoder, and there is a reward_fn instead; leave one of them out.")
    trainable = {id(p) for p in decoder.parameters() if p.requires_grad}
    if not any(id(p) in trainable for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "decoder_optimizer holds no trainable parameter of this decoder; make it from decoder.parameters(), "
            "of the very decoder that the environment gets."
        )
