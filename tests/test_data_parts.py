"""Data of several parts: rows and back, masks, training from one part and reading another."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from daps_rl import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import DataError, from_arrays
from daps_rl.data.kind import kind_from_json, kind_to_json
from daps_rl.data.parts import Part, Parts, part_splits
from daps_rl.data.pixels import Arrays
from daps_rl.decoders.columns import ColumnsDistribution
from daps_rl.files import from_json, to_json
from daps_rl.training import Trainer

KIND = Parts(
    parts=(
        Part(name="sound", shape=(3, 2)),
        Part(name="picture", shape=(1, 8, 8), mean=0.25, kind=Arrays(value_range=(0.0, 1.0))),
        Part(name="label", shape=(1,), entries="category:4"),
    )
)


def some(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Sounds, pictures and labels that say the same."""
    label = torch.arange(count) % 4
    generator = torch.Generator().manual_seed(seed)
    sound = torch.nn.functional.one_hot(label, 6).float().reshape(-1, 3, 2)
    picture = torch.zeros(count, 1, 8, 8)
    picture[torch.arange(count), 0, label * 2] = 1.0  # a line of its own
    sound = sound + 0.05 * torch.randn(count, 3, 2, generator=generator)
    return {"sound": sound, "picture": picture, "label": label.reshape(-1, 1)}


def test_rows_and_back():
    data = some(5)
    assert KIND.columns == ("number*6@71", "number*64@72", "category:4@73", "yes-no*3")
    rows = KIND.pack(TensorDict(data, batch_size=[5]))
    assert rows.shape == (5, 74)
    back = KIND.unpack(rows)
    for name, value in data.items():
        torch.testing.assert_close(back[name], value.float())
    assert KIND.pack({"sound": torch.zeros(2, 3, 2, device="meta")}).device.type == "meta"  # where the data are
    alone = KIND.only(rows, ["picture"])
    torch.testing.assert_close(alone, KIND.pack({"picture": data["picture"]}))
    there = KIND.there(torch.cat((rows[:1], alone[:1])))
    assert {name: value.tolist() for name, value in there.items()} == {
        "sound": [True, False], "picture": [True, True], "label": [True, False],
    }  # fmt: skip


def test_it_is_saved_as_json():
    assert kind_from_json(from_json(to_json(kind_to_json(KIND)))) == KIND
    forged = kind_to_json(KIND) | {"parts": [{"name": "a", "shape": [1], "kind": {"kind": "os:getcwd"}}]}
    with pytest.raises(DataError, match="the kind of part a must be one of arrays"):
        kind_from_json(forged)


def test_measures_of_the_parts():
    rows, other = KIND.pack(some(4)), KIND.pack({**some(4), "label": torch.tensor([[0], [1], [0], [0]])})
    found = KIND.metrics(other, rows)
    assert set(found) == set(KIND.measures) == {"picture_psnr", "picture_ssim", "label_accuracy"}
    assert found["label_accuracy"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found["picture_psnr"].tolist() == [100.0] * 4


def test_what_a_row_lacks_is_not_there_when_it_is_asked_for_and_is_not_measured():
    rows = torch.cat((KIND.pack({"sound": some(2)["sound"]}), KIND.pack(some(2))))
    pictures = KIND.only(rows, ["picture"])
    assert KIND.there(pictures)["picture"].tolist() == [False, False, True, True]
    assert not pictures[:2].any()
    assert not KIND.there(pictures)["sound"].any()
    found = KIND.metrics(KIND.pack(some(4)), rows)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(KIND.measures, 2)
    assert KIND.metrics(rows, KIND.pack({"sound": some(4)["sound"]})) == {}
    for names in (["smell"], ["sound", "smell"], []):
        with pytest.raises(DataError, match=f"parts must be some of .*, got {', '.join(names) or 'none'}; rename"):
            KIND.only(rows, names)


def test_a_measure_of_what_no_datum_has_is_none():
    data = {"train": some(16), "validation": {"sound": some(8)["sound"]}, "test": some(8)}
    splits = part_splits("pairs", KIND, data, (("sound",),))
    trainer = Trainer(make_config(data="digits", agent="daps-na", steps=1, batch_size=8, likelihood="auto"), splits)
    found = trainer.validate()
    assert found["picture_psnr"] is None
    assert found["log_likelihood"] is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"smell": torch.zeros(1)}, "parts must be some of sound, picture, label, got smell"),
        ({}, "got none"),
        ({"sound": torch.zeros(2, 3)}, r"sound must have shape \[2, 3, 2\], got \[2, 3\]"),
        ({"label": torch.tensor(3)}, r"label must have shape \[1, 1\], got \[\]"),
    ],
)
def test_parts_that_are_not_its_own(data: dict[str, torch.Tensor], message: str):
    with pytest.raises(DataError, match=message):
        KIND.pack(data)


