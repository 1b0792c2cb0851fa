"""Texts: the kind, and data sets of them."""

import gzip
import json
import lzma
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from conftest import TINY
from data_files import assert_one_line, use_hub
from torch.distributions import Categorical

from daps_rl.cli import main
from daps_rl.columns import Columns
from daps_rl.config import make_config
from daps_rl.data import DataError, MissingDataError, load
from daps_rl.data.bible import PACKAGED, read_verses, unpack
from daps_rl.data.kind import kind_from_json, kind_to_json
from daps_rl.data.text import Text
from daps_rl.decoders.columns import ColumnsLikelihood
from daps_rl.report.texts import mark_texts, plot_texts

ABC = Text(window=4, vocabulary="abc")  # numbers 0, 1, 2; 3 is unknown, 4 the end
PAIRS = "".join(letter * 2 for letter in "abcdefghij")
needs_bible = pytest.mark.skipif(not PACKAGED.exists(), reason="bible-kjv-text is not installed")


def column(*numbers):
    """Windows of symbols, [N, L, 1]."""
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(-1)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbers(x):
    return torch.as_tensor(x).squeeze(-1).int().tolist()


# windows, vocabularies, splits


def test_windows_vocabulary_and_splits_by_hand(tmp_path):
    path = write(tmp_path / "pairs.txt", PAIRS)
    with pytest.warns(UserWarning, match="4 characters are rare or not in train, .* one unknown symbol: 'i', 'j'"):
        splits = load(path, window=2)
    assert splits.kind == Text(window=2, vocabulary="abcdefgh")
    assert splits.kind.columns == ("category:10",)
    assert splits.likelihood == "columns"
    assert numbers(splits.train) == [[letter, letter] for letter in range(8)]
    assert numbers(splits.validation) == numbers(splits.test) == [[8, 8]]  # i and j are unknown


def test_long_texts_are_cut_into_a_hundred_blocks(tmp_path):
    splits = load(write(tmp_path / "long.txt", bytes(range(100)) * 20), window=2, symbols="bytes")
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [800, 100, 100]
    assert numbers(splits.validation[:10])[0::9] == [[60, 61], [78, 79]]  # windows 80 to 89 of a thousand
    assert numbers(splits.test[:1]) == [[80, 81]]


def test_the_last_window_is_filled_with_ends(tmp_path):
    path = write(tmp_path / "a.txt", "abcab")
    assert ABC.read(path).dtype == np.float32
    assert numbers(ABC.read(path)) == [[0, 1, 2, 0], [1, 4, 4, 4]]
    assert ABC.content(column([0, 1, 2, 0], [1, 4, 4, 4])) == b"abcab"


def test_what_is_decoded_behind_an_end_is_nothing(tmp_path):
    decoded, x = column([0, 1, 4, 2], [2, 2, 2, 2]), column([0, 1, 4, 4], [2, 2, 2, 2])
    assert ABC.content(decoded) == b"abcccc"
    assert ABC.pieces(decoded)[0] == ["a", "b", "", ""]
    assert ABC.metrics(decoded, x)["exact"].tolist() == [1.0, 1.0]
    assert ABC.metrics(column([4, 0, 1, 2]), column([0, 0, 1, 2]))["symbol_accuracy"].tolist() == [0.0]


def test_a_byte_order_mark_is_no_character(tmp_path):
    assert numbers(ABC.read(write(tmp_path / "a.txt", b"\xef\xbb\xbfabca"))) == [[0, 1, 2, 0]]


def test_bytes_of_any_file(tmp_path):
    splits = load(write(tmp_path / "a.txt", b"\xff\x00" * 10), window=2, symbols="bytes")
    assert numbers(splits.test) == [[255, 0]]
    assert splits.kind.columns == ("category:257",)
    assert splits.kind.content(column([255, 0], [7, 256])) == b"\xff\x00\x07"


def test_the_rarest_of_very_many_characters_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("daps_rl.data.corpus.MOST_CHARACTERS", 2)
    with pytest.warns(UserWarning, match="2 characters are rare or not in train, .* symbol: 'b'"):
        splits = load(write(tmp_path / "a.txt", "bacacbac" + "ac" * 8), window=2)
    assert splits.kind.vocabulary == "ac"
    assert numbers(splits.train[:3]) == [[2, 0], [1, 0], [1, 2]]


