"""`daps-rl compress` and `decompress`, as a person types them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, error_of
from PIL import Image

from daps_rl.cli import main
from daps_rl.codes import Container
from daps_rl.codes import coder as coder_file
from daps_rl.data import rows as rows_file
from daps_rl.data.plain import read_array
from daps_rl.runs.session import load_run

BOOK = "In the beginning God created the heaven and the earth.\nAnd the earth was without form, and void.\n" * 40


def train(run: Path, data: Path, *options: str) -> Path:
    assert main(["train", "--data", str(data), "--out", str(run), *TINY, "--steps", "3", *options]) == 0
    return run


def do(command: str, run: Path, source: Path, target: Path, *options: str) -> int:
    return main([command, str(run), "--input", str(source), "--output", str(target), *options])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and with data like those that it learned from."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "data.npy", np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
    train(folder / "run", folder / "data.npy", "--prior", "autoregressive")
    return folder


@pytest.fixture
def data(trained: Path) -> Path:
    return trained / "data.npy"


@pytest.fixture
def run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture
def written(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A compressed file of `run`."""
    assert do("compress", run, data, tmp_path / "x.daps") == 0
    capsys.readouterr()
    return tmp_path / "x.daps"


def test_what_comes_back_is_what_encode_and_decode_give(run, data, tmp_path, capsys):
    codes, plain, file, back = (tmp_path / name for name in ("codes.npy", "plain.npy", "x.daps", "back.npy"))
    assert do("encode", run, data, codes) == do("decode", run, codes, plain) == 0
    capsys.readouterr()
    assert do("compress", run, data, file) == do("decompress", run, file, back) == 0
    assert back.read_bytes() == plain.read_bytes()
    size = file.stat().st_size
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {file}: 60 data in {size} bytes, {(size - 46) * 8 / 60:.2f} bits each after the header",
        f"wrote {back}: float32 [60, 1, 8, 8]",
    ]
    assert do("encode", run, data, codes, "--search", "sweep:1") == do("decode", run, codes, plain) == 0
    assert do("compress", run, data, file, "--search", "sweep:1") == do("decompress", run, file, back) == 0
    assert back.read_bytes() == plain.read_bytes()
    assert size - 46 <= 1.01 * 60 * 6 / 8 + 8  # at most about that of uniform codes


def test_the_lines_of_the_page_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "run", "runs/digits")
    shutil.copy(trained / "data.npy", "digits.npy")
    page = (Path(__file__).parent.parent / "docs" / "codes.md").read_text().partition("## Real files")[2]
    lines = page.partition("```sh\n")[2].partition("```")[0].splitlines()
    ours = [words[1:] for line in lines if (words := shlex.split(line, comments=True))[0] == "daps-rl"]
    assert [words[0] for words in ours] == ["compress", "decompress"]
    assert [main(words) for words in ours] == [0, 0]
    assert np.load("decoded.npy").shape == (60, 1, 8, 8)


def test_counts_are_made_once_and_belong_to_the_model(run, data, tmp_path, capsys):
    file, back = tmp_path / "x.daps", tmp_path / "back.npy"
    counts = run / "model" / "counts.safetensors"
    assert do("compress", run, data, file, "--coder", "independent") == 0
    assert f"wrote {counts}: the tokens of 48 training data" in capsys.readouterr().out
    first = counts.read_bytes()
    assert do("compress", run, data, file, "--coder", "independent") == do("decompress", run, file, back) == 0
    assert counts.read_bytes() == first
    assert "training" not in capsys.readouterr().out
    counts.unlink()
    assert do("decompress", run, file, back) == 2
    assert error_of(capsys) == (
        f"daps-rl: error: {file} was coded by counts, and there are none with the model; copy counts.safetensors too."
    )
    nowhere = tmp_path / "no-run"  # it is refused before anything is read
    assert do("compress", nowhere, data, file, "--coder", "independent", "--lossless") == 2
    assert "leave one of the two out" in error_of(capsys)


def test_files_by_counts_outlive_another_prior(run, data, tmp_path, capsys):
    file, back, again = tmp_path / "x.daps", tmp_path / "back.npy", tmp_path / "again.npy"
    assert do("compress", run, data, file, "--coder", "independent") == do("decompress", run, file, back) == 0
    assert main(["fit-prior", str(run), "--steps", "1"]) == 0
    assert do("decompress", run, file, again) == 0
    assert np.array_equal(np.load(back), np.load(again))


