"""Learned priors: exact by enumeration, in the reward, in the hosts, in files, fitted to codes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZES
from torch import Tensor, nn
from torch.distributions import kl_divergence

from daps_rl import DiscreteAutoencoder
from daps_rl.cli import main
from daps_rl.codes import Codes, draw_codes, fit_prior, fit_prior_of, quality_of_draws, rate
from daps_rl.codes.draws import frechet_distance
from daps_rl.config import ModelConfig, make_config
from daps_rl.data import Splits, from_arrays, load
from daps_rl.envs import EncodingEnv
from daps_rl.evaluation import evaluate
from daps_rl.functional import encoding_reward
from daps_rl.objectives import DecoderLoss
from daps_rl.policies import FactorizedCategorical
from daps_rl.priors import AutoregressivePrior, IndependentPrior, LearnedPrior, MixtureCodes
from daps_rl.training import Trainer

T, V, C = 3, 4, 3
CODES = torch.cartesian_prod(*[torch.arange(V)] * T)
KINDS = pytest.mark.parametrize("kind", [IndependentPrior, AutoregressivePrior])


def prior_of(kind: type[LearnedPrior], classes: int = 0) -> LearnedPrior:
    """A prior far from uniform, of classes that are not equally frequent."""
    torch.manual_seed(0)
    prior = kind(T, V, classes)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        if classes:
            prior.class_log_probs.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    return prior


@KINDS
@pytest.mark.parametrize("classes", [0, C])
class TestADistributionOverCodes:
    def test_probabilities_sum_to_one(self, kind: Any, classes: int) -> None:
        prior = prior_of(kind, classes)()
        assert (prior.batch_shape, prior.event_shape) == (torch.Size(), torch.Size([T]))
        assert prior.log_prob(CODES).exp().sum().item() == pytest.approx(1.0, abs=1e-5)

    def test_steps_give_the_probabilities_of_whole_codes(self, kind: Any, classes: int) -> None:
        prior = prior_of(kind, classes)()
        steps, total = prior.steps(len(CODES)), torch.zeros(len(CODES))
        for position in range(T):
            if position:
                steps.advance(CODES[None, :, position - 1])
            log_probs = torch.log_softmax(steps.logits[0], dim=-1)
            total += log_probs.gather(-1, CODES[:, position, None])[:, 0]
        assert torch.allclose(total, prior.log_prob(CODES), atol=1e-4)

    def test_selected_codes_go_on_as_if_they_had_been_alone(self, kind: Any, classes: int) -> None:
        prior, first = prior_of(kind, classes)(), torch.tensor([[0, 1, 2, 3]])
        steps, alone = prior.steps(4), prior.steps(2)
        steps.advance(first)
        steps.select(torch.tensor([[3, 1]]))
        alone.advance(torch.tensor([[3, 1]]))
        assert torch.allclose(torch.log_softmax(steps.logits, -1), torch.log_softmax(alone.logits, -1), atol=1e-5)

    def test_draws_have_the_probabilities(self, kind: Any, classes: int) -> None:
        prior = prior_of(kind, classes)()
        torch.manual_seed(1)
        index = (prior.sample((20_000,)) * torch.tensor([V * V, V, 1])).sum(-1)
        frequency = torch.bincount(index, minlength=len(CODES)) / len(index)
        assert (frequency - prior.log_prob(CODES).exp()).abs().max() < 0.012

    def test_a_low_temperature_draws_the_greedy_code(self, kind: Any, classes: int) -> None:
        prior = prior_of(kind, classes)()
        assert (draw_codes(prior, 5, temperature=1e-4) == prior.mode).all()


@KINDS
class TestLabels:
    def test_the_mixture_is_weighted_by_how_frequent_classes_are(self, kind: Any) -> None:
        prior = prior_of(kind, C)
        each = prior(torch.arange(C)).log_prob(CODES.unsqueeze(1).expand(-1, C, -1)).exp()  # [M, C]
        expected = each @ torch.tensor([0.5, 0.3, 0.2])
        assert torch.allclose(prior().log_prob(CODES).exp(), expected, atol=1e-6)
        assert torch.allclose(each.sum(0), torch.ones(C), atol=1e-5)

    def test_labels_that_it_does_not_know_are_refused(self, kind: Any) -> None:
        with pytest.raises(ValueError, match=r"labels must lie in 0 … 2, got 1 … 3"):
            prior_of(kind, C)(torch.tensor([1, 3]))
        with pytest.raises(ValueError, match="knows no labels; fit one with labels"):
            prior_of(kind)(torch.tensor([0]))


def test_the_kl_between_independent_codes_is_exact() -> None:
    torch.manual_seed(0)
    q, p = FactorizedCategorical(torch.randn(2, T, V)), prior_of(IndependentPrior)()
    log_q = q.log_prob(CODES.unsqueeze(1).expand(-1, 2, -1))  # [M, 2]
    expected = (log_q.exp() * (log_q - p.log_prob(CODES).unsqueeze(-1))).sum(0)
    assert torch.allclose(kl_divergence(q, p), expected, atol=1e-5)


def test_many_codes_are_scored_as_a_few_are() -> None:
    prior = prior_of(AutoregressivePrior)()
    assert isinstance(prior, MixtureCodes)
    many = CODES.repeat(40, 1)  # more than are scored at a time
    assert torch.allclose(prior.log_prob(many), prior.log_prob(CODES).repeat(40), atol=1e-5)


class TestTheRate:
    def test_it_is_weighed_in_the_reward(self) -> None:
        likelihood, log_q, log_p = torch.tensor([-3.0]), torch.tensor([-1.0]), torch.tensor([-2.0])
        assert encoding_reward(likelihood, log_q, log_p, 0.5, rate_weight=0.25).item() == -3.0 - 0.5 * 1.0 - 0.25 * 2.0
        assert encoding_reward(likelihood, None, log_p, 0.5, rate_weight=0.25).item() == -3.0 - 0.75 * 2.0

    def test_environments_take_a_prior_that_learns(self) -> None:
        torch.manual_seed(0)
        prior, data = prior_of(AutoregressivePrior), torch.rand(20, 6)
        env = EncodingEnv(
            data, reward_fn=lambda x, z: z.sum(-1).float(), num_tokens=T, vocab_size=V, batch_size=[4, 2], beta=0.0,
            prior=prior, rate_weight=0.5, seed=0,
        )  # fmt: skip
        rollout = env.rollout(1)
        z = rollout["action"][:, :, 0]
        expected = z.sum(-1).float() + 0.5 * prior().log_prob(z)
        assert torch.allclose(rollout["next", "reward"].flatten(1), expected, atol=1e-5)

    def test_torchrl_losses_train_it(self) -> None:
        prior, decoder = IndependentPrior(T, V), Constant()
        batch = EncodingEnv(
            torch.rand(20, 6), decoder, num_tokens=T, vocab_size=V, batch_size=[4, 2], prior=prior, seed=0
        ).rollout(1)
        loss = DecoderLoss(decoder, prior=prior)(batch)["loss_prior"]
        assert loss.item() == pytest.approx(T * math.log(V), rel=1e-5)
        loss.backward()
        assert prior.logits.grad is not None
        assert prior.logits.grad.abs().sum() > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"agent": "daps-na", "rate_weight": 1.0}, "needs a prior that learns"),
            ({"agent": "fsq", "rate_weight": 1.0, "prior": "independent"}, "'fsq' quantises, and learns nothing"),
            ({"agent": "gumbel-na", "rate_weight": 1.0, "prior": "autoregressive"}, "needs a prior of independent"),
        ],
    )
    def test_agents_that_cannot_learn_from_it_are_refused(self, options: dict[str, Any], message: str) -> None:
        config, splits = make_config(data="digits", steps=1, **options), load("digits")
        with pytest.raises(ValueError, match=message):
            next(Trainer(config, splits).run())

    @pytest.mark.parametrize(("agent", "heavy"), [("daps-na", 20.0), ("gumbel-na", 1000.0)])
    def test_it_makes_codes_cheaper(self, agent: str, heavy: float) -> None:
        splits, rates = load("digits"), []
        for weight in (0.0, heavy):
            options: dict[str, Any] = {"num_tokens": 2, "vocab_size": 8, "steps": 80, "warmup_steps": 1}
            config = make_config(data="digits", agent=agent, prior="independent", rate_weight=weight, **options)
            trainer = Trainer(config, splits)
            *_, last = trainer.run()
            rates.append(last["loss_prior"])
        assert rates[1] < 0.9 * rates[0]


class Constant(nn.Module):
    """A decoder that says the same of every code."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(6))

    def forward(self, codes: Tensor) -> torch.distributions.Distribution:
        mean = self.mean.expand(*codes.shape[:-1], 6)
        return torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)


