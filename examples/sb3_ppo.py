"""Stable-Baselines3's own PPO trains an encoder, and its decoder learns beside it. Offline, on scikit-learn's digits.

`EncodingVecEnv` is a VecEnv by itself: no make_vec_env, no workers, one decoder call per step. It is given the
decoder's optimiser, so each step also improves the decoder on the codes that PPO has just drawn.

With beta > 0 the reward lacks -beta * log q(z|x), which the environment cannot see: add `KLRewardCallback` to `learn`.

python examples/sb3_ppo.py [--smoke]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from daps_rl.data import load
from daps_rl.decoders import FixedGaussianLikelihood, MLPDecoder
from daps_rl.envs import EncodingVecEnv

TOKENS, VOCAB, NUM_ENVS = 8, 16, 512


class PrintReturn(BaseCallback):
    """Prints the mean return ten times in a run."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations, self.done = iterations, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.done += 1
        if self.done % max(self.iterations // 10, 1) == 0:
            mean = np.mean([episode["r"] for episode in self.model.ep_info_buffer])
            print(f"step {self.num_timesteps:>8}  mean return {mean:8.2f}", flush=True)


def mean_return_of_random_codes(env: EncodingVecEnv) -> float:
    """What codes drawn uniformly are worth, over four batches of data."""
    env.reset()
    rng = np.random.default_rng(0)
    return float(np.mean([env.step(rng.integers(VOCAB, size=(env.num_envs, TOKENS)))[1] for _ in range(4)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it learns")
    parser.add_argument("--iterations", type=int, default=600, help=f"of {NUM_ENVS} codes each")
    options = parser.parse_args()
    iterations = min(options.iterations, 60) if options.smoke else options.iterations
    torch.manual_seed(0)
    torch.set_num_threads(1)  # networks this small are slower on several
    splits = load("digits")
    images = splits.train.flatten(1)  # MlpPolicy takes vectors
    decoder = MLPDecoder(
        TOKENS, VOCAB, images.shape[1:], likelihood=FixedGaussianLikelihood(0.05), data_mean=images.mean(0)
    )
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    env = EncodingVecEnv(images, decoder, num_contexts=NUM_ENVS, decoder_optimizer=optimizer)
    untrained = mean_return_of_random_codes(EncodingVecEnv(images, decoder, num_contexts=NUM_ENVS))
    print(f"random codes, untrained decoder  {untrained:.2f}")
    model = PPO(
        "MlpPolicy", VecMonitor(env), n_steps=1, batch_size=128, n_epochs=4, learning_rate=2e-3, gamma=0.0, seed=0,
        device="cpu",
    )  # fmt: skip
    model.learn(iterations * NUM_ENVS, callback=PrintReturn(iterations))
    # Unseen data, the same decoder, no learning.
    test = EncodingVecEnv(splits.test.flatten(1), decoder, num_contexts=NUM_ENVS, seed=0)
    trained, _ = evaluate_policy(model, VecMonitor(test), n_eval_episodes=NUM_ENVS)
    print(
        f"test data, trained decoder: random codes {mean_return_of_random_codes(test):.2f}, PPO's codes {trained:.2f}"
    )


if __name__ == "__main__":
    main()