def test_codes_that_end_are_coded_by_counts_too(data, tmp_path, capsys):
    run = train(tmp_path / "ends", data, "--agent", "daps-na", "--token-price", "4")
    file, back = tmp_path / "x.daps", tmp_path / "back.npy"
    assert do("compress", run, data, file, "--coder", "independent") == do("decompress", run, file, back) == 0
    assert main(["encode", str(run), "--input", str(data), "--output", str(tmp_path / "codes.npy")]) == 0
    decoded = ["--input", str(tmp_path / "codes.npy"), "--output", str(tmp_path / "decoded.npy")]
    assert main(["decode", str(run), *decoded]) == 0
    assert np.array_equal(np.load(back), np.load(tmp_path / "decoded.npy"))


def test_texts_come_back_letter_by_letter(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(BOOK)
    run = train(tmp_path / "run", book, "--likelihood", "columns", "--decoder-embed-dim", "8", "--prior", "independent")
    file, back, other = (tmp_path / name for name in ("x.daps", "back.txt", "lossy.txt"))
    assert do("compress", run, book, file, "--lossless") == do("decompress", run, file, back) == 0
    assert back.read_bytes() == book.read_bytes()
    assert file.stat().st_size < len(BOOK)
    assert do("compress", run, book, file) == do("decompress", run, file, other) == 0
    assert other.read_bytes() != book.read_bytes()


def test_bits_come_back_all_of_them(tmp_path, capsys):
    bits, file, back = tmp_path / "bits.npy", tmp_path / "x.daps", tmp_path / "back.npy"
    np.save(bits, (np.random.default_rng(0).random((70, 4, 4)) < 0.2).astype(np.float32))
    run = train(tmp_path / "run", bits, "--likelihood", "bernoulli")
    assert do("compress", run, bits, file, "--lossless") == do("decompress", run, file, back) == 0
    assert np.array_equal(np.load(back), np.load(bits))
    np.save(bits, np.full((2, 4, 4), 0.5, dtype=np.float32))
    capsys.readouterr()
    file.unlink()
    assert do("compress", run, bits, file, "--lossless") == 2
    assert "whole numbers in 0 … 1" in error_of(capsys)
    assert not file.exists()


def test_folders_of_images_come_back_as_folders(tmp_path):
    folder, file, back, one = (tmp_path / name for name in ("images", "x.daps", "back", "one"))
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")
    run = train(tmp_path / "run", folder, "--image-size", "8", "--likelihood", "gaussian", "--decoder", "mlp")
    assert do("compress", run, folder, file) == do("decompress", run, file, back) == 0
    assert len(list(back.glob("*.png"))) == 20
    assert do("compress", run, folder / "07.png", file) == do("decompress", run, file, one) == 0
    assert [path.name for path in one.iterdir()] == ["00000.png"]


def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(run, data, written, tmp_path, capsys):
    back, damaged = tmp_path / "back.npy", tmp_path / "damaged.daps"
    content = written.read_bytes()
    for wrong, message in (
        (content[:-1], "is damaged: its checksum does not match; restore a copy."),
        (content[:30], "is damaged, or no file of daps-rl compress; restore a copy."),
        (b"", "is damaged, or no file of daps-rl compress; restore a copy."),
        (data.read_bytes(), "is damaged, or no file of daps-rl compress; restore a copy."),
    ):
        damaged.write_bytes(wrong)
        assert do("decompress", run, damaged, back) == 2
        assert error_of(capsys) == f"daps-rl: error: {damaged} {message}"
    for source, message in ((tmp_path / "no.daps", "no such file"), (run, "got a folder"), ("/dev/zero", "device")):
        assert do("decompress", run, source, back) == 2
        assert message in error_of(capsys)
    other = train(tmp_path / "other", data, "--seed", "1")
    capsys.readouterr()
    assert do("decompress", other, written, back) == 2
    assert "was compressed with another model; pass the run that it was compressed with." in error_of(capsys)
    assert not back.exists()
    assert do("compress", run, data, tmp_path / "no" / "x.daps") == 2
    assert "No such file or directory" in error_of(capsys)


def test_no_file_is_left_where_the_numbers_do_not_come_out_the_same(run, data, tmp_path, capsys, monkeypatch):
    file, real = tmp_path / "x.daps", coder_file.whole_numbers
    calls = []

    def drifting(logits):
        calls.append(numbers := real(logits))
        numbers[:, 0] += len(calls) % 2
        numbers[:, 1] -= len(calls) % 2
        return numbers

    monkeypatch.setattr(coder_file, "whole_numbers", drifting)
    assert do("compress", run, data, file) == 2
    assert "does not decompress to the same" in error_of(capsys)
    assert not list(tmp_path.glob("*x.daps*"))


def test_without_constriction_the_extra_is_named(run, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    capsys.readouterr()
    assert do("compress", run, data, tmp_path / "x.daps") == 2
    assert error_of(capsys) == ("daps-rl: error: compressed files need constriction: pip install 'daps-rl[compress]'")


# Some data at a time.

PEAKS = """
import json, sys, torch
from daps_rl.cli import main
from daps_rl.device import peak_memory

run, *inputs = sys.argv[1:]
peaks = []
for path in inputs:
    commands = ["compress", path, "x.daps"], ["decompress", "x.daps", "back.npy"]
    for command, source, target in commands:
        assert main([command, run, "--input", source, "--output", target]) == 0
        peaks.append(peak_memory(torch.device("cpu")))
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    """7,500 images more of 12 KiB are 88 MiB, and their codes 0.2; a peak is the most that the process ever held."""
    data = np.random.default_rng(0).random((8000, 3, 32, 32), dtype=np.float32)
    for count in (500, 8000):
        np.save(tmp_path / f"{count}.npy", data[:count])
    run = train(tmp_path / "run", tmp_path / "500.npy", "--decoder", "mlp")
    child = subprocess.run(
        [sys.executable, "-c", PEAKS, str(run), "500.npy", "8000.npy"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    _, few, compressed, decompressed = json.loads(child.stdout.splitlines()[-1])
    assert compressed - few < 50 * 2**20
    assert decompressed - few < 50 * 2**20
    assert np.load(tmp_path / "back.npy", mmap_mode="r").shape == data.shape


def test_parts_are_judged_as_the_whole_that_they_are_of(tmp_path, monkeypatch):
    """Pixels of which the second part has none but 0 and 1 are divided by 255 there too."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    pixels[10:20] = pixels[10:20] > 200
    np.save(tmp_path / "pixels.npy", pixels)
    run = train(tmp_path / "run", tmp_path / "pixels.npy", "--steps", "30")
    _, _, model = load_run(str(run), "cpu")
    expected = model.encode(model.observations(read_array(tmp_path / "pixels.npy")), deterministic=True)
    monkeypatch.setattr(rows_file, "AT_ONCE", 10)
    assert do("encode", run, tmp_path / "pixels.npy", tmp_path / "codes.npy") == 0
    assert np.array_equal(np.load(tmp_path / "codes.npy"), expected)
    assert not np.array_equal(model.encode(pixels[10:20], deterministic=True), expected[10:20])


@pytest.mark.parametrize("command", ["compress", "encode"])
def test_what_is_wrong_with_the_last_part_is_said_of_the_whole(run, data, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(rows_file, "AT_ONCE", 10)
    wrong, target = np.load(data), tmp_path / "there"
    wrong[-1, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", wrong)
    np.save(tmp_path / "wide.npy", np.zeros((60, 1, 8, 9), np.float32))
    target.write_bytes(b"before")
    for name, message in (
        ("nan.npy", "must be finite in float32, got NaN or infinity; remove or replace such values"),
        ("wide.npy", "must have shape [N, 1, 8, 8] as the model's data, got [60, 1, 8, 9]; give data of one kind"),
    ):
        assert do(command, run, tmp_path / name, target) == 2
        assert error_of(capsys) == f"daps-rl: error: {tmp_path / name} {message}"
    assert target.read_bytes() == b"before"
    assert not list(tmp_path.glob(".*")) + list(tmp_path.glob("there.npy"))


def test_data_that_turn_out_wrong_at_their_end_leave_the_file_before(tmp_path, capsys):
    bits, file, back = tmp_path / "bits.npy", tmp_path / "x.daps", tmp_path / "back.npy"
    np.save(bits, (np.random.default_rng(0).random((1100, 4, 4)) < 0.2).astype(np.float32))
    run = train(tmp_path / "run", bits, "--likelihood", "bernoulli")
    assert do("compress", run, bits, file, "--lossless") == do("decompress", run, file, back) == 0
    assert back.read_bytes() == bits.read_bytes()
    file.write_bytes(Container.from_bytes(file.read_bytes())._replace(content=b"another!").to_bytes())
    capsys.readouterr()
    assert do("decompress", run, file, back) == 2
    assert "was compressed where numbers come out differently from here" in error_of(capsys)
    assert back.read_bytes() == bits.read_bytes()
    assert not list(tmp_path.glob(".*"))
