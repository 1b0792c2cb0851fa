"""Real files: their sizes against −log2 p, seconds and memory, and what becomes of damaged ones.

    python benchmarks/compress.py size --seeds 0 1 2      # 10,000 Fashion-MNIST images, codes of 64 bits; minutes each
    python benchmarks/compress.py lossless --seeds 0 1 2  # test splits of binary digits and of the Bible; minutes each
    python benchmarks/compress.py damage                  # 1,000 flipped, cut and lengthened files; a minute

Each trains short runs of its own. In the first and the last files are written and read by the command.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_row
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.cli import main as command
from daps_rl.codes import HEADER, compress, decompress, load_counts
from daps_rl.config import make_config
from daps_rl.data import Splits, from_arrays, load
from daps_rl.data.rows import AT_ONCE
from daps_rl.runs.session import load_run
from daps_rl.training import Trainer

NAME = "compress"
CASES = [("auto", 2500), ("auto", 10_000), ("independent", 2500), ("independent", 10_000)]
"""How it is coded, and how many data; where it is first coded by counts, these are made too."""
DAMAGED = 1000
CHILD = """
import sys, torch
from daps_rl.cli import main
from daps_rl.device import peak_memory
code = main(sys.argv[1:])
print(peak_memory(torch.device("cpu")))
sys.exit(code)
"""


def measured(*arguments: str) -> tuple[float, float]:
    """Runs `daps-rl` in a process of its own; returns its seconds, and its peak memory in MiB."""
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return time.monotonic() - start, int(run.stdout.splitlines()[-1]) / 2**20


def in_bytes(nats: Tensor) -> float:
    """Returns minus the sum of log-probabilities, in bytes."""
    return -nats.double().sum().item() / math.log(2) / 8


def size(seed: int, minutes: float, data_dir: str | None) -> None:
    """A run on Fashion-MNIST, whose test images are compressed and decompressed, by its prior and by counts."""
    where = [] if data_dir is None else ["--data-dir", data_dir]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, images, file, back = (str(folder / part) for part in ("run", "images.npy", "x.daps", "back.npy"))
        options = ["--seed", str(seed), "--minutes", str(minutes)]
        measured("train", "--data", "fashion-mnist", *where, *options, "--out", run)
        measured("fit-prior", run, *options)
        _, config, model = load_run(run, "cpu")
        test = load("fashion-mnist", data_dir).test
        for coder, count in CASES:
            np.save(images, test[:count].numpy())
            seconds, peak = measured("compress", run, "--input", images, "--output", file, "--coder", coder)
            seconds_back, peak_back = measured("decompress", run, "--input", file, "--output", back)
            counts = load_counts(Path(run) / "model", config.num_tokens, config.vocab_size)
            codes = decompress(model, Path(file).read_bytes(), counts=counts).codes
            ideal = ideal_size(model, codes, counts if coder == "independent" else None)
            content = Path(file).stat().st_size - HEADER.size
            row = {
                "part": "size", "seed": seed, "coder": coder, "count": count, "code_bits": config.bits,
                "header_bytes": HEADER.size, "content_bytes": content, "ideal_bytes": ideal,
                "excess_bytes": content - ideal, "excess": content / ideal - 1, "bits_each": 8 * content / count,
                "same_data": bool(np.array_equal(np.load(back), decoded(model, codes))),
                "compress_seconds": seconds, "decompress_seconds": seconds_back,
                "compress_peak_mib": peak, "decompress_peak_mib": peak_back,
                "data_mib": test[:count].numel() * 4 / 2**20, "at_once": AT_ONCE, "minutes": minutes,
            }  # fmt: skip
            write_row(NAME, row)


def ideal_size(model: DiscreteAutoencoder, codes: Tensor, counts: Tensor | None) -> float:
    """Returns −log2 p(z) of all codes by the model's prior, or by counts with one added to each, in bytes."""
    if counts is None:
        with torch.no_grad():
            return in_bytes(torch.cat([model.prior().log_prob(part) for part in codes.split(500)]))
    log_probs = ((counts + 1) / (counts + 1).sum(-1, keepdim=True)).log()
    return in_bytes(log_probs.gather(1, codes.T))


def decoded(model: DiscreteAutoencoder, codes: Tensor) -> np.ndarray:
    return model.kind.as_given(torch.cat([model.decode(part) for part in codes.split(500)])).numpy()  # type: ignore


