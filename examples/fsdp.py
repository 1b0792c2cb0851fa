"""A policy that is sharded over processes (FSDP2): each keeps a part of its weights, gradients and optimiser state.

The weights are gathered where they are needed and given back afterwards; codes, rewards and temperature are as ever.

torchrun --standalone --nproc-per-node 2 examples/fsdp.py       # or without torchrun: two processes of its own
python examples/fsdp.py [--smoke]
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from daps_rl.data import load
from daps_rl.decoders import MLPDecoder
from daps_rl.distributed import World
from daps_rl.functional import daps_loss, decoder_loss, encoding_reward, solve_temperature
from daps_rl.policies import AutoregressivePolicy
from daps_rl.priors import UniformCodes

TOKENS, VOCAB, B, K, BETA = 8, 16, 64, 8, 0.1


class Draws(nn.Module):
    """The policy as FSDP wants a module: tensors in, tensors out. A backward pass is found by what comes out."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data [B, *x] → codes [B, K, T], and their log-probability with gradient [B, K]."""
        posterior = self.policy(x)
        codes = posterior.sample((K,))
        return codes.transpose(0, 1), posterior.log_prob(codes).transpose(0, 1).contiguous()


class Scores(nn.Module):
    """The decoder likewise: log p(x|z) of data [B, *x] and codes [B, K, T], [B, K]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        return self.decoder(codes).log_prob(x.unsqueeze(1))


def train(world: World, steps: int, *, sharded: bool = True) -> dict[str, Tensor]:
    """A few lines of training; returns the policy's weights, whole."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)  # the same weights everywhere, before they are sharded
    data = load("digits").train.to(device)
    draws = Draws(AutoregressivePolicy((1, 8, 8), TOKENS, VOCAB)).to(device)
    scores = Scores(MLPDecoder(TOKENS, VOCAB, (1, 8, 8), data_mean=data.mean(0))).to(device)
    if sharded:
        mesh = init_device_mesh(device.type, (world.size,))
        for model in (draws, scores):
            fully_shard(model, mesh=mesh)
    whole = sum(p.numel() for p in draws.parameters())
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in draws.parameters())
    if world.is_first:
        print(f"a process holds {held:,} of the policy's {whole:,} weights")
    optimizer = torch.optim.AdamW([*draws.parameters(), *scores.parameters()], lr=2e-3)
    prior = UniformCodes(TOKENS, VOCAB, device)
    torch.manual_seed(1 + world.rank)
    for step in range(steps):
        x = data[torch.randint(len(data), (B // world.size,), device=device)]
        codes, log_prob = draws(x)
        log_likelihood = scores(x, codes)
        reward = encoding_reward(log_likelihood.detach(), log_prob.detach(), prior.log_prob(codes), BETA)
        temperature = solve_temperature(world.gather(reward), 0.33, BETA)  # one for all processes
        terms = daps_loss(log_prob, reward, temperature=temperature, centered=True)
        (terms.loss.mean() + decoder_loss(log_likelihood).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if world.is_first and step % max(steps // 10, 1) == 0:
            print(f"step {step}  log-likelihood {log_likelihood.mean():.1f}  temperature {temperature:.2f}")
    weights = draws.state_dict()
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()}


def worker(rank: int, size: int, steps: int) -> None:
    """A process of this script's own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    run(steps)


def run(steps: int) -> None:
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    train(World(dist.get_rank(), dist.get_world_size()), steps)
    dist.destroy_process_group()
    # FSDP's caches keep gloo's threads alive; they can abort an interpreter that ends around them, so it does not end.
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    steps = 5 if options.smoke else options.steps
    if "RANK" in os.environ:
        return run(steps)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    mp.spawn(worker, (2, steps), nprocs=2)
    return None


if __name__ == "__main__":
    main()
