"""Trust regions: how large a step the target policy may take away from the policy that drew the codes.

A trust region is a module that is called with the scores of a batch and a floor, and gives the temperature. Any
module called the same way can be used instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from daps_rl.functional import ESS_FRACTION, mean_effective_sample_size, solve_temperature, solve_temperature_kl
from daps_rl.functional.temperature import check_epsilon, check_ess_fraction


class TrustRegion(nn.Module):
    """Base of the trust regions."""

    def forward(self, reward: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """The temperature for a batch of rewards [B, K], never below the floor. 0-dim, positive, in nats."""
        raise NotImplementedError


class ESSTrustRegion(TrustRegion):
    """The effective sample size of the weights is held at a fraction of K in (1/K, 1], exactly, at every batch."""

    def __init__(self, ess_fraction: float = ESS_FRACTION) -> None:
        super().__init__()
        check_ess_fraction(ess_fraction)
        self.ess_fraction = ess_fraction

    def forward(self, reward: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        return solve_temperature(reward, self.ess_fraction, floor)


class KLTrustRegion(TrustRegion):
    """KL(q* ‖ q), as the samples tell it, is held at epsilon in (0, log K) nats (the dual of REPS and MPO, exactly)."""

    def __init__(self, epsilon: float = 0.5) -> None:
        super().__init__()
        check_epsilon(epsilon)
        self.epsilon = epsilon

    def forward(self, reward: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        return solve_temperature_kl(reward, self.epsilon, floor)


class FixedTemperature(TrustRegion):
    """One temperature, in nats, for the whole run (or the floor, where that is higher)."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}; 1.0 weighs by exp(reward).")
        self.temperature = nn.Buffer(torch.tensor(float(temperature)))

    def forward(self, reward: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        return self.temperature.clamp(min=floor)


class AdaptiveTemperature(TrustRegion):
    """The published adaptation: τ = η + floor, with log η following (ESS − target)² by gradient descent.

    Each call in training mode gives the current temperature and then moves η one AdamW step.

    Args:
        ess_fraction: of K, in (1/K, 1].
        init, learning_rate: first η, in nats, and the rate of AdamW on log η.
    References:
        Drolet et al. (2026), arXiv 2509.24716, appendix: init 100, learning rate 1e-3.
    """

    def __init__(self, ess_fraction: float = ESS_FRACTION, init: float = 100.0, learning_rate: float = 1e-3) -> None:
        super().__init__()
        check_ess_fraction(ess_fraction)
        if not (init > 0.0 and learning_rate > 0.0):
            raise ValueError(f"init and learning_rate must be positive, got {init} and {learning_rate}.")
        self.ess_fraction, self.learning_rate = ess_fraction, learning_rate
        # Buffers, not parameters: the state of this small AdamW is saved with the module and no optimiser of the
        # user's picks it up.
        self.log_eta: Tensor = nn.Buffer(torch.tensor(float(init)).log())
        self.moments = nn.Buffer(torch.zeros(2))
        self.count: Tensor = nn.Buffer(torch.zeros(()))

    def forward(self, reward: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        check_ess_fraction(self.ess_fraction, reward.shape[-1])
        temperature = self.log_eta.exp() + floor
        if self.training:
            self._adapt(reward.detach(), floor)
        return temperature

    @torch.enable_grad()
    def _adapt(self, reward: Tensor, floor: Tensor | float) -> None:
        log_eta = self.log_eta.clone().requires_grad_()
        ess = mean_effective_sample_size(reward, log_eta.exp() + floor)
        loss = (ess - self.ess_fraction * reward.shape[-1]).square()
        (gradient,) = torch.autograd.grad(loss, log_eta)
        gradient = torch.where(gradient.isfinite(), gradient, 0.0)
        beta1, beta2, weight_decay, epsilon = 0.9, 0.999, 1e-4, 1e-8
        self.count += 1
        mean = beta1 * self.moments[0] + (1 - beta1) * gradient
        square = beta2 * self.moments[1] + (1 - beta2) * gradient.square()
        self.moments.copy_(torch.stack((mean, square)))
        mean, square = mean / (1 - beta1**self.count), square / (1 - beta2**self.count)
        self.log_eta -= self.learning_rate * (mean / (square.sqrt() + epsilon) + weight_decay * self.log_eta)


TRUST_REGIONS: dict[str, type[TrustRegion]] = {
    "ess": ESSTrustRegion,
    "kl": KLTrustRegion,
    "fixed": FixedTemperature,
    "adaptive": AdaptiveTemperature,
}


def make_trust_region(trust_region: str | nn.Module, ess_fraction: float) -> nn.Module:
    """A trust region by its name in `TRUST_REGIONS`, or the module itself. A ValueError where there is none."""
    if isinstance(trust_region, nn.Module):
        return trust_region
    if trust_region not in TRUST_REGIONS:
        raise ValueError(
            f"trust_region must be one of {', '.join(TRUST_REGIONS)} or a module, got {trust_region!r}; "
            "a module is called with rewards [B, K] and a floor and gives the temperature."
        )
    takes_fraction = trust_region in ("ess", "adaptive")
    return TRUST_REGIONS[trust_region](**({"ess_fraction": ess_fraction} if takes_fraction else {}))
