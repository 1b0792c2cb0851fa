"""PPO in one file, for any Gymnasium environment with a Box observation and Discrete or MultiDiscrete actions.

It knows nothing of this package: `daps_rl/Encoding-v0` is one more environment id to it.

python examples/ppo_single_file.py [--smoke] [--env-id CartPole-v1]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class Settings:
    env_id: str = "daps_rl.envs:daps_rl/Encoding-v0"
    total_steps: int = 400_000
    num_envs: int = 64
    num_steps: int = 16
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coeff: float = 0.0
    value_coeff: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 0


class Agent(nn.Module):
    """A policy over independent discrete choices, and a value: two small networks.

    Args:
        observation_size: entries of an observation, flattened.
        choices: how many options each choice has.
    """

    def __init__(self, observation_size: int, choices: list[int], width: int = 128) -> None:
        super().__init__()
        self.choices = choices

        def network(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(observation_size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                nn.Linear(width, outputs),
            )  # fmt: skip

        self.actor, self.critic = network(sum(choices)), network(1)
        nn.init.normal_(self.actor[-1].weight, std=0.01)  # starts near the uniform policy

    def distributions(self, observation: Tensor) -> list[Categorical]:
        """One for each choice. [N, D] → T of batch shape [N]."""
        return [Categorical(logits=part) for part in self.actor(observation).split(self.choices, dim=-1)]

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws actions [N, T], and gives their log-probability and the value, [N] each."""
        parts = self.distributions(observation)
        action = torch.stack([part.sample() for part in parts], -1)
        return action, self.log_prob(parts, action), self.critic(observation).squeeze(-1)

    @staticmethod
    def log_prob(parts: list[Categorical], action: Tensor) -> Tensor:
        """Σ_t log q(z_t|x). [N]."""
        return sum((part.log_prob(action[:, t]) for t, part in enumerate(parts)), torch.zeros(len(action)))


class Rollout:
    """Steps of all environments, stored as [num_steps, num_envs, …]."""

    def __init__(self, envs: RecordEpisodeStatistics, seed: int) -> None:
        self.envs = envs
        self.discrete = isinstance(envs.single_action_space, gymnasium.spaces.Discrete)
        self.next_step = envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        self.observation = self._flat(envs.reset(seed=seed)[0])
        self.done = torch.zeros(envs.num_envs, dtype=torch.bool)
        self.returns: list[float] = []  # of the episodes that have ended

    @staticmethod
    def _flat(observation: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(observation, np.float32)).flatten(1)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the reward, whether the episode ended, and whether the step counts (a pure reset does not)."""
        array = action.numpy()
        observation, reward, terminated, truncated, info = self.envs.step(array[:, 0] if self.discrete else array)
        counts = ~self.done if self.next_step else torch.ones_like(self.done)
        self.observation, self.done = self._flat(observation), torch.from_numpy(terminated | truncated)
        if "episode" in info:
            self.returns += info["episode"]["r"][info["_episode"]].tolist()
        return torch.from_numpy(reward).float(), self.done, counts

    @torch.no_grad()
    def collect(self, agent: Agent, settings: Settings) -> dict[str, Tensor]:
        """The next `num_steps` steps, with advantages and value targets; steps that do not count are left out."""
        rows: list[dict[str, Tensor]] = []
        for _ in range(settings.num_steps):
            observation = self.observation
            action, log_prob, value = agent.act(observation)
            reward, done, counts = self.step(action)
            rows.append(
                {
                    "observation": observation, "action": action, "log_prob": log_prob, "value": value,
                    "reward": reward, "done": done, "counts": counts,
                }
            )  # fmt: skip
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        last = agent.critic(self.observation).squeeze(-1)
        batch["advantage"] = advantages(batch, last, settings.gamma, settings.gae_lambda)
        batch["target"] = batch["advantage"] + batch["value"]
        return {name: value[batch["counts"]] for name, value in batch.items()}


def advantages(batch: dict[str, Tensor], last_value: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates; nothing flows over the end of an episode. [num_steps, num_envs]."""
    result = torch.zeros_like(batch["reward"])
    following, running = last_value, torch.zeros_like(last_value)
    for t in reversed(range(len(result))):
        on = torch.where(batch["done"][t], 0.0, gamma)
        running = batch["reward"][t] + on * following - batch["value"][t] + on * gae_lambda * running
        result[t], following = running, batch["value"][t]
    return result


def update(agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], settings: Settings) -> None:
    """Several epochs of the clipped objective over one batch."""
    size = len(batch["reward"])
    for _ in range(settings.epochs):
        for rows in torch.randperm(size).split(-(-size // settings.minibatches)):
            part = {name: value[rows] for name, value in batch.items()}
            parts = agent.distributions(part["observation"])
            ratio = (agent.log_prob(parts, part["action"]) - part["log_prob"]).exp()
            advantage = part["advantage"]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip)
            loss_actor = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            value = agent.critic(part["observation"]).squeeze(-1)
            loss_critic = 0.5 * (value - part["target"]).square().mean()
            entropy = torch.stack([p.entropy() for p in parts]).sum(0).mean()
            optimizer.zero_grad()
            (loss_actor + settings.value_coeff * loss_critic - settings.entropy_coeff * entropy).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), settings.max_grad_norm)
            optimizer.step()


def train(settings: Settings) -> tuple[float, float]:
    """Trains, printing the mean return, and gives that of random actions and that of the last tenth of training."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)  # networks this small are slower on several
    envs = RecordEpisodeStatistics(gymnasium.make_vec(settings.env_id, num_envs=settings.num_envs))
    space = envs.single_action_space
    choices = [int(space.n)] if isinstance(space, gymnasium.spaces.Discrete) else [int(n) for n in space.nvec]
    agent = Agent(int(np.prod(envs.single_observation_space.shape)), choices)
    optimizer = torch.optim.Adam(agent.parameters(), lr=settings.learning_rate, eps=1e-5)
    rollout = Rollout(envs, settings.seed)
    while len(rollout.returns) < 2 * settings.num_envs:
        rollout.step(torch.stack([torch.randint(n, (settings.num_envs,)) for n in choices], -1))
    random = float(np.mean(rollout.returns))
    print(f"random actions          mean return {random:9.2f}", flush=True)
    per_iteration = settings.num_envs * settings.num_steps
    iterations = max(settings.total_steps // per_iteration, 1)
    mean = float("nan")
    for iteration in range(1, iterations + 1):
        if (iteration - 1) % max(iterations // 10, 1) == 0:
            rollout.returns = []
        update(agent, optimizer, rollout.collect(agent, settings), settings)
        if iteration % max(iterations // 10, 1) == 0 and rollout.returns:
            mean = float(np.mean(rollout.returns))
            print(f"step {iteration * per_iteration:>9}          mean return {mean:9.2f}", flush=True)
    envs.close()
    return random, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it learns")
    for field in fields(Settings):
        kind = type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    options = vars(parser.parse_args())
    if options.pop("smoke"):
        options["total_steps"] = min(options["total_steps"], 40_000)
    random, trained = train(Settings(**options))
    print(f"mean return of random actions {random:.2f}, after training {trained:.2f}")


if __name__ == "__main__":
    main()
