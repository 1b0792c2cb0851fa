"""DAPS as a TorchRL loss."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import cast

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives import LossModule

from daps_rl.functional import effective_sample_size, target_weights, thinned_likelihood_loss
from daps_rl.functional.checks import check_pooling, check_same_shape
from daps_rl.objectives.group_actor import GroupActor
from daps_rl.objectives.trust_regions import make_trust_region


class DAPSLoss(LossModule):
    """Weighted maximum likelihood on groups of sampled actions, inside an exact trust region.

    Reads a tensordict of batch size [B, K] (further batch dimensions, such as time, may follow) with the observation,
    the action, `action_log_prob` and `("next", "reward")`. The weights are softmax(reward / temperature) over each
    group of K, the loss is −Σ_k w_k · log q(z_k|x), averaged over the groups. Actions are scored as stored and never
    drawn here. With old samples (several epochs over one batch) keep the groups together; the weights stay right.

    Args:
        actor_network: a probabilistic TensorDictModule, with `get_dist`: a `GroupActor`, or any of TorchRL's actors.
        ess_fraction: effective sample size to aim at, as a fraction of K, in (1/K, 1].
        temperature_floor: the temperature never falls below it; β, when the reward holds a KL term of weight β. A
            0-dim tensor (the env's own `beta`) is kept by reference, so that its schedule is seen here.
        entropy_coeff: for rewards that hold no KL or entropy term: the score is reward − entropy_coeff · log q.
        sample_dim: the dimension of the K actions of a context, counted from the front; None weighs the whole batch
            as one group, and scores by the `advantage` where the tensordict has one (ordinary MDPs).
        trust_region: "ess", "kl", "fixed", "adaptive", or a module called with rewards [B, K] and the floor.
        centered: weights minus 1/K, see `functional.weighted_likelihood_loss`; for the first update on a batch.
        reuse: several updates on a batch: `functional.reused_likelihood_loss`, whose first gradient is that of centred
            weights and whose least value is where the policy has come to the batch's target.
        pooling: samples of an average context that count beside a group's own K where its weights are normalised, see
            `functional.target_weights`; with centered or reuse.
        policy_samples: how many of a group's K actions are scored with a gradient, chosen by their weights without bias
            (`functional.thin_weights`, by torch's global generator); 0 for all.
        functional: take the parameters out of the actor, as TorchRL's losses do. False leaves the actor as it is (for
            DistributedDataParallel).
        reduction: "mean", "sum" or "none", over groups.
    Returns:
        a tensordict: `loss_actor`; detached `ESS` (fraction of K), `temperature` (nats), `kl_approx` (mean of old minus
        new log-probability, nats) and `entropy` (mean of −log q, nats), both estimated from the actions that were
        scored.
    Raises:
        ValueError: an option is out of range, both centered and reuse are given, pooling with neither of them, or the
            batch has no dimension `sample_dim`.
    References:
        Drolet et al. (2026), arXiv 2509.24716.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that `set_keys` takes; reward is read from "next", advantage from the root (with sample_dim=None)."""

        action: NestedKey = "action"
        sample_log_prob: NestedKey = "action_log_prob"
        reward: NestedKey = "reward"
        advantage: NestedKey = "advantage"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    out_keys = ["loss_actor", "ESS", "temperature", "kl_approx", "entropy"]  # noqa: RUF012 (TorchRL's own form)

    actor_network: TensorDictModule
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams | None

    def __init__(
        self,
        actor_network: TensorDictModule,
        *,
        ess_fraction: float = 0.33,
        temperature_floor: Tensor | float = 0.0,
        entropy_coeff: float = 0.0,
        sample_dim: int | None = 1,
        trust_region: str | nn.Module = "ess",
        centered: bool = False,
        reuse: bool = False,
        pooling: float = 0.0,
        policy_samples: int = 0,
        functional: bool = True,
        reduction: str = "mean",
    ) -> None:
        if sample_dim is not None and sample_dim < 0:
            raise ValueError(f"sample_dim counts from the front and must be >= 0, got {sample_dim}; 1 for [B, K, ...].")
        if sample_dim is not None and getattr(actor_network, "sample_dim", sample_dim) != sample_dim:
            raise ValueError(
                f"sample_dim must be the actor's own, {actor_network.sample_dim}, got {sample_dim}; it is where the K "
                "codes of a context lie."
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}.")
        if centered and reuse:
            raise ValueError("reuse=True takes the place of centered=True; pass one of them.")
        check_pooling(pooling, allowed=sample_dim is not None and (centered or reuse))
        if policy_samples < 0 or (policy_samples and sample_dim is None):
            raise ValueError(
                f"policy_samples must be >= 0, and 0 without groups (sample_dim=None), got {policy_samples}; it is how "
                "many of a group's K actions are scored."
            )
        self._functional = functional
        super().__init__()
        self._in_keys: list[NestedKey] | None = None
        if functional:
            self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        else:
            self.actor_network = actor_network
        self.trust_region = make_trust_region(trust_region, ess_fraction)
        # Kept by reference, outside the module's own buffers: `.to(device)` would make a copy that no schedule reaches.
        self._floor = (temperature_floor,)
        self.entropy_coeff, self.sample_dim = entropy_coeff, sample_dim
        self.centered, self.reuse, self.pooling = centered, reuse, pooling
        self.policy_samples, self.reduction = policy_samples, reduction

    @property
    def functional(self) -> bool:
        """Whether the parameters were taken out of the actor."""
        return self._functional

    @property
    def temperature_floor(self) -> Tensor | float:
        """The floor of the temperature, in nats, as it is now."""
        return self._floor[0]

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        self.in_keys = None

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the loss reads."""
        if self._in_keys is None:
            keys = self.tensor_keys
            score = self._reward_key if self.sample_dim is not None else keys.advantage
            self._in_keys = [*self.actor_network.in_keys, keys.action, keys.sample_log_prob, score]
        return self._in_keys

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey] | None) -> None:
        self._in_keys = keys

    @property
    def _reward_key(self) -> NestedKey:
        """("next", reward); a reward key that starts with "next" already is taken as it is."""
        key = self.tensor_keys.reward
        key = (key,) if isinstance(key, str) else tuple(key)
        return key if key[0] == "next" else ("next", *key)

    def _reward(self, tensordict: TensorDictBase) -> Tensor:
        reward = tensordict.get(self.tensor_keys.advantage, None) if self.sample_dim is None else None
        if reward is not None:
            return reward
        return self._read(
            tensordict, self._reward_key, "step an environment, or name the key with set_keys(reward=...)"
        )

    @staticmethod
    def _read(tensordict: TensorDictBase, key: NestedKey, remedy: str) -> Tensor:
        value = tensordict.get(key, None)
        if value is None:
            raise KeyError(f"DAPSLoss reads {key!r}, and the batch does not have it; {remedy}.")
        return value

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch; see the class."""
        old_log_prob = self._read(
            tensordict, self.tensor_keys.sample_log_prob, "use an actor that writes it (return_log_prob=True)"
        ).detach()
        reward = self._reward(tensordict)
        if reward.shape == (*old_log_prob.shape, 1):
            reward = reward.squeeze(-1)
        old_log_prob, reward = self._groups(old_log_prob), self._groups(reward)  # [B, K] each
        check_same_shape(log_prob=old_log_prob, reward=reward)
        score = reward - self.entropy_coeff * old_log_prob if self.entropy_coeff else reward
        temperature = self.trust_region(score, self.temperature_floor)
        weights = target_weights(score, temperature, pooling=self.pooling).detach()

        def log_prob_of(indices: Tensor | None) -> Tensor:
            return self._log_prob(tensordict if indices is None else self._members(tensordict, indices))

        terms = thinned_likelihood_loss(
            log_prob_of,
            weights,
            self.policy_samples,
            centered=self.centered,
            behaviour_log_prob=old_log_prob if self.reuse else None,
        )
        log_prob = terms.log_prob.detach()
        old = old_log_prob if terms.kept is None else old_log_prob.gather(-1, terms.kept.indices)
        return TensorDict(
            {
                "loss_actor": self._reduce(terms.loss),
                "ESS": effective_sample_size(target_weights(score, temperature).detach()).mean() / score.shape[-1],
                "temperature": temperature.detach(),
                "kl_approx": terms.mean(old - log_prob),
                "entropy": terms.mean(-log_prob),
            },
            batch_size=[],
        )

    def _log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Of the actions, under the actor as it is now, in nats. [B, K, ...] → [B·..., K]."""
        parameters = (
            self.actor_network_params.to_module(self.actor_network) if self.functional else contextlib.nullcontext()
        )
        # A distribution may call its network as late as log_prob: that too must see the parameters.
        with parameters:
            log_prob = self.actor_network.get_dist(tensordict).log_prob(tensordict.get(self.tensor_keys.action))
        return self._groups(log_prob)

    def _members(self, tensordict: TensorDictBase, indices: Tensor) -> TensorDictBase:
        """What the actor reads, and the action, of some of each group. indices [B·..., M]."""
        dim = cast(int, self.sample_dim)
        if tensordict.batch_dims <= dim:
            raise ValueError(
                f"policy_samples needs a batch size [B, K, ...], got {list(tensordict.batch_size)}; give the "
                "tensordict a batch size that reaches the samples."
            )
        contexts = [n for i, n in enumerate(tensordict.batch_size) if i != dim]
        where = indices.view(*contexts, indices.shape[-1]).movedim(-1, dim)
        if not isinstance(self.actor_network, GroupActor):
            return tensordict.select(*self.actor_network.in_keys, self.tensor_keys.action).gather(dim, where)
        # The observation is the group's: any of its entries do, and a view of them copies nothing.
        members = tensordict.select(*self.actor_network.in_keys)[(slice(None),) * dim + (slice(indices.shape[-1]),)]
        actions = tensordict.select(self.tensor_keys.action).gather(dim, where)
        return members.set(self.tensor_keys.action, actions.get(self.tensor_keys.action))

    def _groups(self, value: Tensor) -> Tensor:
        """Brings [B, K, ...] to [B·..., K]: one row per group."""
        if self.sample_dim is None:
            return value.reshape(1, -1)
        if value.ndim <= self.sample_dim:
            raise ValueError(
                f"the batch must have the samples of a context along dimension {self.sample_dim}, got a batch of shape "
                f"{tuple(value.shape)}; reshape it to [B, K], or pass sample_dim=None to weigh the whole batch."
            )
        return value.movedim(self.sample_dim, -1).flatten(0, -2)

    def _reduce(self, loss: Tensor) -> Tensor:
        return loss if self.reduction == "none" else getattr(torch, self.reduction)(loss)
