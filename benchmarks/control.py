"""SB3's DAPS on ordinary multi-step environments.

    python benchmarks/control.py --seeds 0 1 2 3 4              # CartPole-v1, FrozenLake-v1 without slipping
    python benchmarks/control.py --problems Acrobot-v1 Taxi-v4 LunarLander-v3 --seeds 0 1 2 --agents daps ppo

LunarLander needs Gymnasium's extra, `pip install 'gymnasium[box2d]'`. "ppo" is SB3's, at its defaults.

Beside it a random agent, and two ablated ones: "uniform weights" clones its own actions, whatever they brought (the
temperature is infinite), "fixed temperature" weighs by exp(advantage) without a trust region. Evaluated on other
seeds' episodes than those trained on, greedily, every tenth of the budget on 20 episodes and at the end on 100.
Seconds are of CPU time, without evaluations.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import write_row
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

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
}


class Progress(BaseCallback):
    """Evaluates every tenth of the budget, before the update that follows; not counted in the seconds."""

    def __init__(self, every: int, env: Any) -> None:
        super().__init__()
        self.every, self.env, self.returns, self.seconds = every, env, [], 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            start = time.process_time()
            self.returns.append(float(evaluate_policy(self.model, self.env, n_eval_episodes=20)[0]))
            self.seconds += time.process_time() - start
        return True


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
    parser.add_argument("--agents", nargs="+", choices=[*AGENTS, "random", "ppo"], default=[*AGENTS, "random"])
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
    env = make_vec_env(env_id, n_envs=1, seed=seed, env_kwargs=env_options)
    held_out = make_vec_env(env_id, n_envs=10, seed=1000 * (seed + 1), env_kwargs=env_options)
    model: OnPolicyAlgorithm
    if agent == "ppo":
        model = PPO("MlpPolicy", env, seed=seed, device="cpu")
    else:
        model = DAPS("MlpPolicy", env, seed=seed, device="cpu", **AGENTS[agent])
    progress = Progress(problem["steps"] // 10, held_out)
    start = time.process_time()
    model.learn(problem["steps"], progress, log_interval=1000)
    seconds = time.process_time() - start - progress.seconds
    mean, deviation = evaluate_policy(model, held_out, n_eval_episodes=100)
    passed = [i for i, value in enumerate(progress.returns) if value >= problem["threshold"]]
    return {
        "return": float(mean),
        "return_deviation": float(deviation),
        "threshold": problem["threshold"],
        "reached": bool(mean >= problem["threshold"]),
        "first_reached_at_steps": (passed[0] + 1) * progress.every if passed else None,
        "steps": model.num_timesteps,
        "returns": progress.returns,
        "cpu_seconds": seconds,
        "steps_per_cpu_second": model.num_timesteps / seconds,
        "settings": {
            name: getattr(model, name)
            for name in ("n_steps", "batch_size", "n_epochs", "ess_fraction", "learning_rate")
            if hasattr(model, name)
        },
    }


if __name__ == "__main__":
    main()
