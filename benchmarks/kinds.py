"""Every kind of data under the same agents, and the table of docs/data-kinds.md.

    python benchmarks/kinds.py                  # everything: about an hour and a quarter on two cores
    python benchmarks/kinds.py text --minutes 3 --processor-time    # beside other work
    python benchmarks/kinds.py --report         # the tables again, from the rows that are committed

One thread each. The recipes of the kinds say the sizes of the codes; all agents but `daps` have the same factorised
networks, with the learning rates that were best for them on Fashion-MNIST (benchmarks/comparison.py). `motions` are the
BasicMotions of the UCR archive, from inside the package aeon (`pip install --no-deps aeon`).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from common import DOCS, Tables, interval, markdown, read_runs
from parts import Part, Report

_FACTORIZED = "policy=factorized,num_layers=2,mlp_ratio=6.0"  # the networks of daps-na
_AGENTS = "daps,daps-na,fsq,vq,gumbel-na,rloo-na=rloo,ppo-na=ppo"
_OWN = (
    "daps:learning_rate=0.008",
    "vq:learning_rate=0.002",
    f"rloo-na:{_FACTORIZED},learning_rate=0.002",
    f"ppo-na:{_FACTORIZED},learning_rate=0.002",
)
MOTIONS = Path("runs/kinds/data/motions")
_DATA = {
    "spoken-digits": ("--data", "spoken-digits"),
    "text": ("--data", "text"),
    "handwriting": ("--data", "handwriting"),
    "motions": (
        "--data",
        str(MOTIONS),
        "--window",
        "20",
        "--batch-size",
        "64",
        "--num-tokens",
        "8",
        "--vocab-size",
        "16",
    ),
    "penguins": ("--data", "penguins"),
    "spoken-and-written": ("--data", "spoken-and-written"),
}
_MEASURES = {  # of the test split: its key, name, digits, and what it is multiplied by
    "spoken-digits": (
        ("mel_distance_greedy", "mel distance, dB", 2, 1),
        ("recognised_greedy", "recognised, %", 1, 100),
    ),
    "text": (("symbol_accuracy_greedy", "right symbols, %", 1, 100),),
    "handwriting": (("distance_greedy", "distance, % of the box", 2, 1), ("pen_greedy", "right pen, %", 1, 1)),
    "motions": (("r2_greedy", "R²", 3, 1), ("rmse_greedy", "error per feature", 3, 1)),
    "penguins": (("accuracy_greedy", "accuracy, %", 1, 100), ("r2_greedy", "R²", 3, 1)),
    "spoken-and-written": (
        ("sound_mel_distance_greedy", "mel distance, dB", 2, 1),
        ("picture_psnr_greedy", "PSNR of the picture, dB", 2, 1),
        ("label_accuracy_greedy", "right label, %", 1, 100),
    ),
}
PARTS = {name: Part(_AGENTS, minutes=1, seeds=3, own=_OWN, data=data) for name, data in _DATA.items()}


def write_motions(folder: Path) -> None:
    """Writes BasicMotions as CSV files, one recording of 100 steps and 6 features each, in folders of split and class.

    The archive's own training and test splits; a fifth of the training recordings are validation.
    """
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise SystemExit("motions need the package aeon; pip install --no-deps aeon.")
    for split in ("TRAIN", "TEST"):
        path = Path(spec.origin).parent / "datasets" / "data" / "BasicMotions" / f"BasicMotions_{split}.ts"
        lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
        for number, line in enumerate(lines):
            *features, label = line.split(":")
            part = "test" if split == "TEST" else "validation" if number % 5 == 4 else "train"
            (folder / part / label.lower()).mkdir(parents=True, exist_ok=True)
            rows = zip(*(feature.split(",") for feature in features), strict=True)
            text = "\n".join(map(",".join, rows)) + "\n"
            (folder / part / label.lower() / f"{number:02d}.csv").write_text(text)


def summary() -> str:
    """Returns one table: a line a measure, a column an agent, of greedy codes on the test split."""
    agents = [name.split("=")[0] for name in _AGENTS.split(",")]
    lines = []
    for kind, measures in _MEASURES.items():
        runs = read_runs(f"kinds_{kind}")
        for key, name, digits, scale in measures if runs else ():
            of = {agent: [scale * row["test"][key] for row in runs if row["label"] == agent] for agent in agents}
            cells = [interval(values, digits) if values else "" for values in of.values()]
            lines.append([kind, f"{runs[0]['bits']:g}", name, *cells])
    return markdown(["data", "bits", "of greedy codes", *(f"`{agent}`" for agent in agents)], lines)


def more() -> Tables:
    return {DOCS / "data-kinds.md": {"kinds": summary()}}


REPORT = Report("kinds", "kinds", PARTS, more)


if __name__ == "__main__":
    if not MOTIONS.exists():
        write_motions(MOTIONS)
    REPORT.main(__doc__)
