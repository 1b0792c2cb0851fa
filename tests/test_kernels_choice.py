"""When compiled kernels are used and when not: what they cannot take, copies, and builds that fail."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from kernel_policies import B, D, K, T, V, make_policy, pair
from torch import nn
from torch.nn.utils import prune

from daps_rl.cli import main
from daps_rl.commands import train
from daps_rl.config import make_config, recipes
from daps_rl.kernels import CpuKernels, build, load, use_cpu_kernels
from daps_rl.policies import AutoregressivePolicy, FactorizedPolicy, VisitOnce
from daps_rl.policies.code_transformer import CodeTransformer
from daps_rl.training import Trainer, load_data

pytestmark = pytest.mark.usefixtures("needs_compiler")


def changed(change: Callable[[nn.Module], object]) -> AutoregressivePolicy:
    """A policy whose transformer was changed."""
    policy = make_policy()
    change(policy.transformer)
    return policy


class Adapted(nn.Linear):
    pass


class Cooler(CodeTransformer):
    def logits(self, x, context):
        return super().logits(x, context) / 3.0


CHANGES = {
    "an adapter": (lambda net: setattr(net.blocks[0].attention, "qkv", Adapted(D, 3 * D)), "not all of its layers"),
    "another activation": (lambda net: net.blocks[0].mlp.__setitem__(1, nn.ReLU()), "as they were built"),
    "another epsilon": (lambda net: setattr(net.norm, "eps", 0.1), "an epsilon of 1e-05"),
    "not causal": (lambda net: setattr(net.blocks[1].attention, "causal", False), "as they were built"),
    "a hook": (lambda net: net.blocks[0].mlp[0].register_forward_hook(lambda *args: None), "it has hooks"),
    "pruned": (lambda net: prune.l1_unstructured(net.blocks[0].mlp[0], "weight", 0.5), "it has hooks"),
    "learned positions": (lambda net: net.positions.requires_grad_(), "its positions are learned"),
    "half of it in bfloat16": (lambda net: net.head.bfloat16(), "its weights are torch.bfloat16, torch.float32"),
}


def own_class() -> AutoregressivePolicy:
    policy = make_policy()
    policy.transformer.__class__ = Cooler
    return policy


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_they_were_taken_up_is_not_passed_over(change, monkeypatch):
    policy = make_policy()
    use_cpu_kernels(policy)
    context = policy.transformer.prepare(policy.encoder(torch.randn(B, 9)))
    assert policy.transformer.backend_for(context) is not None
    CHANGES[change][0](policy.transformer)
    assert policy.transformer.backend_for(context) is None


def test_copies_and_pickles_keep_them():
    _, policy = pair()
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert isinstance(twin.transformer.backend, CpuKernels)
        x, codes = torch.randn(B, 9), torch.randint(V, (K, B, T))
        assert torch.equal(twin(x).log_prob(codes), policy(x).log_prob(codes))


def test_other_precisions_go_without(monkeypatch):
    twin, policy = pair()
    monkeypatch.setattr(CpuKernels, "log_prob", lambda *args: pytest.fail("by kernels"))
    x, codes = torch.randn(B, 9), torch.randint(V, (K, B, T))
    with torch.autocast("cpu", torch.bfloat16):
        policy(x).log_prob(codes)
    x = x.double()
    torch.testing.assert_close(policy.double()(x).log_prob(codes), twin(x).log_prob(codes))


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (lambda: make_policy(mask=VisitOnce(V)), "it has a mask"),
        (lambda: make_policy(token_sizes=(V, V, 2, V)), "different numbers of tokens"),
        (
            lambda: AutoregressivePolicy((9,), T, V, embed_dim=8, num_heads=2, head=nn.Sequential(nn.Linear(8, V))),
            "its head is a Sequential",
        ),
        *((lambda change=change: changed(change), reason) for change, reason in CHANGES.values()),
        (own_class, "a class of its own"),
        (lambda: make_policy().double(), "its weights are torch.float64, not torch.float32"),
        (lambda: FactorizedPolicy((9,), T, V, embed_dim=8, num_heads=2), "FactorizedPolicy has no part"),
    ],
    ids=["mask", "token sizes", "head", *CHANGES, "own class", "float64", "factorised"],
)
def test_what_they_cannot_take_goes_on_without_them(policy, reason):
    made = policy()
    with pytest.warns(UserWarning, match=f"goes on without CPU kernels: .*{reason}"):
        assert use_cpu_kernels(made) == []


class TestWithoutACompiler:
    @pytest.fixture(autouse=True)
    def first_call(self, monkeypatch, tmp_path):
        monkeypatch.setattr("daps_rl.kernels.backend.load", load.__wrapped__)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_none(self, monkeypatch):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
        with pytest.warns(UserWarning, match=r"without CPU kernels: there is no C\+\+ compiler; install g\+\+"):
            assert use_cpu_kernels(make_policy()) == []

    def test_one_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("CXX", "/nowhere/g++")
        with pytest.warns(UserWarning, match=r"/nowhere/g\+\+ cannot be run"):
            assert use_cpu_kernels(make_policy()) == []

    def test_a_source_that_does_not_compile(self, monkeypatch, tmp_path):
        source = tmp_path / "broken.cpp"
        source.write_text("int main() { return nothing; }")
        monkeypatch.setattr(build, "SOURCE", source)
        with pytest.warns(UserWarning, match="failed: .*nothing"):
            assert use_cpu_kernels(make_policy()) == []
        assert not list((tmp_path / "daps-rl").iterdir())  # no half of a library

    def test_a_folder_that_cannot_be_written(self, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="they cannot be kept .*set XDG_CACHE_HOME"):
            assert use_cpu_kernels(make_policy()) == []

    def test_a_copy_from_elsewhere(self, monkeypatch):
        policy = make_policy()
        policy.transformer.backend = CpuKernels.__new__(CpuKernels)  # of a machine that has them
        kept = pickle.dumps(policy)
        monkeypatch.setenv("CXX", "/nowhere/g++")
        with pytest.warns(UserWarning, match="the policy goes on without CPU kernels"):
            twin = pickle.loads(kept)
        assert twin(torch.randn(B, 9)).sample((K,)).shape == (K, B, T)

    def test_a_damaged_library_is_made_again(self, monkeypatch, tmp_path):
        compiler = [shutil.which("g++") or shutil.which("clang++")]
        monkeypatch.setenv("CXX", compiler[0])
        folder = tmp_path / "daps-rl"
        folder.mkdir()
        library = folder / f"code_transformer-{build._key(compiler)}.so"
        library.write_bytes(b"half of it")
        made = []
        monkeypatch.setattr(build, "_compile", lambda compiler, path: made.append(path))
        with pytest.warns(UserWarning, match="cannot be loaded"):  # as nothing was made
            use_cpu_kernels(make_policy())
        assert made == [library]

    def test_training_goes_on(self, monkeypatch):
        monkeypatch.setenv("CXX", "/nowhere/g++")
        config = make_config(steps=1, batch_size=4, samples=4, validate_every=0, device="cpu", cpu_kernels=True)
        with pytest.warns(UserWarning, match="training goes on without CPU kernels"):
            trainer = Trainer(config, load_data(config))
        assert trainer.train_step()["log_likelihood"].isfinite()


class TestAuto:
    """make_config says whether a run has kernels, once; its config.json then says it for good."""

    @pytest.fixture(autouse=True)
    def a_compiler(self, monkeypatch):
        monkeypatch.setenv("CXX", "g++")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.parametrize(
        ("options", "taken"),
        [
            ({"agent": "daps", "minutes": 1.0}, True),
            ({"agent": "daps", "minutes": 0.9}, False),
            ({"agent": "rloo", "policy": "autoregressive", "minutes": 5.0, "device": "cpu"}, True),
            # 5,000,000 tokens: steps of 10 data with 5 codes of 10 tokens
            ({"agent": "daps", "steps": 10_000, "batch_size": 10, "samples": 5, "num_tokens": 10}, True),
            ({"agent": "daps", "steps": 9_999, "batch_size": 10, "samples": 5, "num_tokens": 10}, False),
            ({"agent": "daps-na", "minutes": 5.0}, False),
            ({"agent": "gumbel", "minutes": 5.0}, False),
            ({"agent": "daps", "minutes": 5.0, "token_price": 1.0}, False),
            ({"agent": "daps", "minutes": 5.0, "precision": "bfloat16"}, False),
            ({"problem": "nk20", "minutes": 5.0}, False),
        ],
        ids=lambda value: str(value).strip("{}"),
    )
    def test_where_they_pay(self, options, taken):
        assert make_config(**options).cpu_kernels is taken
        assert make_config(**options, cpu_kernels="auto").cpu_kernels is taken
        assert make_config(**options, cpu_kernels=not taken).cpu_kernels is not taken

    def test_not_where_there_is_nothing_to_compile_them_with_or_a_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert make_config(minutes=5.0, agent="daps").cpu_kernels is False
        assert make_config(minutes=5.0, agent="daps", device="cpu").cpu_kernels is True
        monkeypatch.delenv("CXX")
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
        assert make_config(minutes=5.0, agent="daps", device="cpu").cpu_kernels is False

    def test_not_where_they_cannot_be_compiled(self, monkeypatch):
        monkeypatch.setattr(recipes.sys, "platform", "darwin")
        assert make_config(minutes=5.0, agent="daps").cpu_kernels is False

    def test_auto_is_as_if_nothing_were_said(self, monkeypatch):
        given = []
        monkeypatch.setattr(train, "_dry_run", lambda preset, options: given.append(options))
        for options in ([], ["--cpu-kernels", "auto"], ["--no-cpu-kernels", "--cpu-kernels", "auto"]):
            main(["train", "--dry-run", *options])
        assert given == [{}, {}, {}]

    def test_on_the_command_line(self, monkeypatch, capsys):
        made = []
        monkeypatch.setattr(train, "_dry_run", lambda preset, given: made.append(make_config(preset, **given)))
        for options in ([], ["--cpu-kernels", "auto"], ["--cpu-kernels"], ["--no-cpu-kernels"]):
            main(["train", "--agent", "daps", "--dry-run", *options])
        assert [config.cpu_kernels for config in made] == [True, True, True, False]
        with pytest.raises(SystemExit):
            main(["train", "--no-cpu-kernels", "auto"])
        assert "--no-cpu-kernels takes no value; leave out auto" in capsys.readouterr().err


def test_another_processor_or_pytorch_has_a_library_of_its_own(monkeypatch):
    path = load()
    key = build._key(["g++"])
    assert key in path.name
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert build._key(["g++"]) != key
    monkeypatch.undo()
    monkeypatch.setattr(build, "_run", lambda command: "#define __AVX__ 1")
    assert build._key(["g++"]) != key


def test_a_fresh_process_compiles_nothing():
    program = (
        "import sys, torch; from daps_rl.kernels import load, build; "
        "build._compile = lambda *args: sys.exit('compiled'); load(); print(torch.ops.daps_rl.draw)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "daps_rl.draw" in done.stdout
    assert "compiling" not in done.stderr


def test_no_warning_where_they_work():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_cpu_kernels(nn.Sequential(make_policy(), nn.Linear(1, 1))) == ["0.transformer"]
