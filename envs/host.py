"""What the Gymnasium and SB3 environments share: arguments, spaces, a scored batch, and specs that copy nothing."""

from __future__ import annotations

import copy
import os
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from torch import Tensor, nn

from daps_rl.data import Stream, load
from daps_rl.envs.default import NUM_TOKENS, VOCAB_SIZE, principal_decoder
from daps_rl.envs.pictures import image_shape, side_by_side
from daps_rl.envs.task import EncodingTask, RewardFn, check_data, use_one_thread_after_fork

Data = Tensor | np.ndarray | str | os.PathLike[str]
PLAIN = (bool, int, float, str, bytes, os.PathLike, torch.device, type(None))


class Shared:
    """Holds an argument by reference: deep copies of a Gymnasium spec then carry the object itself.

    Gymnasium deep-copies a spec's keyword arguments in many places; a copied decoder would silently stop learning.
    Environments take any of their arguments wrapped in this.

    Args:
        value: the decoder, the data, or any other argument.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> Shared:
        return self

    def __repr__(self) -> str:
        return f"Shared({type(self.value).__name__})"


def unwrap(value: Any) -> Any:
    """The object that a `Shared` holds; anything else as it is."""
    return value.value if isinstance(value, Shared) else value


class TaskHost:
    """Mixed into environments that hold an `EncodingTask`: its parts, and a spec that holds them by reference."""

    task: EncodingTask
    _spec: EnvSpec | None = None

    @property
    def decoder(self) -> nn.Module | None:
        """The decoder itself, not a copy."""
        return self.task.decoder

    @property
    def beta(self) -> Tensor:
        """The one shared value of β, 0-dim. Assigning a number fills it in place."""
        return self.task.beta

    @beta.setter
    def beta(self, value: Tensor | float) -> None:
        self.task.fill_beta(value)

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


class Problem(NamedTuple):
    """What is encoded, by codes of which size, and who scores them."""

    data: Tensor
    decoder: nn.Module | None
    num_tokens: int
    vocab_size: int
    device: torch.device


def make_problem(
    data: Data | None,
    decoder: nn.Module | None,
    *,
    num_tokens: int | None,
    vocab_size: int | None,
    reward_fn: RewardFn | None,
    device: torch.device | str | None,
) -> Problem:
    """The arguments of an environment, with everything filled in that was left out.

    Args:
        data: a tensor or array [N, *x], a name or path for `daps_rl.data.load` (its training split), or None: digits,
            flat.
        decoder: or None: `reward_fn` if there is one, else the data's principal components.
        num_tokens, vocab_size: T and V; the decoder's own if None.
        reward_fn: scores codes in the decoder's place.
        device: where codes are scored; the decoder's own if None, else the data's.
    Raises:
        ValueError: data make no sense, or T and V can be had from nowhere.
    """
    use_one_thread_after_fork()
    tensor = _as_tensor(data)
    if decoder is None and reward_fn is None:
        decoder = principal_decoder(tensor, num_tokens or NUM_TOKENS, vocab_size or VOCAB_SIZE)
    sizes = []
    for name, size in (("num_tokens", num_tokens), ("vocab_size", vocab_size)):
        size = getattr(decoder, name, None) if size is None else size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            scorer = "reward_fn" if decoder is None else f"the decoder {type(decoder).__name__}"
            raise ValueError(f"{name} must be a positive integer, got {size}; {scorer} does not say it, so pass it.")
        sizes.append(size)
    if device is None:
        parameter = None if decoder is None else next(decoder.parameters(), None)
        device = tensor.device if parameter is None else parameter.device
    return Problem(tensor, decoder, sizes[0], sizes[1], torch.device(device))


def _as_tensor(data: Data | None) -> Tensor:
    if data is None:
        tensor = in_memory(load("digits").train, "digits").flatten(1)
    elif isinstance(data, (str, os.PathLike)):
        tensor = in_memory(load(data).train, data)
    else:
        tensor = torch.as_tensor(data)
    return check_data(tensor).float()


def in_memory(data: Tensor | Stream, name: object) -> Tensor:
    """The data, or a ValueError where they are streamed: an environment draws its contexts from memory."""
    if not isinstance(data, Tensor):
        raise ValueError(
            f"{name} is streamed, and an environment holds its data in memory; pass a tensor of them, such as "
            "daps_rl.data.load(...).train[:10_000]."
        )
    return data


def make_spaces(problem: Problem) -> tuple[spaces.Box, spaces.MultiDiscrete]:
    """Of one environment: the data's box ([0, 1] if they lie in it, else their own range), and V^T codes."""
    low, high = problem.data.min().item(), problem.data.max().item()
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    box = spaces.Box(low, high, tuple(problem.data.shape[1:]), np.float32)
    return box, spaces.MultiDiscrete([problem.vocab_size] * problem.num_tokens)


