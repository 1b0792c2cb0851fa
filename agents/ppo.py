"""PPO and its group form without a critic (GRPO), on TorchRL's clipped loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import ClipPPOLoss

from daps_rl.agents.base import AgentLoss, AgentSpec, Score
from daps_rl.agents.critic import HostLossAgent
from daps_rl.functional import SAMPLES, standardized_reward
from daps_rl.functional.checks import check_positive_integers


class PPO(HostLossAgent):
    """Clipped policy gradient: several passes over a batch, with advantages from a critic.

    There is no entropy bonus: the KL to the prior is in the reward (see `A2C`).

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
        samples: int = SAMPLES,
        hidden: int | None = 128,
        clip_epsilon: float = 0.2,
        epochs: int = 2,
        minibatches: int = 1,
        critic_coeff: float = 0.5,
        normalize_advantage: bool = True,
    ) -> None:
        super().__init__(policy, samples=samples, hidden=hidden)
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
            critic_coeff=None if hidden is None else critic_coeff,
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

    def __init__(
        self,
        policy: nn.Module,
        *,
        samples: int = SAMPLES,
        clip_epsilon: float = 0.2,
        epochs: int = 2,
        minibatches: int = 1,
    ) -> None:
        super().__init__(
            policy,
            samples=samples,
            hidden=None,
            clip_epsilon=clip_epsilon,
            epochs=epochs,
            minibatches=minibatches,
            normalize_advantage=False,
        )

    def advantage(self, tensordict: TensorDictBase, reward: Tensor) -> tuple[Tensor, Tensor]:
        advantage = standardized_reward(reward).unsqueeze(-1)
        return advantage, advantage


SPECS = (
    AgentSpec("ppo", PPO, "clip each change of the policy; baseline: a critic", recipe={"learning_rate": 1e-3}),
    AgentSpec("grpo", GRPO, "clip each change of the policy; baseline: the group", recipe={"learning_rate": 5e-4}),
)
