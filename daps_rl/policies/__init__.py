"""Policies q(z|x) over codes: a datum in, a torch.distributions.Distribution over codes out.

Batch shape [B], event shape [T]. That interface is the plug: any module that gives such a distribution is a policy.
"""

from daps_rl.policies.autoregressive import AutoregressiveCategorical, AutoregressivePolicy
from daps_rl.policies.factorized import FactorizedCategorical, FactorizedPolicy
from daps_rl.policies.observation import ObservationEncoder, Patches
from daps_rl.policies.point import PointCodes
from daps_rl.policies.priors import UniformCodes, UniformPrior

__all__ = [
    "AutoregressiveCategorical",
    "AutoregressivePolicy",
    "FactorizedCategorical",
    "FactorizedPolicy",
    "ObservationEncoder",
    "Patches",
    "PointCodes",
    "UniformCodes",
    "UniformPrior",
]
