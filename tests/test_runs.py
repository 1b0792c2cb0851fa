"""A run's folder: what its lock, its files and its session promise where something goes wrong."""

from __future__ import annotations

import fcntl
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributions import Independent, Normal

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main
from daps_rl.config import ModelConfig, TrainConfig, make_config
from daps_rl.data import Splits, from_arrays
from daps_rl.data.pixels import Arrays
from daps_rl.data.text import Text
from daps_rl.files import finite, to_json
from daps_rl.policies import end_token
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.pictures import decoded_prefixes
from daps_rl.runs.session import _Session, train_run
from daps_rl.tensor_file import load_tensors
from daps_rl.training import Trainer, TrainingDiverged

SIZES = {
    "num_tokens": 3, "vocab_size": 4, "embed_dim": 8, "num_heads": 2, "decoder_hidden": (8,), "decoder_embed_dim": 4,
    "batch_size": 7, "samples": 5, "validate_every": 0, "log_every": 1, "likelihood": "fixed_gaussian", "steps": 6,
    "checkpoint_every": 2, "device": "cpu",
}  # fmt: skip


def config(**options) -> TrainConfig:
    return make_config(**{**SIZES, **options})


@pytest.fixture
def splits() -> Splits:
    return from_arrays(torch.rand(50, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


class Fickle(nn.Module):
    """A decoder whose likelihood is NaN from a call on."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.linear, self.left = nn.Linear(3, 6), breaks_at

    def forward(self, codes: torch.Tensor) -> Independent:
        self.left -= 1
        mean = self.linear(codes.float()) * (math.nan if self.left < 0 else 1.0)
        return Independent(Normal(mean, 1.0, validate_args=False), 1)


def test_a_lock_holds_and_leaves_nothing_where_nothing_was_put(tmp_path):
    folder = tmp_path / "new" / "run"
    with RunFolder(folder).locked():
        assert (folder / ".lock").exists()
        with pytest.raises(ValueError, match="in use by another run"), RunFolder(folder).locked():
            pass
        assert (folder / ".lock").exists()  # who was refused removes nothing
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(KeyError), RunFolder(folder).locked():
        raise KeyError
    assert list(folder.iterdir()) == []
    with RunFolder(folder).locked():
        (folder / "config.json").touch()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json"]


def test_a_lock_is_no_link(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), RunFolder(tmp_path).locked():
        pass
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="symbolic link"), RunFolder(tmp_path).locked():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "precious"]
    assert (tmp_path / "precious").read_text() == "x"


def test_a_lock_that_was_removed_meanwhile_holds_nothing(tmp_path, monkeypatch):
    """Opened just before the one who held it removed it."""
    flock = fcntl.flock

    def late(descriptor, operation):
        (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ValueError, match="in use"), RunFolder(tmp_path).locked():
        pass


def test_json_has_no_word_for_what_is_not_finite(run):
    values = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, 2)], "c": {"d": math.nan}, "e": "NaN", "f": None}
    expected = {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None}, "e": "NaN", "f": None}
    assert finite(values) == expected == json.loads(to_json(values))
    run.path.mkdir()
    run.append_row(values)
    run.write_json(run.summary, values)
    assert json.loads(run.metrics.read_text()) == run.read_json(run.summary) == expected


def test_no_checkpoint_is_written_while_steps_are_skipped(splits, run):
    trainer = Trainer(config(decoder_samples=0), splits, decoder=Fickle(breaks_at=3))
    with run.locked():
        session = _Session(trainer, run)
        session.begin(resume=False)
        session.train(lambda: False, ())
        session.save()
    assert (trainer.step, int(trainer.optimizer.skipped)) == (6, 3)
    assert load_tensors(run.checkpoint, "checkpoint")[1]["step"] == 2
    assert [json.loads(line)["skipped"] for line in run.metrics.read_text().splitlines()] == [0, 0, 0, 1, 2, 3]


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(splits, run):
    trainer = Trainer(config(), splits)
    trainer.train_step()
    assert trainer.learner.is_sound()
    with torch.no_grad():
        next(trainer.agent.parameters()).view(-1)[0] = math.inf
    assert not trainer.learner.is_sound()
    session = _Session(trainer, run)
    session.save()
    assert not run.checkpoint.exists()


def test_a_run_whose_steps_were_all_skipped_is_no_success(splits, run):
    trainer = Trainer(config(decoder_samples=0), splits, decoder=Fickle(breaks_at=0))
    session = _Session(trainer, run)
    with run.locked():
        session.begin(resume=False)
        with pytest.raises(TrainingDiverged, match="no step had a finite loss"):
            session.train(lambda: False, ())
    assert trainer.step == 6
    assert not run.checkpoint.exists()


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_file({"beta": torch.zeros(())}, path, {"format": "daps-rl checkpoint 1", "info": "{}", "digest": ""})
    with pytest.raises(
        ValueError,
        match=r"no checkpoint of this version .*format is .daps-rl checkpoint 1.*use the version that wrote it",
    ):
        load_tensors(path, "checkpoint")


def test_what_was_looked_for_before_the_lock_is_looked_for_under_it(splits, run):
    summary = train_run(config(), splits, run)
    assert summary is not None
    before = run.config.read_bytes()
    with pytest.raises(ValueError, match="holds a run already"):
        train_run(config(seed=1), splits, run)
    assert run.config.read_bytes() == before
    with pytest.raises(ValueError, match="is finished already"):
        train_run(config(), splits, run, resume=True)
    run.summary.unlink()
    with pytest.raises(ValueError, match="other settings"):
        train_run(config(seed=1), splits, run, resume=True)
    again = train_run(config(), splits, run, resume=True)
    assert again is not None
    assert again["test"] == summary["test"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--agent", "ppo", "--microbatch", "2"], "cannot keep to microbatch"),
        (["--agent", "lazy:Lazy"], "yielded no loss"),  # in the first step
        (["--tensorboard", "--agent", "lazy:Lazy"], "yielded no loss"),
    ],
)
def test_an_error_of_use_leaves_nothing_behind(options, says, tmp_path, capsys, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "lazy.py").write_text(
        "from daps_rl.agents import Agent\n\n\nclass Lazy(Agent):\n    def losses(self, *_):\n        yield from ()\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    out = tmp_path / "run"
    for made in (False, True):
        if made:
            out.mkdir()
        assert main(["train", *options, "--steps", "2", "--embed-dim", "8", "--out", str(out)]) == 2
        assert says in capsys.readouterr().err
        assert out.exists() is made
        assert not made or list(out.iterdir()) == []


def test_where_a_code_of_symbols_has_ended_its_datum_stands_again(tmp_path, monkeypatch):
    """Only plain arrays know NaN, which a line is broken by."""
    kind = Text(window=4, vocabulary="abc")
    model = DiscreteAutoencoder.from_config(
        ModelConfig(
            observation_shape=(4, 1), column_kinds=kind.columns, likelihood="columns", decoder="mlp", num_tokens=3,
            vocab_size=4, end_token=True, embed_dim=8, num_heads=2, decoder_hidden=(8,), decoder_embed_dim=4,
        ),
        kind=kind,
    )  # fmt: skip
    codes = torch.tensor([[4, 4, 4], [0, 4, 4], [0, 1, 2]])  # of no, one and three tokens
    monkeypatch.setattr(model, "encode", lambda x, deterministic: codes)
    x, ends = torch.zeros(3, 4, 1), end_token(model.policy)
    assert ends is not None
    rows = decoded_prefixes(model, ends, x, (0.0, 1.0))
    torch.testing.assert_close(rows["3 tokens"], model.decode(codes))
    assert kind.draw(tmp_path / "a.png", rows, None) == [tmp_path / "a.png", tmp_path / "a.txt"]
    model.kind = Arrays()
    assert decoded_prefixes(model, ends, x, (0.0, 1.0))["3 tokens"].isnan().flatten(1).all(1).tolist() == [1, 1, 0]
