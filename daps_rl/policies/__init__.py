"""Policies q(z|x) over codes: a datum in, a torch.distributions.Distribution over codes out.

Batch shape [B], event shape [T]. Any module that gives such a distribution is a policy. `draw` and `score_drawn` draw
codes from it and score them; see `CodePosterior`.
"""

from daps_rl.policies.autoregressive import AutoregressiveCategorical as AutoregressiveCategorical
from daps_rl.policies.autoregressive import AutoregressivePolicy as AutoregressivePolicy
from daps_rl.policies.causal_lm import CausalLMAnswers as CausalLMAnswers
from daps_rl.policies.causal_lm import CausalLMPolicy as CausalLMPolicy
from daps_rl.policies.causal_lm import ReferenceReward as ReferenceReward
from daps_rl.policies.distribution import CodePosterior as CodePosterior
from daps_rl.policies.distribution import Drawn as Drawn
from daps_rl.policies.distribution import draw as draw
from daps_rl.policies.distribution import score_drawn as score_drawn
from daps_rl.policies.ends import EndEmbedding as EndEmbedding
from daps_rl.policies.ends import EndHead as EndHead
from daps_rl.policies.factorized import FactorizedCategorical as FactorizedCategorical
from daps_rl.policies.factorized import FactorizedPolicy as FactorizedPolicy
from daps_rl.policies.factorized import FactorizedUntilEnd as FactorizedUntilEnd
from daps_rl.policies.factorized import UniformCodes as UniformCodes
from daps_rl.policies.factorized import UniformPrior as UniformPrior
from daps_rl.policies.glimpse import GlimpseDecoder as GlimpseDecoder
from daps_rl.policies.latents import Codebook as Codebook
from daps_rl.policies.latents import GaussianPolicy as GaussianPolicy
from daps_rl.policies.latents import PointCodes as PointCodes
from daps_rl.policies.latents import PointPolicy as PointPolicy
from daps_rl.policies.latents import QuantizerPolicy as QuantizerPolicy
from daps_rl.policies.lattice import LatticeEmbedding as LatticeEmbedding
from daps_rl.policies.lattice import LatticeHead as LatticeHead
from daps_rl.policies.lattice import lattice_levels as lattice_levels
from daps_rl.policies.layers import PointerHead as PointerHead
from daps_rl.policies.masks import CodeMask as CodeMask
from daps_rl.policies.masks import EndToken as EndToken
from daps_rl.policies.masks import VisitOnce as VisitOnce
from daps_rl.policies.masks import WithinCapacity as WithinCapacity
from daps_rl.policies.masks import end_token as end_token
from daps_rl.policies.observation import ItemEncoder as ItemEncoder
from daps_rl.policies.observation import ObservationEncoder as ObservationEncoder
from daps_rl.policies.observation import Patches as Patches
from daps_rl.policies.observation import TokenEncoder as TokenEncoder
from daps_rl.policies.route_masks import DeliverOnce as DeliverOnce
from daps_rl.policies.route_masks import VisitWithin as VisitWithin
