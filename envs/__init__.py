"""Environments: encoding, and other discrete policy problems, as bandits. Imported as `daps_rl.envs`."""

from daps_rl.envs.encoding import EncodingEnv

__all__ = ["EncodingEnv"]
