"""Draws of three generators of the same codes: independent tokens, an autoregressive prior, a discrete flow.

    python benchmarks/generation.py                    # a quarter of an hour on two cores; skips what has a row
    python benchmarks/generation.py --data fashion-mnist --minutes 3

A model is trained by `daps-na` with the recipe of its data; each generator is fitted for as long to codes of its
training split, with labels, and 2,000 codes are drawn, as many of each class. The discrete flow is the one that
generates in the authors' work (Gat et al., 2024, Discrete flow matching): from tokens that are all masked, a
transformer without a causal mask uncovers them in 32 steps.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from common import add_pool_options, read_rows, run_tasks, write_row
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.codes import Codes, fit_prior_of, quality_of_draws
from daps_rl.codes.prior import BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, codes_of
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.optim import learning_rate_factor
from daps_rl.policies.layers import EncoderBlock, sinusoidal_positions
from daps_rl.training import Trainer

NAME = "generation"
GENERATORS = ("independent", "autoregressive", "flow")
STEPS = 32  # of the flow


class MaskedFlow(nn.Module):
    """p(z|y) by uncovering masked tokens; called with labels, gives something that draws, as priors do."""

    def __init__(self, num_tokens: int, vocab_size: int, num_classes: int, dim: int = 64) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size, self.num_classes = num_tokens, vocab_size, num_classes
        self.tokens, self.classes = nn.Embedding(vocab_size + 1, dim), nn.Embedding(num_classes, dim)
        self.positions = nn.Buffer(sinusoidal_positions(num_tokens, dim))
        self.blocks = nn.Sequential(*[EncoderBlock(dim, 4, 4.0) for _ in range(2)])
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocab_size))

    def logits(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Of all tokens, given those that are uncovered; V stands for a mask. [B, T], [B] → [B, T, V]."""
        x = self.tokens(codes) + self.positions
        return self.head(self.blocks(torch.cat((x, self.classes(labels).unsqueeze(1)), dim=1))[:, :-1])

    def loss(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of masked tokens, where a uniformly drawn share of them is masked. 0-dim."""
        masked = torch.rand(codes.shape) < torch.rand(len(codes), 1)
        logits = self.logits(torch.where(masked, self.vocab_size, codes), labels)
        nll = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
        return (nll * masked).sum() / masked.sum().clamp_min(1)

    def forward(self, labels: Tensor | None = None) -> Draws:
        return Draws(self, labels)


class Draws:
    """Codes of a flow: of labels, or of classes drawn uniformly."""

    def __init__(self, flow: MaskedFlow, labels: Tensor | None) -> None:
        self.flow, self.labels = flow, labels

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        labels = torch.randint(self.flow.num_classes, shape) if self.labels is None else self.labels
        codes = torch.full((len(labels), self.flow.num_tokens), self.flow.vocab_size)
        for step in range(STEPS):
            probs = torch.softmax(self.flow.logits(codes, labels), dim=-1)
            drawn = torch.multinomial(probs.flatten(0, 1), 1).view(codes.shape)
            now = (codes == self.flow.vocab_size) & (torch.rand(codes.shape) < 1.0 / (STEPS - step))
            codes = torch.where(now, drawn, codes)
        return codes


def fit_flow(flow: MaskedFlow, train: Codes, redraw: Any, minutes: float) -> None:
    """As `fit_prior` learns: the same optimiser, batches and codes, drawn anew for each epoch."""
    assert train.labels is not None
    optimizer = torch.optim.AdamW(flow.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    begin, step, done = time.perf_counter(), 0, 0.0
    while done < 1.0:
        codes = redraw()
        for index in torch.randperm(len(codes)).split(BATCH_SIZE):
            rate = LEARNING_RATE * learning_rate_factor(step, min(done, 1.0), schedule="cosine", warmup_steps=50)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            flow.loss(codes[index], train.labels[index]).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
            step, done = step + 1, (time.perf_counter() - begin) / (60.0 * minutes)


def run(data: str, seed: int, minutes: float | None, fit_minutes: float) -> None:
    """Trains a model, and writes a row for each generator."""
    splits = load(data)
    config = make_config(data=data, agent="daps-na", seed=seed, minutes=minutes, validate_every=0)
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    model = trainer.autoencoder.eval()
    base = {"data": data, "seed": seed, "bits": config.bits, "steps": trainer.step, "fit_minutes": fit_minutes}
    for name in GENERATORS:
        if name == "flow":
            assert splits.train_labels is not None
            torch.manual_seed(seed)
            classes = int(splits.train_labels.max()) + 1
            fitted, rates = model, {}
            flow = MaskedFlow(config.num_tokens, config.vocab_size, classes)
            train = Codes(codes_of(model, splits.train), splits.train_labels)
            fit_flow(flow, train, lambda: codes_of(model, splits.train, sampled=True), fit_minutes)
            fitted.prior = flow
        else:
            fitted, rates = fit_prior_of(model, splits, name, labels=True, minutes=fit_minutes, seed=seed)
        write_row(NAME, {**base, "generator": name, **rates, **quality_of_draws(fitted, splits)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="of training (default: the recipe's)")
    parser.add_argument("--fit-minutes", type=float, default=1.0, help="of each generator")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.one:
        run(*options.one, options.minutes, options.fit_minutes)
        return
    done = {(row["data"], row["seed"]) for row in read_rows(NAME)}
    tasks = [(data, seed) for data in options.data for seed in options.seeds if (data, seed) not in done]
    minutes = [] if options.minutes is None else ["--minutes", str(options.minutes)]
    run_tasks(tasks, options.workers, *minutes, "--fit-minutes", str(options.fit_minutes))


if __name__ == "__main__":
    main()
