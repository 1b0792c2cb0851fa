"""Codes as long as they need to be: bits against quality over token prices, beside codes of fixed lengths.

    python benchmarks/lengths.py --seeds 0 1 2                        # digits: half an hour on a core
    python benchmarks/lengths.py --data fashion-mnist --seeds 0 1 2   # two hours; skips what has a row
    python benchmarks/lengths.py --draw                               # docs/images/lengths.png, from a run of its own

Codes of up to 8 tokens of 16 values, `daps-na`, the same steps for all. What is measured is that of greedy codes on the
test split.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from common import IMAGES, add_pool_options, read_rows, run_tasks, write_row

from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.evaluation import evaluate
from daps_rl.policies import end_token
from daps_rl.report import plot_sheet
from daps_rl.runs.pictures import decoded_prefixes
from daps_rl.training import Trainer

NAME, TOKENS, VOCABULARY = "lengths", 8, 16
PRICES, FIXED = (2.0, 4.0, 8.0, 16.0), (1, 2, 3, 4, 6)
DRAWN_AT, DRAWN_STEPS = 8.0, 1500  # of the picture
STEPS = {"digits": 600, "fashion-mnist": 2000}


def train(
    splits: Splits, data: str, *, seed: int, num_tokens: int, token_price: float, steps: int | None = None
) -> Trainer:
    """Trains a run to its end."""
    config = make_config(
        data=data,
        agent="daps-na",
        seed=seed,
        steps=steps or STEPS[data],
        batch_size=64,
        beta_start=0.05,
        num_tokens=num_tokens,
        vocab_size=VOCABULARY,
        token_price=token_price,
        validate_every=0,
    )
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    return trainer


def run(data: str, seed: int, num_tokens: int, token_price: float) -> None:
    """Trains, measures and writes a row. A price of 0 is a fixed length."""
    splits = load(data)
    trainer = train(splits, data, seed=seed, num_tokens=num_tokens, token_price=token_price)
    model, x = trainer.autoencoder.eval().to("cpu"), splits.test
    metrics = evaluate(model, x, beta=0.0, kind=splits.kind, importance_data=0).metrics
    with torch.no_grad():
        codes = torch.cat([model.encode(part, deterministic=True) for part in x.split(500)])
        ends = end_token(model.policy)
        lengths = torch.full((len(x),), num_tokens) if ends is None else ends.lengths(codes)
        parts = zip(x.split(500), codes.split(500), strict=True)
        log_likelihood = torch.cat([model.log_likelihood(*part) for part in parts]).mean().item()
    length = lengths.double().mean().item()
    found: dict[str, Any] = {
        "length_greedy": length,
        "bits_greedy": length * math.log2(VOCABULARY),
        "rate_greedy": metrics.get("rate_greedy") or num_tokens * math.log2(VOCABULARY),
        "log_likelihood_greedy": log_likelihood,
        "value_greedy": {f"{price:g}": log_likelihood - price * length for price in PRICES},
        "lengths_greedy": torch.bincount(lengths, minlength=TOKENS + 1).tolist(),
        **{name: metrics[name] for name in ("psnr_greedy", "psnr", "log_likelihood")},
    }
    row = {"data": data, "seed": seed, "num_tokens": num_tokens, "token_price": token_price}
    write_row(NAME, {**row, "agent": "daps-na", "steps": trainer.step, "seconds": trainer.seconds, **found})


def draw(data: str) -> None:
    """Draws test data in the order of the lengths they were given, and their first tokens decoded one after another."""
    splits = load(data)
    trainer = train(splits, data, seed=0, num_tokens=TOKENS, token_price=DRAWN_AT, steps=DRAWN_STEPS)
    model = trainer.autoencoder.eval().to("cpu")
    ends = end_token(model.policy)
    assert ends is not None
    rows = decoded_prefixes(model, ends, splits.test[:512], splits.value_range)
    title = f"{data}: codes of 1 to {TOKENS} tokens of 4 bits at {DRAWN_AT:g} nats a token, shortest first"
    plot_sheet(IMAGES / "lengths.png", rows, value_range=splits.value_range, title=title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(STEPS), default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draw", action="store_true")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.draw:
        draw(options.data)
    elif options.one:
        run(*options.one)
    else:
        there = {(r["data"], r["seed"], r["num_tokens"], r["token_price"]) for r in read_rows(NAME)}
        settings = [*((TOKENS, price) for price in PRICES), *((length, 0.0) for length in FIXED)]
        tasks = [(options.data, seed, *setting) for seed in options.seeds for setting in settings]
        run_tasks([task for task in tasks if task not in there], options.workers)


if __name__ == "__main__":
    main()
