"""DAPS and what belongs to it for Stable-Baselines3: an algorithm, policies, callbacks."""

from daps_rl.agents.sb3.callbacks import DecoderCallback, KLRewardCallback, load_decoder
from daps_rl.agents.sb3.daps import DAPS
from daps_rl.agents.sb3.policies import AutoregressivePolicy, CodePolicy, FactorizedPolicy

__all__ = [
    "DAPS",
    "AutoregressivePolicy",
    "CodePolicy",
    "DecoderCallback",
    "FactorizedPolicy",
    "KLRewardCallback",
    "load_decoder",
]
