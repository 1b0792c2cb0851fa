"""The price of the API: steps per second through each library's objects, over the bare training loop's.

    python benchmarks/api_price.py --config digits mnist --rounds 12

Same networks, batch, K, optimiser and rates; the loops take turns in one process, a block of steps each, and a ratio
is taken within each round. The digits recipe, and the published MNIST configuration on Fashion-MNIST. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import write_row
from torchrl.collectors import Collector

from daps_rl.config import TrainConfig, make_config
from daps_rl.data import Splits, load
from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.optim import exponential_decay
from daps_rl.training import Trainer

Step = Callable[[], object]
MANY = 1_000_000_000  # steps; long enough that no schedule and no collector ends within a measurement


def make_bare(config: TrainConfig, splits: Splits) -> Step:
    """The training loop of `daps-rl train`."""
    return Trainer(config, splits).train_step


def make_torchrl(config: TrainConfig, splits: Splits) -> Step:
    """TorchRL's collector on EncodingEnv, DAPSLoss and DecoderLoss; networks and optimiser as the bare loop's."""
    trainer = Trainer(config, splits)
    policy, decoder = trainer.autoencoder.policy, trainer.autoencoder.decoder
    env = EncodingEnv(
        splits.train,
        decoder,
        num_tokens=config.num_tokens,
        vocab_size=config.vocab_size,
        batch_size=[config.batch_size, config.samples],
        beta=config.beta_start,
    )
    actor = GroupActor(policy)
    frames = config.batch_size * config.samples
    collector = Collector(
        env,
        actor,
        frames_per_batch=frames,
        total_frames=-1,
        compact_obs=True,
        use_buffers=False,
        auto_register_policy_transforms=False,
    )
    loss = DAPSLoss(
        actor,
        ess_fraction=config.ess_fraction,
        temperature_floor=env.beta,
        trust_region=config.trust_region,
        centered=config.centered,
        functional=False,
    )
    decoder_loss, batches = DecoderLoss(decoder), iter(collector)

    def step() -> None:
        env.beta.fill_(exponential_decay(trainer.progress, config.beta_start, config.beta_end))
        batch = next(batches)
        total = loss(batch)["loss_actor"] + decoder_loss(batch)["loss_decoder"]
        trainer.optimizer.step(total, trainer.learning_rate_factor)
        trainer.step += 1

    return step


LOOPS: dict[str, Callable[[TrainConfig, Splits], Step]] = {"bare": make_bare, "torchrl": make_torchrl}
"""Loops by name: functions of settings and data that give a function which takes one step."""


def measure(loops: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of each loop in each round; the loops take turns, in an order that alternates."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        for _ in range(5):
            step()
    for turn in range(rounds):
        for name in list(loops) if turn % 2 == 0 else reversed(loops):
            count, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds:
                loops[name]()
                count += 1
            rates[name].append(count / elapsed)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["digits", "mnist"], choices=["digits", "mnist"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="per loop and round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dry", action="store_true", help="print, and write no row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.config:
        if name == "digits":
            config, splits = make_config(data="digits", agent="daps", steps=MANY, device="cpu"), load("digits")
        else:
            config, splits = make_config("mnist", agent="daps", steps=MANY, device="cpu"), load("fashion-mnist")
        rates = measure({loop: make(config, splits) for loop, make in LOOPS.items()}, options.rounds, options.seconds)
        row = {"configuration": name, "batch_size": config.batch_size, "samples": config.samples}
        for loop, values in rates.items():
            ratios = [value / bare for value, bare in zip(values, rates["bare"], strict=True)]
            row[f"{loop}_steps_per_second"] = round(statistics.median(values), 3)
            row[f"{loop}_ratios"] = [round(ratio, 4) for ratio in ratios]
            row[f"{loop}_ratio"] = round(statistics.median(ratios), 4)
        if options.dry:
            print(row)
        else:
            write_row("api_price", row)


if __name__ == "__main__":
    main()
