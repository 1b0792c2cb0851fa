"""TorchRL losses and actors: thin borders around `daps_rl.functional`."""

from daps_rl.objectives.daps import DAPSLoss
from daps_rl.objectives.decoder import DecoderLoss
from daps_rl.objectives.group_actor import GroupActor, GroupDistribution
from daps_rl.objectives.trust_regions import (
    TRUST_REGIONS,
    AdaptiveTemperature,
    ESSTrustRegion,
    FixedTemperature,
    KLTrustRegion,
    TrustRegion,
    make_trust_region,
)
from daps_rl.objectives.weights import DAPSWeights

__all__ = [
    "TRUST_REGIONS",
    "AdaptiveTemperature",
    "DAPSLoss",
    "DAPSWeights",
    "DecoderLoss",
    "ESSTrustRegion",
    "FixedTemperature",
    "GroupActor",
    "GroupDistribution",
    "KLTrustRegion",
    "TrustRegion",
    "make_trust_region",
]
