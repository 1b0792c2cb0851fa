"""Policies q(z|x) over codes: a datum in, a torch.distributions.Distribution over codes out.

Batch shape [B], event shape [T]. Any module that gives such a distribution is a policy. `draw` and `score_drawn` draw
codes from it and score them; see `CodePosterior`.
"""

from daps_rl.policies.autoregressive import AutoregressiveCategorical, AutoregressivePolicy
from daps_rl.policies.causal_lm import CausalLMAnswers, CausalLMPolicy, ReferenceReward
from daps_rl.policies.distribution import CodePosterior, Drawn, draw, score_drawn
from daps_rl.policies.factorized import FactorizedCategorical, FactorizedPolicy, UniformCodes, UniformPrior
from daps_rl.policies.latents import Codebook, GaussianPolicy, PointCodes, QuantizerPolicy
from daps_rl.policies.lattice import LatticeEmbedding, LatticeHead, lattice_levels
from daps_rl.policies.layers import PointerHead
from daps_rl.policies.masks import CodeMask, VisitOnce, WithinCapacity
from daps_rl.policies.observation import ItemEncoder, ObservationEncoder, Patches, TokenEncoder

__all__ = [
    "AutoregressiveCategorical",
    "AutoregressivePolicy",
    "CausalLMAnswers",
    "CausalLMPolicy",
    "CodeMask",
    "CodePosterior",
    "Codebook",
    "Drawn",
    "FactorizedCategorical",
    "FactorizedPolicy",
    "GaussianPolicy",
    "ItemEncoder",
    "LatticeEmbedding",
    "LatticeHead",
    "ObservationEncoder",
    "Patches",
    "PointCodes",
    "PointerHead",
    "QuantizerPolicy",
    "ReferenceReward",
    "TokenEncoder",
    "UniformCodes",
    "UniformPrior",
    "VisitOnce",
    "WithinCapacity",
    "draw",
    "lattice_levels",
    "score_drawn",
]
