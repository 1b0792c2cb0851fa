"""What the agents with TorchRL's losses share: a critic, a reward scale, and batches as tensordicts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import MLP
from torchrl.objectives import LossModule

from daps_rl.agents.base import Agent, AgentLoss, Score
from daps_rl.functional import SAMPLES
from daps_rl.functional.checks import check_positive_integers
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
        value = self.layers(tensordict["observation"][:, 0])  # [B, 1]
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
        reward = reward.float()
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
