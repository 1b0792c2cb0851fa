"""Advantage actor-critic, on TorchRL's loss."""

from __future__ import annotations

from torch import nn
from torchrl.objectives import A2CLoss

from daps_rl.agents.critic import HostLossAgent
from daps_rl.agents.spec import AgentSpec
from daps_rl.functional import SAMPLES


class A2C(HostLossAgent):
    """One policy-gradient step per batch, with advantages from a critic of weight `critic_coeff`.

    There is no entropy bonus: the KL to the prior is in the reward, and for autoregressive policies the hosts'
    estimate of the entropy has no gradient.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
        critic_coeff: weight of the critic's loss.
    References:
        Mnih et al. (2016). The loss is `torchrl.objectives.A2CLoss`.
    """

    def __init__(
        self, policy: nn.Module, *, samples: int = SAMPLES, hidden: int = 128, critic_coeff: float = 0.5
    ) -> None:
        super().__init__(policy, samples=samples, hidden=hidden)
        self.loss = A2CLoss(
            self.actor,
            self.critic,
            functional=False,
            entropy_bonus=False,
            entropy_coeff=0.0,
            critic_coeff=critic_coeff,
            loss_critic_type="l2",
        )


SPECS = (AgentSpec("a2c", A2C, "follow the policy gradient; baseline: a critic (A2C)", recipe={"learning_rate": 1e-3}),)
