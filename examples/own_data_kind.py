"""A data kind of one's own: DNA, in FASTA files. What it needs is the class `Dna` and the function `promoters`.

python examples/own_data_kind.py [--smoke]

From the folder of this file the command line takes it too:

    daps-rl train --data own_data_kind:promoters --out runs/dna
    daps-rl encode runs/dna --trust --input mine.fasta --output codes.npy
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from daps_rl.cli import main as daps_rl
from daps_rl.config import make_config
from daps_rl.data import DataError, Splits, load
from daps_rl.data.kind import Kind, Measure
from daps_rl.files import write_atomically
from daps_rl.report.figures import GREY, INK, VERMILION, new_figure, save
from daps_rl.training import Trainer

BASES = "ACGT"


@dataclass(frozen=True, kw_only=True)
class Dna(Kind):
    """Sequences of one length: a datum [length, 1] holds 0 … 3 for A, C, G, T; `.fasta` files."""

    measures = {"right": Measure("right bases", "", ".3f", 1)}  # noqa: RUF012  # a ClassVar of Kind
    columns = (f"category:{len(BASES)}",)
    length: int

    def metrics(self, decoded, x):
        return {"right": (decoded == x).float().mean((1, 2))}

    def draw(self, path, rows, title):
        original, shown = next(iter(rows.values())), 6
        figure = new_figure(1200, 60 + 22 * shown * (len(rows) + 1), title)
        axes = figure.add_subplot(xlim=(-9, self.length), ylim=(shown * (len(rows) + 1), 0))
        axes.set_axis_off()
        for datum, (line, (label, x)) in itertools.product(range(shown), enumerate(rows.items())):
            y = datum * (len(rows) + 1) + line + 0.5
            axes.text(-1, y, label, ha="right", va="center", color=GREY, fontsize=8)
            for place, (base, true) in enumerate(zip(x[datum, :, 0], original[datum, :, 0], strict=True)):
                colour = INK if base == true else VERMILION
                axes.text(place, y, BASES[int(base)], va="center", family="monospace", fontsize=8, color=colour)
        save(figure, path)
        return [path]

    def read(self, path):
        entries = path.read_text().split(">")[1:]
        texts = ["".join(entry.splitlines()[1:]).upper() for entry in entries]
        for number, text in enumerate(texts, 1):
            if len(text) != self.length or set(text) - set(BASES):
                raise DataError(
                    f"{path}: sequence {number} must be {self.length} of {BASES}, got {text[:50]!r}; mend it"
                )
        return np.array([[[BASES.index(base)] for base in text] for text in texts], np.float32)

    def write(self, path, data):
        texts = ["".join(BASES[int(base)] for base in x[:, 0]) for x in data]
        write_atomically(path, "".join(f">{i}\n{text}\n" for i, text in enumerate(texts)).encode())
        return f"{path}: {len(texts)} sequences of {self.length} bases"


def promoters(count: int = 3000, length: int = 40) -> Splits:
    """Made on the spot: a TATA box at one of 17 places between random bases of one of two compositions."""
    random = np.random.RandomState(0)
    rich = random.rand(count, 1) < 0.5
    strong = random.rand(count, length) < np.where(rich, 0.8, 0.2)
    data = np.where(strong, random.choice([1, 2], (count, length)), random.choice([0, 3], (count, length)))
    box = [BASES.index(base) for base in "TATAAAAG"]
    for row, start in zip(data, random.choice(range(0, length - len(box) + 1, 2), count), strict=True):
        row[start : start + len(box)] = box
    train, validation, test = torch.tensor(data, dtype=torch.float32).unsqueeze(-1).split([count - 600, 300, 300])
    kind = Dna(length=length)
    return Splits(name="promoters", train=train, validation=validation, test=test, likelihood="columns", kind=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    length = {"steps": 20} if options.smoke else {"minutes": options.minutes}

    # Through Python. By its name, as a saved model then names a module that can be imported, and not this script.
    config = make_config(data="own_data_kind:promoters", num_tokens=8, vocab_size=16, log_every=20, **length)
    splits = load(config.data)
    trainer = Trainer(config, splits)
    for row in trainer.run():
        if row["step"] % 200 == 0 or options.smoke:
            print(f"step {row['step']}  log-likelihood {row['log_likelihood']:.1f}  KL {row['kl']:.1f}")
    model = trainer.autoencoder.cpu().eval()
    decoded = model.decode(model.encode(splits.test, deterministic=True))
    right = splits.kind.metrics(decoded, splits.test)["right"].mean()
    print(f"right bases of the test split from codes of 32 bits: {right:.1%}; the most frequent base would be 25-30%")

    # Through the command line: a run, and its codes of a file that nobody saw.
    with tempfile.TemporaryDirectory() as folder:
        run, fasta, codes, out = (str(Path(folder) / name) for name in ("run", "a.fasta", "codes.npy", "b.fasta"))
        splits.kind.write(Path(fasta), splits.test[:3])
        data = ["--data", "own_data_kind:promoters", "--num-tokens", "8", "--vocab-size", "16", "--steps", "5"]
        for command in (
            ["train", *data, "--out", run],
            ["encode", run, "--trust", "--input", fasta, "--output", codes],
            ["decode", run, "--trust", "--input", codes, "--output", out],
        ):
            if daps_rl(command) != 0:
                raise SystemExit(1)
        print(Path(fasta).read_text() + "as decoded after five steps:\n" + Path(out).read_text())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
