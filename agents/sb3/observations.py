"""How a policy over codes reads observations under Stable-Baselines3: in pieces, or a vector as a whole."""

from __future__ import annotations

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from daps_rl.linear import Linear
from daps_rl.policies import Patches


class VectorEncoder(nn.Sequential):
    """MLP from a vector to one of unit scale per token, begun as SB3's own. [N, size] → [N, T, embed_dim].

    Contexts, and the tokens of one, are far apart from the start, so that what is learned of one leaves others alone.
    Patches with position embeddings are nearly alike.
    """

    def __init__(self, size: int, num_tokens: int, embed_dim: int, hidden: int = 64) -> None:
        layers = Linear(size, hidden), Linear(hidden, num_tokens * embed_dim)
        for layer in layers:
            BasePolicy.init_weights(layer, gain=2**0.5)
        by_token = nn.Unflatten(1, (num_tokens, embed_dim)), nn.LayerNorm(embed_dim)
        super().__init__(layers[0], nn.Tanh(), layers[1], *by_token)


def most_patches(observation_shape: tuple[int, ...], num_tokens: int) -> int:
    """T, or the largest number below it of patches that the observation can be cut into."""
    for num_patches in range(num_tokens, 1, -1):
        try:
            Patches(observation_shape, num_patches)
        except ValueError:
            continue
        return num_patches
    return 1
