"""A small policy and a batch as a rollout holds it, for the tests of losses and actors."""

import torch
from tensordict import TensorDict

from daps_rl.policies import FactorizedPolicy, draw

F64 = torch.float64
B, K, T, V, D = 3, 5, 4, 6, 8


def make_policy(policy_class=FactorizedPolicy, seed=0):
    """Over vectors [D], in float64."""
    torch.manual_seed(seed)
    return policy_class((D,), T, V, embed_dim=8, num_heads=2, num_layers=1).double()


def make_batch(policy, seed=1):
    """What a rollout of one step holds: batch size [B, K]; log-probabilities of a policy that is a little older."""
    torch.manual_seed(seed)
    x = torch.randn(B, D, dtype=F64)
    codes, log_prob = draw(policy(x), (K,))
    return TensorDict(
        {
            "observation": x[:, None].expand(B, K, D),
            "action": codes.transpose(0, 1),
            "action_log_prob": log_prob.T + 0.1 * torch.randn(B, K, dtype=F64),
            "next": {"reward": 3.0 * torch.randn(B, K, 1, dtype=F64)},
        },
        batch_size=[B, K],
    )
