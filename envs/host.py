"""What the Gymnasium and SB3 environments share: arguments, spaces, scored groups, and specs that copy nothing."""

from __future__ import annotations

import copy
import enum
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
from typing_extensions import Self

from daps_rl.envs.default import Data
from daps_rl.envs.pictures import image_shape, side_by_side
from daps_rl.envs.problem import DiscreteProblem, find_problem
from daps_rl.envs.processes import refuse_stale_copies
from daps_rl.envs.task import EncodingTask, HoldsTask, TaskOptions

PLAIN = (bool, int, float, str, bytes, enum.Enum, os.PathLike, torch.device, type(None))


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
    """Mixed into the environments of Gymnasium and SB3: B contexts with K environments on each, scored in one call.

    Environment b·K + k is copy k of context b. `completion` says who completes the reward; `decoder_optimizer`, if
    there is one, descends the decoder's loss on the codes of every step.
    """

    render_mode: str | None
    np_random: np.random.Generator
    _over: bool = True
    _refusal: RuntimeError | None = None
    _index: Tensor | None = None  # [B], the data now to be encoded
    _shown: Tensor | None = None  # [B], the data that `_frames` shows
    _shown_codes: Tensor | None = None  # [B, K, T], the codes of them
    _spec: EnvSpec | None = None

    def _hold(
        self,
        data: Data | None,
        decoder: nn.Module | None,
        options: TaskOptions,
        render_mode: str | None,
        num_contexts: int = 1,
        samples_per_context: int = 1,
        decoder_optimizer: torch.optim.Optimizer | None = None,
    ) -> tuple[spaces.Box, spaces.MultiDiscrete | spaces.Discrete]:
        """Makes the task, of arguments held by `Shared` or not; gives the spaces of one environment."""
        for name, size in (("num_contexts", num_contexts), ("samples_per_context", samples_per_context)):
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}.")
        unwrapped: Any = {name: unwrap(value) for name, value in options.items()}
        self.task = task = EncodingTask(unwrap(data), unwrap(decoder), **unwrapped)
        task.data = task.data.float()
        self.completion, self.decoder_optimizer = Completion(), unwrap(decoder_optimizer)
        if self.decoder_optimizer is not None:
            _check_optimizer(self.decoder_optimizer, task.decoder)
        try:
            refuse_stale_copies(task.decoder, *(unwrapped.get(name) for name in ("beta", "prior", "rate_weight")))
        except RuntimeError as error:
            # AsyncVectorEnv hands on what a worker raises in reset(), but of a failed constructor only an EOFError.
            self._refusal = error
        shape = tuple(task.data.shape[1:])
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        if render_mode is not None and image_shape(shape) is None:  # SB3 asks for frames of whatever it makes
            gymnasium.logger.warn(
                "render_mode 'rgb_array' needs images, [H, W], [C, H, W], [H, W, C] or a flat square, got data of "
                f"shape {shape}; there will be no frames."
            )
            render_mode = None
        self.render_mode, self._groups = render_mode, (num_contexts, samples_per_context)  # B and K
        low, high = (bound.item() for bound in torch.aminmax(task.data))
        self._range = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)  # black and white
        several = task.num_tokens > 1
        action = (
            spaces.MultiDiscrete([task.vocab_size] * task.num_tokens) if several else spaces.Discrete(task.vocab_size)
        )
        return spaces.Box(*self._range, shape, np.float32), action

    @classmethod
    def of_problem(cls, problem: str | DiscreteProblem = "", *, split: str = "train", **options: Any) -> Self:
        """Another problem than encoding, in the same form: `gymnasium.make("daps_rl/Problem-v0", problem="tsp20")`.

        Args:
            problem: a name (see `find_problem`) or the problem itself.
            split: whose contexts are drawn.
            options: of the environment.
        """
        problem = unwrap(problem)
        return cls(**(find_problem(problem) if isinstance(problem, str) else problem).env_options(split), **options)

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

    def get_state(self) -> dict[str, Any]:
        """Where the environment stands: its generator, the contexts at hand, whether the episode is over, and the
        running sums of its verdicts."""
        sums = None if self.task.verdicts is None else self.task.verdicts.sums.clone()
        random = self.np_random.bit_generator.state
        return {"random": random, "index": self._index, "over": self._over, "verdicts": sums}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `get_state` gave."""
        self.np_random.bit_generator.state = state["random"]
        self._index, self._over = state["index"], state["over"]
        if self.task.verdicts is not None:
            self.task.verdicts.sums.copy_(state["verdicts"])

    def _draw(self, random: np.random.Generator) -> None:
        """New contexts, uniformly."""
        self._index = torch.from_numpy(random.integers(len(self.task.data), size=self._groups[0]))
        self._over = False

    def _start(self, random: np.random.Generator, *options: dict[str, Any] | None) -> np.ndarray:
        """The observation of new contexts, with no code to show yet. Raises ValueError for options: there are none."""
        if self._refusal is not None:
            raise self._refusal
        if any(options):
            raise ValueError(f"encoding environments have no reset options, got {options}; leave options out.")
        self._draw(random)
        self._shown = self._shown_codes = None
        return self._observation()

    def _drawn(self) -> Tensor:
        if self._index is None:
            raise ResetNeeded("there is no datum to encode yet; call reset() first.")
        return self._index

    def _observation(self, index: Tensor | None = None) -> np.ndarray:
        """The contexts (or those of an index [B]), each K times, in memory of their own. [B·K, *x], float32."""
        return self.task.data[self._drawn() if index is None else index].cpu().numpy().repeat(self._groups[1], 0)

    def _score(self, actions: object) -> tuple[np.ndarray, np.ndarray]:
        """Scores a code in every environment, in one decoder call.

        Args:
            actions: [B·K, T], integers in 0 … V-1; of one token also [B·K].
        Returns:
            reward and log_likelihood, each [B·K], float32, in nats.
        Raises:
            ResetNeeded: before the first reset, or the episode is over.
            ValueError: the actions are no such codes.
        """
        index = self._drawn()
        if self._over:
            raise ResetNeeded("an encoding episode is over after one step; call reset() for the next datum.")
        codes = self._codes(actions)
        x = self.task.scored(index.to(self.task.device)).unsqueeze(1)  # [B, 1, *y]
        labels = None if self.task.labels is None else self.task.labels[index.to(self.task.device)]
        reward, log_likelihood = self.task.reward(x, codes, self.decoder_optimizer, labels)
        self._shown, self._shown_codes, self._over = index, codes, True
        return reward.flatten().cpu().numpy(), log_likelihood.flatten().cpu().numpy()

    def action_masks(self) -> np.ndarray:
        """Which actions the data at hand allow: bool [B·K, V], as sb3-contrib's MaskablePPO asks for it.

        Raises:
            ValueError: there is no mask, or an action has several tokens, and what is allowed depends on those before.
        """
        allowed = self.task.allowed(self._drawn())
        if allowed is None:
            raise ValueError(
                "action_masks needs a mask and actions of one token, got "
                f"{'no mask' if self.task.mask is None else f'actions of {self.task.num_tokens}'}; what tokens may "
                "follow others is for a policy with the mask, such as AutoregressivePolicy(mask=env.task.mask)."
            )
        return allowed.cpu().numpy().repeat(self._groups[1], 0)

    def _mask_info(self) -> dict[str, np.ndarray]:
        """`action_mask`, int8 as Gymnasium's `sample(mask)` has it, where there is one that says it."""
        if self.task.mask is None or self.task.num_tokens > 1:
            return {}
        return {"action_mask": self.action_masks().astype(np.int8)}

    def _codes(self, actions: object) -> Tensor:
        array, task, (contexts, samples) = np.asarray(actions), self.task, self._groups
        shape = (contexts * samples, task.num_tokens)
        array = array[:, None] if task.num_tokens == 1 == array.ndim else array
        if array.dtype.kind not in "iu" or array.shape != shape:
            raise ValueError(
                f"actions must be integers of shape {shape} (environments, num_tokens), "
                f"got {array.dtype} of shape {array.shape}."
            )
        if array.min() < 0 or array.max() >= task.vocab_size:
            raise ValueError(
                f"actions must lie in 0 … {task.vocab_size - 1} (vocab_size - 1), "
                f"got values from {array.min()} to {array.max()}."
            )
        return task.closed(torch.from_numpy(array.astype(np.int64)).to(task.device).view(contexts, samples, -1))

    @torch.no_grad()
    def _frames(self) -> list[np.ndarray] | None:
        """Of every environment the datum last encoded beside its reconstruction, or grey. [H, W, 3], uint8, each."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array' when the environment is made.")
            return None
        originals = self._observation(self._shown)
        means = np.full_like(originals, sum(self._range) / 2)
        if self.task.decoder is not None and self._shown_codes is not None:
            means = self.task.decoder(self._shown_codes).mean.flatten(0, 1).float().cpu().numpy()
        return [side_by_side(*pair, *self._range) for pair in zip(originals, means, strict=True)]


def _check_optimizer(optimizer: torch.optim.Optimizer, decoder: nn.Module | None) -> None:
    if decoder is None:
        raise ValueError("decoder_optimizer needs a decoder, and there is a reward_fn instead; leave one of them out.")
    trainable = {id(p) for p in decoder.parameters() if p.requires_grad}
    if not any(id(p) in trainable for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "decoder_optimizer holds no trainable parameter of this decoder; make it from decoder.parameters(), "
            "of the very decoder that the environment gets."
        )
