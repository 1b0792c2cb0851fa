"""DAPS as a TorchRL loss."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import CompositeDistribution, TensorDictModule, dispatch, set_composite_lp_aggregate
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from daps_rl.functional import effective_sample_size, keep_samples, mean_of_kept, weighted_likelihood_loss
from daps_rl.functional.checks import can_read, check_pooling, read_flags
from daps_rl.objectives.group_actor import GroupActor
from daps_rl.objectives.weights import WARNINGS, DAPSWeights, TargetKeys, read

_CRITIC = (
    "there is no critic, as the K actions of a context are each other's baseline; without groups (sample_dim=None) let "
    "torchrl's GAE write advantages into the batch first"
)
_ANSWERS = {
    "critic critic_network critic_network_params critic_coeff critic_coef loss_critic_type clip_value gamma lmbda "
    "separate_losses": _CRITIC,
    "target_critic_network_params delay_actor delay_value create_target_params": "there are no target networks, as no "
    "value is bootstrapped; the optimiser takes loss.parameters()",
    "entropy_bonus samples_mc_entropy": "pass entropy_coeff=, which is part of the score",
    "clip_epsilon dtarg max_importance_ratio": "the trust region bounds the step; pass ess_fraction= or trust_region=",
    "normalize_advantage normalize_advantage_exclude_dims advantage_norm": "rewards need no scale of their own, as the "
    "temperature follows theirs",
    "kl_to_ref_coeff": "put the KL to a reference in the reward, see daps_rl.policies.ReferenceReward",
    "advantage_key value_key value_target_key": "set_keys() names what is read",
    "actor": "its name is actor_network",
}
ELSEWHERE = {name: answer for names, answer in _ANSWERS.items() for name in names.split()}
"""What users of TorchRL's policy losses look for, and what takes its place here."""

