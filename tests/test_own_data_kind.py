"""The example of a data kind of one's own, from outside: trained, encoded and decoded by both ways in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, error_of

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main
from daps_rl.data import DataError, load

EXAMPLES = Path(__file__).parent.parent / "examples"
DATA = "own_data_kind:promoters"
SIZES = [*TINY[: TINY.index("--likelihood")], "--steps", "2"]


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_it_takes_60_lines():
    source = (EXAMPLES / "own_data_kind.py").read_text()
    kind = source[source.index("@dataclass") : source.index("def main")]
    assert len([line for line in kind.splitlines() if line.strip()]) <= 60


def test_data_are_what_they_say():
    splits = load(DATA)
    assert splits.train.shape == (2400, 40, 1)
    assert all("TATAAAAG" in "".join("ACGT"[int(base)] for base in x[:, 0]) for x in splits.test)
    assert splits.fingerprint() == load(DATA).fingerprint()
    decoded = splits.test[:4].clone()
    decoded[0, :10] = (decoded[0, :10] + 1) % 4
    assert splits.kind.metrics(decoded, splits.test[:4])["right"].tolist() == [0.75, 1.0, 1.0, 1.0]


def test_its_files_are_read_and_written(tmp_path):
    kind, x = load(DATA).kind, load(DATA).test[:3]
    assert kind.write(tmp_path / "a.fasta", x) == f"{tmp_path / 'a.fasta'}: 3 sequences of 40 bases"
    assert np.array_equal(kind.read(tmp_path / "a.fasta"), x)
    (tmp_path / "b.fasta").write_text(">fine\n" + "ACGT" * 10 + "\n>broken\nACGU\n")
    with pytest.raises(DataError, match=r"b\.fasta: sequence 2 must be 40 of ACGT, got 'ACGU'; mend it"):
        kind.read(tmp_path / "b.fasta")


def test_a_run_on_it_is_used_by_trust_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", DATA, *SIZES, "--out", "run"]) == 0
    assert "right 0." in capsys.readouterr().out
    assert (tmp_path / "run" / "reconstructions.png").stat().st_size > 10_000
    load(DATA).kind.write(tmp_path / "a.fasta", load(DATA).test[:3])
    sys.modules.pop("own_data_kind")
    encode = ["encode", "run", "--input", "a.fasta", "--output", "codes.npy"]
    assert main(encode) == 2
    assert "asks to import and run own_data_kind:Dna" in error_of(capsys)
    assert "own_data_kind" not in sys.modules
    assert main([*encode, "--trust"]) == 0
    assert np.load("codes.npy").shape == (3, 3)
    assert main(["decode", "run", "--trust", "--input", "codes.npy", "--output", "b.fasta"]) == 0
    assert Path("b.fasta").read_text().count(">") == 3
    assert main(["evaluate", "run", "--trust"]) == 0
    model = DiscreteAutoencoder.from_pretrained("run/model", trust=True)
    codes = model.encode(torch.from_numpy(model.kind.read(Path("a.fasta"))), deterministic=True)
    assert np.array_equal(codes.numpy(), np.load("codes.npy"))
