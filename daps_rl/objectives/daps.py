"""DAPS as a TorchRL loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import CompositeDistribution, TensorDictModule, dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives import LossModule

from daps_rl.functional import ESS_FRACTION, effective_sample_size, keep_samples, mean_of_kept, weighted_likelihood_loss
from daps_rl.functional.checks import check_pooling
from daps_rl.objectives.group_actor import GroupActor
from daps_rl.objectives.weights import DAPSWeights, TargetKeys


class DAPSLoss(LossModule):
    """Weighted maximum likelihood on groups of sampled actions, inside an exact trust region.

    Reads a tensordict of batch size [B, K] (further batch dimensions, such as time, may follow) with the observation,
    the action, `action_log_prob` and `("next", "reward")`. The weights are softmax(reward / temperature) over each
    group of K, the loss is −Σ_k w_k · log q(z_k|x), averaged over the groups. Actions are scored as stored and never
    drawn here.

    On minibatches, or over several epochs, give the whole batch to `DAPSWeights` first (`loss.target` is one with this
    loss's settings): where the tensordict has `weights` and `temperature`, these are used, and nothing is solved here.
    Groups stay together.

    Args:
        actor_network: a probabilistic TensorDictModule, with `get_dist`: a `GroupActor`, or any of TorchRL's actors.
        ess_fraction, temperature_floor, entropy_coeff, sample_dim, trust_region, gather: see `DAPSWeights`.
        centered: centred weights, for a smaller variance and for any number of updates on a batch, see
            `functional.weighted_likelihood_loss`. None: with groups, not without.
        pooling: see `DAPSWeights`; with centred weights.
        policy_samples: how many of a group's K actions are scored with a gradient, at each use chosen anew by their
            weights without bias (`functional.keep_samples`); 0 for all.
        functional: take the parameters out of the actor, as TorchRL's losses do. False leaves the actor as it is (for
            DistributedDataParallel).
        reduction: "mean", "sum" or "none", over groups.
    Returns:
        a tensordict: `loss_actor`; detached `ESS` (fraction of K), `temperature` (nats), `kl_approx` (mean of old minus
        new log-probability, nats) and `entropy` (mean of −log q, nats), both estimated from the actions that were
        scored.
    References:
        Drolet et al. (2026), arXiv 2509.24716.
    """

    @dataclass
    class _AcceptedKeys(TargetKeys):
        action: NestedKey = "action"

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
        ess_fraction: float = ESS_FRACTION,
        temperature_floor: Tensor | float = 0.0,
        entropy_coeff: float = 0.0,
        sample_dim: int | None = 1,
        trust_region: str | nn.Module = "ess",
        centered: bool | None = None,
        pooling: float = 0.0,
        policy_samples: int = 0,
        gather: Callable[[Tensor], Tensor] | None = None,
        functional: bool = True,
        reduction: str = "mean",
    ) -> None:
        target = DAPSWeights(
            ess_fraction=ess_fraction,
            temperature_floor=temperature_floor,
            entropy_coeff=entropy_coeff,
            sample_dim=sample_dim,
            trust_region=trust_region,
            pooling=pooling,
            gather=gather,
        )
        if sample_dim is not None and getattr(actor_network, "sample_dim", sample_dim) != sample_dim:
            raise ValueError(
                f"sample_dim must be the actor's own, {actor_network.sample_dim}, got {sample_dim}; it is where the K "
                "codes of a context lie."
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}.")
        centered = sample_dim is not None if centered is None else centered
        check_pooling(pooling, allowed=sample_dim is not None and centered)
        if policy_samples < 0 or (policy_samples and sample_dim is None):
            raise ValueError(
                f"policy_samples must be >= 0, and 0 without groups (sample_dim=None), got {policy_samples}; it is how "
                "many of a group's K actions are scored."
            )
        self._functional = functional
        super().__init__()
        if functional:
            self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        else:
            self.actor_network = actor_network
        self.target, self.sample_dim, self.temperature_floor = target, sample_dim, temperature_floor
        self.centered, self.policy_samples, self.reduction = centered, policy_samples, reduction
        self._forward_value_estimator_keys()

    @property
    def functional(self) -> bool:
        """Whether the parameters were taken out of the actor."""
        return self._functional

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        self.target.set_keys(**{name: getattr(self.tensor_keys, name) for name in vars(TargetKeys())})
        self.in_keys = [*self.actor_network.in_keys, self.tensor_keys.action, *self.target.in_keys]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch; see the class."""
        weights, temperature = self._target(tensordict)  # [B, K], 0-dim
        old_log_prob = self.target.group(self.target.behaviour_log_prob(tensordict))
        kept = keep_samples(weights, self.policy_samples, centered=self.centered)
        log_prob = self._log_prob(tensordict if kept is None else self._members(tensordict, kept.indices))
        loss = weighted_likelihood_loss(log_prob, weights, old_log_prob, kept, centered=self.centered)
        log_prob, old = log_prob.detach(), old_log_prob if kept is None else old_log_prob.gather(-1, kept.indices)
        over = weights.t() if self.sample_dim is None else weights  # what one effective sample size is of
        return TensorDict(
            {
                "loss_actor": loss if self.reduction == "none" else getattr(loss, self.reduction)(),
                "ESS": effective_sample_size(over).mean() / over.shape[-1],
                "temperature": temperature,
                "kl_approx": mean_of_kept(old - log_prob, kept),
                "entropy": mean_of_kept(-log_prob, kept),
            },
            batch_size=[],
        )

    def _target(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Weights [B·..., K] and temperature, 0-dim: those that the batch has, or those of this batch alone."""
        weights = tensordict.get(self.tensor_keys.weights, None)
        if weights is None:
            weights, temperature = self.target.target(tensordict)
            return weights, temperature.detach()
        temperature = DAPSWeights.read(tensordict, self.tensor_keys.temperature, "call DAPSWeights, which writes both")
        return self.target.group(weights), temperature.flatten()[0]

    def _log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Of the actions, under the actor as it is now, in nats. [B, K, ...] → [B·..., K]."""
        own = self.actor_network_params.to_module(self.actor_network) if self.functional else contextlib.nullcontext()
        with own:  # a distribution may call its network as late as log_prob: that too must see the parameters
            distribution = self.actor_network.get_dist(tensordict)
            in_parts = isinstance(distribution, CompositeDistribution)  # it finds the action's parts by their own keys
            log_prob = distribution.log_prob(tensordict if in_parts else tensordict.get(self.tensor_keys.action))
        return self.target.group(log_prob)

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
