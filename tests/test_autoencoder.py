"""What a model takes: tensors and NumPy arrays of any type that its data may have, and codes that are codes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from daps_rl import DiscreteAutoencoder
from daps_rl.config import ModelConfig
from daps_rl.data.arrays import as_codes


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        observation_shape=(1, 4, 4),
        num_tokens=3,
        vocab_size=5,
        embed_dim=8,
        num_heads=2,
        decoder="mlp",
        likelihood="bernoulli",
    )
    return DiscreteAutoencoder.from_config(config).eval()


x = torch.linspace(0, 1, 32).view(2, 1, 4, 4)


@pytest.mark.parametrize(
    "given",
    [x.numpy(), x.double(), x.double().numpy(), x.numpy()[:, 0], x[:, 0]],
    ids=["numpy", "float64", "numpy float64", "no channel", "tensor, no channel"],
)
def test_data_of_any_type_are_encoded_and_scored_as_float32(model, given):
    codes = model.encode(x, deterministic=True)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 3)
    assert torch.equal(model.encode(given, deterministic=True), codes)
    assert torch.allclose(model.log_likelihood(given, codes.numpy()), model.log_likelihood(x, codes))


@pytest.mark.parametrize("of", [lambda data: data, lambda data: data.numpy(), lambda data: data.double()])
def test_what_is_not_finite_is_refused_whatever_its_type(model, of):
    bad = x.clone()
    bad[1, 0, 2, 3] = torch.nan
    for call in (model.encode, lambda data: model.log_likelihood(data, torch.zeros(2, 3, dtype=torch.int64))):
        with pytest.raises(ValueError, match="x must be finite in float32, got NaN or infinity"):
            call(of(bad))


def test_data_go_to_the_device_of_the_model(model):
    assert model.to("meta").observations(x).device.type == "meta"


def test_pixels_are_scaled_as_in_training(model):
    pixels = (x * 255).to(torch.uint8)
    assert torch.equal(model.encode(pixels, deterministic=True), model.encode(pixels / 255, deterministic=True))


def test_pixels_are_refused_where_training_standardised_them(model):
    model.config = dataclasses.replace(model.config, likelihood="gaussian")
    with pytest.raises(ValueError, match=r"x must be floats, standardised as in training, got pixels"):
        model.encode((x * 255).to(torch.uint8))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_codes_of_any_integer_type_are_decoded(model, dtype):
    codes = torch.tensor([[0, 4, 2], [1, 3, 0]])
    assert torch.equal(model.decode(codes.numpy().astype(dtype)), model.decode(codes))


@pytest.mark.parametrize("codes", [[[0, 1, 5]], [[-1, 0, 0]], [[0, 1]], [[True, False, True]]])
def test_what_are_no_codes_is_refused(model, codes):
    with pytest.raises(ValueError, match=r"codes must be integers \[\.\.\., 3\] in 0 … 4"):
        model.decode(torch.tensor(codes))


def test_another_shape_and_no_numbers_are_refused(model):
    with pytest.raises(ValueError, match=r"x must have shape \[N, 1, 4, 4\]"):
        model.encode(x[..., :3])
    with pytest.raises(ValueError, match="x must hold numbers"):
        model.encode(np.array(["a", "b"]))


def test_the_likelihood_has_a_gradient_for_the_data(model):
    own = x.clone().requires_grad_()
    model.log_likelihood(own, torch.zeros(2, 3, dtype=torch.int64)).sum().backward()
    assert own.grad.abs().sum() > 0


def test_prefixes_of_any_integer_type_are_decoded(model):
    """Also where the end token, 256, is no number of that type."""
    config = dataclasses.replace(model.config, vocab_size=256, end_token=True)
    model, codes = DiscreteAutoencoder.from_config(config).eval(), np.array([[3, 255], [0, 1]], dtype=np.uint8)
    ended = torch.tensor([[3, 255, 256], [0, 1, 256]])
    assert torch.equal(model.decode(codes), model.decode(ended))
    with pytest.raises(ValueError, match=r"integers \[..., 3\] in 0 … 256, got torch.int64 of shape \[\]"):
        model.decode(torch.tensor(3))


def test_codes_of_bytes_are_codes_of_256_tokens():
    codes = np.array([[0, 255]], dtype=np.uint8)
    assert as_codes(codes, 2, 256).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match=r"in 0 … 254, got values 0 … 255"):
        as_codes(codes, 2, 255)
