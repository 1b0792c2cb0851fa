"""The target of DAPS on a whole batch, before it is split into minibatches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from daps_rl.functional import ESS_FRACTION, complete_reward, one_sample_groups, target_weights
from daps_rl.functional.checks import check_pooling, check_reward, check_same_shape, read_flags
from daps_rl.functional.temperature import check_floor
from daps_rl.objectives.trust_regions import make_trust_region

WARNINGS = (  # each shown once by Python
    "all rewards of a batch are -inf, which says of no code that it is better than another.",
    "the K actions of each group are equal: the actor gave its mode instead of drawing, and nothing is learned; act "
    "under set_exploration_type(ExplorationType.RANDOM).",
)


def read(tensordict: TensorDictBase, key: NestedKey, remedy: str) -> Tensor:
    """An entry of the batch; a KeyError that says the remedy where there is none."""
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(f"DAPS reads {key!r}, and the batch does not have it; {remedy}.")
    return value


@dataclass
class TargetKeys:
    """Keys that `DAPSWeights.set_keys` takes; reward and done are read from "next", advantage from the root."""

    sample_log_prob: NestedKey | list[NestedKey] = "action_log_prob"  # several, of the parts of an action, are added
    reward: NestedKey = "reward"
    done: NestedKey = "done"
    advantage: NestedKey = "advantage"
    weights: NestedKey = "weights"
    temperature: NestedKey = "temperature"


class DAPSWeights(TensorDictModuleBase):
    """Writes the weights and the temperature of a whole batch, as `GAE` writes advantages; `DAPSLoss` then uses them.

    Reads `("next", "reward")` and `action_log_prob` of a tensordict of batch size [B, K] (further batch dimensions,
    such as time, may follow), and writes `weights` and `temperature`, both of that batch size: for each group of K
    softmax(reward / temperature), with one temperature and one pooling for the batch. Call it once on what a collector
    gave, then split as you like, groups together: `DAPSLoss` on minibatches, over several epochs, then has the target
    of the batch.

    With `time_dim` the K of a group are whole episodes [B, K, T] from one start: an episode's rewards are added up, and
    its actions' log-probabilities, to its first `("next", "done")`; what lies behind it is never read.

    Args:
        ess_fraction: effective sample size to aim at, as a fraction of K, in (1/K, 1].
        temperature_floor: the temperature never falls below it; β, when the reward holds a KL term of weight β. A
            0-dim tensor (the env's own `beta`) is kept by reference, so that its schedule is seen here.
        entropy_coeff: for rewards that hold no KL or entropy term: the score is reward − entropy_coeff · log q.
        sample_dim: the dimension of the K actions of a context, counted from the front; None weighs the whole batch
            as one group, scored by the `advantage` where the tensordict has one (ordinary MDPs). The weights are then
            the ratios N·w, 1 on average, so that a minibatch stands for its share.
        time_dim: the dimension of the steps of an episode, behind `sample_dim`; None where every action is weighed by
            itself.
        trust_region: "ess", "kl", "fixed", "adaptive", or a module called with rewards [B, K] and the floor.
        pooling: samples of an average context that count beside a group's own K where its weights are normalised, see
            `functional.target_weights`; for a loss with centred weights.
        gather: for several processes: gives the scores [N, K] of all for those of this one [B, K]; `World().gather` of
            `daps_rl.distributed`, say. Temperature and pooling are then those of all.
    Raises:
        ValueError: an option is out of range, the batch has no dimension `sample_dim`, a reward is NaN or +inf, or an
            episode has not ended.
        KeyError: the batch lacks what is read.
    References:
        Drolet et al. (2026), arXiv 2509.24716. The pooling is ours.
    """

    default_keys = TargetKeys

    def __init__(
        self,
        *,
        ess_fraction: float = ESS_FRACTION,
        temperature_floor: Tensor | float = 0.0,
        entropy_coeff: float = 0.0,
        sample_dim: int | None = 1,
        time_dim: int | None = None,
        trust_region: str | nn.Module = "ess",
        pooling: float = 0.0,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if sample_dim is not None and sample_dim < 0:
            raise ValueError(f"sample_dim counts from the front and must be >= 0, got {sample_dim}; 1 for [B, K, ...].")
        if time_dim is not None and (sample_dim is None or time_dim <= sample_dim):
            raise ValueError(
                f"time_dim must lie behind sample_dim, {sample_dim}, got {time_dim}; 2 for episodes [B, K, T]."
            )
        check_pooling(pooling, allowed=sample_dim is not None)
        check_floor(temperature_floor)
        self.trust_region = make_trust_region(trust_region, ess_fraction)
        # By reference and no buffer: `.to(device)` would make a copy that no schedule reaches.
        self.temperature_floor = temperature_floor
        self.entropy_coeff, self.pooling, self.gather = entropy_coeff, pooling, gather
        self.sample_dim, self.time_dim = sample_dim, time_dim
        self.set_keys()

    def set_keys(self, **keys: Any) -> None:
        """Sets the keys that are read and written; those not given stay. See `TargetKeys`."""
        self.tensor_keys = TargetKeys(**{**vars(getattr(self, "tensor_keys", TargetKeys())), **keys})
        reward, done = (unravel_key(("next", key)) for key in (self.tensor_keys.reward, self.tensor_keys.done))
        self.reward_key = reward[1:] if reward[:2] == ("next", "next") else reward  # one with "next" is taken as it is
        self.done_key = done[1:] if done[:2] == ("next", "next") else done
        # What is weighed is the reward of groups; of a whole batch its advantage.
        score = self.reward_key if self.sample_dim is not None else self.tensor_keys.advantage
        drawn = self.tensor_keys.sample_log_prob
        self.log_prob_keys = drawn if isinstance(drawn, list) else [drawn]
        self.in_keys = [*self.log_prob_keys, score, *([] if self.time_dim is None else [self.done_key])]
        self.out_keys = [self.tensor_keys.weights, self.tensor_keys.temperature]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes weights and temperature into the batch; see the class."""
        weights, temperature = self.target(tensordict)
        dim, whole = -1 if self.sample_dim is None else self.sample_dim, self.behaviour_log_prob(tensordict)
        like = whole if self.time_dim is None else whole.select(self.time_dim, 0)
        weights = weights.reshape(like.movedim(dim, -1).shape).movedim(-1, dim)  # as the batch is
        if self.time_dim is not None:
            weights = weights.unsqueeze(self.time_dim).expand(whole.shape)
        tensordict.set(self.tensor_keys.temperature, temperature.detach().expand(weights.shape))
        return tensordict.set(self.tensor_keys.weights, weights)

    def target(self, tensordict: TensorDictBase, equal: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights [B·..., K] of the groups, and the temperature, 0-dim.

        `equal`, a 0-dim flag, says that the actor gave its mode K times; it is read together with the reward's.
        """
        log_prob = self.behaviour_log_prob(tensordict)
        score = None if self.sample_dim is not None else tensordict.get(self.tensor_keys.advantage, None)
        if score is None:
            remedy = "step an environment, or name the key with set_keys(reward=...)"
            score = read(tensordict, self.reward_key, remedy)
        if score.shape == (*log_prob.shape, 1):
            score = score.squeeze(-1)
        check_same_shape(log_prob=log_prob, reward=score)
        if self.time_dim is not None:
            self.check_ended(tensordict)
            log_prob, score = self.total(tensordict, log_prob), self.total(tensordict, score)
        flags = [(score == -math.inf).all(), *([] if equal is None else [equal])]
        for flag, text in zip(check_reward(score, *flags), WARNINGS, strict=False):
            if flag:
                warnings.warn(text, stacklevel=2)
        if self.entropy_coeff:
            score = complete_reward(score, log_prob, self.entropy_coeff)
        score = score.reshape(1, -1) if self.sample_dim is None else self.group(score)  # [B·..., K]; or one group
        batch = score if self.gather is None else self.gather(score)
        temperature = self.trust_region(batch, self.temperature_floor)
        weights = target_weights(score, temperature, pooling=self.pooling, batch=batch)
        return (one_sample_groups(weights) if self.sample_dim is None else weights), temperature

    def behaviour_log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """With which the actions were drawn, in nats; detached. Of the batch's size."""
        remedy = "use an actor that writes it (return_log_prob=True)"
        return torch.stack([read(tensordict, key, remedy).detach() for key in self.log_prob_keys]).sum(0)

    def done(self, tensordict: TensorDictBase) -> Tensor:
        """Whether an episode ends with a step. bool, of the batch's size."""
        done = read(tensordict, self.done_key, "roll out an environment, or name the key with set_keys(done=...)")
        return done.reshape(self.behaviour_log_prob(tensordict).shape)

    def played(self, tensordict: TensorDictBase) -> Tensor:
        """Which steps belong to an episode: those up to its first end. bool [B, K, ..., T, ...]."""
        done = self.done(tensordict)
        return done.cumsum(cast(int, self.time_dim)) - done.long() == 0

    def check_ended(self, tensordict: TensorDictBase) -> None:
        """Raises ValueError where an episode [B, K, ..., T, ...] has no end."""
        dim, done = cast(int, self.time_dim), self.done(tensordict)
        (open_ended,) = read_flags(~done.any(dim).all())
        if open_ended:
            raise ValueError(
                f"with time_dim={dim} every episode must have ended, and one has not within {done.shape[dim]} steps; "
                "roll out longer, or give the environment a StepCounter(max_steps)."
            )

    def total(self, tensordict: TensorDictBase, value: Tensor) -> Tensor:
        """Adds up a quantity of the steps over each episode; without `time_dim` it is given back as it is."""
        if self.time_dim is None:
            return value
        return torch.where(self.played(tensordict), value, 0.0).sum(self.time_dim)

    def group(self, value: Tensor) -> Tensor:
        """Brings [B, K, ...] to [B·..., K], one row per group; without groups each sample has a row of its own."""
        if self.sample_dim is None:
            return value.reshape(-1, 1)
        if value.ndim <= self.sample_dim:
            raise ValueError(
                f"the batch must have the samples of a context along dimension {self.sample_dim}, got a batch of shape "
                f"{tuple(value.shape)}; reshape it to [B, K], or pass sample_dim=None to weigh the whole batch."
            )
        return value.movedim(self.sample_dim, -1).flatten(0, -2)
