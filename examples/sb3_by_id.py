"""Stable-Baselines3's quick start, unchanged but for the id of the environment: PPO learns to write codes of digits.

The decoder is the environment's own and stays as it is; see sb3_ppo.py for one that learns beside the encoder.

python examples/sb3_by_id.py [--env-id CartPole-v1] [--smoke]
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="daps_rl.envs:daps_rl/Encoding-v0")
    parser.add_argument("--smoke", action="store_true", help="a few updates only")
    options = parser.parse_args()

    vec_env = make_vec_env(options.env_id, n_envs=32, seed=0)
    model = PPO("MlpPolicy", vec_env, n_steps=32, batch_size=256, seed=0, device="cpu")
    before, _ = evaluate_policy(model, vec_env, n_eval_episodes=100, deterministic=False)
    model.learn(total_timesteps=4096 if options.smoke else 100_000)
    after, _ = evaluate_policy(model, vec_env, n_eval_episodes=100, deterministic=False)
    print(f"mean return {before:.1f} before and {after:.1f} after training")


if __name__ == "__main__":
    main()
