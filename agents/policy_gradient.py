"""Policy gradients: with a critic on TorchRL's losses, or with a baseline of the rewards alone.

All but PPO and GRPO take one step per batch. There is no entropy bonus: the KL to the prior is in the reward, and for
autoregressive policies the hosts' estimate of the entropy has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import MLP
from torchrl.objectives import A2CLoss, ClipPPOLoss, LossModule, ReinforceLoss

from daps_rl.agents.base import Agent, AgentLoss, AgentSpec, Score
from daps_rl.functional import SAMPLES, leave_one_out_advantage, standardized_reward
from daps_rl.functional.checks import check_kept, check_positive_integers
from daps_rl.functional.weights import rounding_of
from daps_rl.objectives import GroupActor


class Critic(TensorDictModuleBase):
    """Value of a context: an MLP on the flattened datum, evaluated once for its K codes.

    Reads `observation` [B, K, *x], writes `state_value` [B, K, 1]. Its two hidden layers are `hidden` wide.
    """

    def __init__(self, observation_shape: tuple[int, ...], hidden: int = 128) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["state_value"]
        mlp = MLP(math.prod(observation_shape), 1, depth=2, num_cells=hidden, activation_class=nn.ReLU)
        self.layers = nn.Sequential(nn.Flatten(), *mlp)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        datum = tensordict["observation"][:, 0].to(next(self.layers.parameters()).dtype)
        value = self.layers(datum)  # [B, 1]
        return tensordict.set("state_value", value[:, None].expand(*tensordict.batch_size, 1))


class RewardScale(nn.Module):
    """Running mean and deviation of the reward, so that a critic's targets are near unit size.

    A shift and a positive factor leave the optimal policy as it is. The first batch sets both; they decay per batch.
    """

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        self.moments = nn.Buffer(torch.zeros(3))  # weight, mean, mean of squares

    def forward(self, reward: Tensor) -> Tensor:
        """Takes a batch of rewards into account and gives it standardised. The same shape."""
        reward = reward.to(self.moments.dtype)
        new = torch.stack((torch.ones_like(reward[0, 0]), reward.mean(), reward.square().mean()))
        updated = self.moments.lerp(new, 1.0 - self.decay)
        self.moments.copy_(torch.where(updated.isfinite().all(), updated, self.moments))
        mean, square = self.moments[1:] / self.moments[0]
        return (reward - mean) / (square - mean.square()).maximum(rounding_of(square[None])[0]).sqrt()


class HostLossAgent(Agent):
    """An agent whose loss is one of TorchRL's, on tensordicts of batch size [B, K].

    The losses are called with functional=False: a distribution over codes calls its network as late as `log_prob`,
    when a functional loss has taken the parameters away again.

    Args:
        policy, samples: see `Agent`; the policy's `observation_shape` sizes the critic.
        hidden: width of the critic's hidden layers; None for no critic.
    """

    loss: LossModule
    bounded_memory = False

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, hidden: int | None = 128) -> None:
        super().__init__(policy, samples=samples)
        self.actor = GroupActor(policy)
        self.critic: Critic | None = None
        if hidden is not None:
            check_positive_integers(hidden=hidden)
            shape = getattr(policy, "observation_shape", None)
            if not isinstance(shape, tuple):
                raise ValueError(
                    f"{type(self).__name__} sizes its critic by the policy's observation_shape, which "
                    f"{type(policy).__name__} does not have; set it to the shape of one datum, a tuple."
                )
            self.critic = Critic(shape, hidden)
            self.scale = RewardScale()

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        """One step on the whole batch."""
        tensordict = self.collect(observation, score)
        yield self.descend(tensordict, tensordict["action"])

    def collect(self, observation: Tensor, score: Score) -> TensorDictBase:
        """Draws codes and has them scored: a tensordict [B, K] as TorchRL's losses read it."""
        batch = (len(observation), self.samples)
        contexts = observation[:, None].expand(*batch, *observation.shape[1:])
        with torch.no_grad():
            tensordict = self.actor(TensorDict({"observation": contexts}, batch_size=batch))
        reward = score(tensordict["action"], tensordict["action_log_prob"])
        with torch.no_grad():
            tensordict["advantage"], tensordict["value_target"] = self.advantage(tensordict, reward)
        return tensordict

    def advantage(self, tensordict: TensorDictBase, reward: Tensor) -> tuple[Tensor, Tensor]:
        """Advantage and target of the value, each [B, K, 1]: one step, so the target is the reward itself."""
        if self.critic is None:
            raise ValueError(f"{type(self).__name__} needs a critic; pass hidden=128, or use rloo or grpo.")
        target = self.scale(reward).unsqueeze(-1)
        value = self.critic(tensordict.select("observation"))["state_value"]
        return target - value, target

    def descend(self, tensordict: TensorDictBase, codes: Tensor) -> AgentLoss:
        """The host's loss on a batch: the sum of its `loss_*` entries; the other scalars are metrics."""
        out = self.loss(tensordict)
        loss = torch.stack([value for name, value in out.items() if name.startswith("loss_")]).sum()
        names = [name for name in ("kl_approx", "clip_fraction", "loss_critic", "loss_value") if name in out]
        metrics = {name: out[name].detach().mean() for name in names}
        return AgentLoss(loss, codes, {"entropy": -tensordict["action_log_prob"].mean(), **metrics})


class Reinforce(HostLossAgent):
    """The score-function gradient with a learned baseline.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
    References:
        Williams (1992). The loss is `torchrl.objectives.ReinforceLoss`.
    """

    def __init__(self, policy: nn.Module, **options: Any) -> None:
        super().__init__(policy, **options)
        self.loss = ReinforceLoss(self.actor, self.critic, functional=False, loss_critic_type="l2")


