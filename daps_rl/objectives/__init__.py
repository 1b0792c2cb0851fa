"""TorchRL losses and actors: thin borders around `daps_rl.functional`."""

from daps_rl.objectives.daps import DAPSLoss as DAPSLoss
from daps_rl.objectives.decoder import DecoderLoss as DecoderLoss
from daps_rl.objectives.group_actor import GroupActor as GroupActor
from daps_rl.objectives.group_actor import GroupDistribution as GroupDistribution
from daps_rl.objectives.trust_regions import TRUST_REGIONS as TRUST_REGIONS
from daps_rl.objectives.trust_regions import AdaptiveTemperature as AdaptiveTemperature
from daps_rl.objectives.trust_regions import ESSTrustRegion as ESSTrustRegion
from daps_rl.objectives.trust_regions import FixedTemperature as FixedTemperature
from daps_rl.objectives.trust_regions import KLTrustRegion as KLTrustRegion
from daps_rl.objectives.trust_regions import TrustRegion as TrustRegion
from daps_rl.objectives.trust_regions import make_trust_region as make_trust_region
from daps_rl.objectives.weights import DAPSWeights as DAPSWeights