@pytest.mark.parametrize("symbols", ["characters", "bytes"])
def test_reading_what_was_written(tmp_path, symbols):
    text = "Zwölf Boxkämpfer\r\njagen Viktor\n\n" * 9
    path = write(tmp_path / "a.txt", text)
    kind = load(path, window=8, symbols=symbols).kind
    said = kind.write(tmp_path / "b", torch.from_numpy(kind.read(path)))
    assert (tmp_path / "b.txt").read_bytes() == text.encode()
    assert said == f"{tmp_path / 'b.txt'}: {36 if symbols == 'characters' else 39} windows, 306 bytes of text"


def test_the_same_bytes_every_time(tmp_path):
    path = write(tmp_path / "a.txt", "so it goes " * 40)
    assert load(path, window=5).fingerprint() == load(path, window=5).fingerprint()
    assert load(path, window=5).fingerprint() != load(path, window=4).fingerprint()


def test_a_kind_is_the_same_from_json():
    kind = Text(window=3, vocabulary='\n"\\é😀')
    assert kind_from_json(json.loads(json.dumps(kind_to_json(kind)))) == kind
    assert kind_to_json(kind)["kind"] == "text"


def test_texts_of_ones_own_are_prepared():
    assert numbers(ABC.prepare("abcab")) == [[0, 1, 2, 0], [1, 4, 4, 4]]
    assert numbers(ABC.prepare(["abca", "b"])) == [[0, 1, 2, 0], [1, 4, 4, 4]]
    x = column([0, 1, 2, 0])
    assert ABC.prepare(x) is x
    with pytest.raises(DataError, match="text 1 must hold at most 4 characters, got 'abcab'; cut it") as error:
        ABC.prepare(["a", "abcab"])
    assert_one_line(error)


# tokens


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the cat sat on the mat "] * 9, trainer)
    made.enable_truncation(5)  # which is switched off
    made.save(str(tmp_path / "tokenizer.json"))
    return made, str(tmp_path / "tokenizer.json")


def test_tokens_of_a_file(tmp_path, tokenizer):
    made, file = tokenizer
    text = "the cat sat on the mat, dém " * 12
    path = write(tmp_path / "a.txt", text)
    splits = load(path, window=4, symbols=file)
    made.no_truncation()
    expected = made.encode(text).ids
    found = torch.cat([splits.train, splits.validation, splits.test]).flatten().int()
    assert sorted(found[found != 260].tolist()) == sorted(expected)
    assert splits.kind.columns == ("category:261",)
    assert "".join(splits.kind.pieces(splits.train)[0]).startswith("the ")
    kind = kind_from_json(kind_to_json(splits.kind))
    kind.write(tmp_path / "b.txt", torch.from_numpy(kind.read(path)))
    assert (tmp_path / "b.txt").read_text() == text