def lossless(seed: int, minutes: float) -> None:
    """Runs on binary digits and on texts, whose test splits are compressed with their data."""
    digits = load("digits")
    binary = from_arrays(digits.train, digits.validation, digits.test, name="binary digits", binarize=True)
    for splits, data in ((binary, "digits"), (load("text"), "text")):
        model = train(splits, data, seed, minutes)
        test = splits.test
        codes = torch.cat([model.encode(x, deterministic=True) for x in test.split(500)])
        start = time.monotonic()
        content = compress(model, codes, data=test)
        seconds = time.monotonic() - start
        with torch.no_grad():
            prior = ideal_size(model, codes, None)
            parts = zip(test.split(500), codes.split(500), strict=True)
            given = in_bytes(torch.cat([model.log_likelihood(*part) for part in parts]))
        size = len(content) - HEADER.size
        row = {
            "part": "lossless", "data": splits.name, "seed": seed, "count": len(test), "content_bytes": size,
            "prior_bytes": prior, "likelihood_bytes": given, "excess": size / (prior + given) - 1,
            "excess_bytes": size - prior - given, "exact": bool(torch.equal(decompress(model, content).data, test)),
            "compress_seconds": seconds, "minutes": minutes,
        }  # fmt: skip
        write_row(NAME, row)


def train(splits: Splits, data: str, seed: int, minutes: float) -> DiscreteAutoencoder:
    settings: dict[str, Any] = {"likelihood": "bernoulli"} if splits.likelihood == "bernoulli" else {}
    config = make_config(data=data, prior="autoregressive", seed=seed, minutes=minutes, validate_every=0, **settings)
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    return trainer.autoencoder.eval()


def damage() -> None:
    """Files damaged in many ways, given to the command: how many were refused, gave other data, or a traceback."""
    rng, found = np.random.default_rng(0), {"refused": 0, "wrong_data": 0, "tracebacks": 0, "unharmed": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, data, file, back = (str(folder / part) for part in ("run", "data.npy", "x.daps", "back.npy"))
        np.save(data, (rng.random((300, 1, 8, 8)) < 0.3).astype(np.float32))
        options = ["--likelihood", "bernoulli", "--prior", "autoregressive", "--steps", "20", "--out", run]
        measured("train", "--data", data, *options)
        for form in ([], ["--lossless"]):
            measured("compress", run, "--input", data, "--output", file, *form)
            content = Path(file).read_bytes()
            for _ in range(DAMAGED // 2):
                Path(file).write_bytes(harmed := harm(content, rng))
                found["unharmed" if harmed == content else outcome(run, file, back)] += 1
    write_row(NAME, {"part": "damage", "files": DAMAGED, **found})


def harm(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns the content with bits flipped, every other time in its header, or cut, or longer, or both."""
    changed, how = bytearray(content), rng.integers(6)
    if how < 4:
        last = 8 * (HEADER.size if how % 2 else len(content))
        for at in rng.integers(last, size=1 if how < 2 else rng.integers(2, 50)):
            changed[at // 8] ^= 1 << (at % 8)
    elif how == 4:
        changed = changed[: rng.integers(len(content))] + (rng.bytes(rng.integers(30)) if rng.random() < 0.5 else b"")
    else:
        changed += rng.bytes(rng.integers(1, 30))
    return bytes(changed)


def outcome(run: str, file: str, back: str) -> str:
    """Returns what `daps-rl decompress` makes of a file, in a word."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = command(["decompress", run, "--input", file, "--output", back])
    except BaseException:
        return "tracebacks"
    one_line = len(said.getvalue().splitlines()) == 1
    if Path(back).exists():
        return "wrong_data"
    return "refused" if code == 2 and one_line and "Traceback" not in said.getvalue() else "tracebacks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("size", "lossless", "damage"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, each")
    parser.add_argument("--data-dir", help="folder of Fashion-MNIST's files")
    options = parser.parse_args()
    if options.what == "damage":
        damage()
    for seed in options.seeds if options.what != "damage" else []:
        if options.what == "size":
            size(seed, options.minutes, options.data_dir)
        else:
            lossless(seed, options.minutes)


if __name__ == "__main__":
    main()