class TestFitting:
    def test_counts_give_the_frequencies(self) -> None:
        codes = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 1]])
        prior = IndependentPrior(2, 3)
        bits = fit_prior(prior, Codes(codes), Codes(codes))
        first = torch.tensor([3.5, 1.5, 0.5]) / 5.5  # half a count more for each
        second = torch.tensor([0.5, 3.5, 1.5]) / 5.5
        assert torch.allclose(prior().token_log_probs.exp(), torch.stack((first, second)), atol=1e-6)
        expected = -(first[[0, 0, 0, 1]] * second[[1, 1, 2, 1]]).log2().mean().item()
        assert bits == pytest.approx(expected, rel=1e-5) == rate(prior, Codes(codes))

    def test_an_autoregressive_prior_finds_what_tokens_have_in_common(self) -> None:
        torch.manual_seed(0)
        first = torch.randint(4, (600, 1))
        codes = torch.cat((first, (first + 1) % 4, first), dim=1)  # 2 bits in three tokens
        prior = AutoregressivePrior(3, 4, embed_dim=32, num_layers=1)
        bits = fit_prior(prior, Codes(codes[:500]), Codes(codes[500:]), steps=150)
        assert 1.95 < bits < 2.2

    def test_labels_tell_classes_apart(self) -> None:
        labels = torch.arange(300) % 3
        codes = labels.unsqueeze(1).expand(-1, 2)
        prior = IndependentPrior(2, 4, 3)
        with_labels = fit_prior(prior, Codes(codes, labels), Codes(codes, labels))
        assert with_labels < 0.1
        assert prior().log_prob(torch.tensor([[1, 1]])).exp().item() == pytest.approx(1 / 3, abs=0.02)

    def test_a_model_is_saved_with_its_prior(self, tmp_path: Path) -> None:
        splits = load("digits")
        config = make_config(data="digits", agent="daps-na", num_tokens=2, vocab_size=4)
        model = DiscreteAutoencoder.from_config(config.model_config(splits.observation_shape, splits.likelihood))
        fitted, rates = fit_prior_of(model, splits, "autoregressive", labels=True, steps=5)
        assert set(rates) == {"rate_train", "rate_validation", "rate_test"}
        fitted.save_pretrained(tmp_path)
        again = DiscreteAutoencoder.from_pretrained(tmp_path)
        codes = torch.randint(4, (7, 2))
        assert again.config is not None
        assert again.config.prior_classes == 10
        assert torch.equal(again.prior().log_prob(codes), fitted.prior().log_prob(codes))


