"""Train an encoder through TorchRL's own objects: env, rollout, loss, optimiser. Offline, on scikit-learn's digits.

python examples/torchrl_loop.py [--smoke]
"""

from __future__ import annotations

import argparse

import torch

from daps_rl import DiscreteAutoencoder
from daps_rl.data import load
from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.optim import exponential_decay
from daps_rl.policies import AutoregressivePolicy
from daps_rl.priors import UniformPrior

TOKENS, VOCAB = 8, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    steps = 20 if options.smoke else options.steps
    torch.manual_seed(0)
    splits = load("digits", binarize=True)
    shape = splits.observation_shape
    policy = AutoregressivePolicy(shape, TOKENS, VOCAB)
    decoder = MLPDecoder(TOKENS, VOCAB, shape, data_mean=splits.train.mean(0))
    env = EncodingEnv(splits.train, decoder, num_tokens=TOKENS, vocab_size=VOCAB, batch_size=[64, 8], beta=0.5)
    actor = GroupActor(policy)
    loss, decoder_loss = DAPSLoss(actor, temperature_floor=env.beta), DecoderLoss(decoder)
    optimizer = torch.optim.AdamW([*loss.parameters(), *decoder_loss.parameters()], lr=2e-3)
    for step in range(steps):
        env.beta.fill_(exponential_decay(step / steps, 0.5, 0.01))  # one value for the reward and the floor
        batch = env.rollout(1, actor)
        terms = loss(batch)
        (terms["loss_actor"] + decoder_loss(batch)["loss_decoder"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % max(steps // 10, 1) == 0:
            print(
                f"step {step}  log-likelihood {batch['next', 'log_likelihood'].mean():.2f}  "
                f"KL {batch['next', 'kl'].mean():.2f}  ESS {terms['ESS']:.2f}  temperature {terms['temperature']:.2f}"
            )
    model = DiscreteAutoencoder(policy, decoder, UniformPrior(TOKENS, VOCAB))
    codes = model.encode(splits.test[:1], deterministic=True)
    print(f"the first test digit is {codes[0].tolist()}")


if __name__ == "__main__":
    main()
