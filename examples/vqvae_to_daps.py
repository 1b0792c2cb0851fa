"""A VQ-VAE on digits, and the same with a policy instead of the quantiser. Offline, about a minute each.

python examples/vqvae_to_daps.py --bottleneck vq|daps|daps-autoregressive [--smoke]

Everything is shared but the lines under `if kind == "vq"`. vq needs pip install 'daps-rl[quantizers]'.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor, nn

from daps_rl.bottleneck import PolicyBottleneck
from daps_rl.data import load
from daps_rl.evaluation import count_codes, psnr
from daps_rl.functional import code_perplexity

DIM, VOCAB_SIZE = 32, 64  # codes of 2 x 2 tokens of 64: 24 bits
BATCH, SAMPLES, VARIANCE = 64, 8, 0.05
BETA = 2.0  # weight of the KL at the start; falls to 0 within half of the steps, and keeps codes in use until then


def make_encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(),  # [B, 32, 4, 4]
        nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU(),  # [B, 64, 2, 2]
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, DIM, 1),  # [B, DIM, 2, 2]
    )  # fmt: skip


def make_decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(DIM, 64, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Sigmoid(),  # [B, 1, 8, 8]
    )  # fmt: skip


def error(reconstruction: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) but for a constant, of a Gaussian: squared error of each image in nats. [N]."""
    return (reconstruction - x).square().sum((1, 2, 3)) / (2 * VARIANCE)


def make_bottleneck(kind: str) -> nn.Module:
    if kind != "vq":
        policy = "autoregressive" if kind == "daps-autoregressive" else "factorized"
        return PolicyBottleneck(DIM, VOCAB_SIZE, samples=SAMPLES, num_tokens=4, policy=policy, channel_first=True)
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        sys.exit("--bottleneck vq needs vector-quantize-pytorch: pip install 'daps-rl[quantizers]'")
    return VectorQuantize(DIM, VOCAB_SIZE, accept_image_fmap=True)


def train(kind: str, steps: int, seed: int = 0, beta: float = BETA) -> dict[str, float]:
    """Trains on digits; returns CPU seconds, and of greedy codes of the test split PSNR (dB) and perplexity."""
    torch.manual_seed(seed)
    splits = load("digits")
    encoder, bottleneck, decoder = make_encoder(), make_bottleneck(kind), make_decoder()
    model = nn.ModuleList((encoder, bottleneck, decoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start = time.process_time()
    for step in range(steps):
        x = splits.train[torch.randint(len(splits.train), (BATCH,))]
        if kind == "vq":
            z, codes, commit_loss = bottleneck(encoder(x))
            errors = error(decoder(z), x)
            loss = errors.mean() + commit_loss
        else:
            bottleneck.beta.fill_(beta * max(0.0, 1.0 - 2.0 * step / steps))
            z, codes, policy_loss = bottleneck(encoder(x))
            errors = error(decoder(z), bottleneck.repeat(x))
            loss = errors.mean() + policy_loss(-errors)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 500 == 0:
            print(f"step {step}  error {errors.mean():.2f} nats")
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        z, codes, _ = bottleneck(encoder(splits.test))
        quality = psnr(decoder(z), splits.test, (0.0, 1.0)).mean().item()
    perplexity = code_perplexity(count_codes(codes.flatten(1), VOCAB_SIZE)).mean().item()
    return {"cpu_seconds": seconds, "psnr": quality, "perplexity": perplexity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bottleneck", choices=("vq", "daps", "daps-autoregressive"), default="daps")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    steps = 20 if options.smoke else options.steps
    found = train(options.bottleneck, steps, options.seed)
    print(
        f"{options.bottleneck}: {steps} steps in {found['cpu_seconds']:.0f} s of CPU time; "
        f"test PSNR {found['psnr']:.2f} dB, perplexity {found['perplexity']:.1f} of {VOCAB_SIZE}"
    )


if __name__ == "__main__":
    main()
