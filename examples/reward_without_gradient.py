"""A reward that nobody can differentiate: find integers whose sum is a given number. Offline, a few seconds.

python examples/reward_without_gradient.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy


def reward_fn(x: Tensor, z: Tensor) -> Tensor:
    """Minus the distance of the digits' sum to the number asked for. x [B, 1, 1], z [B, K, T] → [B, K]."""
    return -(x[..., 0] * 30 - z.sum(-1)).abs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.manual_seed(0)
    numbers = torch.arange(31.0)[:, None] / 30
    env = EncodingEnv(numbers, reward_fn=reward_fn, num_tokens=4, vocab_size=10, batch_size=[32, 16])
    actor = GroupActor(AutoregressivePolicy((1,), 4, 10, embed_dim=32, num_patches=1))
    loss = DAPSLoss(actor, temperature_floor=0.05)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=2e-3)
    for step in range(30 if options.smoke else 600):
        batch = env.rollout(1, actor)
        loss(batch)["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}  mean distance {-batch['next', 'reward'].mean():.2f}")


if __name__ == "__main__":
    main()