def test_a_tokenizer_may_leave_numbers_out(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    kind = Text(window=2, symbols="tokens", vocabulary=made.to_str())
    x = torch.from_numpy(kind.prepare("b a b"))
    assert numbers(x) == [[5, 0], [5, 6]]
    Columns(kind.columns).check(x, "x")
    assert kind.pieces(x) == [["b", "a"], ["b", ""]]


def test_tokens_need_the_library(tmp_path, monkeypatch):
    path = write(tmp_path / "a.json", "{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'daps-rl\[text\]'"):
        load(write(tmp_path / "a.txt", PAIRS), symbols=str(path))


# folders and the hub


def test_a_folder_of_classes(tmp_path):
    write(tmp_path / "a" / "1.txt", "aaab" * 5)
    write(tmp_path / "a" / "2.txt", "aaa")
    write(tmp_path / "b" / "1.txt", "bb" * 8)
    splits = load(tmp_path, window=4)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [8, 1, 1]
    assert numbers(splits.train[5]) == [0, 0, 0, 3]  # the second text, filled up; no c
    assert splits.train_labels.tolist() == [0] * 6 + [1] * 2
    assert splits.test_labels.tolist() == [1]


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_folder_of_splits_and_of_files_that_are_no_texts(tmp_path):
    for split, text in (("train", "abab"), ("val", "ab"), ("test", "bb")):
        write(tmp_path / split / "1.txt", text)
    write(tmp_path / "train" / "2.txt", b"a\n\xff")
    write(tmp_path / "train" / "3.txt", b"")
    with pytest.warns(UserWarning, match="skipped train/2.txt, .* got byte 0xff in line 2") as caught:
        splits = load(tmp_path, window=2)
    assert "skipped train/3.txt, which cannot be read (must hold text, got an empty file" in str(caught[1].message)
    assert [numbers(splits[split]) for split in ("train", "validation", "test")] == [
        [[0, 1], [0, 1]],
        [[0, 1]],
        [[1, 1]],
    ]
    with pytest.raises(DataError, match="at most 0 unreadable files"), pytest.warns(UserWarning, match="skipped"):
        load(tmp_path, window=2, max_corrupt=0)
    assert len(load(tmp_path, window=2, symbols="bytes", max_corrupt=1).train) == 4


class FakeClassLabel:
    pass


@dataclass
class FakePart:
    cells: dict
    features: dict = field(default_factory=dict)

    def select_columns(self, names):
        return FakePart({name: self.cells[name] for name in names}, self.features)

    def __getitem__(self, rows):
        return {name: values[rows] for name, values in self.cells.items()}


def hub_part(texts, classes):
    cells = {"review": texts, "stars": classes}
    return FakePart(cells, {"review": "string", "stars": FakeClassLabel()})


def test_a_column_of_a_hub_data_set(monkeypatch):
    part = hub_part(["abcd", "ba", ""], [0, 1, 0])
    hub = use_hub(monkeypatch, {"train": part, "validation": part, "test": hub_part(["d"], [1])})
    hub.ClassLabel = FakeClassLabel
    splits = load("someone/reviews", text_column="review", window=2, hub_config="small")
    assert hub.options == {"name": "small"}
    assert numbers(splits.train) == [[0, 1], [2, 3], [1, 0]]
    assert numbers(splits.test) == [[3, 5]]
    assert splits.train_labels.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="must have text_column 'text', got columns review, stars"):
        load("someone/reviews", text_column="text")
    with pytest.raises(DataError, match="column stars must hold texts, got a int"):
        load("someone/reviews", text_column="stars")
    with pytest.raises(DataError, match="is read for its texts, so it takes no streaming"):
        load("someone/reviews", text_column="review", streaming=True)
    with pytest.raises(DataError, match="digits is no data set of the hub, so it takes no text_column"):
        load("digits", text_column="review")


def test_a_column_through_the_package(monkeypatch):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["abcd"] * 20})
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id: {"train": part})
    assert len(load("someone/texts", text_column="text", window=4).train) == 16


# the Bible


def packed(*codes):
    """Codes of nine bits each, the lowest bits first, as compress(1) writes them."""
    return sum(code << 9 * place for place, code in enumerate(codes)).to_bytes(9 * len(codes) // 8 + 1, "little")


def test_unpacking_by_hand():
    assert unpack(packed(*b"AB", 257, 259)) == b"ABABABA"  # 257 is AB, 258 BA, 259 the one that it makes
    assert unpack(packed(*b"AB", 256, *b"C")) == b"AB"


def bible_file(path, text, size=200):
    windows = [packed(*text[start : start + size]) for start in range(0, len(text), size)]
    begin = 92 + 4 * (len(windows) + 1)
    starts = np.cumsum([begin, *map(len, windows)]).astype(">u4").tobytes()
    sizes = np.array([size, len(windows)], ">u4").tobytes()
    return write(path, b"EC02" + bytes(80) + sizes + starts + b"".join(windows))


def test_a_bible_in_a_folder(tmp_path):
    text = b"A title.\n" + b"".join(b"Ge1:%d In the beginning.\n" % number for number in range(90))
    path = bible_file(tmp_path / "bible.data", text)
    assert read_verses(path) == b"In the beginning.\n" * 90
    splits = load("text", tmp_path, window=32)
    assert splits.kind.vocabulary == "\n .Ibeghint"
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 51  # 1,620 characters
    with pytest.raises(MissingDataError, match="`apt install bible-kjv-text`"):
        load("text", tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"bible\.data must be the bible\.data of .*, got:") as error:
        load("text", tmp_path)
    assert_one_line(error)
    with pytest.raises(DataError, match=r"magic b'PK.*not EC02"):
        read_verses(write(tmp_path / "other", b"PK\3\4" + bytes(99)))


@needs_bible
@pytest.mark.skipif(shutil.which("bible") is None, reason="bible-kjv is not installed")
def test_the_packaged_bible_is_what_its_own_program_prints():
    program = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL, capture_output=True).stdout
    verses = [line.split(" ", 1)[1] for line in program.decode().splitlines()]
    assert read_verses(PACKAGED).decode() == "\n".join(verses) + "\n"


