"""An ordinary MDP through TorchRL: DAPS weighs all steps of a batch by their advantages. CartPole.

python examples/control.py [--smoke]

Through Stable-Baselines3 it is `daps_rl.agents.sb3.DAPS("MlpPolicy", "CartPole-v1").learn(100_000)`.
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torchrl.envs import GymEnv, RewardSum, SerialEnv, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ValueOperator
from torchrl.objectives.value import GAE

from daps_rl.objectives import DAPSLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="of the environment")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.manual_seed(0)
    env = TransformedEnv(SerialEnv(8, lambda: GymEnv("CartPole-v1")), RewardSum())
    env.set_seed(0)
    logits = TensorDictModule(MLP(4, 2, num_cells=(64, 64)), ["observation"], ["logits"])
    draw = ProbabilisticTensorDictModule(
        ["logits"],
        ["action"],
        distribution_class=OneHotCategorical,
        return_log_prob=True,
        log_prob_key="action_log_prob",
        default_interaction_type=InteractionType.RANDOM,
    )
    actor = ProbabilisticTensorDictSequential(logits, draw)
    critic = ValueOperator(MLP(4, 1, num_cells=(64, 64)))
    advantages = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss = DAPSLoss(actor, sample_dim=None, ess_fraction=0.33)
    optimizer = torch.optim.Adam([*loss.parameters(), *critic.parameters()], lr=1e-3)
    per_batch, epochs = 256, 8
    state = env.reset()
    for batch_number in range(1 if options.smoke else options.steps // (8 * per_batch)):
        with torch.no_grad():
            batch = env.rollout(per_batch, actor, auto_reset=False, tensordict=state, break_when_any_done=False)
        state = batch[..., -1]["next"].exclude("reward")
        state = env.maybe_reset(state)
        for _ in range(epochs):  # advantages, and with them the weights, follow the critic
            with torch.no_grad():
                advantages(batch)
            terms = loss(batch)  # the whole batch is one group
            values = critic(batch.select("observation"))["state_value"]
            (terms["loss_actor"] + 0.5 * (values - batch["value_target"]).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        returns = batch["next", "episode_reward"][batch["next", "done"]]
        if len(returns):
            print(
                f"{(batch_number + 1) * 8 * per_batch} steps  mean return {returns.mean():.0f}  ESS {terms['ESS']:.2f}"
            )


if __name__ == "__main__":
    main()
