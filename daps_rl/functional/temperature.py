"""The temperature that makes the update exactly as large as the trust region allows, found at every batch.

Both the effective sample size and the KL of the target weights are monotone in the temperature, so one
search in one dimension finds it. The search evaluates a whole grid of temperatures at once and zooms in: a
handful of tensor operations, no learning rate, no loop whose length depends on data, no copy to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from daps_rl.functional.checks import check_matrix
from daps_rl.functional.weights import effective_sample_size, shifted_reward, weights_kl

GRID = 32  # temperatures tried at once
ZOOMS = 4  # rounds: each narrows the bracket of log temperature (at most about 150 wide) by GRID - 1
COLDEST = 1.0 / 50.0  # of the smallest gap: every weight off the best code is below exp(-50)
HOTTEST = 1e4  # of the largest gap: weights within a factor exp(1e-4) of each other
SMALLEST_GAP, LARGEST_GAP = 1e-28, 1e28  # gaps are clamped here, so that float32 temperatures stay finite


def solve_temperature(reward: Tensor, ess_fraction: float, floor: Tensor | float = 0.0) -> Tensor:
    """The temperature at which the mean effective sample size of the target weights is `ess_fraction` of K.

    Solves (1/B) Σ_b ESS(softmax(R_b / τ)) = ess_fraction · K for τ, then τ ← max(τ, floor). ESS(τ) grows
    from the number of tied best codes to the number of codes with a finite reward. A target
    outside that range cannot be met: τ is then the end of the search range nearest to it (and 1 where all
    rewards of every context are equal, when every temperature gives the same uniform weights).

    Args:
        reward: larger is better; -inf is allowed. No gradient flows. [B, K].
        ess_fraction: of K, in (1/K, 1].
        floor: the temperature never falls below it: β, when the reward holds a KL term of weight β. In nats.
    Returns:
        0-dim, positive and finite, in nats. float32 (float64 for float64 input).
    Raises:
        ValueError: reward is not [B, K], or ess_fraction is out of range.
    References:
        The constraint is that of Drolet et al. (2026), arXiv 2509.24716, who follow it by gradient descent;
        here it holds exactly at every batch.
    """
    check_matrix("reward", reward)
    check_ess_fraction(ess_fraction, reward.shape[-1])
    target = ess_fraction * reward.shape[-1]
    return _solve(reward, effective_sample_size, target, floor)


def solve_temperature_kl(reward: Tensor, epsilon: float, floor: Tensor | float = 0.0) -> Tensor:
    """The temperature at which the mean KL of the target policy to the behaviour policy is `epsilon`.

    The minimiser of the dual g(τ) = τ·ε + τ·(1/B) Σ_b log (1/K) Σ_k exp(R_bk / τ) satisfies
    (1/B) Σ_b KL(w_b ‖ uniform) = ε; that equation is solved directly. Unattainable targets are treated as in
    `solve_temperature`.

    Args:
        reward, floor, and what is returned: see `solve_temperature`.
        epsilon: bound on KL(q* ‖ q) per context, in nats, in (0, log K).
    References:
        Peters, Mülling & Altün (2010), Relative entropy policy search; Abdolmaleki et al. (2018), MPO, eq. 9.
    """
    check_matrix("reward", reward)
    check_epsilon(epsilon, reward.shape[-1])
    return _solve(reward, lambda weights: -weights_kl(weights), -epsilon, floor)


def mean_effective_sample_size(reward: Tensor, temperature: Tensor) -> Tensor:
    """Mean effective sample size of the target weights, in samples, with a gradient to the temperature alone. 0-dim."""
    return effective_sample_size(torch.softmax(shifted_reward(reward) / temperature, dim=-1)).mean()


def acceptance_probability(gain: Tensor, temperature: Tensor | float) -> Tensor:
    """Probability with which an annealing goes to a state that gains so much: min(1, exp(gain / temperature)).

    Args:
        gain: of reward, in nats or any other unit; -inf is never taken. Any shape.
        temperature: in the same unit; of 0 only what loses nothing is taken. 0-dim, or of the gain's shape.
    Returns:
        the probability, 0 … 1, of the gain's shape; NaN where the gain is.
    References:
        Metropolis et al. (1953); Kirkpatrick, Gelatt, Vecchi (1983), Optimization by simulated annealing.
    """
    temperature = torch.as_tensor(temperature, dtype=gain.dtype, device=gain.device)
    return torch.exp(gain.clamp_max(0.0) / temperature.clamp_min(torch.finfo(gain.dtype).tiny))


def check_ess_fraction(ess_fraction: float, num_samples: int | None = None) -> None:
    """Raises ValueError unless ess_fraction lies in (1/K, 1]; one sample meets any target trivially."""
    if not 0.0 < ess_fraction <= 1.0:
        raise ValueError(f"ess_fraction must lie in (1/K, 1], got {ess_fraction}; pass 3/8 for three of eight samples.")
    if num_samples is not None and num_samples > 1 and ess_fraction * num_samples <= 1.0:
        raise ValueError(
            f"ess_fraction must lie in (1/K, 1] and K is {num_samples}, got {ess_fraction}: an effective sample "
            "size of one sample or less cannot be met; draw more samples per context or raise ess_fraction."
        )


def check_floor(floor: Tensor | float) -> None:
    """Raises ValueError unless a floor of the temperature is one finite number of at least 0."""
    if isinstance(floor, Tensor) and floor.ndim:
        raise ValueError(f"temperature_floor must be a number or a 0-dim tensor, got shape {tuple(floor.shape)}.")
    if not 0.0 <= float(floor) < math.inf:
        raise ValueError(f"temperature_floor must be >= 0 and finite, got {float(floor)}; pass β, or 0 for none.")


def check_epsilon(epsilon: float, num_samples: int | None = None) -> None:
    """Raises ValueError unless epsilon lies in (0, log K)."""
    upper = math.inf if num_samples is None or num_samples == 1 else math.log(num_samples)
    if not 0.0 < epsilon < upper:
        raise ValueError(f"epsilon must lie in (0, log K) = (0, {upper:.4g}) nats, got {epsilon}; lower it.")


def _solve(reward: Tensor, statistic: Callable[[Tensor], Tensor], target: float, floor: Tensor | float) -> Tensor:
    """Root of mean_b statistic(weights_b(τ)) = target, for a statistic that does not fall as τ grows. 0-dim."""
    gap = -shifted_reward(reward)  # [B, K], >= 0, inf where the reward is -inf
    counts = (gap > 0) & (gap < math.inf)
    any_gap = counts.any()
    smallest = torch.where(counts, gap, math.inf).amin().clamp(SMALLEST_GAP, LARGEST_GAP)
    largest = torch.where(counts, gap, 0.0).amax().clamp(SMALLEST_GAP, LARGEST_GAP)
    low, high = (smallest * COLDEST).log(), (largest * HOTTEST).log()
    steps = torch.linspace(0.0, 1.0, GRID, dtype=gap.dtype, device=gap.device)
    for _ in range(ZOOMS):
        grid = low + (high - low) * steps  # [G], log temperatures
        values = _mean_statistic(gap, grid, statistic)
        # The bracket is the last grid point below the target and the one after it.
        index = ((values < target).sum() - 1).clamp(0, GRID - 2).view(1)
        low, high = grid.gather(0, index)[0], grid.gather(0, index + 1)[0]
        low_value, high_value = values.gather(0, index)[0], values.gather(0, index + 1)[0]
    slope = high_value - low_value
    share = torch.where(slope > 0, (target - low_value) / slope.clamp_min(torch.finfo(gap.dtype).tiny), 0.0)
    temperature = (low + (high - low) * share.clamp(0.0, 1.0)).exp()
    temperature = torch.where(any_gap, temperature, torch.ones_like(temperature))
    # A NaN reward gives a NaN temperature, so that the step can be seen to be bad.
    temperature = torch.where(gap.isnan().any(), math.nan, temperature)
    return torch.maximum(temperature, torch.as_tensor(floor, dtype=gap.dtype, device=gap.device))


def _mean_statistic(gap: Tensor, log_temperature: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over contexts of a statistic of the weights at each temperature. gap [B, K], log_temperature [G] → [G]."""
    batch, samples = gap.shape
    # Samples lead in memory: operations over the few samples of a context then run along contiguous contexts.
    scaled = -gap.t().contiguous()[:, None, :] / log_temperature.exp()[:, None]  # [K, G, B]
    weights = torch.softmax(scaled.view(samples, -1), dim=0).t()  # [G * B, K]
    return statistic(weights).view(-1, batch).mean(-1)
