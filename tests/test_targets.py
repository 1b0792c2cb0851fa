"""A rate that holds itself: the dual step, the controller on problems whose answer is known, and runs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import SIZES, TINY
from test_cuda_graph import NoHost
from torch import nn

from daps_rl.cli import main
from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.distributed import World
from daps_rl.evaluation import evaluate
from daps_rl.functional import dual_step, follow_temperature
from daps_rl.priors import IndependentPrior
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.session import code_score_of
from daps_rl.training import Trainer
from daps_rl.training.targets import EVERY, LOWEST, SPEED, Look, RateTarget

BITS = math.log(2.0)
LEARNED = {"agent": "daps-na", "prior": "independent"}


def trainer(splits: Splits, **options) -> Trainer:
    return Trainer(make_config(**{**SIZES, "steps": 40, **LEARNED, **options}), splits)


def test_a_dual_step_by_hand():
    log_weight = torch.tensor([0.0, 0.0, 1.0, 2.0])
    violation = torch.tensor([0.5, 7.0, -math.inf, math.nan])
    assert dual_step(log_weight, violation, 0.2).tolist() == pytest.approx([0.1, 0.2, 0.8, 2.0])


def test_beta_follows_a_tenth_of_the_temperature():
    assert follow_temperature(torch.tensor(1.0), torch.tensor(10.0)).item() == pytest.approx(1.0)
    assert follow_temperature(torch.tensor(2.0), torch.tensor(5.0)).item() == pytest.approx(2.0**0.9 * 0.5**0.1)
    beta = torch.tensor(0.5)
    for _ in range(100):
        beta = follow_temperature(beta, torch.tensor(3e-4))
    assert beta.item() == pytest.approx(3e-5, rel=1e-3)
    for unknown in (math.nan, math.inf, 0.0):
        assert follow_temperature(beta, torch.tensor(unknown)) == beta


@pytest.mark.parametrize("lag", [0.05, 0.15])
@pytest.mark.parametrize("scale", [20.0, 300.0, 3e4])
@pytest.mark.parametrize("setting", ["target_bits", "target_psnr", "target_log_likelihood"])
def test_the_weight_of_a_gaussian_source_is_found(splits, setting, scale, lag):
    """Distortion D = s·e^(−2r/n) at rate r: the best r at λ is (n/2)·ln(2s/(nλ)), which codes reach after a while."""
    n, wanted = 8.0, 20.0 * BITS
    distortion = scale * math.exp(-2.0 * wanted / n)
    value = {"target_bits": 20.0, "target_psnr": -10.0 * math.log10(distortion), "target_log_likelihood": -distortion}
    target = RateTarget(setting, value[setting], splits.validation, None, splits.kind, 32.0, World())
    rate, looks = 32.0 * BITS, 200
    for look in range(looks):
        progress, d = look / looks, scale * math.exp(-2.0 * rate / n)
        reached = {"target_bits": rate / BITS, "target_psnr": -10.0 * math.log10(d), "target_log_likelihood": -d}
        seen = Look(torch.tensor(rate), torch.tensor(reached[setting]))
        target.set_weight(target.error(seen, progress), progress, pace=1.0)
        best = max(0.5 * n * math.log(2.0 * scale / (n * target.weight.item())), 0.0)
        rate += (min(best, 32.0 * BITS) - rate) * (1.0 - math.exp(-1.0 / looks / lag))
    assert rate == pytest.approx(wanted, rel=0.01)
    exact = 2.0 * scale / n * math.exp(-2.0 * wanted / n)
    assert target.weight.item() == pytest.approx(exact, rel=0.1)


def test_a_target_that_asks_for_nothing_leaves_no_weight_behind(splits):
    target = RateTarget("target_bits", 30.0, splits.validation, None, splits.kind, 32.0, World())
    for look in range(100):  # a windup here would take as long to unwind
        target.set_weight(target.error(Look(torch.tensor(0.0), torch.tensor(20.0)), look / 100), look / 100, 1.0)
    assert target.log_multiplier.exp().item() == pytest.approx(LOWEST)
    assert target.weight.item() < LOWEST
    for look in range(100, 110):
        target.set_weight(torch.tensor(1.0), look / 100, 1.0)
    assert target.log_multiplier.item() == pytest.approx(math.log(LOWEST) + SPEED * 0.1, rel=1e-4)


def test_a_look_measures_what_an_evaluation_measures(splits):
    run = trainer(splits, target_bits=4.0)
    model, target = run.autoencoder, run.learner.target
    nn.init.normal_(model.prior.logits, std=0.1)
    codes = torch.randint(4, (5, 3))
    log_probs = (10.0 * model.prior.logits[0]).log_softmax(-1)
    bits = -torch.stack([log_probs[range(3), code].sum() for code in codes]) / BITS
    model.policy.forward = lambda x: type("Drawn", (), {"sample": lambda self: codes})()
    look = target.look(model, slice(None))
    assert look.reached.item() == pytest.approx(bits.mean().item(), rel=1e-5)
    assert look.rate.item() == pytest.approx(bits.mean().item() * BITS, rel=1e-5)
    assert model.training
    target.setting = "target_log_likelihood"
    expected = model.decoder(codes).log_prob(splits.validation).mean().item()
    assert target.look(model, slice(None)).reached.item() == pytest.approx(expected, rel=1e-5)


def test_every_validation_datum_is_looked_at_in_turn(splits, monkeypatch):
    monkeypatch.setattr("daps_rl.training.targets.DATA", 2)
    run = trainer(splits, target_bits=4.0)
    target, seen = run.learner.target, []
    target.look = lambda model, part: seen.append(target.x[part]) or Look(torch.tensor(1.0), torch.tensor(1.0))
    for step in range(3 * EVERY):
        target.follow(run.autoencoder, step, 0.0, 1.0)
    assert [len(part) for part in seen] == [2, 2, 1]
    assert torch.equal(torch.cat(seen).sort(0).values, splits.validation.sort(0).values)


def test_the_weight_is_one_tensor_and_in_every_row(splits):
    run = trainer(splits, target_bits=3.0)
    assert run.learner.rate_weight is run.learner.target.weight
    rows = list(run.run())
    assert rows[0]["rate_weight"] != rows[-1]["rate_weight"]
    assert rows[-1]["rate_weight"] == run.learner.target.weight.item()


@pytest.mark.parametrize("options", [{"target_bits": 3.0}, {"target_psnr": 9.0, "beta": "auto"}])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(splits, options):
    torch.set_num_threads(1)
    whole = trainer(splits, **options)
    list(whole.run())
    first = trainer(splits, **options)
    list(first.run(lambda: first.step >= 17))
    tensors, info = first.state()
    second = trainer(splits, **options)
    second.load_state({name: value.clone() for name, value in tensors.items()}, info)
    list(second.run())
    state = second.state()[0]
    assert {"target.weight", "target.log_multiplier", "target.progress", "beta"} <= set(state)
    for name, value in whole.state()[0].items():
        assert torch.equal(value, state[name]), name


def test_the_host_is_not_asked(splits):
    run = trainer(splits, target_psnr=1.0, beta="auto", batch_size=8)
    run.train_step()
    before = run.beta.item(), run.learner.rate_weight.item()
    with NoHost():
        run.learner.target.follow(run.autoencoder, EVERY, 0.5, 0.9)
        run.learner.learn(run.batch())
    assert run.beta.item() != before[0]
    assert run.learner.rate_weight.item() != before[1]


def test_beta_auto_is_a_tenth_of_the_temperatures_so_far(splits):
    run = trainer(splits, beta="auto", prior="uniform", steps=5)
    beta = run.config.beta_start
    for row in run.run():
        assert row["temperature_floor"] == row["beta"]
        beta = beta**0.9 * (0.1 * row["temperature"]) ** 0.1
        assert row["beta"] == pytest.approx(beta, rel=1e-4)


def test_what_a_summary_says_of_a_target(splits):
    def words(setting: str, value: float, reached: float, multiplier: float, rate: float = 20.0) -> tuple[bool, str]:
        target = RateTarget(setting, value, splits.validation, None, splits.kind, 32.0, World())
        target.log_multiplier.fill_(math.log(multiplier))
        name = {"target_bits": "rate", "target_psnr": "psnr"}[setting]
        outcome = target.outcome({"rate": rate, name: reached})
        assert (outcome["target"], outcome["reached"]) == (value, reached)
        return outcome["met"], outcome["in_words"]

    assert words("target_bits", 20.0, 20.38, 1.0) == (True, "20.38 bits on validation, 1.9% from the target of 20")
    met, text = words("target_bits", 20.0, 19.5, 1.0)
    assert (met, text.partition(": ")[2]) == (False, "the rate's weight was still on its way; train longer")
    assert "though none has a price" in words("target_bits", 30.0, 27.1, LOWEST)[1]
    assert "at full rate, 20 bits, there is no more" in words("target_psnr", 20.0, 14.1, LOWEST)[1]
    assert "even codes of 0.2 bits reach it" in words("target_psnr", 10.0, 14.1, 1e3, rate=0.2)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_bits": 3.0, "target_psnr": 9.0}, "rate has one weight, and target_bits and target_psnr would each"),
        ({"target_log_likelihood": 0.0, "rate_weight": 1.0}, "target_log_likelihood and rate_weight would each set it"),
        ({"target_bits": 6.1}, "target_bits must be <= 6, all that 3 tokens of 4 hold, got 6.1; raise --num-tokens"),
        ({"target_bits": 3.0, "prior": "uniform"}, "target_bits needs a prior that learns which codes are short"),
        ({"target_psnr": 9.0, "agent": "fsq"}, "agent 'fsq' quantises, and learns nothing from log p.z.: leave out"),
        ({"target_psnr": 9.0, "agent": "vq"}, "agent 'vq' quantises"),
        ({"target_bits": 0.0}, "target_bits must be positive and finite"),
        ({"beta": "auto", "agent": "rloo"}, "beta must be schedule for agent 'rloo', got auto"),
        ({"beta": "auto", "agent": "tpo"}, "beta must be schedule for agent 'tpo'"),
        ({"beta": "auto", "trust_region": "fixed"}, "beta must be schedule for agent 'daps-na'"),
    ],
)
def test_what_cannot_be_is_an_error(splits, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(splits, **options)


def test_texts_have_no_psnr(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(f"a line of text number {i}" for i in range(60)))
    with pytest.raises(ValueError, match=r"target_psnr needs data with a PSNR, and .* has none"):
        trainer(load(str(tmp_path / "lines.txt")), likelihood="auto", target_psnr=9.0)


def test_a_run_ends_with_what_it_reached(data, tmp_path, capsys):
    flags = ["--agent", "daps-na", "--prior", "independent", "--target-bits", "5", "--steps", "8", "--seed", "0"]
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), *TINY, *flags]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    target = summary["target"]
    assert (target["name"], target["target"]) == ("target_bits", 5.0)
    assert target["reached"] == summary["validation"]["rate"]
    assert target["met"] is (abs(target["reached"] - 5.0) <= 0.1)
    printed = capsys.readouterr()
    assert f"target_bits: {target['in_words']}" in printed.out + printed.err


def test_an_independent_prior_keeps_up_with_codes():
    """At a policy's learning rate, within 100 steps; logits of size 1 would still be half a nat away."""
    exact = torch.tensor([0.97, 0.01, 0.01, 0.01])
    codes = torch.multinomial(exact, 2000, replacement=True).unsqueeze(-1)
    prior = IndependentPrior(1, 4)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=4e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (-prior().log_prob(codes).mean()).backward()
        optimizer.step()
    entropy = torch.special.entr(codes.flatten().bincount(minlength=4) / 2000.0).sum()
    assert -prior().log_prob(codes).mean().item() == pytest.approx(entropy.item(), abs=0.03)


