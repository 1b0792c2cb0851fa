"""torch.compile as an option: the same numbers as without it, and no harm where it fails."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from daps_rl.compilation import Compiled, compile_passes
from daps_rl.config import make_config
from daps_rl.policies import AutoregressivePolicy, layers
from daps_rl.session import load_data
from daps_rl.training import Trainer


class Doubling(nn.Module):
    compiled_methods = ("forward",)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        if x.ndim == 0:
            raise ValueError("x is a number")
        return self.weight * x


def trained(**options) -> tuple[Trainer, torch.Tensor]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = make_config(steps=3, samples=4, validate_every=0, device="cpu", score_precision="float32", **options)
    trainer = Trainer(config, load_data(config))
    list(trainer.run())
    return trainer, torch.cat([p.detach().flatten() for p in trainer.agent.parameters()])


@pytest.mark.parametrize(
    "options",
    [
        {"num_tokens": 3, "vocab_size": 5, "embed_dim": 16, "num_layers": 1, "batch_size": 8, "microbatch": 4},
        pytest.param(
            {"problem": "tsp5", "agent": "daps", "embed_dim": 16, "num_layers": 1, "batch_size": 8},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["digits", "a pointer with a mask"],
)
def test_training_is_the_same(options):
    _, eager = trained(**options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        trainer, compiled = trained(**options, compile=True)
    torch.testing.assert_close(compiled, eager, atol=2e-4, rtol=1e-3)
    policy = trainer.autoencoder.policy
    assert policy.transformer.log_prob.compiled is not None
    assert policy.encoder.forward.compiled is not None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert copy.deepcopy(policy).transformer.log_prob.compiled is None  # a copy's is its own
    pickle.dumps(policy)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_loops_is_attention(causal, monkeypatch):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    upstream = torch.randn_like(expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = layers.attend(query, key, value, causal=causal)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(out, (query, key, value), upstream) for out in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_what_is_compiled_is_what_modules_name():
    policy = AutoregressivePolicy((6,), 3, 5, embed_dim=8, num_heads=2, num_patches=2)
    assert compile_passes(policy) == ["encoder.forward", "transformer.log_prob"]
    assert compile_passes(policy) == ["encoder.forward", "transformer.log_prob"]
    assert not isinstance(policy.transformer.log_prob.method, Compiled)  # once is enough
    assert compile_passes(nn.Sequential(Doubling(), nn.Linear(1, 1))) == ["0.forward"]
    with pytest.warns(UserWarning, match="Linear names no method to compile"):
        compile_passes(nn.Linear(1, 1))


def test_a_copy_has_a_gradient_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda method, **options: method)
    model = Doubling()
    compile_passes(model)
    model(torch.ones(2))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    twin(torch.ones(2)).sum().backward()
    assert twin.weight.grad.item() == 2.0
    assert model.weight.grad is None


def test_where_the_compiler_fails_training_goes_on(monkeypatch):
    calls = []

    def broken(method, **options):
        def fail(*args):
            calls.append(args)
            raise RuntimeError("no compiler\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = Doubling()
    compile_passes(model)
    with torch.no_grad():  # evaluation does not ask for it
        assert model(torch.ones(2)).tolist() == [2.0, 2.0]
    assert not calls
    with pytest.warns(UserWarning, match=r"goes on without it \(RuntimeError: no compiler\); it needs a C\+\+"):
        out = model(torch.ones(2))
    out.sum().backward()
    assert model.weight.grad.item() == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(2))
    assert len(calls) == 1


def test_an_error_of_the_methods_own_is_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda method, **options: method)
    model = Doubling()
    compile_passes(model)
    with pytest.raises(ValueError, match="x is a number"):
        model(torch.tensor(1.0))
    assert not model.forward.given_up


def test_a_gpu_has_its_own_way(monkeypatch):
    monkeypatch.setattr("daps_rl.training.choose_device", lambda name: torch.device("meta"))
    config = make_config(steps=1, compile=True)
    with pytest.raises(ValueError, match="compile=True is for training on a CPU"):
        Trainer(config, load_data(config))