def test_a_part_that_is_not_there_is_drawn_black(tmp_path, monkeypatch):
    drawn: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(Arrays, "draw", lambda self, path, rows, title: drawn.append(rows) or [path])
    rows = KIND.pack(some(2))
    seen = torch.cat((KIND.only(rows[:1], ["sound"]), rows[1:]))
    (path,) = KIND.draw(tmp_path / "a.png", {"original": seen, "code": rows}, "two")
    assert path == tmp_path / "a-picture.png"
    black = torch.zeros(1, 1, 8, 8)
    torch.testing.assert_close(drawn[0]["original"], torch.cat((black, some(2)["picture"][1:])))
    torch.testing.assert_close(drawn[0]["code"], some(2)["picture"])


@pytest.mark.parametrize(("title", "heading"), [("two", "two: picture"), (None, "picture")])
def test_the_title_of_a_part_s_picture(tmp_path, monkeypatch, title, heading):
    titles: list[str | None] = []
    monkeypatch.setattr(Arrays, "draw", lambda self, path, rows, title: titles.append(title) or [path])
    KIND.draw(tmp_path / "a.png", {"original": KIND.pack(some(2))}, title)
    assert titles == [heading]


def test_a_part_s_kind_is_made_once():
    assert KIND.parts[1].made is KIND.parts[1].made
    assert KIND.parts[0].made is None


def test_a_code_of_the_sound_decodes_to_the_picture(tmp_path):
    data = {"train": some(64), "validation": some(8, 1), "test": some(8, 2)}
    splits = part_splits("pairs", KIND, data, (("sound",), ("picture",), ("sound", "picture", "label")))
    assert splits.train.shape == (192, 74)
    assert splits.train_labels is not None
    assert splits.train_labels[:6].tolist() == [0, 0, 0, 1, 1, 1]
    config = make_config(
        data="digits", agent="daps-na", steps=250, num_tokens=2, vocab_size=8, num_patches=2, batch_size=64,
        embed_dim=16, decoder_embed_dim=8, decoder_hidden=(32,), beta_start=0.1, likelihood="fixed_columns",
        variance=0.05, token_vectors="separate", decoder="mlp", learning_rate=5e-3, validate_every=0, seed=0,
    )  # fmt: skip
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    trainer.autoencoder.save_pretrained(tmp_path)
    model = DiscreteAutoencoder.from_pretrained(tmp_path)
    test = some(8, 2)
    codes = model.encode({"sound": test["sound"]}, deterministic=True)
    decoded = model.kind.unpack(model.decode(codes))
    lines = decoded["picture"][:, 0].mean(-1)[:, ::2].argmax(-1)
    assert lines.tolist() == test["label"].flatten().tolist()  # read from the picture
    assert torch.equal(decoded["label"], test["label"].float())


def test_arrays_stay_as_they_are():
    splits = from_arrays(torch.rand(20, 1, 4, 4))
    assert splits.kind.columns == ()
    assert splits.kind.prepare(splits.test) is splits.test


@pytest.mark.parametrize("agent", ["fsq", "gumbel-na", "gaussian", "daps-na"])
def test_every_agent_s_decoder_explains_the_parts_that_it_was_not_shown(agent: str, monkeypatch):
    """What is scored is the whole datum, also by agents that learn through the decoder's gradient."""
    data = {"train": some(16), "validation": some(8, 1), "test": some(8, 2)}
    splits = part_splits("pairs", KIND, data, (("sound",),))
    scored: list[torch.Tensor] = []
    log_prob = ColumnsDistribution.log_prob
    monkeypatch.setattr(
        ColumnsDistribution, "log_prob", lambda self, value: scored.append(value) or log_prob(self, value)
    )
    config = make_config(
        data="digits", agent=agent, steps=1, num_tokens=2, vocab_size=8, num_patches=2, batch_size=8,
        microbatch=0 if agent == "fsq" else 4, embed_dim=8,
        likelihood="auto", decoder="mlp", decoder_hidden=(8,), validate_every=0, seed=0,
    )  # fmt: skip
    trainer = Trainer(config, splits)
    trainer.train_step()
    whole = {tuple(row) for row in splits.train_targets.tolist()}
    assert scored
    assert {tuple(row) for value in scored for row in value.reshape(-1, 74).tolist()} <= whole
