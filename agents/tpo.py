"""Target policy optimisation: weighted maximum likelihood with standardised scores and a fixed temperature."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from daps_rl.agents.base import AgentLoss, Score
from daps_rl.agents.daps import DAPS
from daps_rl.agents.spec import AgentSpec
from daps_rl.functional import SAMPLES, standardized_reward
from daps_rl.objectives import FixedTemperature


class TPO(DAPS):
    """DAPS with the rewards of each group standardised and the temperature fixed: no trust region to solve for.

    Standardised scores have no units, so that β is no floor of the temperature here; it acts through the reward.

    Args:
        policy, samples: see `Agent`.
        temperature: of the standardised scores, without units.
        centered, policy_samples, epochs: see `DAPS`.
    References:
        Target Policy Optimization, arXiv 2604.06159: temperature 1.
    """

    run_settings = ("samples", "centered", "policy_samples")

    def __init__(
        self,
        policy: nn.Module,
        *,
        samples: int = SAMPLES,
        temperature: float = 1.0,
        centered: bool = True,
        policy_samples: int = 0,
        epochs: int = 1,
    ) -> None:
        super().__init__(
            policy,
            samples=samples,
            trust_region=FixedTemperature(temperature),
            centered=centered,
            policy_samples=policy_samples,
            epochs=epochs,
        )

    def scores(self, reward: Tensor) -> Tensor:
        """The reward in units of its group. [B, K] → [B, K]."""
        return standardized_reward(reward)

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        yield from super().losses(observation, score, beta.new_zeros(()))


SPECS = (AgentSpec("tpo", TPO, "imitate by standardised rewards, temperature 1 (TPO)"),)
