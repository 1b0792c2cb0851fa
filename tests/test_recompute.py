"""Microbatches: the same numbers and gradients, in less memory."""

import warnings

import pytest
import torch

from daps_rl.agents import Scorer
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.policies import Drawn
from daps_rl.recompute import in_microbatches
from daps_rl.training import Trainer


@pytest.mark.parametrize("size", [0, 1, 3, 7, 8, 100])
def test_values_and_gradients_are_those_of_the_whole_batch(size):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)

    def function(x, y):
        return (net(x) * y).sum(-1), net(x).square()

    expected = function(x, y)
    want = torch.autograd.grad(expected[0].exp().sum() + expected[1].sum(), net.parameters())
    out = in_microbatches(function, x, y, size=size)
    got = torch.autograd.grad(out[0].exp().sum() + out[1].sum(), net.parameters())
    for a, b in zip((*out, *got), (*expected, *want), strict=True):
        torch.testing.assert_close(a, b)


def test_random_numbers_are_the_same_in_both_passes():
    weight = torch.ones((), requires_grad=True)
    drawn = []

    def function(x):
        drawn.append(torch.rand(len(x)))
        return x * weight * drawn[-1]

    torch.manual_seed(0)
    in_microbatches(function, torch.ones(4), size=2).sum().backward()
    first, second = torch.cat(drawn[:2]), torch.cat(sorted(drawn[2:], key=lambda d: d.tolist() != drawn[0].tolist()))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(weight.grad, first.sum())


@pytest.mark.parametrize(
    ("agent", "policy_samples"), [("daps", 0), ("daps", 3), ("daps-na", 0), ("rloo", 0), ("rloo", 2)]
)
def test_a_training_step_takes_the_same_step(agent, policy_samples, monkeypatch):
    splits = load("digits")
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, 0.4))  # chooses which codes to score

    def gradients(microbatch):
        options = {"agent": agent, "policy_samples": policy_samples, "gradient_clip": "none"}
        config = make_config(**options, steps=2, batch_size=10, microbatch=microbatch)
        trainer = Trainer(config, splits)
        codes = torch.randint(16, (8, 10, 8), generator=torch.Generator().manual_seed(3))
        start = 0

        def sample(self, sample_shape=(), generator=None):
            nonlocal start
            start, stop = start + self.batch_shape[0], start + self.batch_shape[0]
            return codes[:, start - self.batch_shape[0] : stop]

        with monkeypatch.context() as patch:
            kind = type(trainer.autoencoder.policy(splits.train[:2]))
            patch.setattr(kind, "sample", sample)
            if agent != "daps-na":
                patch.setattr(kind, "draw", lambda self, *_: Drawn(z := sample(self), self.log_prob(z).detach()))
            trainer.train_step()
        return [p.grad for p in trainer.optimizer.parameters]

    for one, other in zip(gradients(0), gradients(4), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_agents_that_pass_over_whole_batches_refuse():
    with pytest.raises(ValueError, match="cannot keep to microbatch"):
        Trainer(make_config(agent="ppo", steps=2, microbatch=4), load("digits"))


@pytest.mark.parametrize("microbatch", [0, 2])
def test_a_scorer_scores_all_codes_and_learns_from_some(microbatch):
    torch.manual_seed(0)
    model = DiscreteAutoencoder.from_config(make_config().model_config((9,), "bernoulli"))
    x, beta = torch.rand(6, 9), torch.tensor(0.1)
    codes, log_prob = torch.randint(16, (6, 4, 8)), -torch.rand(6, 4)
    all_codes = Scorer(model.decoder, model.prior(), x, beta)
    some = Scorer(model.decoder, model.prior(), x, beta, microbatch, decoder_samples=3)
    torch.testing.assert_close(some(codes, log_prob), all_codes(codes, log_prob))
    torch.testing.assert_close(some.metrics(), all_codes.metrics())
    assert some.evaluations == 24
    of_three = Scorer(model.decoder, model.prior(), x, beta)
    of_three(codes[:, :3], log_prob[:, :3])
    wanted = torch.autograd.grad(of_three.decoder_loss(), list(model.decoder.parameters()))
    got = torch.autograd.grad(some.decoder_loss(), list(model.decoder.parameters()))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("likelihood", ["bernoulli", "fixed_gaussian"])
def test_scores_in_low_precision_tell_the_codes_of_a_datum_apart_all_the_same(likelihood):
    torch.manual_seed(0)
    model = DiscreteAutoencoder.from_config(make_config(decoder_hidden=(64, 64)).model_config((99,), likelihood))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2.0)
    x, beta = torch.rand(16, 99).round(), torch.tensor(0.1)
    codes, log_prob = torch.randint(16, (16, 8, 8)), -torch.rand(16, 8)
    low = Scorer(model.decoder, model.prior(), x, beta, decoder_samples=1, low_precision=True)
    exact = Scorer(model.decoder, model.prior(), x, beta, decoder_samples=1)
    reward, wanted = low(codes, log_prob), exact(codes, log_prob)
    assert reward.dtype == torch.float32
    assert not torch.equal(reward, wanted)
    error, spread = (reward - wanted), (wanted - wanted.mean(1, keepdim=True)).std()
    assert (error - error.mean(1, keepdim=True)).std() < 0.02 * spread
    assert (low.evaluations, exact.evaluations) == (16 * 9, 16 * 8)
    gradients = [torch.autograd.grad(s.decoder_loss(), list(model.decoder.parameters())) for s in (low, exact)]
    torch.testing.assert_close(*gradients)  # what the decoder learns from is in full precision
    everything = Scorer(model.decoder, model.prior(), x, beta, low_precision=True)
    torch.testing.assert_close(everything(codes, log_prob), wanted)