@needs_bible
def test_the_bible_by_its_name():
    splits = load("text")
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [206894, 25862, 25860]
    assert splits.kind.content(splits.train[:4]) == b"In the beginning God created the heaven and the earth.\nAnd the e"


# measures


def test_metrics_by_hand():
    x, decoded = column([0, 1, 2, 0], [1, 2, 4, 4]), column([0, 1, 2, 0], [1, 0, 4, 4])
    found = ABC.metrics(decoded, x)
    assert found["symbol_accuracy"].tolist() == [1.0, 0.5]  # ends are no symbols
    assert found["exact"].tolist() == [1.0, 0.0]


def test_bits_for_each_symbol():
    x = column([0, 1, 2, 0], [1, 2, 4, 4])  # "abca", "bc": 6 symbols
    found = ABC.summary({"bits": 5.0, "log_likelihood": -math.log(16)}, x)
    assert found["bits_per_symbol"] == pytest.approx(2 * (5 + 4) / 6)
    assert found["gzip_bits_per_symbol"] == 8 * len(gzip.compress(b"abcabc")) / 6
    assert found["xz_bits_per_symbol"] == 8 * len(lzma.compress(b"abcabc")) / 6
    assert "bits_per_symbol" not in ABC.summary({"bits": None, "log_likelihood": -1.0}, x)  # continuous latents


def test_likelihood_of_symbols_agrees_with_torch_in_float64():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, 1, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)  # [B, K, 1, L, S]
    x = torch.randint(7, (3, 1, 4, 1), generator=generator).double()
    found = ColumnsLikelihood(("category:7",))(logits, 2).log_prob(x)
    expected = Categorical(logits=logits.squeeze(2)).log_prob(x[..., 0]).sum(-1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(total.sum(), logits)[0] for total in (found, expected)]
    torch.testing.assert_close(*gradients)
    one_hot = torch.nn.functional.one_hot(x[..., 0].long(), 7).double()
    assert torch.equal(Columns(("category:7",))(x), one_hot)


def test_a_decoder_starts_at_the_frequencies_of_each_place(tmp_path):
    splits = load(write(tmp_path / "a.txt", "abaabb" * 20), window=3)
    counts = torch.stack([(splits.train == number).squeeze(-1).double().mean(0) for number in range(4)], dim=-1)
    torch.testing.assert_close(splits.mean(), counts.float())


# pictures


ROWS = {"original": [["a", "b", " "]], "greedy\ncode": [["a", "\n", ""]]}


def test_wrong_symbols_are_marked():
    assert mark_texts(ROWS) == "original     ab\ngreedy code  a↵∅\n              ^^\n\n"
    wide = {"original": [["ab", "c"]], "decoded": [["d", "c"]]}
    assert mark_texts(wide) == "original  abc\ndecoded   d c\n          ^^\n\n"


@pytest.mark.parametrize("wrong", [False, True])
def test_the_picture(tmp_path, wrong):
    from PIL import Image

    rows = {"original": ROWS["original"] * 3, "decoded": (ROWS["greedy\ncode"] if wrong else ROWS["original"]) * 3}
    plot_texts(tmp_path / "a.png", rows, title="texts")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    marked = (pixels == (0xFB, 0xD9, 0xC3)).all(1).sum()
    assert marked > 500 if wrong else marked == 0


def test_long_windows_are_wrapped_and_cut(tmp_path):
    kind = Text(window=400, vocabulary="abc")
    data = torch.zeros(2, 400, 1)
    assert kind.draw(tmp_path / "a.png", {"original": data}, None) == [tmp_path / "a.png", tmp_path / "a.txt"]
    assert (tmp_path / "a.txt").read_text() == f"original  {'a' * 256}\n\n" * 2


# errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("abxca", "must hold characters that training had, got 'x' in line 1, column 3; replace it"),
        ("abcabc\u00e9", "got 'é' in line 1, column 7"),
        ("ab\nca", r"got '\\n' in line 1, column 3"),
        ("", "must hold text, got none"),
        (b"ab\xfe", "must be text, got byte 0xfe in line 1, which is no UTF-8; convert it, or pass --symbols bytes"),
    ],
)
def test_what_a_model_cannot_read(tmp_path, content, message):
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=message) as error:
        ABC.read(path)
    assert str(path) in str(error.value)
    assert_one_line(error)


