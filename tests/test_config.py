"""Settings: one table of defaults, ranges and texts, from which checks, flags and help are derived."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NAMES

from daps_rl import DiscreteAutoencoder
from daps_rl.autoencoder import check_memory
from daps_rl.config import AgentConfig, DataConfig, ModelConfig, RunConfig, TrainConfig, config_from_dict, make_config
from daps_rl.config.presets import FEW_ROWS, KIND_RECIPES, OTHER_DATA, SMALL_TABLE, TEXT
from daps_rl.config.settings import declared_in
from daps_rl.decoders import DECODERS
from daps_rl.kinds import POLICIES

GROUPS = (DataConfig, ModelConfig, AgentConfig, RunConfig)
SETTINGS = declared_in(TrainConfig)
NUMBERS = [name for name, declared in SETTINGS.items() if {int, float} & set(declared.kinds)]
CHOICES = [name for name, declared in SETTINGS.items() if declared.choices]


def changed(**options: object) -> TrainConfig:
    """A run's settings with some of them changed, by no recipe."""
    return TrainConfig(**{"steps": 1, **options})


def test_the_groups_have_no_setting_in_common_and_a_run_has_them_all():
    names = [name for group in GROUPS for name in declared_in(group)]
    assert len(names) == len(set(names))
    assert set(names) == set(SETTINGS)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_setting_is_told_by_a_sentence_in_help_and_docstring(name):
    declared = SETTINGS[name]
    assert declared.text[0].islower()
    assert declared.text[-1] != "."
    assert len(declared.text.split()) >= 4
    assert f"{name}: {declared.text}." in TrainConfig.__doc__


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "3"])
def test_every_number_is_finite_and_in_its_range(name, value):
    if name in ("steps", "minutes"):
        length = {"steps": None, "minutes": None, name: value}
    else:
        length = {name: (value,) if name in ("decoder_hidden", "observation_shape") else value}
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        changed(**length)


@pytest.mark.parametrize("name", [name for name in NUMBERS if int in SETTINGS[name].kinds])
def test_counts_are_whole(name):
    with pytest.raises(ValueError, match=rf"^{name} must be .*whole"):
        changed(**{name: (2.5,) if name in ("decoder_hidden", "observation_shape") else 2.5})


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_no_choice_is_told_the_choices(name):
    choices = ", ".join(SETTINGS[name].choices)
    with pytest.raises(ValueError, match=rf"^{name} must be one of {choices}, got 'nonsense'\.$"):
        changed(**{name: "nonsense"})


def test_choices_are_what_is_registered():
    assert declared_in(ModelConfig)["policy"].choices == tuple(POLICIES)
    assert declared_in(ModelConfig)["decoder"].choices == ("auto", *DECODERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": None}, "exactly one of steps and minutes"),
        ({"minutes": 1.0}, "exactly one of steps and minutes"),
        ({"beta_start": 0.1, "beta_end": 0.2}, "beta_start must be >= beta_end"),
        ({"decoder_hidden": ()}, "decoder_hidden must be positive widths"),
        ({"vocab_size": 1}, "vocab_size must be >= 2 and <= 1,048,576 and whole, got 1"),
        ({"ess_fraction": 1.5}, "ess_fraction must be positive and <= 1 and finite"),
        ({"agent_options": {"pooling": math.inf}}, "agent_options must be names with finite values"),
        ({"agent_options": [1]}, "agent_options must be names with finite values"),
        ({"centered": 1}, "centered must be true or false, got 1"),
        ({"data": 3}, "data must be text in UTF-8, got 3"),
        ({"data": "\udcff"}, "data must be text in UTF-8"),
        ({"steps": 2**63}, r"steps must be positive and whole and <= 9.22337e\+18"),
        ({"steps": True}, "steps must be positive and whole, got True"),
        ({"beta_start": 1e300}, r"beta_start must be positive and finite and <= 1e\+30"),
        ({"policy": "fsq", "policy_options": {"levels": [2.5, 3]}}, "levels of FSQ must be whole numbers above 1"),
        ({"num_heads": None}, "num_heads must be positive and <= 1,024 and whole, got None"),
    ],
)
def test_what_makes_no_sense_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        changed(**options)


def test_settings_are_flat_in_json_and_come_back():
    config = make_config(agent="vq", steps=3)
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert values["num_tokens"] == config.num_tokens == 8
    assert config_from_dict(values) == config
    assert config_from_dict({**values, "decoder_learning_rate": 0.0}) == config  # as earlier versions wrote it
    for name in ("nonsense", "decoder_learning_rate"):
        with pytest.raises(ValueError, match=f"unknown setting {name}; .* use that one, or train anew"):
            config_from_dict({**values, name: 0.5})


def test_the_models_part_has_what_the_data_decide():
    model = make_config("cifar10").model_config((3, 32, 32), "gaussian")
    assert type(model) is ModelConfig
    assert (model.observation_shape, model.decoder, model.bits) == ((3, 32, 32), "resnet", 576.0)
    model = changed().model_config((1, 28, 28), "bernoulli")
    assert (model.likelihood, model.decoder) == ("bernoulli", "mlp")
    assert changed(policy="gaussian").bits is None
    assert changed(policy="fsq", policy_options={"levels": (3, 3)}).bits == 8 * math.log2(9)