def test_the_command_fits_saves_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    small = ["--num-tokens", "2", "--vocab-size", "4", "--steps", "2", "--validate-every", "0"]
    assert main(["train", "--data", "digits", "--out", run, *small]) == 0
    assert main(["sample", run, "--label", "1", "--output", str(tmp_path / "x.npy")]) == 2
    assert "no prior that knows labels; fit one" in capsys.readouterr().err
    assert main(["fit-prior", run, "--labels", "--steps", "3"]) == 0
    assert '"label_accuracy"' in capsys.readouterr().out
    assert (tmp_path / "run" / "samples" / "drawn.png").stat().st_size > 1000
    assert main(["sample", run, "--label", "1", "-n", "3", "--output", str(tmp_path / "x.npy")]) == 0
    assert main(["sample", run, "--label", "10", "--output", str(tmp_path / "x.npy")]) == 2
    assert "labels must lie in 0 … 9" in capsys.readouterr().err
    assert main(["evaluate", run]) == 0
    assert '"rate_greedy"' in capsys.readouterr().out


def test_the_frechet_distance_is_that_of_two_gaussians() -> None:
    """Of N(0, 1) and N(m, s²) on each of the training data's components: m² + (1 − s)²."""
    torch.manual_seed(0)
    real = torch.randn(20_000, 3, dtype=torch.float64)
    assert frechet_distance(real, real, real) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(real, real, 2.0 * real + 1.0) == pytest.approx(3 * (1.0 + 1.0), rel=0.05)


def small_model(splits: Splits, **options: Any) -> DiscreteAutoencoder:
    config = make_config(**{**SIZES, "num_tokens": 2, "agent": "daps-na", **options})
    return DiscreteAutoencoder.from_config(config.model_config(splits.observation_shape, splits.likelihood)).eval()


