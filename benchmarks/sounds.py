"""Spoken digits in babble to listen to, as their codes of 8 bits decode: docs/sounds/.

    python benchmarks/sounds.py     # two trainings of about a minute on two cores; the same sounds every time

A test clip as it was spoken, in babble, and what greedy codes of the babble decode to, once trained for likelihood
alone, and once for likelihood and the verdict of docs/verdicts.md: of the first two digits that the unseen recogniser
of `verdicts.py` reads wrong where likelihood alone was learned. Says what it reads in each, and how often it is right
on the whole test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import DOCS
from verdicts import METHODS, SIZES, cepstra, prepared, train

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.data.spoken_digits import WORDS
from daps_rl.data.waves import write_wave

SIZE, SHOWN = "babble8", 2
TRAINED = {"likelihood": "daps-na", "verdict": "daps-na probability"}
"""How the codes are trained, by the name of what they decode to."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1400, help="of either training")
    parser.add_argument("--out", type=Path, default=DOCS / "sounds")
    options = parser.parse_args()
    data, tokens, values = SIZES[SIZE]
    splits, judges, verdict = prepared(data)
    clean = load("spoken-digits")
    made = {"spoken": splits.kind.standardised(clean.kind.decibels(clean.test)), "babble": splits.test}
    for name, method in TRAINED.items():
        config = make_config(
            data=data, num_tokens=tokens, vocab_size=values, steps=options.steps, policy="factorized",
            validate_every=0, seed=0, device="cpu", **METHODS[method],
        )  # fmt: skip
        model = train(splits, config, None, verdict).autoencoder.eval()
        with torch.no_grad():
            made[name] = model.decode(model.encode(splits.test, deterministic=True))
    _, judge = judges.of["judge"]
    read = {name: judge.predict(cepstra(x.numpy())) for name, x in made.items()}
    labels = splits.test_labels.numpy()
    wrong = (read["likelihood"] != labels).nonzero()[0]
    first = {int(labels[number]): int(number) for number in reversed(wrong)}  # of each digit
    options.out.mkdir(parents=True, exist_ok=True)
    for name, x in made.items():
        print(f"{name}: {(read[name] == labels).mean():.1%} right")
        for number in sorted(first.values())[:SHOWN]:
            path = options.out / f"{WORDS[labels[number]]}-{name}.wav"
            write_wave(path, splits.kind.to_waveform(x[number : number + 1])[0], splits.kind.sample_rate)
            print(f"{path}: {path.stat().st_size} bytes, read as {WORDS[read[name][number]]}")


if __name__ == "__main__":
    main()