def test_settings_need_neither_agents_nor_environments():
    program = (
        "import sys, daps_rl.config; "
        "above = [name for name in sys.modules if name.startswith(('daps_rl.agents', 'daps_rl.envs', 'torchrl'))]"
        "; assert not above, above"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_settings_are_held_as_their_declared_types():
    config = changed(steps=np.int64(5), learning_rate=1, decoder_hidden=[4, np.int32(3)], data_dir=Path("/tmp"))
    assert (config.steps, config.decoder_hidden, config.data_dir) == (5, (4, 3), "/tmp")
    assert {type(config.steps), type(config.learning_rate), *map(type, config.decoder_hidden)} == {int, float}
    json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "vq", "policy_options": {"no_such": 1}}, "do not suit vq .*no_such"),
        ({"policy": "vq", "policy_options": {"dim": 3}}, "do not suit vq"),
        ({"policy": "vq", "policy_options": {"decay": "x"}}, "do not suit vq"),
        ({"policy": "vq", "policy_options": {"accept_image_fmap": True}}, "do not suit vq"),
        ({"policy": "fsq", "policy_options": {"levels": [3, 3], "num_codebooks": 2}}, "do not suit fsq"),
        ({"policy": "fsq", "policy_options": {"levels": [3, 3], "channel_first": True}}, "do not suit fsq"),
    ],
)
def test_options_of_a_quantiser_that_change_what_it_gives_are_refused(options, says):
    pytest.importorskip("vector_quantize_pytorch")
    config = changed(vocab_size=16, num_tokens=3, **options).model_config((1, 8, 8), "gaussian")
    with pytest.raises(ValueError, match=says) as error:
        DiscreteAutoencoder.from_config(config)
    assert "\n" not in str(error.value)


def test_a_try_of_a_quantiser_leaves_random_numbers_and_codebook_alone():
    pytest.importorskip("vector_quantize_pytorch")
    weights = []
    for options in ({}, {"decay": 0.8}):
        torch.manual_seed(0)
        config = changed(policy="vq", policy_options=options).model_config((1, 8, 8), "gaussian")
        weights.append(DiscreteAutoencoder.from_config(config).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_model_larger_than_memory_is_refused_before_it_is_made():
    for policy in ("autoregressive", "factorized", "fsq"):
        config = changed(policy=policy, embed_dim=2**16, num_layers=2**10).model_config((1, 8, 8), "gaussian")
        with pytest.raises(ValueError, match="GiB, and this machine has"):
            check_memory(config, bytes_each=4)
    before = torch.get_rng_state()
    small = changed().model_config((1, 8, 8), "gaussian")
    check_memory(small, bytes_each=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_and_folders_of_ones_own_bring_the_recipe_of_their_kind(tmp_path):
    for folder, name in (("texts", "a.txt"), ("sounds", "one/a.WAV"), ("walks", "a.bvh"), ("idx", NAMES[0])):
        (tmp_path / folder / name).parent.mkdir(parents=True)
        (tmp_path / folder / name).touch()
    lines = [f"{i},{i % 7}\n" for i in range(FEW_ROWS)]
    (tmp_path / "few.csv").write_text("a,b\n" + "".join(lines))
    (tmp_path / "many.csv").write_text("a,b\n" + "".join(lines) + "0,0\n")
    expected = {
        "texts": TEXT, "no.TXT": TEXT, "sounds": KIND_RECIPES["sound"], "few.csv": SMALL_TABLE,
        "many.csv": KIND_RECIPES["table"], "no.csv": KIND_RECIPES["table"],
        **dict.fromkeys(("walks", "idx", "a.npy", "nothing", "no_such_module:function"), OTHER_DATA),
    }  # fmt: skip
    for data, recipe in expected.items():
        config = make_config(data=data, data_dir=str(tmp_path))
        assert {name: getattr(config, name) for name in recipe} == recipe, data
        assert config.beta_start == recipe.get("beta_start", 0.5), data
    assert make_config(data=tmp_path / "texts").beta_start == make_config(data="text").beta_start == 0.05
    assert make_config(data="owner/name", text_column="line").beta_start == 0.05
    assert make_config(data="owner/name").beta_start == 0.5
    assert (make_config(data="wine").min_variance, make_config(data="iris").min_variance) == (0.3, 0.1)
    assert make_config(data=tmp_path / "texts", beta_start=0.2).beta_start == 0.2


def test_the_rows_of_a_parquet_file_are_counted(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for count, recipe in ((FEW_ROWS, SMALL_TABLE), (FEW_ROWS + 1, KIND_RECIPES["table"])):
        pandas.DataFrame({"a": range(count)}).to_parquet(tmp_path / "a.parquet")
        assert make_config(data=tmp_path / "a.parquet").minutes == recipe["minutes"]
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    assert make_config(data=tmp_path / "a.parquet").minutes == OTHER_DATA["minutes"]
