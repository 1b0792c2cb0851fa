"""SB3's DAPS on ordinary multi-step environments.

    python benchmarks/control.py --seeds 0 1 2 3 4              # CartPole-v1, FrozenLake-v1 without slipping
    python benchmarks/control.py --problems Acrobot-v1 Taxi-v4 LunarLander-v3 --seeds 0 1 2 --agents daps ppo
    python benchmarks/control.py --problems CartPole-v1 Acrobot-v1 --seeds {0..9} --agents "daps episodes" "ppo zoo"

LunarLander needs Gymnasium's extra, `pip install 'gymnasium[box2d]'`. "ppo" is SB3's, at its defaults, and "ppo zoo"
the same with the settings that RL Zoo has tuned for the problem. "daps episodes" compares whole episodes that start
alike; its settings were chosen on seeds from 100 on, those of CartPole-v1 after a first choice had failed on seeds 0 to
3. "daps replay" and "daps episodes replay" learn from their last four rollouts together (replay.py), the former in
about as many gradient steps as "daps".

Beside it a random agent, and two ablated ones: "uniform weights" clones its own actions, whatever they brought (the
temperature is infinite), "fixed temperature" weighs by exp(advantage) without a trust region. Evaluated on other
seeds' episodes than those trained on, greedily, every tenth of the budget on 20 episodes and at the end on 100.
Seconds are of CPU time, without evaluations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import write_row
from replay import Replay
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from daps_rl.agents.sb3 import DAPS
from daps_rl.objectives import FixedTemperature

PROBLEMS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"steps": 100_000, "threshold": 475.0, "options": {}},
    "FrozenLake-v1": {"steps": 20_000, "threshold": 1.0, "options": {"is_slippery": False}},
    "Acrobot-v1": {"steps": 100_000, "threshold": -100.0, "options": {}},
    "Taxi-v4": {"steps": 300_000, "threshold": 7.0, "options": {}},
    "LunarLander-v3": {"steps": 300_000, "threshold": 200.0, "options": {}},
}
DEFAULT_PROBLEMS = ("CartPole-v1", "FrozenLake-v1")
AGENTS: dict[str, dict[str, Any]] = {
    "daps": {},
    "uniform weights": {"trust_region": FixedTemperature(1e9)},
    "fixed temperature": {"trust_region": FixedTemperature(1.0)},
    "ppo": {},
    "daps replay": {"n_epochs": 3},
}


DEFAULT_AGENTS = ("daps", "uniform weights", "fixed temperature", "random")


def linear(start: float) -> Callable[[float], float]:
    """A schedule that falls to 0 with the progress remaining."""
    return lambda remaining: start * remaining


ZOO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "ent_coef": 0.0, "learning_rate": linear(1e-3), "clip_range": linear(0.2),
    },
    "Acrobot-v1": {
        "normalize": True, "n_envs": 16, "n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4,
        "ent_coef": 0.0,
    },
    "LunarLander-v3": {
        "n_envs": 16, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4,
        "ent_coef": 0.01,
    },
}  # fmt: skip
"""PPO's settings in hyperparams/ppo.yml of DLR-RM/rl-baselines3-zoo, commit 22e3ff2; the zoo gives Acrobot-v1 and
LunarLander-v3 a million steps."""
EPISODES: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"n_envs": 16, "samples_per_context": 16, "learning_rate": 1e-2},
    "Acrobot-v1": {"n_envs": 16, "samples_per_context": 8, "learning_rate": 1e-2},
}
OF_A_PROBLEM = {"daps episodes": EPISODES, "daps episodes replay": EPISODES, "ppo zoo": ZOO}
"""Agents whose settings were chosen for each problem."""


class Progress(BaseCallback):
    """Evaluates every tenth of the budget, before the update that follows, and stops at its end.

    What it takes is not counted in the seconds.
    """

    def __init__(self, every: int, env: VecEnv) -> None:
        super().__init__()
        self.every, self.env, self.returns, self.seconds = every, env, [], 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            start = time.process_time()
            self.returns.append(evaluated(self.model, self.env, 20)[0])
            self.seconds += time.process_time() - start
        return len(self.returns) < 10


def evaluated(model: BaseAlgorithm, env: VecEnv, episodes: int) -> tuple[float, float]:
    """Mean return and its standard deviation, with the observations' scale as it is in training."""
    sync_envs_normalization(model.get_env(), env)
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=episodes)
    return float(mean), float(deviation)


def random_return(env_id: str, options: dict[str, Any], seed: int, episodes: int = 100) -> float:
    """Mean return of uniformly random actions."""
    env = make_vec_env(env_id, n_envs=1, seed=seed, env_kwargs=options)
    env.action_space.seed(seed)
    returns: list[float] = []
    env.reset()
    while len(returns) < episodes:
        _, _, _, infos = env.step([env.action_space.sample()])
        returns += [info["episode"]["r"] for info in infos if "episode" in info]
    return float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=DEFAULT_PROBLEMS)
    parser.add_argument("--agents", nargs="+", choices=[*AGENTS, *OF_A_PROBLEM, "random"], default=DEFAULT_AGENTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for env_id in options.problems:
        problem = PROBLEMS[env_id]
        for agent in options.agents:
            for seed in options.seeds:
                write_row(
                    "control", {"problem": env_id, "agent": agent, "seed": seed, **run(env_id, problem, agent, seed)}
                )


def run(env_id: str, problem: dict[str, Any], agent: str, seed: int) -> dict[str, Any]:
    """One seed's row."""
    env_options = problem["options"]
    if agent == "random":
        mean = random_return(env_id, env_options, 1000 + seed)
        return {"return": mean, "threshold": problem["threshold"], "reached": mean >= problem["threshold"]}
    if agent in OF_A_PROBLEM and env_id not in OF_A_PROBLEM[agent]:
        raise SystemExit(f"{agent} has no settings for {env_id}; choose some and add them to this file.")
    own = dict(OF_A_PROBLEM[agent][env_id] if agent in OF_A_PROBLEM else AGENTS[agent])
    n_envs, normalize = own.pop("n_envs", 1), own.pop("normalize", False)
    env: VecEnv = make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs=env_options)
    held_out: VecEnv = make_vec_env(env_id, n_envs=10, seed=1000 * (seed + 1), env_kwargs=env_options)
    if normalize:
        env = VecNormalize(env, gamma=own["gamma"])
        held_out = VecNormalize(held_out, training=False, norm_reward=False)
    algorithm = PPO if agent.startswith("ppo") else Replay if agent.endswith("replay") else DAPS
    model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **own)
    progress = Progress(problem["steps"] // 10, held_out)
    start = time.process_time()
    model.learn(problem["steps"], progress, log_interval=1000)
    seconds = time.process_time() - start - progress.seconds
    mean, deviation = evaluated(model, held_out, 100)
    passed = [i for i, value in enumerate(progress.returns) if value >= problem["threshold"]]
    return {
        "return": mean,
        "return_deviation": deviation,
        "threshold": problem["threshold"],
        "reached": mean >= problem["threshold"],
        "first_reached_at_steps": (passed[0] + 1) * progress.every if passed else None,
        "steps": model.num_timesteps,
        "returns": progress.returns,
        "cpu_seconds": seconds,
        "steps_per_cpu_second": model.num_timesteps / seconds,
        "settings": {
            name: getattr(model, name)
            for name in ("n_envs", "n_steps", "batch_size", "n_epochs", "ess_fraction", "samples_per_context", "gamma")
            if getattr(model, name, None) is not None
        }
        | {"learning_rate": model.lr_schedule(1.0)},
    }


if __name__ == "__main__":
    main()
