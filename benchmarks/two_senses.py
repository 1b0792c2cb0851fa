"""One code for two senses: encoded from the sound alone and read as a picture, and the other way round.

    python benchmarks/two_senses.py --seeds 0 1 2     # about ten minutes on two cores; skips what has a row
    python benchmarks/two_senses.py --draw            # docs/images/two_senses.png, from a run of its own

`spoken-and-written`, codes of 16 bits, the same networks and inputs for all. What is read is said by logistic
regressions of original pictures and of original sounds, on the test split.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import IMAGES, add_pool_options, read_rows, run_tasks, write_row
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.data.spoken_and_written import GIVEN
from daps_rl.evaluation.recogniser import Recogniser
from daps_rl.report.figures import INK, WIDTH, new_figure, save
from daps_rl.training import Trainer

NAME, DATA = "two_senses", "spoken-and-written"
AGENTS = ("daps-na", "fsq", "gumbel-na")
SENSES = ("sound", "picture")
SHOWN = 10


def train(splits: Splits, agent: str, seed: int, minutes: float) -> Trainer:
    """Trains a run to its end."""
    trainer = Trainer(make_config(data=DATA, agent=agent, seed=seed, minutes=minutes, validate_every=0), splits)
    for _ in trainer.run():
        pass
    return trainer


def whole(splits: Splits, split: str) -> tuple[Tensor, Tensor]:
    """Returns each datum of a split once, with all its parts, and its label."""
    return splits[f"{split}_targets"][:: len(GIVEN)], splits[f"{split}_labels"][:: len(GIVEN)]


def decoded(model: DiscreteAutoencoder, rows: Tensor, given: str) -> Any:
    """Returns what greedy codes of one part decode to, as a TensorDict of all parts."""
    with torch.no_grad():
        return model.kind.unpack(model.decode(model.encode(model.kind.only(rows, [given]), deterministic=True)))


def run(agent: str, seed: int, minutes: float) -> None:
    """Trains, reads and writes a row."""
    splits = load(DATA)
    (train_rows, train_labels), (rows, labels) = whole(splits, "train"), whole(splits, "test")
    originals = splits.kind.unpack(train_rows)
    readers = {sense: Recogniser(originals[sense], train_labels) for sense in SENSES}
    trainer = train(splits, agent, seed, minutes)
    model = trainer.autoencoder.eval()
    test = splits.kind.unpack(rows)
    found: dict[str, Any] = {"original": {sense: readers[sense].share(test[sense], labels) for sense in SENSES}}
    for given in SENSES:
        made = decoded(model, rows, given)
        found[given] = {sense: readers[sense].share(made[sense], labels) for sense in SENSES}
        found[given]["label"] = float((made["label"][:, 0] == labels).float().mean())
    bits = trainer.config.bits
    write_row(NAME, {"agent": agent, "seed": seed, "minutes": minutes, "bits": bits, "steps": trainer.step, **found})


def draw(minutes: float) -> None:
    """Draws spectrograms of test clips above the digits that their codes decode to, without ever seeing one."""
    splits = load(DATA)
    model = train(splits, AGENTS[0], 0, minutes).autoencoder.eval()
    rows, labels = whole(splits, "test")
    chosen = torch.cat([torch.nonzero(labels == digit)[7] for digit in range(SHOWN)])
    heard, made = splits.kind.unpack(rows[chosen]), decoded(model, rows[chosen], "sound")
    figure = new_figure(WIDTH, 330, f"Heard, and read: codes of {model.config.bits:g} bits, made from the sound alone")
    panels = figure.subplots(2, SHOWN)
    for column in range(SHOWN):
        panels[0, column].imshow(heard["sound"][column].T, origin="lower", aspect="auto", cmap="magma")
        panels[1, column].imshow(made["picture"][column, 0], cmap="gray_r", vmin=0.0, vmax=1.0)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, text in zip(panels[:, 0], ("spoken", "decoded"), strict=True):
        axes.set_ylabel(text, fontsize=10, color=INK)
    save(figure, IMAGES / "two_senses.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1.5, help="of training, each")
    parser.add_argument("--draw", action="store_true", help="draw the picture of the page, and measure nothing")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.draw:
        draw(options.minutes)
        return
    if options.one:
        run(*options.one, options.minutes)
        return
    done = {(row["agent"], row["seed"]) for row in read_rows(NAME)}
    tasks = [(agent, seed) for seed in options.seeds for agent in options.agents if (agent, seed) not in done]
    run_tasks(tasks, options.workers, "--minutes", str(options.minutes))


if __name__ == "__main__":
    main()
