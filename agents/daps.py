"""DAPS: weighted maximum likelihood on groups of K codes inside an exact trust region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from daps_rl.agents.base import FACTORIZED, Agent, AgentLoss, AgentSpec, Score
from daps_rl.functional import ESS_FRACTION, SAMPLES, mean_effective_sample_size, standardized_reward, target_weights
from daps_rl.functional.checks import check_kept, check_pooling, check_positive_integers
from daps_rl.functional.temperature import check_ess_fraction
from daps_rl.objectives import FixedTemperature, make_trust_region


class DAPS(Agent):
    """The agent of the paper; with a factorised policy it is DAPS-NA.

    One gradient step per batch is the paper's; more (`epochs`) bring the policy nearer to the batch's target, which is
    worth their time where rewards are dear. On first use the codes are scored on the very encoding that they were drawn
    from. `DAPSLoss` is the same update for TorchRL's collectors and buffers.

    Args:
        policy, samples: see `Agent`.
        ess_fraction: effective sample size to aim at, as a fraction of K.
        trust_region: "ess", "kl", "fixed", "adaptive", or a module.
        centered: centred weights, see `functional.weighted_likelihood_loss`.
        pooling: samples of an average context that count beside a context's own K where its weights are normalised,
            see `functional.target_weights`; for rewards that mean the same in all contexts, such as 0 and 1.
        policy_samples: how many of the K codes the policy is scored on with a gradient, at each use of a batch chosen
            anew by their weights without bias (`functional.keep_samples`); 0 for all.
        epochs: uses of a batch, a gradient step each.
    Raises:
        ValueError: K is too small for the target, or for policy_samples; epochs is not positive; pooling is negative,
            or without centred weights.
    """

    run_settings: ClassVar[tuple[str, ...]] = ("samples", "ess_fraction", "trust_region", "centered", "policy_samples")
    on_device = True
    forbids = True
    least_samples = 2
    standardized = False
    """Whether the weights are made of rewards in units of their group, which have no use for β as a floor."""

    def __init__(
        self,
        policy: nn.Module,
        *,
        samples: int = SAMPLES,
        ess_fraction: float = ESS_FRACTION,
        trust_region: str | nn.Module = "ess",
        centered: bool = True,
        pooling: float = 0.0,
        policy_samples: int = 0,
        epochs: int = 1,
    ) -> None:
        super().__init__(policy, samples=samples)
        check_positive_integers(epochs=epochs)
        check_pooling(pooling, allowed=centered)
        check_kept(policy_samples, samples)
        if trust_region in ("ess", "adaptive"):
            check_ess_fraction(ess_fraction, samples)
        self.centered, self.pooling, self.policy_samples, self.epochs = centered, pooling, policy_samples, epochs
        self.trust_region = make_trust_region(trust_region, ess_fraction)

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        group = self.draw_group(observation, self.policy_samples)
        scores = score(group.codes, group.log_prob)
        if self.standardized:
            scores, beta = standardized_reward(scores), beta.new_zeros(())
        batch = self.world.gather(scores)
        temperature = self.trust_region(batch, beta)  # one for the whole batch
        weights = target_weights(scores, temperature, pooling=self.pooling, batch=batch)
        metrics = {
            "ESS": mean_effective_sample_size(scores, temperature).detach() / self.samples,
            "temperature": temperature.detach(),
            "entropy": -group.log_prob.mean(),
        }
        for _ in range(self.epochs):
            yield AgentLoss(group.loss(weights, centered=self.centered).mean(), group.codes, metrics)


class TPO(DAPS):
    """Target policy optimisation: the rewards of each group standardised and the temperature fixed.

    Standardised scores have no units, so that β is no floor of the temperature here; it acts through the reward.

    Args:
        policy, samples: see `Agent`.
        temperature: of the standardised scores, without units.
        centered, policy_samples, epochs: see `DAPS`.
    References:
        Target Policy Optimization, arXiv 2604.06159: temperature 1.
    """

    run_settings = ("samples", "centered", "policy_samples")
    fixed: ClassVar[dict[str, Any]] = {"ess_fraction": ESS_FRACTION, "trust_region": "fixed", "pooling": 0.0}
    standardized = True

    def __init__(self, policy: nn.Module, *, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(policy, **{**self.fixed, "trust_region": FixedTemperature(temperature)}, **options)


SPECS = (
    AgentSpec("daps", DAPS, "imitate the better codes, inside a trust region (DAPS)", scores_some=True),
    AgentSpec("daps-na", DAPS, "do as daps with a factorised policy: cheaper steps", FACTORIZED),
    AgentSpec("daps-fixed", DAPS, "do as daps at a fixed temperature", {"trust_region": "fixed"}, scores_some=True),
    AgentSpec("tpo", TPO, "imitate by standardised rewards, temperature 1 (TPO)"),
)
