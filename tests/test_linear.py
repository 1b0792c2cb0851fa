"""The linear layer against PyTorch's own, in float64."""

import copy

import pytest
import torch
from torch import nn

from daps_rl import linear
from daps_rl.decoders import MLPDecoder
from daps_rl.linear import Linear, onednn_pays, product
from daps_rl.policies import AutoregressivePolicy

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def by_onednn(monkeypatch):
    """All products through oneDNN, whatever the processor; gives how many there were."""
    calls = []
    monkeypatch.setattr(linear, "LEAST", 1)
    monkeypatch.setattr(linear, "onednn_pays", lambda: True)
    monkeypatch.setattr(linear, "product", lambda *parts: calls.append(1) or product(*parts))
    return calls


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(37, 20), (3, 5, 20), (2, 3, 4, 20)])
def test_values_and_gradients_are_those_of_pytorch(by_onednn, shape, bias):
    torch.manual_seed(0)
    layer = Linear(20, 33, bias=bias)
    exact = nn.Linear(20, 33, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 33)
    made = layer(x)
    assert by_onednn == [1]
    expected = exact(wide := x.detach().double().requires_grad_())
    torch.testing.assert_close(made, expected.float())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), made.detach())
    found = torch.autograd.grad((made * weight).sum(), [x, *layer.parameters()])
    wanted = torch.autograd.grad((expected * weight).sum(), [wide, *exact.parameters()])
    torch.testing.assert_close(found, tuple(grad.float() for grad in wanted))


@needs_onednn
def test_only_what_needs_a_gradient_costs_one(by_onednn):
    layer = Linear(20, 33)
    layer(torch.randn(8, 20)).sum().backward()
    assert len(by_onednn) == 2  # forward, and the weights'
    layer.requires_grad_(False)
    layer(torch.randn(8, 20, requires_grad=True)).sum().backward()
    assert len(by_onednn) == 4


@needs_onednn
def test_it_can_be_differentiated_twice(by_onednn):
    torch.manual_seed(0)
    layer, exact = Linear(20, 33), nn.Linear(20, 33).double()
    exact.load_state_dict(layer.state_dict())
    found = []
    for module, dtype in ((layer, torch.float32), (exact, torch.float64)):
        x = torch.linspace(-1.0, 1.0, 140, dtype=dtype).view(7, 20).requires_grad_()
        (slope,) = torch.autograd.grad(module(x).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, *module.parameters()]))
    torch.testing.assert_close(found[0], tuple(grad.float() for grad in found[1]), rtol=1e-4, atol=1e-5)
    assert len(by_onednn) > 3


@needs_onednn
def test_others_are_left_to_pytorch(by_onednn):
    layer, x = Linear(20, 33), torch.randn(8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    assert layer(x[0]).shape == (33,)
    assert layer(x[:0]).shape == (0, 33)
    assert layer.to("meta")(x.to("meta")).device.type == "meta"
    layer = Linear(20, 33)
    torch.vmap(layer)(x)
    assert torch.func.grad(lambda weight: torch.func.functional_call(layer, {"weight": weight}, x).sum())(
        layer.weight
    ).any()
    assert by_onednn == []


def test_it_is_asked_of_the_processor(monkeypatch):
    amd = {"cpu_name": "AMD EPYC", "avx512_f": True}
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for known, pays in (
        (amd, True),
        ({**amd, "avx512_f": False}, False),
        ({**amd, "cpu_name": "Intel"}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert onednn_pays.__wrapped__() is pays
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: amd)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert onednn_pays.__wrapped__() is False


def test_our_networks_are_made_of_it():
    networks = MLPDecoder(4, 16, (1, 8, 8)), AutoregressivePolicy((1, 8, 8), 4, 16)
    layers = [part for network in networks for part in network.modules() if isinstance(part, nn.Linear)]
    assert len(layers) > 10
    assert all(type(layer) is Linear for layer in layers)
