"""One policy-gradient step per batch: with a critic on TorchRL's losses, or with a baseline of the rewards alone.

There is no entropy bonus: the KL to the prior is in the reward, and for autoregressive policies the hosts' estimate of
the entropy has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torchrl.objectives import A2CLoss, ReinforceLoss

from daps_rl.agents.base import Agent, AgentLoss, AgentSpec, Score
from daps_rl.agents.critic import HostLossAgent, RewardScale
from daps_rl.functional import SAMPLES, leave_one_out_advantage
from daps_rl.functional.checks import check_kept


class Reinforce(HostLossAgent):
    """The score-function gradient with a learned baseline.

    Args:
        policy, samples, hidden: see `HostLossAgent`.
    References:
        Williams (1992). The loss is `torchrl.objectives.ReinforceLoss`.
    """

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, hidden: int = 128) -> None:
        super().__init__(policy, samples=samples, hidden=hidden)
        self.loss = ReinforceLoss(self.actor, self.critic, functional=False, loss_critic_type="l2")


class A2C(HostLossAgent):
    """Advantage actor-critic, with advantages from a critic of weight `critic_coeff`.

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
        advantage = self.advantage(score(group.codes, group.log_prob))
        loss = group.loss(advantage / self.samples)
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


HELP = "follow the policy gradient; baseline: "
FAST, SLOW = {"learning_rate": 1e-3}, {"learning_rate": 5e-4}

SPECS = (
    AgentSpec("rloo", RLOO, f"{HELP}the group", recipe=FAST),
    AgentSpec("a2c", A2C, f"{HELP}a critic (A2C)", recipe=FAST),
    AgentSpec("reinforce", Reinforce, f"{HELP}a critic", recipe=SLOW),
    AgentSpec("reinforce-no-critic", ReinforceNoCritic, f"{HELP}a running mean", recipe=SLOW),
)
