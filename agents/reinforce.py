"""REINFORCE: with a critic as baseline on TorchRL's loss, and without one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torchrl.objectives import ReinforceLoss

from daps_rl.agents.base import Agent, AgentLoss, Score
from daps_rl.agents.critic import HostLossAgent, RewardScale
from daps_rl.agents.spec import AgentSpec
from daps_rl.functional import SAMPLES, weighted_likelihood_loss


class Reinforce(HostLossAgent):
    """The score-function gradient, one step per batch, with a learned baseline.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
    References:
        Williams (1992). The loss is `torchrl.objectives.ReinforceLoss`.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, hidden: int = 128) -> None:
        super().__init__(policy, samples=samples, hidden=hidden)
        self.loss = ReinforceLoss(self.actor, self.critic, functional=False, loss_critic_type="l2")


class ReinforceNoCritic(Agent):
    """The score-function gradient with the reward's running mean as baseline, in units of its running deviation.

    Args:
        policy, samples: see `Agent`.
    References:
        Williams (1992).
    """

    on_device = True

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES) -> None:
        super().__init__(policy, samples=samples)
        self.scale = RewardScale()

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        codes, log_prob = self.draw(observation)
        advantage = self.scale(score(codes, log_prob.detach()))
        loss = weighted_likelihood_loss(log_prob, advantage / self.samples).mean()
        yield AgentLoss(loss, codes, {"entropy": -log_prob.detach().mean()})


SPECS = (
    AgentSpec("reinforce", Reinforce, "follow the policy gradient; baseline: a critic", recipe={"learning_rate": 5e-4}),
    AgentSpec(
        "reinforce-no-critic",
        ReinforceNoCritic,
        "follow the policy gradient; baseline: a running mean",
        recipe={"learning_rate": 5e-4},
    ),
)
