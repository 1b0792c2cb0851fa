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
from functools import partial

import torch
from common import write_row
from stable_baselines3.common.callbacks import BaseCallback
from torchrl.collectors import Collector

from daps_rl.agents.sb3 import DAPS, CodePolicy, DecoderCallback
from daps_rl.config import TrainConfig, make_config
from daps_rl.data import Splits, load
from daps_rl.envs import EncodingEnv, EncodingVecEnv
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.optim import exponential_decay
from daps_rl.training import Trainer

Loop = Callable[[float], float]
"""Trains for so many seconds, and gives the steps per second."""
MANY = 1_000_000_000  # steps; long enough that no schedule and no collector ends within a measurement


# The decoder learns from all codes, as it does by the environments and callbacks.
DIGITS = {"data": "digits", "agent": "daps", "steps": MANY, "device": "cpu", "decoder_samples": 0, "policy_samples": 0}


def looped(step: Callable[[], object]) -> Loop:
    """Repeats a function that takes one step."""

    def loop(seconds: float) -> float:
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            step()
            count += 1
        return count / elapsed

    return loop


def make_bare(config: TrainConfig, splits: Splits) -> Loop:
    """The training loop of `daps-rl train`."""
    return looped(Trainer(config, splits).train_step)


def make_torchrl(config: TrainConfig, splits: Splits) -> Loop:
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
    decoder_loss = DecoderLoss(decoder, decoder_samples=config.decoder_samples)
    batches = iter(collector)

    def step() -> None:
        env.beta.fill_(exponential_decay(trainer.progress, config.beta_start, config.beta_end))
        batch = next(batches)
        total = loss(batch)["loss_actor"] + decoder_loss(batch)["loss_decoder"]
        trainer.optimizer.set_rate(trainer.learning_rate_factor)
        trainer.optimizer.step(total)
        trainer.step += 1

    return looped(step)


class StopAfter(BaseCallback):
    """Ends `learn` after so many seconds, between two rollouts; counts them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.count, self.start = seconds, 0, time.perf_counter()

    def _on_step(self) -> bool:
        self.count += 1
        return time.perf_counter() - self.start < self.seconds


def make_sb3(config: TrainConfig, splits: Splits, *, callback: bool = True) -> Loop:
    """SB3's `learn` with DAPS on EncodingVecEnv; the decoder learns by DecoderCallback, or within the env's step."""
    model = Trainer(config, splits).autoencoder
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=config.learning_rate, fused=True)
    env = EncodingVecEnv(
        splits.train,
        model.decoder,
        num_contexts=config.batch_size,
        samples_per_context=config.samples,
        beta=config.beta_start,
        decoder_optimizer=None if callback else optimizer,
    )
    algorithm = DAPS(
        CodePolicy,
        env,
        learning_rate=config.learning_rate,
        ess_fraction=config.ess_fraction,
        trust_region=config.trust_region,
        centered=config.centered,
        beta=lambda remaining: exponential_decay(1.0 - remaining, config.beta_start, config.beta_end),
        policy_kwargs={
            "network": lambda *_: model.policy,
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": config.weight_decay, "fused": True},
        },
        device="cpu",
    )
    trained = [DecoderCallback(optimizer=optimizer)] if callback else []

    def loop(seconds: float) -> float:
        stop = StopAfter(seconds)
        algorithm.learn(MANY, [*trained, stop], reset_num_timesteps=False)
        return stop.count / (time.perf_counter() - stop.start)

    return loop


LOOPS: dict[str, Callable[[TrainConfig, Splits], Loop]] = {
    "bare": make_bare,
    "torchrl": make_torchrl,
    "sb3": make_sb3,
    "sb3_env": partial(make_sb3, callback=False),
}
"""Loops by name."""


def measure(loops: dict[str, Loop], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of each loop in each round; the loops take turns, in an order that alternates."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(min(seconds, 2.0))  # not counted
    for turn in range(rounds):
        for name in list(loops) if turn % 2 == 0 else reversed(loops):
            rates[name].append(loops[name](seconds))
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
            config, splits = make_config(**DIGITS), load("digits")
        else:
            config = make_config("mnist", agent="daps", steps=MANY, device="cpu", cpu_kernels=False)
            splits = load("fashion-mnist")
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