def possible_render_mode(render_mode: str | None, shape: tuple[int, ...]) -> str | None:
    """The render mode, or None with a warning for data that are no images: SB3 asks for frames of whatever it makes.

    Raises:
        ValueError: there is no such mode.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
    if render_mode is not None and image_shape(shape) is None:
        gymnasium.logger.warn(
            f"render_mode 'rgb_array' needs images, [H, W], [C, H, W], [H, W, C] or a flat square, got data of shape "
            f"{shape}; there will be no frames."
        )
        return None
    return render_mode


def check_options(options: dict[str, Any] | None) -> None:
    """Raises ValueError for reset options: there are none."""
    if options:
        raise ValueError(f"encoding environments have no reset options, got {sorted(options)}; leave options out.")


class EncodingBatch:
    """B contexts, K environments on each, scored in one decoder call. Environment b·K + k is copy k of context b.

    Args:
        task: data, decoder, prior and β.
        num_contexts: B.
        samples_per_context: K.
        decoder_optimizer: if given, every step also descends the decoder's loss on the codes it has scored.
    Raises:
        ValueError: a size is not positive, or the optimiser does not hold trainable parameters of the decoder.
    """

    def __init__(
        self,
        task: EncodingTask,
        num_contexts: int = 1,
        samples_per_context: int = 1,
        decoder_optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        for name, size in (("num_contexts", num_contexts), ("samples_per_context", samples_per_context)):
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}.")
        if decoder_optimizer is not None:
            _check_optimizer(decoder_optimizer, task.decoder)
        self.task, self.optimizer = task, decoder_optimizer
        self.num_contexts, self.samples_per_context = num_contexts, samples_per_context
        self.host_data = task.data.cpu().numpy()  # [N, *x]; shares memory with the task's where that is on the CPU
        self.index: np.ndarray | None = None  # [B], the data now to be encoded
        self.shown: np.ndarray | None = None  # [B], the data that `frames` shows
        self.shown_codes: Tensor | None = None  # [B, K, T], the codes of them

    def draw(self, random: np.random.Generator) -> None:
        """New contexts, uniformly."""
        self.index = random.integers(len(self.host_data), size=self.num_contexts)

    def forget(self) -> None:
        """After a reset there is no code to show."""
        self.shown = self.shown_codes = None

    def observation(self) -> np.ndarray:
        """The contexts, each K times, in memory of their own. [B·K, *x], float32."""
        return self.host_data[self._drawn().repeat(self.samples_per_context)]

    def step(self, actions: object) -> tuple[np.ndarray, np.ndarray]:
        """Pays a code in every environment, in one decoder call.

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
        if self.optimizer is None:
            reward, log_likelihood = self.task.pay(x, codes)
        else:
            reward, log_likelihood = self.task.pay_and_learn(x, codes, self.optimizer)
        self.shown, self.shown_codes = index, codes
        return reward.detach().flatten().cpu().numpy(), log_likelihood.detach().flatten().cpu().numpy()

    @torch.no_grad()
    def frames(self, low: float, high: float) -> list[np.ndarray]:
        """A picture for every environment: the datum last encoded beside its reconstruction. [H, W, 3], uint8, each.

        Right after a reset, and with `reward_fn` in the decoder's place, there is no reconstruction: mid-grey.
        """
        index = self._drawn() if self.shown is None else self.shown
        originals = self.host_data[index.repeat(self.samples_per_context)]
        means = np.full_like(originals, (low + high) / 2)
        if self.task.decoder is not None and self.shown_codes is not None:
            means = self.task.decoder(self.shown_codes).mean.flatten(0, 1).float().cpu().numpy()
        return [side_by_side([original, mean], low, high) for original, mean in zip(originals, means, strict=True)]

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
        raise ValueError("decoder_optimizer needs a decoder, and reward_fn stands in its place; leave one of them out.")
    trainable = {id(p) for p in decoder.parameters() if p.requires_grad}
    if not any(id(p) in trainable for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "decoder_optimizer holds no trainable parameter of this decoder; make it from decoder.parameters(), "
            "of the very decoder that the environment gets."
        )
