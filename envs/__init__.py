"""Environments: encoding, and other discrete policy problems, as bandits. Imported as `daps_rl.envs`.

The import registers `daps_rl/Encoding-v0` and `daps_rl/Problem-v0` with Gymnasium. Stable-Baselines3 is imported with
`EncodingVecEnv` alone.
"""

from typing import TYPE_CHECKING, Any

import gymnasium

from daps_rl.envs.encoding import EncodingEnv
from daps_rl.envs.gymnasium_env import EncodingVectorEnv, GymnasiumEncodingEnv, KLReward, VectorKLReward
from daps_rl.envs.host import Completion, Shared
from daps_rl.envs.problem import PROBLEMS, Constant, DiscreteProblem, find_problem
from daps_rl.envs.task import EncodingTask

if TYPE_CHECKING:
    from daps_rl.envs.sb3_vec_env import EncodingVecEnv

__all__ = [
    "PROBLEMS",
    "Completion",
    "Constant",
    "DiscreteProblem",
    "EncodingEnv",
    "EncodingTask",
    "EncodingVecEnv",
    "EncodingVectorEnv",
    "GymnasiumEncodingEnv",
    "KLReward",
    "Shared",
    "VectorKLReward",
    "find_problem",
]

gymnasium.register(
    "daps_rl/Encoding-v0",
    entry_point="daps_rl.envs.gymnasium_env:GymnasiumEncodingEnv",
    vector_entry_point="daps_rl.envs.gymnasium_env:EncodingVectorEnv",
)
gymnasium.register(
    "daps_rl/Problem-v0",
    entry_point="daps_rl.envs.gymnasium_env:make_problem_env",
    vector_entry_point="daps_rl.envs.gymnasium_env:make_problem_vector_env",
)


def __getattr__(name: str) -> Any:
    if name == "EncodingVecEnv":
        from daps_rl.envs.sb3_vec_env import EncodingVecEnv

        return EncodingVecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