def test_the_line_and_column_of_an_unknown_character(tmp_path):
    kind = Text(window=4, vocabulary="ab\n")
    with pytest.raises(DataError, match="got 'X' in line 3, column 2;"):
        kind.read(write(tmp_path / "a.txt", "ab\n\nbXa"))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "must hold text, got an empty file; write something"),
        ("abc", {"window": 2}, "must hold 10 windows of text or more, to cut validation and test from, got 2 of 2"),
        (PAIRS, {"window": -1}, "window must be a whole number of symbols >= 1, got -1"),
        (PAIRS, {"symbols": "words"}, "symbols must be characters, bytes or the path of .* got 'words'"),
        (b"\xff", {}, "a.txt must be text, got byte 0xff in line 1, which is no UTF-8"),
        (PAIRS, {"seconds": 1.0}, "a.txt is no sound, so it takes no seconds"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message) as error:
        load(write(tmp_path / "a.txt", content), **options)
    assert_one_line(error)


def test_too_much_text(tmp_path, monkeypatch):
    for module in ("corpus", "text"):
        monkeypatch.setattr(f"daps_rl.data.{module}.MOST_BYTES", 30)
    path = write(tmp_path / "a.txt", "abc" * 11)
    with pytest.raises(DataError, match="must hold text of at most 0 MiB, got 31 bytes"):
        load(path, window=2)
    with pytest.raises(DataError, match="must hold at most 0 MiB, got more"):
        ABC.read(path)


def test_values_that_are_not_a_kinds_own():
    for values, message in (
        ({"window": 0}, "window must be"),
        ({"window": 2, "symbols": "words"}, "symbols must be one of"),
        ({"window": 2, "vocabulary": "aa"}, "vocabulary must hold each character once"),
    ):
        with pytest.raises(DataError, match=message):
            kind_from_json({"kind": "text", **values})


# the command


def test_a_run_from_text_to_text(tmp_path, capsys):
    text = "".join("the cat sat on the mat\n"[index % 23] for index in range(700))
    path, run = write(tmp_path / "a.txt", text), tmp_path / "run"
    tiny = [*TINY[: TINY.index("--likelihood")], "--window", "8", "--steps", "4", "--decoder", "sequence"]
    assert main(["train", "--data", str(path), "--out", str(run), *tiny]) == 0
    printed = capsys.readouterr().out
    assert "symbol_accuracy" in printed
    assert "gzip_bits_per_symbol" in printed
    summary = json.loads((run / "summary.json").read_text())
    assert {"symbol_accuracy", "exact", "bits_per_symbol", "xz_bits_per_symbol"} <= set(summary["test"])
    assert "reconstructions.txt" in summary["pictures"]
    for command in ("evaluate", "report"):
        assert main([command, str(run)]) == 0
    evaluated = capsys.readouterr().out
    assert f'"bits_per_symbol": {summary["test"]["bits_per_symbol"]}' in evaluated
    codes, back = tmp_path / "codes.npy", tmp_path / "back.txt"
    assert main(["encode", str(run), "--input", str(path), "--output", str(codes)]) == 0
    assert np.load(codes).shape == (88, 3)
    assert main(["decode", str(run), "--input", str(codes), "--output", str(back)]) == 0
    assert set(back.read_text()) <= set(text)
    assert main(["sample", str(run), "-n", "2", "--output", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new.txt").exists()
    other = write(tmp_path / "b.txt", "a dog\n")
    assert main(["encode", str(run), "--input", str(other), "--output", str(codes)]) == 2
    assert "b.txt must hold characters that training had, got 'd' in line 1, column 3" in capsys.readouterr().err


def test_texts_are_learned_by_a_recipe_of_their_own(tmp_path):
    for data in ("text", "a/b.TXT"):
        config = make_config(data=data)
        assert (config.decoder, config.beta_start, config.batch_size) == ("auto", 0.05, 64)
        assert config.model_config((16, 1), "columns", ("category:65",)).decoder == "sequence"
    assert make_config(data="a.npy").beta_start == 0.5
    assert config.model_config((16, 2), "columns", ("category:65", "number")).decoder == "mlp"
