"""RLOO: the policy gradient with the other codes of the group as baseline."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from daps_rl.agents.base import Agent, AgentLoss, Score, check_group
from daps_rl.agents.spec import AgentSpec
from daps_rl.functional import SAMPLES, leave_one_out_advantage
from daps_rl.functional.checks import check_kept


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

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES, policy_samples: int = 0) -> None:
        super().__init__(policy, samples=samples)
        check_group("RLOO", samples)
        check_kept(policy_samples, samples)
        self.policy_samples = policy_samples

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        group = self.draw_group(observation, self.policy_samples)
        advantage = leave_one_out_advantage(score(group.codes, group.log_prob))
        loss = group.loss(advantage / self.samples)
        yield AgentLoss(loss.mean(), group.codes, {"entropy": -group.log_prob.mean()})


SPECS = (AgentSpec("rloo", RLOO, "follow the policy gradient; baseline: the group", recipe={"learning_rate": 1e-3}),)
