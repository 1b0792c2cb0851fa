"""What is read from a file: it is what was saved, or it is refused in one line; and it runs nobody's code unasked."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZES, error_of
from safetensors.torch import save_file

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main
from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.comparison.pictures import plot_reconstructions_of
from daps_rl.comparison.plan import Plan
from daps_rl.config import make_config
from daps_rl.data import Splits, from_arrays
from daps_rl.files import from_json
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.session import train_run
from daps_rl.tensor_file import load_tensors, save_tensors

OWN = """
from pathlib import Path

from daps_rl.agents import RLOO
from daps_rl.data import load
from daps_rl.data.kind import Kind
from test_problems import Ones

Path("was_imported").touch()


class Agent(RLOO):
    pass


class Problem(Ones):
    pass


class OwnKind(Kind):
    def draw(self, path, rows, title):
        path.touch()
        return [path]


def table():
    return load("iris")


def own_kind():
    parts = {name: load("iris")[name] for name in ("train", "validation", "test")}
    return type(load("iris"))(name="own", **parts, likelihood="gaussian", kind=OwnKind())
"""


@pytest.fixture
def model(splits: Splits, tmp_path: Path) -> Path:
    """A saved model."""
    folder = tmp_path / "model"
    config = make_config(**SIZES, steps=1).model_config(splits.observation_shape, splits.likelihood)
    DiscreteAutoencoder.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(splits: Splits, tmp_path: Path) -> RunFolder:
    """A finished run, whose checkpoint is still there."""
    folder = RunFolder(tmp_path / "run")
    train_run(make_config(**SIZES, steps=2, device="cpu"), splits, folder)
    return folder


def refused(function: Callable[[], object], *says: str) -> None:
    """Asserts that a function raises ValueError, in one line that says all of these."""
    with pytest.raises(ValueError) as caught:
        function()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in says), text


def test_a_flipped_bit_anywhere_in_a_model_or_a_checkpoint_is_refused(model, run):
    random = np.random.default_rng(0)
    for path, load in (
        (model / "model.safetensors", lambda: DiscreteAutoencoder.from_pretrained(model)),
        (model / "config.json", lambda: DiscreteAutoencoder.from_pretrained(model)),
        (run.checkpoint, lambda: load_tensors(run.checkpoint, "checkpoint")),
    ):
        load()
        content = path.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else len(content)
        # Half of the bits are the header's, in which a flip can also make another valid file.
        for bound in (header, len(content)):
            for at in random.choice(8 * bound, 40, replace=False):
                spoilt = bytearray(content)
                spoilt[at // 8] ^= 1 << at % 8
                path.write_bytes(spoilt)
                refused(load, str(path.parent))
        path.write_bytes(content)
    load()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not what was saved"),
        (lambda folder: (folder / "config.json").write_text('{"format": "else"}'), "is not what was saved"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "damaged or no model"),
        (lambda folder: save_file({"x": torch.zeros(2)}, folder / "model.safetensors"), "its format is None, here"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9000), "damaged or no model"),
        (lambda folder: os.truncate(folder / "model.safetensors", 2**40), "larger than this machine's memory"),
    ],
)
def test_a_spoilt_model_is_refused(model, spoil, says):
    spoil(model)
    refused(lambda: DiscreteAutoencoder.from_pretrained(model), says)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_tokens": "3"}, "num_tokens must be"),
        ({"num_tokens": True}, "num_tokens must be"),
        ({"num_tokens": 2**64}, "num_tokens must be"),
        ({"num_layers": 10**9}, "num_layers must be"),
        ({"embed_dim": 2**16, "num_layers": 2**10}, "this machine has"),
        ({"decoder_hidden": {"a": 1}}, "decoder_hidden must be"),
        ({"observation_shape": [6, -1]}, "observation_shape must be"),
        ({"variance": "NaN"}, "variance must be"),
        ({"policy_options": 3}, "policy_options must be"),
        ({"nonsense": 3}, "unknown setting nonsense"),
        ({"num_tokens": 4}, "do not fit the model"),
    ],
)
def test_a_forged_model_is_refused_before_anything_is_made(model, settings, says):
    tensors, info = load_tensors(model / "model.safetensors", "model")
    info["model"] |= settings
    save_tensors(model / "model.safetensors", "model", tensors, info)
    (model / "config.json").write_text(json.dumps(info, indent=2) + "\n")
    refused(lambda: DiscreteAutoencoder.from_pretrained(model), says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000, "nested too deep"),
        (b"[1]", "no JSON object"),
        (b"", "Expecting value"),
        (b'{"steps": NaN}', "NaN is no number"),
        (b'{"steps": -Infinity}', "-Infinity is no number"),
        (b'{"steps": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"data": "\xff"}', "decode"),
    ],
)
def test_json_that_we_never_wrote_is_refused(text, says, run, capsys):
    refused(lambda: from_json(text), says)
    run.config.write_bytes(text)
    assert main(["evaluate", str(run.path)]) == 2
    assert f"{run.config} is damaged" in error_of(capsys)


@pytest.mark.parametrize("value", [None, "x", [1], {"a": 1}, math.pi, -1, 2**70])
def test_settings_of_another_type_are_refused(value, run, capsys):
    wrong = {"embed_dim": value, "data": value if not isinstance(value, str) else 3, "centered": value, "steps": "x"}
    whole = json.loads(run.config.read_text())
    for name, spoilt in wrong.items():
        run.config.write_text(json.dumps({**whole, name: spoilt}))
        for command in (["evaluate", str(run.path)], ["train", "--resume", "--out", str(run.path)]):
            assert main(command) == 2
            assert f"{name} must be" in error_of(capsys)


def test_a_pipe_is_no_file(model, run):
    for path in (model / "model.safetensors", model / "config.json", run.config, run.checkpoint):
        path.unlink()
        os.mkfifo(path)
    refused(lambda: DiscreteAutoencoder.from_pretrained(model), "missing")
    refused(lambda: run.read_json(run.config), "missing")
    refused(lambda: load_tensors(run.checkpoint, "checkpoint"), "no such file")


def lacking(name: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, info: (tensors if name in tensors else info).pop(name)


@pytest.mark.parametrize(
    "spoil",
    [
        *map(lacking, ("beta", "usage", "random.cpu", "optimizer.skipped", "optimizer.0.exp_avg", "optimizer.0.step")),
        *map(lacking, ("step", "seconds", "decoder_evaluations", "fingerprint", "score_precision", "config")),
        lambda tensors, info: tensors.pop(next(name for name in tensors if name.startswith("model."))),
        lambda tensors, info: tensors.update(more=torch.zeros(2)),
        lambda tensors, info: tensors.update({"optimizer.0.exp_avg": torch.zeros(2)}),
        lambda tensors, info: tensors.update({"random.cpu": torch.zeros(3)}),
        lambda tensors, info: tensors.update({"optimizer.x.exp_avg": torch.zeros(3)}),
        lambda tensors, info: tensors.update({"optimizer.999.exp_avg": torch.zeros(3)}),
        lambda tensors, info: tensors.update(usage=torch.zeros(3)),
        lambda tensors, info: info.update(step="2"),
        lambda tensors, info: info.update(step=-1),
        lambda tensors, info: info.update(step=2**64),
        lambda tensors, info: info.update(score_precision="int8"),
        lambda tensors, info: info.update(config={"steps": 2}),
    ],
)
def test_a_forged_checkpoint_is_refused(splits, run, spoil):
    """With a digest that is right."""
    config = make_config(**SIZES, steps=2, device="cpu")
    tensors, info = load_tensors(run.checkpoint, "checkpoint")
    run.summary.unlink()
    before = dataclasses.asdict(config)
    assert info["config"].keys() == before.keys()
    spoil(tensors, info)
    save_tensors(run.checkpoint, "checkpoint", tensors, info)
    refused(lambda: train_run(config, splits, run, resume=True), "checkpoint")


class TestTrust:
    """Code that a file names, not the person at the command line."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "own_code.py").write_text(OWN)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("own_code", None)  # of the test before
        return tmp_path

    def train(self, folder: Path, *options: str) -> Path:
        """A finished run, in whose process its code was never imported."""
        sizes = ["--embed-dim", "8", "--num-heads", "2", "--batch-size", "4", "--validate-every", "0"]
        assert main(["train", *options, *sizes, "--steps", "1", "--out", str(folder / "run")]) == 0
        return folder / "run"

    def forget(self, folder: Path) -> None:
        (folder / "was_imported").unlink()
        del sys.modules["own_code"]

    @pytest.mark.parametrize("command", ["evaluate", "report", "sample", "encode", "decode", "train"])
    def test_a_problem_that_a_run_names_is_refused_before_it_is_imported(self, command, folder, capsys):
        run = self.train(folder, "--problem", "own_code:Problem")
        self.forget(folder)
        capsys.readouterr()
        (run / "summary.json").rename(folder / "summary.json")
        files = ["--input", "x.npy", "--output", "y.npy"][2 * (command == "sample") :]
        arguments = {"train": ["--resume", "--out", str(run)], "evaluate": [str(run)], "report": [str(run)]}
        typed = [command, *arguments.get(command, [str(run), *files])]
        assert main(typed) == 2
        said = error_of(capsys)
        assert "asks to import and run own_code:Problem" in said
        assert "--trust" in said
        assert str(run) in said
        assert not (folder / "was_imported").exists()
        (folder / "summary.json").rename(run / "summary.json")
        np.save(folder / "x.npy", np.zeros((2, 4) if command == "decode" else (2, 3), np.int64))
        code = 2 if command in ("sample", "decode") else 0  # a decision reconstructs nothing
        assert main([*typed, "--trust"]) == code
        assert command == "train" or (folder / "was_imported").exists()  # which was finished already

    def test_an_agent_that_a_run_names_is_refused_where_it_would_be_imported(self, folder, data, capsys):
        run = self.train(folder, "--data", str(data), "--agent", "own_code:Agent")
        self.forget(folder)
        assert main(["evaluate", str(run)]) == 0
        (run / "summary.json").unlink()
        capsys.readouterr()
        resume = ["train", "--resume", "--out", str(run)]
        assert main(resume) == 2
        assert f"{run / 'config.json'} asks to import and run own_code:Agent, code that is no" in error_of(capsys)
        assert not (folder / "was_imported").exists()
        assert main([*resume, "--agent", "own_code:Agent"]) == 0  # typed by the person
        (run / "summary.json").unlink()
        assert main([*resume, "--trust"]) == 0

    @pytest.mark.parametrize("command", ["evaluate", "report", "train"])
    @pytest.mark.parametrize("data", ["own_code:table", "own_code:own_kind"])
    def test_data_that_a_run_names_are_refused_before_they_are_imported(self, command, data, folder, capsys):
        run = self.train(folder, "--data", data)
        self.forget(folder)
        (run / "summary.json").rename(folder / "summary.json")
        typed = ["train", "--resume", "--out", str(run)] if command == "train" else [command, str(run)]
        capsys.readouterr()
        assert main(typed) == 2
        assert "asks to import and run own_code:" in error_of(capsys)
        assert not (folder / "was_imported").exists()
        (folder / "summary.json").rename(run / "summary.json")
        (run / "reconstructions.png").unlink()  # which train draws again
        assert main([*typed, "--trust"]) == 0
        assert (folder / "was_imported").exists()
        assert command == "evaluate" or (run / "reconstructions.png").exists()

    def test_data_that_a_person_types_are_trusted(self, folder):
        run = self.train(folder, "--data", "own_code:own_kind")
        self.forget(folder)
        (run / "reconstructions.png").unlink()
        assert main(["train", "--resume", "--data", "own_code:own_kind", "--out", str(run)]) == 0
        assert (run / "reconstructions.png").exists()

    def test_a_kind_that_a_model_names_is_refused_where_nothing_else_is_somebodys(self, folder, capsys):
        run = self.train(folder, "--data", "iris")
        model = DiscreteAutoencoder.from_pretrained(run / "model")
        model.kind = importlib.import_module("own_code").OwnKind()
        model.save_pretrained(run / "model")
        self.forget(folder)
        (run / "reconstructions.png").unlink()
        capsys.readouterr()
        for typed in (["train", "--resume", "--out", str(run)], ["encode", str(run), "--input=x", "--output=y"]):
            assert main(typed) == 2
            assert f"{run / 'model'} asks to import and run own_code:OwnKind" in error_of(capsys)
        assert not (folder / "was_imported").exists()

    def test_a_comparison_trusts_no_kind_that_its_data_are_not_of(self, folder):
        run = self.train(folder, "--data", "iris")
        model = DiscreteAutoencoder.from_pretrained(run / "model")
        model.kind = importlib.import_module("own_code").OwnKind()
        model.save_pretrained(run / "model")
        self.forget(folder)
        splits = from_arrays(torch.randn(40, 4))
        with pytest.raises(ValueError, match="asks to import and run own_code:OwnKind"):
            plot_reconstructions_of(folder / "a.png", {"x": run}, splits, device="cpu")
        assert not (folder / "was_imported").exists()

    @pytest.mark.parametrize("more", [[], ["--report"], ["--agents", "daps"]])
    def test_an_agent_or_a_problem_that_a_comparison_names_is_refused(self, more, folder, capsys):
        plain = {"daps": "daps"}
        own = {"problem": "own_code:Problem"}, {"data": "own_code:table"}
        for agents, options in (({"x": "own_code:Agent"}, {}), *((plain, options) for options in own)):
            comparison = ComparisonFolder(folder / "comparison")
            comparison.path.mkdir(exist_ok=True)
            plan = Plan(agents=agents, seeds=(0,), options={"steps": 1, **options})
            comparison.write_json(comparison.settings, plan.to_json())
            assert main(["compare", "--out", str(comparison.path), *more]) == 2
            assert f"{comparison.settings} asks to import and run own_code:" in error_of(capsys)
            assert not (folder / "was_imported").exists()

    def test_a_file_in_the_working_directory_is_no_module_unless_one_is_named(self, folder, monkeypatch):
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
        assert main(["evaluate", "nowhere"]) == 2
        assert str(folder) not in sys.path
        assert main(["evaluate", "nowhere", "--trust"]) == 2
        assert sys.path[-1] == str(folder)