UNLIKELY = -20.0  # nats: the log-probability of a coincidence that is none
LOOKS = 100  # calls in which equal actions are looked for where nothing else is read, as a look waits for the GPU


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
        centered: centred weights, for a smaller variance and for any number of updates on a batch, see
            `functional.weighted_likelihood_loss`. None: with groups, not without.
        policy_samples: how many of a group's K actions, or episodes, are scored with a gradient, at each use chosen
            anew by their weights without bias (`functional.keep_samples`); 0 for all.
        functional: take the parameters out of the actor, as TorchRL's losses do. False leaves the actor as it is (for
            DistributedDataParallel).
        reduction: "mean", "sum" or "none", over groups.
        options: ess_fraction, temperature_floor, entropy_coeff, sample_dim, time_dim (whole episodes), trust_region,
            pooling (with centred weights) and gather, see `DAPSWeights`.
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

    functional: bool = True  # whether the parameters were taken out of the actor
    actor_network: TensorDictModule
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams | None

    def __new__(cls, *args: Any, **kwargs: Any) -> DAPSLoss:
        """Answers options of TorchRL's losses by name, before Python says that it does not know them."""
        for name in ("critic_network", *kwargs) if len(args) > 1 else kwargs:
            if name in ELSEWHERE:
                raise TypeError(f"DAPSLoss takes no {name}: {ELSEWHERE[name]}.")
        return super().__new__(cls)

    def __init__(
        self,
        actor_network: TensorDictModule,
        *,
        centered: bool | None = None,
        policy_samples: int = 0,
        functional: bool = True,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        target = DAPSWeights(**options)
        sample_dim = target.sample_dim
        if sample_dim is not None and getattr(actor_network, "sample_dim", sample_dim) != sample_dim:
            raise ValueError(
                f"sample_dim must be the actor's own, {actor_network.sample_dim}, got {sample_dim}; it is where the K "
                "codes of a context lie."
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}.")
        centered = sample_dim is not None if centered is None else centered
        check_pooling(target.pooling, allowed=sample_dim is not None and centered)
        if policy_samples < 0 or (policy_samples and sample_dim is None):
            raise ValueError(
                f"policy_samples must be >= 0, and 0 without groups (sample_dim=None), got {policy_samples}; it is how "
                "many of a group's K actions are scored."
            )
        if target.time_dim is not None and isinstance(actor_network, GroupActor):
            raise ValueError(
                "with time_dim the actor must read every step of all K episodes, and a GroupActor reads one "
                "observation for all; take a ProbabilisticActor."
            )
        self.functional = functional
        super().__init__()
        if functional:
            self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        else:
            self.actor_network = actor_network
        self.target, self.sample_dim, self.temperature_floor = target, sample_dim, target.temperature_floor
        self.centered, self.policy_samples, self.reduction, self.looks = centered, policy_samples, reduction, LOOKS
        written = getattr(actor_network, "log_prob_keys", None)  # several by a CompositeDistribution
        self.set_keys(**({"sample_log_prob": list(written)} if written else {}))

    def __getattr__(self, item: str) -> Any:
        if item in ELSEWHERE:
            raise AttributeError(f"DAPSLoss has no {item}: {ELSEWHERE[item]}.")
        return super().__getattr__(item)

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Raises NotImplementedError: there is no value to estimate."""
        raise NotImplementedError(f"DAPSLoss makes no value estimator: {_CRITIC}.")

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        self.target.set_keys(**{name: getattr(self.tensor_keys, name) for name in vars(TargetKeys())})
        self.in_keys = [*self.actor_network.in_keys, self.tensor_keys.action, *self.target.in_keys]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch; see the class."""
        old_log_prob = self.target.group(self.target.total(tensordict, self.target.behaviour_log_prob(tensordict)))
        action = read(tensordict, self.tensor_keys.action, "name the key with set_keys(action=...)")
        equal = self._equal(action, old_log_prob)
        weights, temperature = self._target(tensordict, equal)  # [B, K], 0-dim
        if equal is not None and not self.centered:
            weights = torch.where(equal, 0.0, weights)  # else the policy is locked into its mode
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

    def _target(self, tensordict: TensorDictBase, equal: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights [B·..., K] and temperature, 0-dim: those that the batch has, or those of this batch alone."""
        weights = tensordict.get(self.tensor_keys.weights, None)
        if weights is None:
            weights, temperature = self.target.target(tensordict, equal)
            return weights, temperature.detach()
        if equal is not None and self.looks and can_read(equal):
            self.looks -= 1
            if any(read_flags(equal)):
                self.looks = 0
                warnings.warn(WARNINGS[1], stacklevel=2)
        temperature = read(tensordict, self.tensor_keys.temperature, "call DAPSWeights, which writes both")
        time_dim = self.target.time_dim
        return self.target.group(weights if time_dim is None else weights.select(time_dim, 0)), temperature.flatten()[0]

    def _equal(self, action: Any, old_log_prob: Tensor) -> Tensor | None:
        """Whether the actions are the actor's mode K times, a 0-dim flag; None where there are no groups.

        They are taken to be that where all K of every group are equal and the policy would hardly draw them so.
        """
        if self.sample_dim is None or old_log_prob.shape[-1] == 1:
            return None
        parts = [action] if isinstance(action, Tensor) else list(action.values(True, True))
        same = [(part == part.narrow(self.sample_dim, 0, 1)).all() for part in parts]
        return torch.stack(same).all() & (old_log_prob[:, 1:].sum() < UNLIKELY)

    def _log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Of the actions, or of whole episodes, under the actor as it is now, in nats. [B, K, ...] → [B·..., K]."""
        time_dim, played = self.target.time_dim, None
        if time_dim is not None:
            played = self.target.played(tensordict)
            tensordict = tensordict.select(*self.actor_network.in_keys, self.tensor_keys.action)[played]
        own = self.actor_network_params.to_module(self.actor_network) if self.functional else contextlib.nullcontext()
        with own:  # a distribution may call its network as late as log_prob: that too must see the parameters
            distribution, action = self.actor_network.get_dist(tensordict), tensordict.get(self.tensor_keys.action)
            if isinstance(distribution, CompositeDistribution):  # which knows its parts by their keys
                with set_composite_lp_aggregate(True):
                    log_prob = distribution.log_prob(tensordict)
            else:
                log_prob = distribution.log_prob(action)
        if played is not None:
            log_prob = log_prob.new_zeros(played.shape).masked_scatter(played, log_prob).sum(time_dim)
        return self.target.group(log_prob)

    def _members(self, tensordict: TensorDictBase, indices: Tensor) -> TensorDictBase:
        """What the actor reads, and the action, of some of each group. indices [B·..., M]."""
        dim, time_dim = cast(int, self.sample_dim), self.target.time_dim
        if tensordict.batch_dims <= (dim if time_dim is None else time_dim):
            raise ValueError(
                f"policy_samples needs a batch size [B, K, ...], with time_dim [B, K, T], got "
                f"{list(tensordict.batch_size)}; give the tensordict a batch size that reaches the samples or steps."
            )
        contexts = [n for i, n in enumerate(tensordict.batch_size) if i not in (dim, time_dim)]
        where = indices.view(*contexts, indices.shape[-1]).movedim(-1, dim)
        keys = (*self.actor_network.in_keys, self.tensor_keys.action)
        if time_dim is not None:  # all steps of those episodes, and where they end
            as_batch = [-1 if i == dim else n for i, n in enumerate(tensordict.batch_size)]
            where = where.unsqueeze(time_dim).expand(as_batch)
            keys = (*keys, *self.target.in_keys)
        if not isinstance(self.actor_network, GroupActor):
            return tensordict.select(*keys, strict=False).gather(dim, where)
        # The observation is the group's: any of its entries do, and a view of them copies nothing.
        members = tensordict.select(*self.actor_network.in_keys)[(slice(None),) * dim + (slice(indices.shape[-1]),)]
        actions = tensordict.select(self.tensor_keys.action).gather(dim, where)
        return members.set(self.tensor_keys.action, actions.get(self.tensor_keys.action))
