"""`--search` of `daps-rl encode`, `evaluate` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, error_of

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main

ALL = "beam:64"  # of 4^3 codes


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), *TINY, "--steps", "2"]) == 0
    return tmp_path / "run"


def test_encode_writes_the_best_codes_there_are(run, data, tmp_path, capsys):
    capsys.readouterr()
    written = tmp_path / "codes.npy"
    assert main(["encode", str(run), "--input", str(data), "--output", str(written), "--search", ALL]) == 0
    model = DiscreteAutoencoder.from_pretrained(run / "model")
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    x = np.load(data)
    best = model.log_likelihood(x, codes.expand(len(x), -1, -1)).argmax(1)
    assert np.array_equal(np.load(written), codes[best].numpy())


def test_evaluate_says_what_a_search_is_worth(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run), "--search", "sweep:1"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    for split, of_split in metrics.items():
        assert of_split["log_likelihood_search"] > of_split["log_likelihood_greedy"]
        assert of_split["psnr_search"] > of_split["psnr_greedy"]
        assert of_split["search_evaluations"] == 1 + 3 * 3
        assert plain[split].items() <= of_split.items()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encode", "RUN", "--input", "x.npy", "--output", "z.npy", "--search", "swep:2"], "got 'swep:2'; try sweep:2"),
        (["encode", "RUN", "--input", "x.npy", "--output", "z.npy", "--search", "sweep:1", "--sampled"], "--sampled"),
        (["evaluate", "RUN", "--search", "best-of:0"], "search must be best-of:K"),
        (["compare", "--agents", "daps", "--search", "beam"], "search must be best-of:K"),
    ],
)
def test_errors_are_one_line_and_code_2(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in error_of(capsys)
    assert not list(tmp_path.iterdir())


def test_compare_measures_a_search_with_every_finished_run(data, tmp_path, capsys):
    pytest.importorskip("vector_quantize_pytorch")
    out = tmp_path / "cmp"
    options = ["--agents", "daps-na,fsq", "--seeds", "1", "--steps", "2", "--jobs", "2", "--search", "sweep:1"]
    assert main(["compare", "--data", str(data), "--out", str(out), *TINY, *options]) == 0
    assert "decoder evaluations a datum, sweep:1" in capsys.readouterr().out
    assert main(["compare", "--out", str(out), "--report", "--search", "best-of:3"]) == 0
    shown = capsys.readouterr()
    assert "fsq, seed 0: search best-of:3 draws codes, and a quantiser has one to draw" in shown.err
    rows = {row["label"]: row["search"] for row in map(json.loads, (out / "rows.jsonl").read_text().splitlines())}
    assert {label: set(found) for label, found in rows.items()} == {
        "daps-na": {"sweep:1", "best-of:3"},
        "fsq": {"sweep:1"},
    }
    swept, drawn = rows["daps-na"]["sweep:1"], rows["daps-na"]["best-of:3"]
    assert (swept["search_evaluations"], drawn["search_evaluations"]) == (10, 4)
    assert swept["log_likelihood_search"] > swept["log_likelihood_greedy"] == drawn["log_likelihood_greedy"]
    table = shown.out.split("### Search")[1].split("\n## ")[0]
    assert f"{swept['psnr_search']:.2f} (no interval)" in table
    assert table.count("not defined") == 4  # of FSQ's best of three: log-likelihood, PSNR, SSIM, evaluations