def test_a_rate_is_held(digits):
    """Codes of 16 bits that take 10."""
    torch.set_num_threads(1)
    sizes = {"num_tokens": 8, "vocab_size": 4, "batch_size": 64, "decoder_hidden": (32,), "embed_dim": 16}
    config = make_config(steps=200, target_bits=10.0, validate_every=0, num_layers=1, **sizes, **LEARNED)
    run = Trainer(config, digits)
    list(run.run())
    metrics = evaluate(run.autoencoder, digits.validation, beta=0.01, importance_data=0).metrics
    assert metrics["rate"] == pytest.approx(10.0, rel=0.03)
    assert run.learner.target.outcome(metrics)["reached"] == metrics["rate"]


def test_a_search_goes_by_the_weight_that_followed(splits, tmp_path):
    """λ of the reward, of the run's end where it had a target."""
    run, model = RunFolder(tmp_path), trainer(splits, target_bits=3.0).autoencoder.eval()
    nn.init.normal_(model.prior.logits, std=0.1)
    x, codes = splits.test, torch.randint(4, (len(splits.test), 5, 3))
    likelihood, log_prior = model.log_likelihood(x, codes), model.prior().log_prob(codes)
    target = RateTarget("target_bits", 3.0, splits.validation, None, splits.kind, 6.0, World())
    target.weight.fill_(2.5)
    summary = {"target": target.outcome({"rate": 3.0})}
    assert summary["target"]["rate_weight"] == 2.5
    for given, held, expected in (
        ({"target_bits": 3.0}, summary, 2.5),
        ({"target_bits": 3.0}, {"target": {"name": "target_bits"}}, 0.0),  # of an earlier version
        ({"rate_weight": 0.5}, {}, 0.5),
    ):
        run.write_json(run.summary, held)
        config = make_config(**{**SIZES, **LEARNED, **given})
        torch.testing.assert_close(code_score_of(run, config, model)(x, codes), likelihood + expected * log_prior)
