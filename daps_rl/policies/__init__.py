"""Policies q(z|x) over codes: a datum in, a torch.distributions.Distribution over codes out.

Batch shape [B], event shape [T]. That interface is the plug: any module that gives such a distribution is a policy.
"""

from daps_rl.policies.autoregressive import AutoregressiveCategorical, AutoregressivePolicy
from daps_rl.policies.causal_lm import CausalLMAnswers, CausalLMPolicy, ReferenceReward
from daps_rl.policies.factorized import FactorizedCategorical, FactorizedPolicy
from daps_rl.policies.items import ItemEncoder, PointerHead
from daps_rl.policies.kinds import POLICIES, PolicyKind
from daps_rl.policies.latents import Codebook, GaussianPolicy, QuantizerPolicy
from daps_rl.policies.lattice import LatticeEmbedding, LatticeHead, lattice_levels
from daps_rl.policies.layers import EmbeddingHead
from daps_rl.policies.masks import CodeMask, VisitOnce, WithinCapacity
from daps_rl.policies.observation import ObservationEncoder, Patches, TokenEncoder
from daps_rl.policies.point import PointCodes
from daps_rl.policies.priors import NormalPrior, UniformCodes, UniformPrior

__all__ = [
    "POLICIES",
    "AutoregressiveCategorical",
    "AutoregressivePolicy",
    "CausalLMAnswers",
    "CausalLMPolicy",
    "CodeMask",
    "Codebook",
    "EmbeddingHead",
    "FactorizedCategorical",
    "FactorizedPolicy",
    "GaussianPolicy",
    "ItemEncoder",
    "LatticeEmbedding",
    "LatticeHead",
    "NormalPrior",
    "ObservationEncoder",
    "Patches",
    "PointCodes",
    "PointerHead",
    "PolicyKind",
    "QuantizerPolicy",
    "ReferenceReward",
    "TokenEncoder",
    "UniformCodes",
    "UniformPrior",
    "VisitOnce",
    "WithinCapacity",
    "lattice_levels",
]
