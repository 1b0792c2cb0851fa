"""RL4CO's travelling salesman learned with DAPSLoss: their environment and instances, our loss, TorchRL's form.

pip install rl4co
python examples/rl4co_daps.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch
from tensordict import TensorDict

from daps_rl.objectives import DAPSLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy, ItemEncoder, VisitOnce

CITIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    try:
        from rl4co.envs import TSPEnv
    except ImportError as error:
        print(f"skipped: RL4CO cannot be imported ({error}); pip install rl4co")
        return
    batch, starts, steps = (8, CITIES, 3) if options.smoke else (64, CITIES, options.steps)
    env = TSPEnv(generator_params={"num_loc": CITIES}, check_solution=options.smoke)
    encoder = ItemEncoder(2, 64, num_layers=3)
    mask = VisitOnce(CITIES, any_start=True)  # so that the codes of a group begin at all cities, as in POMO
    policy = AutoregressivePolicy((CITIES, 2), CITIES, CITIES, embed_dim=64, encoder=encoder, glimpse=True, mask=mask)
    actor = GroupActor(policy, in_key="locs")
    loss = DAPSLoss(actor, policy_samples=7)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    for step in range(steps):
        instances = env.reset(batch_size=[batch])
        group = actor(TensorDict({"locs": instances["locs"][:, None].expand(-1, starts, -1, -1)}, [batch, starts]))
        copies = instances[:, None].expand(batch, starts).flatten()
        reward = env.get_reward(copies, group["action"].flatten(0, 1)).view(batch, starts, 1)
        group["next"] = TensorDict({"reward": reward}, [batch, starts])
        terms = loss(group)
        terms["loss_actor"].backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(steps // 20, 1) == 0:
            print(f"step {step}  mean length {-reward.mean():.3f}, best of a group {-reward.amax(1).mean():.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
