"""DAPS and what belongs to it for Stable-Baselines3: an algorithm, policies, callbacks."""

from daps_rl.agents.sb3.callbacks import DecoderCallback as DecoderCallback
from daps_rl.agents.sb3.callbacks import KLRewardCallback as KLRewardCallback
from daps_rl.agents.sb3.callbacks import load_decoder as load_decoder
from daps_rl.agents.sb3.daps import DAPS as DAPS
from daps_rl.agents.sb3.policies import AutoregressivePolicy as AutoregressivePolicy
from daps_rl.agents.sb3.policies import CodePolicy as CodePolicy
from daps_rl.agents.sb3.policies import FactorizedPolicy as FactorizedPolicy
