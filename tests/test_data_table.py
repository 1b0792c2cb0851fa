"""Tables: what their columns are, standardised rows and back, metrics by hand, and every error in one line."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import error_of
from data_files import assert_one_line

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main
from daps_rl.columns import Columns
from daps_rl.config import ModelConfig
from daps_rl.data import DataError, load
from daps_rl.data.kind import kind_from_json, kind_to_json
from daps_rl.data.table import Table, load_table, table_splits
from daps_rl.data.table_columns import Field, find_column, find_kind, parse_kinds
from daps_rl.kinds import POLICIES

SMALL = ("--num-tokens", "8", "--vocab-size", "4", "--embed-dim", "8", "--num-heads", "2", "--num-layers", "1",
         "--decoder-hidden", "8", "--decoder-embed-dim", "4", "--batch-size", "8", "--steps", "3")  # fmt: skip


def people(count=60):
    """A mixed table: a column of every kind, with missing numbers and cities."""
    number = np.random.default_rng(0)
    return {
        "id": [str(i) for i in range(count)],
        "name": [f"person {i}" for i in range(count)],
        "age": [str(age) for age in number.integers(18, 80, count)],
        "height": ["" if i % 7 == 3 else f"{number.normal(1.7, 0.1):.2f}" for i in range(count)],
        "sex": ["MF"[i % 2] for i in range(count)],
        "city": [("Rome", "Oslo", "?", "Lima")[i % 4] for i in range(count)],
        "children": [str(i % 3) for i in range(count)],
        "planet": ["Earth"] * count,
    }


def write_csv(path, table, separator=","):
    rows = [list(table), *zip(*table.values(), strict=True)]
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    return path


PEOPLE_KIND = Table(
    fields=(
        Field("age", "number", (), 50.0, 10.0, 0),
        Field("height", "number", (), 1.7, 0.1, 2, True),
        Field("sex", "yes-no", ("F", "M")),
        Field("city", "category", ("", "Lima", "Oslo", "Rome")),
    ),
    ignored=("id",),
)
TWO = {"age": ["60", "35"], "height": ["1.85", ""], "sex": ["M", "F"], "city": ["Oslo", ""]}


class TestKinds:
    @pytest.mark.parametrize(
        ("cells", "kind"),
        [
            (["1.5"] * 30, "skip"),
            (["no", "yes"] * 15, "yes-no"),
            (["0", "1", ""] * 10, "yes-no"),  # made a category, as one is missing
            (["yes", ""] * 15, "category"),
            (["a", "b", "c"] * 10, "category"),
            ([f"id {i}" for i in range(30)], "skip"),
            ([f"2020-01-{i + 1:02d}" for i in range(30)], "skip"),
            ([str(i) for i in range(7, 37)], "skip"),
            ([str(i) for i in reversed(range(30))], "number"),
            (["1", "2", "3"] * 10, "category"),
            (["1", "2", "3"] * 9, "number"),  # nine rows of each
            (["1.5", "2", "3"] * 10, "number"),
            ([str(i) for i in range(11)] * 20, "number"),
            (["1e3", "2.5", "-3", "4"] * 10, "number"),
            (["1", "inf", "2"] * 10, "category"),  # text, as infinity is no number
        ],
    )
    def test_are_found_by_the_cells(self, cells, kind):
        assert find_kind(cells)[0] == kind

    def test_one_value_that_may_be_missing_is_a_category(self):
        cells = ["yes", ""] * 15
        field = find_column("a", cells, None, range(30), "table")
        assert isinstance(field, Field)
        assert (field.kind, field.values) == ("category", ("", "yes"))
        assert field.decode(field.encode(cells, "table")) == cells

    def test_of_a_table_are_said_in_one_line(self, tmp_path):
        path = write_csv(tmp_path / "people.csv", people())
        with pytest.warns(UserWarning, match="columns: ") as caught:
            load(path)
        assert str(caught[0].message) == (
            f"{path}: columns: id skipped (counts the rows), name skipped (text, 60 different ones), age number, "
            "height number (or missing), sex yes-no (F, M), city category (missing, Lima, Oslo, Rome), "
            "children category (0, 1, 2), planet skipped (always the same); numbers are standardised; "
            "--columns NAME=KIND,... says otherwise"
        )

    def test_are_those_that_are_asked_for(self):
        with pytest.warns(UserWarning, match="sex label, city skipped \\(as asked\\), children number"):
            splits = table_splits(people(), columns="sex=label, children=number,age = category,city=skip")
        kinds = {field.name: field.kind for field in splits.kind.fields}
        assert kinds == {"age": "category", "height": "number", "children": "number"}
        assert splits.kind.ignored == ("id", "name", "sex", "city", "planet")
        counts = sum(splits[f"{split}_labels"].bincount() for split in ("train", "validation", "test"))
        assert counts.tolist() == [30, 30]  # F, M

    @pytest.mark.parametrize(
        ("columns", "match"),
        [
            ("age", "columns must be NAME=KIND,..., with kinds number, category, yes-no, label, skip, got 'age'"),
            ("age=text", "got 'age=text'"),
            ("heigth=number", r"columns must name those of table: .*, got 'heigth'; mend it \(did you mean height\?\)"),
            ("sex=label,city=label", "columns must name one label"),
            ("name=number", "column 'name' must hold numbers to be one, got text"),
            ("city=yes-no", "column 'city' must hold two values to be a yes-no, got 4"),
            ("planet=category", r"column 'planet' must hold 2 … 1000 values to be a category, got 1"),
            ("city=label", "column 'city': a label must be there in every row, got none in row 3"),
            ("age=skip,height=skip,sex=skip,city=skip,children=skip", "^table must have a column"),
        ],
    )
    def test_that_cannot_be_are_refused(self, columns, match):
        with pytest.raises(DataError, match=match) as error:
            table_splits(people(), columns=columns, quiet=True)
        assert_one_line(error)

    def test_the_last_word_on_a_column_counts(self):
        assert parse_kinds("a=label,b=number,a=skip", ["a", "b"], "t") == {"a": "skip", "b": "number"}


class TestRows:
    def test_by_hand(self):
        x = PEOPLE_KIND.encode(TWO, "x")
        assert PEOPLE_KIND.columns == ("number*1", "yes-no", "number@1", "yes-no", "category:4")
        assert np.allclose(x, [[1.0, 1.0, 1.5, 1.0, 2.0], [-1.5, 0.0, 0.0, 0.0, 0.0]], atol=1e-6)
        assert PEOPLE_KIND.decode(torch.from_numpy(x)) == TWO

    def test_decoded_ones_are_rounded(self):
        """A yes-no is a probability, a category a number of one, and a number has as many digits as it was given."""
        x = torch.tensor([[0.123, 0.49, 3.0, 0.51, 3.0], [0.0, 0.51, 0.049, 0.49, 1.0]])
        assert PEOPLE_KIND.decode(x) == {
            "age": ["51", "50"], "height": ["", "1.70"], "sex": ["M", "F"], "city": ["Rome", "Lima"],
        }  # fmt: skip
        assert Field("a", "number", decimals=2).decode(np.array([[-0.001], [0.125]])) == ["0.00", "0.12"]
        assert Field("a", "number", decimals=9).decode(np.array([[1 / 3]])) == ["0.333333"]
        assert Field("a", "number", deviation=20.0, decimals=4).decode(np.array([[0.01]]), short=True) == ["0.2"]

    def test_numbers_are_standardised_by_the_training_split(self):
        table = people()
        splits = table_splits(table, quiet=True)
        ages = splits.train[:, 0].double()
        assert ages.mean().abs() < 1e-6
        assert ages.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)
        assert abs(splits.test[:, 0].mean()) > 1e-3
        given = splits.train[:, 1] > 0.5
        assert splits.train[given, 2].mean().abs() < 1e-6
        assert not splits.train[~given, 2].any()
        Columns(splits.kind.columns).check(splits.train, "train")
        back = splits.kind.decode(torch.cat([splits.train, splits.validation, splits.test]))
        rows = zip(table["age"], table["height"], table["sex"], strict=True)
        assert sorted(rows) == sorted(zip(back["age"], back["height"], back["sex"], strict=True))

    def test_are_split_the_same_way_every_time(self):
        first, second = (table_splits(people(), quiet=True) for _ in range(2))
        assert [len(first[name]) for name in ("train", "validation", "test")] == [48, 6, 6]
        assert first.fingerprint() == second.fingerprint()
        assert first.fingerprint() != table_splits(people(), columns="age=skip", quiet=True).fingerprint()

    def test_numbers_alone_have_no_columns_and_one_that_is_constant_in_training_stays_finite(self):
        values = np.random.default_rng(0).normal(size=30)
        splits = table_splits({"a": values, "b": values * 3}, quiet=True)
        assert (splits.kind.columns, splits.likelihood, list(splits.kind.measures)) == ((), "gaussian", ["r2"])
        rare = np.full(30, 0.1)
        held_out = table_splits({"a": np.arange(30.0)[::-1]}, quiet=True)
        place = 29 - int(held_out.kind.decode(held_out.test[:1])["a"][0])
        rare[place] = 7.5
        splits = table_splits({"a": values, "rare": rare}, columns="rare=number", quiet=True)
        assert splits.train[:, 1].abs().max() < 1e-6
        assert splits.test[0, 1].item() == pytest.approx(7.4)

    def test_a_data_frame_is_taken_too(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"n": [1.0, 2.5, None], "c": ["a", "b", "c"], "whole": [1.0, 2.0, None]})
        frame = pandas.concat([frame] * 10)
        splits = table_splits(frame, columns="whole=category", quiet=True)
        field = {field.name: field for field in splits.kind.fields}
        assert (field["n"].kind, field["n"].optional) == ("category", False)  # two values, or missing
        assert field["whole"].values == ("", "1", "2")
        x = splits.kind.prepare(frame)
        assert x.shape == (30, 3)
        assert splits.kind.prepare(x) is x
        assert pandas.DataFrame(splits.kind.decode(torch.from_numpy(x)))["c"].tolist() == frame["c"].tolist()

    def test_one_row_may_be_given_without_lists(self):
        x = PEOPLE_KIND.prepare({"age": 60, "height": None, "sex": "M", "city": "Oslo"})
        assert x.tolist() == [[1.0, 0.0, 0.0, 1.0, 2.0]]

    def test_names_are_without_the_blanks_around_them_and_differ(self):
        x = PEOPLE_KIND.prepare({" age": [60], "height ": [""], "sex": ["M"], "city": ["Oslo"]})
        assert x.tolist() == [[1.0, 0.0, 0.0, 1.0, 2.0]]
        with pytest.raises(DataError, match="a table: names of columns must differ, got '1' twice") as error:
            table_splits({1: [1, 2], "1": [3, 4]})
        assert_one_line(error)

    def test_a_data_frame_with_a_name_twice_is_refused(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame([[1, 2]] * 30, columns=["a", "a"])
        with pytest.raises(DataError, match="names of columns must differ, got 'a' twice"):
            table_splits(frame)

    def test_of_columns_of_several_lengths_are_refused(self):
        with pytest.raises(DataError, match="a table must have columns of one length"):
            table_splits({"a": [1, 2], "b": [1]})

    def test_labels_are_in_the_order_of_numbers(self):
        table = {"a": np.random.default_rng(0).normal(size=30), "grade": [2, 10, 2] * 10}
        splits = table_splits(table, columns="grade=label", quiet=True)
        labels = [splits[f"{split}_labels"] for split in ("train", "validation", "test")]
        assert torch.cat(labels).bincount().tolist() == [20, 10]


class TestMeasures:
    def test_by_hand(self):
        x = torch.from_numpy(PEOPLE_KIND.encode(TWO, "x"))
        decoded = torch.tensor([[0.5, 0.2, 1.0, 0.8, 2.0], [-1.5, 0.9, 9.0, 0.3, 1.0]])
        found = PEOPLE_KIND.metrics(decoded, x)
        assert found["accuracy"].tolist() == [1.0, 0.5]
        assert found["accuracy/sex"].tolist() == [1.0, 1.0]
        assert found["accuracy/city"].tolist() == [1.0, 0.0]
        assert found["r2/age"].tolist() == [0.75, 1.0]
        assert found["r2/height"].tolist() == pytest.approx([0.75])  # of the one that has it
        assert found["r2"].tolist() == pytest.approx([0.75, 1.0])

    def test_r2_is_that_of_scikit_learn_on_the_training_split(self):
        from sklearn.metrics import r2_score

        splits = load("iris")
        decoded = splits.train + 0.3 * torch.randn(splits.train.shape, generator=torch.Generator().manual_seed(0))
        found = splits.kind.metrics(decoded, splits.train)
        oracle = r2_score(splits.train.double(), decoded.double(), multioutput="raw_values")
        names = [field.name for field in splits.kind.fields]
        assert [found[f"r2/{name}"].double().mean().item() for name in names] == pytest.approx(oracle, abs=1e-5)
        assert found["r2"].double().mean().item() == pytest.approx(oracle.mean(), abs=1e-5)

    def test_of_a_column_that_is_missing_everywhere_are_left_out(self):
        x = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]])
        assert "r2/height" not in PEOPLE_KIND.metrics(x, x)
        assert PEOPLE_KIND.metrics(x, x)["r2"].tolist() == [1.0]


class TestFiles:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_read_and_write(self, separator, tmp_path):
        table = {"city": TWO["city"], "id": ["7", "8"], **{name: TWO[name] for name in ("age", "sex", "height")}}
        x = PEOPLE_KIND.read(write_csv(tmp_path / "a.csv", table, separator))  # in another order, with one ignored
        assert np.array_equal(x, PEOPLE_KIND.encode(TWO, "x"))
        said = PEOPLE_KIND.write(tmp_path / "b", torch.from_numpy(x))
        assert said == f"{tmp_path / 'b.csv'}: 2 rows of 4 columns"
        assert (tmp_path / "b.csv").read_text() == "age,height,sex,city\n60,1.85,M,Oslo\n35,,F,\n"
        assert np.array_equal(PEOPLE_KIND.read(tmp_path / "b.csv"), x)

    def test_names_and_values_may_hold_separators_and_lines(self, tmp_path):
        (tmp_path / "a.csv").write_text('\ufeff"a,b",c\n1,"x\ny"\n\n2," ""z"", w"\n')
        kind = Table(fields=(Field("a,b", "number"), Field("c", "category", ("x\ny", '"z", w'))))
        x = kind.read(tmp_path / "a.csv")
        assert x.tolist() == [[1.0, 0.0], [2.0, 1.0]]
        kind.write(tmp_path / "b.csv", torch.from_numpy(x))
        assert np.array_equal(kind.read(tmp_path / "b.csv"), x)

    def test_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = {"age": [60, 35], "height": [1.85, None], "sex": ["M", "F"], "city": ["Oslo", None]}
        parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
        assert np.array_equal(PEOPLE_KIND.read(tmp_path / "a.parquet"), PEOPLE_KIND.encode(TWO, "x"))
        twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
        parquet.write_table(twice, tmp_path / "c.parquet")
        with pytest.raises(DataError, match=r"c\.parquet: names of columns must differ, got 'a' twice"):
            load(tmp_path / "c.parquet")
        (tmp_path / "b.parquet").write_bytes(b"PAR1 no table")
        with pytest.raises(DataError, match=r"b\.parquet must be a readable table \(\.parquet\), got: ") as error:
            load(tmp_path / "b.parquet")
        assert_one_line(error)

    def test_parquet_without_pyarrow_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"a\.parquet needs pyarrow to be read: pip install 'daps-rl\[tables\]'"):
            load(tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "must hold a line of names and rows, got nothing"),
            ("age,height,sex,city\n", "must hold a line of names and rows, got names alone"),
            ("age,age\n1,2\n", "names of columns must differ, got 'age' twice"),
            ("age,height,sex,city\n1,2,M,Rome\n1,2,M\n", "row 2 must have 4 cells, as the names, got 3"),
            ("age,height,sex,city\n1,2,M,Rome,9\n", "row 1 must have 4 cells, as the names, got 5"),
            ("age,height,sex\n1,2,M\n", "columns must be age, height, sex, city, got no 'city'; name them as in"),
            ("age,height,sex,city,x\n1,2,M,Rome,9\n", "got 'x' too"),
            ("age,height,sex,city\n1,2,M,Rome\n1,2,M,Bonn\n",
             "row 2, column 'city' must be one of missing, Lima, Oslo, Rome, as in training, got 'Bonn'"),
            ("age,height,sex,city\nold,2,M,Rome\n", "row 1, column 'age' must be a number, as in training, got 'old'"),
            ("age,height,sex,city\n1e999,2,M,Rome\n", "column 'age' must be a number, as in training, got '1e999'"),
            ("age,height,sex,city\n,2,M,Rome\n", "row 1, column 'age' must be a number, as in training, got nothing"),
            ("age,height,sex,city\n1,2,,Rome\n", "column 'sex' must be one of F, M, as in training, got nothing"),
            ("age,height,sex,city\n1e300,2,M,Rome\n", "column 'age' must be a number, as in training, got '1e300'"),
            ('age,height,sex,city\n1,2,M,"Rome\n', "in UTF-8 with a line of names (.csv), got: line 2: unexpected end"),
            (b"age,height\n\xff,2\n", "(.csv), got: byte 0xff in line 2, which is no UTF-8"),
        ],
    )  # fmt: skip
    def test_that_do_not_fit_are_one_line_with_the_place(self, text, match, tmp_path):
        path = tmp_path / "bad.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError) as error:
            PEOPLE_KIND.read(path)
        assert match in str(error.value)
        assert str(error.value).startswith(str(path))
        assert_one_line(error)

    def test_that_are_not_there_or_too_short_are_one_line(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.csv must be a table"):
            load(tmp_path / "gone.csv")
        write_csv(tmp_path / "a.csv", {"a": ["1", "2"], "b": ["x", "y"]})
        with pytest.raises(DataError, match="train must hold more than 2 data"):
            load_table(tmp_path / "a.csv")


class TestNamed:
    @pytest.mark.parametrize(
        ("name", "rows", "entries", "classes"),
        [("wine", 178, 13, [48, 59, 71]), ("breast-cancer", 569, 30, [212, 357]), ("iris", 150, 4, [50] * 3),
         ("diabetes", 442, 11, None)],
    )  # fmt: skip
    def test_of_scikit_learn(self, name, rows, entries, classes):
        splits = load(name)
        parts = [splits[split] for split in ("train", "validation", "test")]
        assert (sum(map(len, parts)), parts[0].shape[1]) == (rows, entries)
        if classes is None:
            assert splits.train_labels is None
            assert splits.kind.columns == ("number*1", "yes-no", "number*9")
        else:
            labels = torch.cat([splits[f"{split}_labels"] for split in ("train", "validation", "test")])
            assert sorted(labels.bincount().tolist()) == classes

    def test_a_label_may_be_a_column_instead(self):
        splits = load("wine", columns="class=category,ash=skip")
        assert splits.train_labels is None
        assert splits.kind.columns == ("number*12", "category:3")
        assert splits.kind.fields[-1].values == ("class_0", "class_1", "class_2")

    def test_penguins(self):
        pytest.importorskip("palmerpenguins")
        splits = load("penguins")
        kinds = {field.name: (field.kind, field.optional) for field in splits.kind.fields}
        assert kinds == {
            "species": ("category", False), "island": ("category", False), "bill_length_mm": ("number", True),
            "bill_depth_mm": ("number", True), "flipper_length_mm": ("number", True), "body_mass_g": ("number", True),
            "sex": ("category", False), "year": ("category", False),
        }  # fmt: skip
        assert sum(len(splits[split]) for split in ("train", "validation", "test")) == 344

    def test_penguins_without_the_package_are_one_line(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"package palmerpenguins: pip install 'daps-rl\[tables\]'"):
            load("penguins")


def test_the_kind_is_saved_as_json():
    values = json.loads(json.dumps(kind_to_json(PEOPLE_KIND)))
    assert values["kind"] == "table"
    assert kind_from_json(values) == PEOPLE_KIND
    with pytest.raises(DataError, match="the values of kind 'table' are not its own"):
        kind_from_json({**values, "fields": [[1] * 9]})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kinds", [(), ("number*2", "category:2")])
def test_codes_may_have_more_tokens_than_a_row_has_entries(policy, kinds):
    if policy in ("vq", "fsq"):
        pytest.importorskip("vector_quantize_pytorch")
    likelihood = "columns" if kinds else "gaussian"
    config = ModelConfig(
        observation_shape=(3,), column_kinds=kinds, likelihood=likelihood, policy=policy, num_tokens=8, vocab_size=8,
        embed_dim=8, num_heads=2, decoder_hidden=(8,), decoder="mlp",
    )  # fmt: skip
    model = DiscreteAutoencoder.from_config(config)
    x = torch.tensor([[0.5, -1.0, 1.0], [0.0, 2.0, 0.0]])
    z = model.policy(x).sample()
    assert z.shape[:2] == (2, 8)
    assert torch.isfinite(model.decoder(z).log_prob(x)).all()


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    """Trains on a file, then encodes it, decodes the codes, samples, evaluates; the picture is there."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "people.csv", people())
    with pytest.warns(UserWarning, match="columns: "):
        assert main(["train", "--data", "people.csv", "--columns", "children=label", *SMALL, "--out", "run"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"accuracy", "accuracy/sex", "r2", "r2/age", "accuracy_greedy"} <= set(summary["test"])
    assert math.isfinite(summary["test"]["accuracy"])
    assert (tmp_path / "run" / "reconstructions.png").stat().st_size > 10_000
    assert main(["encode", "run", "--input", "people.csv", "--output", "codes.npy"]) == 0
    assert np.load("codes.npy").shape == (60, 8)
    capsys.readouterr()
    assert main(["decode", "run", "--input", "codes.npy", "--output", "decoded.csv"]) == 0
    assert capsys.readouterr().out == "wrote decoded.csv: 60 rows of 4 columns\n"
    assert (tmp_path / "decoded.csv").read_text().splitlines()[0] == "age,height,sex,city"
    assert main(["sample", "run", "-n", "5", "--output", "sampled.csv"]) == 0
    assert len((tmp_path / "sampled.csv").read_text().splitlines()) == 6
    write_csv(tmp_path / "other.csv", {**people(), "sex": ["X"] * 60})
    capsys.readouterr()
    assert main(["encode", "run", "--input", "other.csv", "--output", "codes.npy"]) == 2
    assert "other.csv: row 1, column 'sex' must be one of F, M, as in training, got 'X'; mend it" in error_of(capsys)


def test_tables_are_read_without_pandas():
    """A .csv and the tables of scikit-learn need none of the extra packages."""
    code = (
        "import sys; sys.modules.update(pandas=None, pyarrow=None)\n"
        "from daps_rl.data import load; print(load('diabetes').train.shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "11\n", done.stderr
