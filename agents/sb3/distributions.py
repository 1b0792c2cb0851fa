"""Distributions over codes, as Stable-Baselines3 knows distributions over actions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from daps_rl.policies import AutoregressiveCategorical, FactorizedCategorical, draw


def token_sizes(action_space: spaces.Space) -> tuple[int, ...]:
    """How many values each token of an action may take.

    Raises:
        ValueError: the space is not one of those that SB3's discrete distributions know, counted from zero.
    """
    match action_space:
        case spaces.Discrete() if action_space.start == 0:
            return (int(action_space.n),)
        case spaces.MultiDiscrete() if action_space.nvec.ndim == 1 and not action_space.start.any():
            return tuple(int(n) for n in action_space.nvec)
        case spaces.MultiBinary() if len(action_space.shape) == 1:
            return (2,) * int(action_space.shape[0])
    raise ValueError(
        "the action space must be Discrete, MultiDiscrete or MultiBinary, of one axis and counted from zero, "
        f"got {action_space}; wrap the environment so that its actions are."
    )


def refuse_bonus(gradient: Tensor) -> None:
    """Raises ValueError where SB3 weighs an entropy that is not known."""
    if gradient.any():
        raise ValueError(
            "ent_coef must be 0 with a network whose entropy is not known; add the entropy to the reward by "
            "KLRewardCallback(beta), or pass policy_kwargs=dict(exact_entropy=True) if its distribution has one."
        )


@register_kl(AutoregressiveCategorical, AutoregressiveCategorical)
def kl_autoregressive(p: AutoregressiveCategorical, q: AutoregressiveCategorical) -> Tensor:
    """Estimates KL(p ‖ q) without bias, in nats: token by token along one code that p draws. [B].

    No gradient flows through the draw; where p = q what it would add to the Hessian is 0.
    """
    codes = p.sample()
    return kl_divergence(*(FactorizedCategorical(given.token_logits(codes)) for given in (p, q)))


class CodeDistribution(Distribution):
    """A distribution over codes as SB3 knows distributions: one action per observation.

    Args:
        posterior: batch shape [N], event shape [T].
        action_shape: shape of one action, () for Discrete.
        exact_entropy: its entropy is known, in closed form or token by token; see `evaluate`.
    """

    distribution: torch.distributions.Distribution  # SB3 allows a list here

    def __init__(
        self, posterior: torch.distributions.Distribution, action_shape: tuple[int, ...], *, exact_entropy: bool
    ) -> None:
        super().__init__()
        self.distribution = posterior
        self.action_shape, self.exact_entropy = action_shape, exact_entropy

    def __copy__(self) -> CodeDistribution:
        """As it stands, also after a step of the weights, which are asked as late as in `log_prob`. TRPO copies so."""
        posterior = self.distribution
        if isinstance(posterior, AutoregressiveCategorical):
            posterior = AutoregressiveCategorical(copy.deepcopy(posterior.transformer), posterior.context)
        return CodeDistribution(posterior, self.action_shape, exact_entropy=self.exact_entropy)

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """Not there: the policy's network gives the distribution, and no layer's output is its parameters."""
        raise NotImplementedError("a CodePolicy's network gives the distribution; it has no parameters to set.")

    proba_distribution = actions_from_params = log_prob_from_params = proba_distribution_net

    def log_prob(self, actions: Tensor) -> Tensor:
        """log π(a|s), in nats. [N, *action_shape] → [N]."""
        return self.distribution.log_prob(self._codes(actions))

    def entropy(self) -> Tensor | None:
        """Entropy, in nats [N], of codes written token by token an estimate; None where it is not known."""
        return self.distribution.entropy() if self.exact_entropy else None

    def evaluate(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log π(a|s) of actions [N, *action_shape], and the entropy for SB3's bonus; both [N], in nats.

        Of an action written token by token it is Σ_t H(π(·|a_<t, s)) along that action, whose mean is the entropy. The
        gradient flows through each term, and not through the choice of the tokens before it. SB3's own way out, −log π,
        has a gradient of mean zero while the actions are the policy's own, and in PPO's later epochs drives it from
        whatever it did. So where the entropy is not known, the first gradient that is asked of it is a ValueError.
        """
        codes = self._codes(actions)
        if not self.exact_entropy:
            log_prob = self.distribution.log_prob(codes)
            estimate = (-log_prob.detach()).requires_grad_()
            estimate.register_hook(refuse_bonus)
            return log_prob, estimate
        if isinstance(self.distribution, AutoregressiveCategorical):
            given = FactorizedCategorical(self.distribution.token_logits(codes))  # given the tokens before, independent
            return given.log_prob(codes), given.entropy()
        return self.distribution.log_prob(codes), self.distribution.entropy()

    def sample(self) -> Tensor:
        """One action per observation. [N, *action_shape]."""
        return self._actions(self.distribution.sample())

    def mode(self) -> Tensor:
        """The greedy action: the likeliest token at each position given those before it. [N, *action_shape]."""
        return self._actions(self.distribution.mode)

    def draw(self, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities."""
        if deterministic:
            codes = self.distribution.mode
            return self._actions(codes), self.distribution.log_prob(codes)
        codes, log_prob = draw(self.distribution)
        return self._actions(codes), log_prob

    def _codes(self, actions: Tensor) -> Tensor:
        return actions.long().reshape(-1, *self.distribution.event_shape)

    def _actions(self, codes: Tensor) -> Tensor:
        return codes.reshape(-1, *self.action_shape)
