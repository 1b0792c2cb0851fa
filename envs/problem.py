"""Discrete policy problems other than encoding: contexts, codes that are decisions, and a reward. One file each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig
from daps_rl.data import SPLITS, Splits
from daps_rl.decoders import RewardDecoder
from daps_rl.envs.encoding import EncodingEnv
from daps_rl.functional import optimality_gap
from daps_rl.names import did_you_mean, import_class
from daps_rl.policies import AutoregressivePolicy, CodeMask, FactorizedPolicy, ItemEncoder, PointPolicy

OPTIMA = Path(__file__).parent / "optima"
TRAIN, HELD_OUT = 100_000, 1_000  # contexts of a split


class Constant:
    """A tensor that never changes, on whatever device it is asked for: copied there once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._copies = {value.device: value}

    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value, "_copies": {self.value.device: self.value}}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        if device not in self._copies:
            self._copies[device] = self.value.to(device)
        return self._copies[device]


class DiscreteProblem:
    """A one-step contextual bandit whose action is a decision in T tokens out of V.

    A problem of one's own sets the attributes and writes `reward` and either `contexts` or `splits`; `--problem
    package.module:Class` then trains on it. Everything else has a default.

    Attributes:
        name: what reports call it.
        num_tokens: T.
        vocab_size: V.
        mask: which tokens may come next, so that every decision is feasible; None where all are.
        item_features: F, of a context that is a set of items [N, F], which then are encoded without an order; else 0.
        recipe: settings of a run that suit the problem.
        on_device: the reward keeps to the device, so that a GPU may record a training step: it reads no number of the
            host that changes, copies nothing from there (`Constant`) and asks none of the device (`.item()`, `if
            tensor:`). It holds for the very class that says so.
    """

    name: str = ""
    num_tokens: int
    vocab_size: int
    mask: CodeMask | None = None
    item_features: int = 0
    recipe: ClassVar[dict[str, Any]] = {}
    on_device: ClassVar[bool] = False

    def contexts(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws contexts [count, *x]: the same ones everywhere, of a generator."""
        raise NotImplementedError

    def splits(self) -> Splits:
        """Contexts to train, validate and test on; with targets where the reward knows more than the policy sees.

        Each split is drawn from a seed of its own; where there are few different contexts, some occur in several.
        """
        parts = {
            split: self.contexts(TRAIN if split == "train" else HELD_OUT, torch.Generator().manual_seed(seed)).float()
            for seed, split in enumerate(SPLITS, start=1)
        }
        low, high = (bound.item() for bound in torch.aminmax(parts["train"]))
        return Splits(name=self.name, **parts, likelihood="gaussian", value_range=(low, max(high, low + 1.0)))

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        """Of each decision, larger is better. Targets (or contexts) [B, 1, *y], codes [B, K, T] → [B, K].

        A decision that is not feasible has a reward too, less than any that is: an environment must bear any action.
        """
        raise NotImplementedError

    def optimum(self, split: str) -> Tensor | None:
        """The best reward of every context of a split, [N], or the best that is known; None where nobody knows.

        NaN where nobody knows of some of them.
        """
        path = OPTIMA / f"{self.name}.json"
        values = json.loads(path.read_text()).get(split) if path.exists() else None
        if values is None:
            return None
        return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)

    def gaps(self, columns: Mapping[str, Tensor], split: str) -> dict[str, float]:
        """How far decisions of a split are from the best that is known: means of (best - reward) / |best|, 0 at it.

        `gap` of the sampled, `gap_greedy` of the greedy, `gap_best` of the best of several sampled decisions and
        `gap_search` of those searched for, from the columns of `evaluate`; nothing where nobody knows the best.
        """
        best = self.optimum(split)
        if best is None:
            return {}
        names = {"gap": "log_likelihood", **{f"gap_{end}": f"reward_{end}" for end in ("greedy", "best", "search")}}
        rewards = {gap: columns[name] for gap, name in names.items() if len(columns.get(name, ())) == len(best)}
        return {gap: optimality_gap(reward, best).nanmean().item() for gap, reward in rewards.items()}

    def views(self, contexts: Tensor, count: int) -> Sequence[Tensor]:
        """Contexts [B, *x] in so many of the problem's symmetries, themselves first.

        In each of them every decision is worth what it is worth in the contexts themselves, and they look different to
        a policy. Raises ValueError where there are not as many.
        """
        raise ValueError(f"{self.name} has no symmetries that augment:{count} could use; leave it out.")

    def make_encoder(self, config: ModelConfig) -> nn.Module | None:
        """Context [B, *x] → [B, P, embed_dim]; None for the transformer over patches of it."""
        return ItemEncoder(self.item_features, **transformer_sizes(config)) if self.item_features else None

    def make_policy(self, config: ModelConfig) -> nn.Module:
        """The policy that settings describe, with this problem's encoder and mask; ValueError if it has none such."""
        if config.policy == "point":  # of a search
            return PointPolicy(self.num_tokens, self.vocab_size)
        shape, more = config.observation_shape, self.policy_options()
        encoder, patches = self.make_encoder(config), config.num_patches or None
        if encoder is None and patches is None:  # a small context has fewer pieces than there are tokens
            patches = min(self.num_tokens, shape[0] if len(shape) < 3 else math.prod(shape[1:]))
        sizes = {**transformer_sizes(config), "num_patches": patches, "encoder": encoder}
        if config.policy == "autoregressive":
            sizes |= {"num_code_layers": config.num_code_layers, "aligned_patches": config.aligned_patches}
            return AutoregressivePolicy(shape, self.num_tokens, self.vocab_size, **{**sizes, "mask": self.mask, **more})
        if config.policy == "factorized" and self.mask is None and not more.get("pointer"):
            return FactorizedPolicy(shape, self.num_tokens, self.vocab_size, **sizes)
        raise ValueError(
            f"{self.name} needs an autoregressive policy, whose tokens can keep to a mask, got {config.policy!r}; use "
            "an agent that has one (daps, rloo, grpo, ppo, reinforce)."
            if config.policy == "factorized"
            else f"{self.name} has no decoder to quantise for, got policy {config.policy!r}; use an agent that learns "
            "from rewards (daps, rloo, grpo, ppo, reinforce)."
        )

    def policy_options(self) -> dict[str, Any]:
        """More options of its `AutoregressivePolicy`: a pointer, `token_sizes`, a mask that only tells."""
        return {}

    def make_decoder(self, observation_shape: Sequence[int]) -> RewardDecoder:
        """What scores decisions in the training loop."""
        shape, on_device = self.target_shape(observation_shape), vars(type(self)).get("on_device", False)
        return RewardDecoder(self.reward, self.num_tokens, self.vocab_size, shape, on_device=on_device)

    def target_shape(self, observation_shape: Sequence[int]) -> tuple[int, ...]:
        """Of what the reward reads: the context itself, unless a problem says otherwise."""
        return tuple(observation_shape)

    def env(self, batch_size: Sequence[int], *, split: str = "train", **options: Any) -> EncodingEnv:
        """The problem as a TorchRL environment. `options` are those of `EncodingEnv`."""
        return EncodingEnv(**self.env_options(split), batch_size=batch_size, **options)

    def env_options(self, split: str = "train") -> dict[str, Any]:
        """What any of the encoding environments takes to be this problem."""
        splits = self.splits()
        return {
            "data": splits[split],
            "targets": splits.targets(split),
            "reward_fn": self.reward,
            "num_tokens": self.num_tokens,
            "vocab_size": self.vocab_size,
            "mask": self.mask,
        }


def views_of(problem: str | None, contexts: Tensor, count: int) -> Sequence[Tensor]:
    """Returns contexts [B, *x] in so many views, see `DiscreteProblem.views`, of the problem of that name."""
    if count == 1:
        return [contexts]
    if problem is None:
        raise ValueError(f"augment:{count} is for problems with symmetries, and this model solves none; leave it out.")
    return find_problem(problem).views(contexts, count)


def transformer_sizes(config: ModelConfig) -> dict[str, Any]:
    """The settings of an encoder, by name."""
    return {name: getattr(config, name) for name in ("embed_dim", "num_heads", "num_layers", "mlp_ratio")}


_MODULES = {  # a name is one of these, followed by its size where it has one
    "tsp": "tsp:TSP",
    "cvrp": "cvrp:CVRP",
    "op": "orienteering:Orienteering",
    "knapsack": "knapsack:Knapsack",
    "maxcut": "maxcut:MaxCut",
    "cut": "maxcut:OneCut",
    "bandit-digits": "classification:DigitsBandit",
    "nk": "search:NKLandscape",
    "labs": "search:LABS",
    "reverse": "sequences:Reverse",
    "sort": "sequences:Sort",
    "add": "sequences:Add",
    "brackets": "sequences:Brackets",
    "nguyen": "regression:Nguyen",
}
PROBLEMS = (
    "tsp20", "tsp50", "cvrp20", "knapsack50", "maxcut20", "cut30", "bandit-digits", "nk20", "labs20",
    "reverse8", "sort8", "add4", "brackets8", "nguyen1",
)  # fmt: skip
"""Those that the documentation reports on; other sizes have names alike (tsp10)."""


def find_problem(name: str) -> DiscreteProblem:
    """The problem of that name: of `PROBLEMS`, one of another size, or "package.module:Class" of one's own.

    Raises:
        ValueError: there is no such problem.
    """
    kind, size = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]  # matches anything
    if ":" in name:
        path, size = name, ""
    elif kind in _MODULES:
        path = f"daps_rl.envs.{_MODULES[kind]}"
    else:
        raise ValueError(
            f"problem must be one of {', '.join(PROBLEMS)}, one of these with another number, or package.module:Class "
            f"of one of your own, got {name!r}{did_you_mean(name, PROBLEMS)}."
        )
    if size and kind == "bandit-digits":
        raise ValueError(f"bandit-digits has one size, got {name!r}; leave the number out.")
    made: Any = import_class("problem", path, DiscreteProblem)
    if size:
        return made(int(size))  # the classes of `_MODULES` take it
    try:
        problem = made()
    except TypeError as error:
        raise ValueError(
            f"problem {name!r} cannot be made without arguments ({error}); derive a class that needs none."
        ) from error
    problem.name = problem.name or name
    return problem