def labelled(labels: Tensor, **options: Any) -> Splits:
    return from_arrays(torch.rand(len(labels), 6), train_labels=labels, **options)


class TestOddData:
    def test_labels_are_needed_of_all_splits_and_from_zero(self) -> None:
        some = from_arrays(torch.rand(20, 6), torch.rand(5, 6), torch.rand(5, 6), train_labels=torch.arange(20) % 2)
        with pytest.raises(ValueError, match="has no labels of validation, test; leave out --labels"):
            fit_prior_of(small_model(some), some, "independent", labels=True)
        negative = labelled(torch.arange(30) % 3 - 1)
        with pytest.raises(ValueError, match="must be >= 0, got -1; number the classes from 0"):
            fit_prior_of(small_model(negative), negative, "independent", labels=True)

    def test_a_class_that_training_lacks_has_a_prior_too(self) -> None:
        of_test = {"test": torch.rand(5, 6), "test_labels": torch.full((5,), 3)}
        splits = labelled(torch.arange(30) % 2, **of_test)
        fitted, rates = fit_prior_of(small_model(splits), splits, "independent", labels=True)
        assert fitted.config is not None
        assert fitted.config.prior_classes == 4
        assert rates["rate_test"] == pytest.approx(2 * 2.0)  # of a class without data every code is alike

    def test_data_without_end_and_problems_are_refused(self) -> None:
        class Endless:
            name, train = "a stream", object()

        splits = from_arrays(torch.rand(20, 6))
        with pytest.raises(ValueError, match="those of a stream have no end"):
            fit_prior_of(small_model(splits), Endless())  # type: ignore[arg-type]
        model = small_model(splits)
        model.config = ModelConfig(problem="maxcut20")
        with pytest.raises(ValueError, match="problem 'maxcut20' encodes none"):
            fit_prior_of(model, splits)

    @pytest.mark.parametrize("options", [{"steps": 0}, {"minutes": 0.0}])
    def test_no_time_is_refused(self, options: dict[str, Any]) -> None:
        codes = Codes(torch.zeros(4, T, dtype=torch.int64))
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            fit_prior(AutoregressivePrior(T, V), codes, codes, **options)

    def test_no_more_codes_are_drawn_than_are_learned_from(self) -> None:
        codes, asked = Codes(torch.randint(V, (1000, T))), list[Tensor]()

        def redraw(rows: Tensor) -> Tensor:
            asked.append(rows)
            return codes.codes[rows]

        fit_prior(AutoregressivePrior(T, V), codes, codes, steps=5, redraw=redraw)
        assert [len(rows) for rows in asked] == [256, 256, 256, 232, 256]
        assert torch.equal(torch.cat(asked[:4]).sort().values, torch.arange(1000))

    def test_a_codebook_learns_nothing_meanwhile(self) -> None:
        pytest.importorskip("vector_quantize_pytorch")
        splits = from_arrays(torch.rand(60, 6))
        model = small_model(splits, agent="vq", policy_options={"kmeans_init": False}).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fitted, _ = fit_prior_of(model, splits, "independent")
        assert model.training
        fitted.encode(splits.test, search="sweep:1/4")
        model.decode(model.encode(splits.test))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        model.policy(splits.test)  # with a gradient, which is what it learns from
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert all("codebook" in name for name in changed)

    def test_every_part_stays_in_its_mode(self) -> None:
        splits = from_arrays(torch.rand(60, 6))
        model = small_model(splits)  # in eval mode
        model.decoder.train()
        modes = [part.training for part in model.modules()]
        fitted, _ = fit_prior_of(model, splits, "independent")
        evaluate(model, splits.test, beta=0.0)
        assert [part.training for part in model.modules()] == modes
        assert (fitted.training, fitted.policy.training, fitted.decoder.training) == (False, False, True)

    @pytest.mark.parametrize("labels", [torch.zeros(30, dtype=torch.int64), None])
    def test_of_one_class_no_recogniser_is_asked(self, labels: Tensor | None) -> None:
        splits = labelled(torch.zeros(30, dtype=torch.int64) if labels is None else labels)
        fitted, _ = fit_prior_of(small_model(splits), splits, "independent", labels=labels is not None)
        found = quality_of_draws(fitted, splits)
        assert set(found) == {"frechet_distance", "frechet_distance_train"}
        assert all(math.isfinite(value) for value in found.values())

    def test_one_test_datum_has_no_distance(self) -> None:
        splits = from_arrays(torch.rand(12, 6))
        assert len(splits.test) == 1
        fitted, rates = fit_prior_of(small_model(splits), splits, "independent")
        assert quality_of_draws(fitted, splits) == {}
        assert rates["rate_test"] > 0.0

    def test_classes_without_data_are_not_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Tensor] = []

        class Asked:
            def __init__(self, data: Tensor, labels: Tensor) -> None:
                pass

            def share(self, data: Tensor, labels: Tensor) -> float:
                asked.append(labels)
                return 1.0

        monkeypatch.setattr("daps_rl.codes.draws.Recogniser", Asked)
        splits = labelled(1 + torch.arange(40) % 2)  # numbered from 1
        fitted, _ = fit_prior_of(small_model(splits), splits, "independent", labels=True)
        assert quality_of_draws(fitted, splits)["label_accuracy"] == 1.0
        assert asked[0].bincount().tolist() == [0, 1000, 1000]

    def test_the_scale_of_the_distance_is_that_of_all_training_data(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sort, mixed = torch.rand(4100, 6, generator=generator), torch.rand(400, 6, generator=generator)
        sort[2050:] += 2.0
        mixed[200:] += 2.0
        splits = from_arrays(sort, mixed, mixed)
        assert quality_of_draws(small_model(splits), splits)["frechet_distance_train"] < 0.1


def test_directions_in_which_training_data_hardly_vary_say_nothing() -> None:
    torch.manual_seed(0)
    real = torch.randn(20_000, 2, dtype=torch.float64)
    flat, noise = torch.zeros(20_000, 3, dtype=torch.float64), 0.01 * torch.randn(20_000, 3, dtype=torch.float64)
    made = torch.cat((2.0 * real + 1.0, noise), dim=1)
    real = torch.cat((real, flat), dim=1)
    assert frechet_distance(real, real, made) == pytest.approx(2 * (1.0 + 1.0), rel=0.05)


def test_many_codes_are_drawn_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, counts = prior_of(AutoregressivePrior, C)(), []
    begin = prior.steps
    monkeypatch.setattr(prior, "steps", lambda samples: counts.append(samples) or begin(samples))
    for temperature in (1.0, 0.5):
        codes = draw_codes(prior, 1201, temperature)
        assert codes.shape == (1201, T)
        assert len(codes.unique(dim=0)) > 1
    assert counts == [500, 500, 201] * 2


def test_temperatures_that_float32_cannot_divide_by_are_refused() -> None:
    prior = prior_of(AutoregressivePrior)()
    assert (draw_codes(prior, 5, temperature=1e-30) == prior.mode).all()
    for temperature in (1e-40, 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be >= 1e-30"):
            draw_codes(prior, 5, temperature=temperature)


def test_the_uniform_prior_of_fsq_has_the_codes_that_there_are() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    model = small_model(from_arrays(torch.rand(20, 6)), agent="fsq", vocab_size=256)  # 8 · 6 · 5
    assert model.prior().log_prob(torch.zeros(1, 2, dtype=torch.int64)).item() == pytest.approx(-2 * math.log(240))
    assert model.prior().sample((5000,)).max() == 239


def test_long_codes_lose_no_digits() -> None:
    torch.manual_seed(0)
    prior, codes = IndependentPrior(3000, V, 2), torch.randint(V, (1, 3000))
    with torch.no_grad():
        prior.logits.copy_(0.003 * torch.randn(2, 3000, V))
    last = []
    for mixture in (prior(), prior.double()()):
        steps = mixture.steps(1)
        for token in codes[:, :-1].unbind(-1):
            steps.advance(token.unsqueeze(0))
        last.append(steps.logits.double().softmax(-1))
    torch.testing.assert_close(last[0], last[1], atol=1e-5, rtol=0.0)
    each = [IndependentPrior.of_classes(prior, torch.arange(2)).log_probs[:, t, z] for t, z in enumerate(codes[0])]
    weights = (torch.stack(each[:-1]).sum(0) + prior.class_log_probs).softmax(0)  # p(c|z_<t)
    exact = weights @ IndependentPrior.of_classes(prior, torch.arange(2)).log_probs[:, -1].exp()
    torch.testing.assert_close(last[1][0, 0], exact)