def test_scores_are_in_low_precision_where_the_cpu_has_units_for_it(monkeypatch):
    def precision(**options):
        return (
            Trainer(make_config(steps=1, device="cpu", **options), load("digits")).learner.score_precision == "bfloat16"
        )

    for name, units in (("amx_bf16", True), ("avx512_bf16", True), ("amx_bf16", False), ("avx512_f", True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name, units=units: {name: units})
        assert precision() is (units and name.endswith("_bf16"))
        assert precision(score_precision="bfloat16") is True
        assert precision(score_precision="float32") is False
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert precision(decoder="strokes", num_tokens=7) is False  # no network of ours: nobody knows what it takes
    splits = load("digits")
    first = Trainer(make_config(steps=2, device="cpu"), splits)
    tensors, info = first.state()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    again = Trainer(make_config(steps=2, device="cpu"), splits)
    assert again.learner.score_precision == "float32"
    again.load_state(tensors, info)
    assert again.learner.score_precision == "bfloat16"  # a run goes on as it began
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision() is False


def test_microbatches_and_batch_norm_warn():
    options = {"steps": 1, "device": "cpu", "decoder": "resnet", "num_tokens": 4, "microbatch": 2}
    with pytest.warns(UserWarning, match="batch norm counts a microbatch, or a process"):
        Trainer(make_config(**options, decoder_norm="batch"), load("digits"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(make_config(**options, decoder_norm="group"), load("digits"))


def test_a_scorer_pays_once():
    torch.manual_seed(0)
    model = Trainer(make_config(steps=1), load("digits")).autoencoder
    x = load("digits").train[:3]
    scorer = Scorer(model.decoder, model.prior(), x, torch.tensor(0.1))
    codes = torch.randint(16, (3, 2, 8))
    reward = scorer(codes, torch.full((3, 2), -4.0))
    expected = model.log_likelihood(x, codes) - 0.1 * (-4.0 + 8 * torch.tensor(16.0).log())
    torch.testing.assert_close(reward, expected.detach())
    assert scorer.evaluations == 6
    with pytest.raises(ValueError, match="twice"):
        scorer(codes, torch.zeros(3, 2))