class A2C(HostLossAgent):
    """Advantage actor-critic, with advantages from a critic of weight `critic_coeff`.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
        critic_coeff: weight of the critic's loss.
    References:
        Mnih et al. (2016). The loss is `torchrl.objectives.A2CLoss`.
    """

    def __init__(self, policy: nn.Module, *, critic_coeff: float = 0.5, **options: Any) -> None:
        super().__init__(policy, **options)
        entropy = {"entropy_bonus": False, "entropy_coeff": 0.0}
        self.loss = A2CLoss(
            self.actor, self.critic, functional=False, critic_coeff=critic_coeff, loss_critic_type="l2", **entropy
        )


class RLOO(Agent):
    """REINFORCE leave-one-out: − (1/K) Σ_k A_k · log q(z_k|x), A_k the reward less the mean of the others'.

    Args:
        policy, samples (K >= 2): see `Agent`.
        policy_samples: see `DAPS`.
    References:
        Kool et al. (2019); Ahmadian et al. (2024), Back to basics.
    """

    run_settings = ("samples", "policy_samples")
    on_device = True
    least_samples = 2

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, policy_samples: int = 0) -> None:
        super().__init__(policy, samples=samples)
        check_kept(policy_samples, samples)
        self.policy_samples = policy_samples

    def advantage(self, reward: Tensor) -> Tensor:
        """How much better than its baseline a code is. [B, K] → [B, K]."""
        return leave_one_out_advantage(reward)

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        group = self.draw_group(observation, self.policy_samples)
        loss = group.loss(self.advantage(score(group.codes, group.log_prob)) / self.samples)
        yield AgentLoss(loss.mean(), group.codes, {"entropy": -group.log_prob.mean()})


class ReinforceNoCritic(RLOO):
    """The same with the reward's running mean as baseline, in units of its running deviation.

    Args:
        policy, samples (K >= 1), policy_samples: see `RLOO`.
    References:
        Williams (1992).
    """

    least_samples = 1

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, policy_samples: int = 0) -> None:
        super().__init__(policy, samples=samples, policy_samples=policy_samples)
        self.scale = RewardScale()

    def advantage(self, reward: Tensor) -> Tensor:
        return self.scale(reward)


class PPO(HostLossAgent):
    """Clipped policy gradient: several passes over a batch, with advantages from a critic.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
        clip_epsilon: bound on the change of a code's probability.
        epochs: passes over a batch.
        minibatches: gradient steps per pass; groups stay together.
        critic_coeff: weight of the critic's loss.
        normalize_advantage: standardise the advantages over a minibatch.
    References:
        Schulman et al. (2017). The loss is `torchrl.objectives.ClipPPOLoss`.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        clip_epsilon: float = 0.2,
        epochs: int = 2,
        minibatches: int = 1,
        critic_coeff: float = 0.5,
        normalize_advantage: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(policy, **options)
        check_positive_integers(epochs=epochs, minibatches=minibatches)
        if not 0.0 < clip_epsilon < 1.0:
            raise ValueError(f"clip_epsilon must lie in (0, 1), got {clip_epsilon}; 0.2 is the usual choice.")
        self.epochs, self.minibatches = epochs, minibatches
        self.loss = ClipPPOLoss(
            self.actor,
            self.critic,
            functional=False,
            clip_epsilon=clip_epsilon,
            entropy_bonus=False,
            critic_coeff=None if self.critic is None else critic_coeff,
            loss_critic_type="l2",
            normalize_advantage=normalize_advantage,
        )

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        tensordict = self.collect(observation, score)
        codes = tensordict["action"]
        for _ in range(self.epochs):  # in a new order each time
            for index in torch.randperm(len(codes), device=codes.device).chunk(self.minibatches):
                yield self.descend(tensordict if self.minibatches == 1 else tensordict[index], codes)


class GRPO(PPO):
    """PPO without a critic: the advantage is the reward in units of its group.

    Args:
        policy, samples (K >= 2), clip_epsilon, epochs, minibatches: see `PPO`.
    References:
        Shao et al. (2024), DeepSeekMath. The KL to the prior is in the reward instead of the loss.
    """

    least_samples = 2
    fixed: ClassVar[dict[str, Any]] = {"hidden": None, "critic_coeff": 0.0, "normalize_advantage": False}

    def __init__(self, policy: nn.Module, **options: Any) -> None:
        super().__init__(policy, **self.fixed, **options)

    def advantage(self, tensordict: TensorDictBase, reward: Tensor) -> tuple[Tensor, Tensor]:
        advantage = standardized_reward(reward).unsqueeze(-1)
        return advantage, advantage


HELP, CLIP = "follow the policy gradient; baseline: ", "clip each change of the policy; baseline: "
FAST, SLOW = {"learning_rate": 1e-3}, {"learning_rate": 5e-4}

SPECS = (
    AgentSpec("rloo", RLOO, f"{HELP}the group", recipe=FAST),
    AgentSpec("ppo", PPO, f"{CLIP}a critic", recipe=FAST),
    AgentSpec("grpo", GRPO, f"{CLIP}the group", recipe=SLOW),
    AgentSpec("a2c", A2C, f"{HELP}a critic (A2C)", recipe=FAST),
    AgentSpec("reinforce", Reinforce, f"{HELP}a critic", recipe=SLOW),
    AgentSpec("reinforce-no-critic", ReinforceNoCritic, f"{HELP}a running mean", recipe=SLOW),
)
