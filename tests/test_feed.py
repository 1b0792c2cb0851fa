"""The batches of training, from memory and from a stream: the same for the same seed and step."""

import pytest
import torch
from PIL import Image

from daps_rl.config import make_config
from daps_rl.data import Feed, load
from daps_rl.training import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for number in range(40):
        Image.effect_noise((20, 24), 64).convert("RGB").save(path / f"{number:02}.png")
    return path


@pytest.fixture(scope="module")
def streamed(folder):
    return load(str(folder), image_size=16)


def test_a_stream_feeds_what_its_tensor_would(streamed):
    held = Feed(streamed.train[:], 7, 3, device=CPU)
    stream = Feed(streamed.train, 7, 3, device=CPU, workers=0)
    for step in (0, 1, 2, 2, 9, 10, 4):  # in order, again, ahead, and back
        assert torch.equal(stream.batch(step), held.batch(step)), step
    assert [held.new_epochs(step) for step in range(12)] == [stream.new_epochs(step) for step in range(12)]


def test_new_epochs_count_the_batches_they_begin_in():
    feed = Feed(torch.rand(10, 2), 4, 0, device=CPU)
    assert [feed.new_epochs(step) for step in range(6)] == [0, 0, 1, 0, 0, 1]
    assert [Feed(torch.rand(3, 2), 10, 0, device=CPU).new_epochs(step) for step in range(3)] == [0, 3, 3]


def test_a_streamed_run_that_is_stopped_and_resumed_is_the_run_that_was_not(streamed):
    config = make_config(
        data="folder", agent="daps-na", steps=6, batch_size=8, num_tokens=4, vocab_size=16, decoder="mlp",
        validate_every=0, data_workers=1, log_every=1,
    )  # fmt: skip
    whole = Trainer(config, streamed)
    list(whole.run())
    first = Trainer(config, streamed)
    list(first.run(lambda: first.step >= 3))
    state = first.state()
    second = Trainer(config, streamed)
    second.load_state(*state)
    list(second.run())
    resumed = second.autoencoder.state_dict()
    for name, value in whole.autoencoder.state_dict().items():
        assert torch.equal(value, resumed[name]), name
