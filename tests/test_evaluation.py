"""daps_rl.evaluation: every metric against enumeration, closed forms or hand numbers."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from daps_rl import DiscreteAutoencoder
from daps_rl.config import PUBLISHED_SHAPES, make_config
from daps_rl.decoders import FixedGaussianLikelihood, MLPDecoder
from daps_rl.evaluation import evaluate, psnr, ssim
from daps_rl.evaluation.codes import kl_and_entropy
from daps_rl.evaluation.split import _batch_size
from daps_rl.policies import (
    AutoregressivePolicy,
    FactorizedCategorical,
    FactorizedPolicy,
    PointCodes,
)
from daps_rl.priors import UniformCodes, UniformPrior

T, V, D, N = 2, 3, 4, 12
CODES = torch.tensor(list(itertools.product(range(V), repeat=T)))  # [V^T, T]
NEVER_DEFINED_FOR_POINTS = ("kl", "elbo", "beta_elbo", "importance_bound", "importance_samples", "importance_data")


class Linear(nn.Module):
    """A policy of a linear layer's logits, in double precision."""

    num_tokens, vocab_size = T, V

    def __init__(self, scale=2.0, make=FactorizedCategorical):
        super().__init__()
        self.layer, self.make = nn.Linear(D, T * V).double(), make
        nn.init.normal_(self.layer.weight, std=scale)

    def forward(self, x):
        return self.make(self.layer(x).view(-1, T, V))


def make_decoder():
    decoder = MLPDecoder(T, V, (D,), likelihood=FixedGaussianLikelihood(0.5), embed_dim=3, hidden=(8,)).double()
    nn.init.normal_(decoder.layers[-1].weight)
    return decoder


def make_model(policy, prior=None, decoder=None):
    return DiscreteAutoencoder(policy, decoder or make_decoder(), prior or UniformPrior(T, V))


def make_autoregressive(strength=6.0):
    """Each token depends on the datum and on the token before."""
    policy = AutoregressivePolicy((D,), T, V, embed_dim=8, num_heads=2, num_patches=1).double()
    with torch.no_grad():
        policy.transformer.head.weight.mul_(strength)
        policy.transformer.embed.weight.mul_(50.0)
    return policy


@pytest.fixture
def data():
    return torch.randn(N, D, dtype=torch.float64)


def log_q_of_all(policy, x):
    """log q of each of the V^T codes. [N, V^T]."""
    with torch.no_grad():
        return policy(x).log_prob(CODES[:, None].expand(-1, len(x), -1)).T


def log_likelihood_of_all(model, x):
    with torch.no_grad():
        return model.log_likelihood(x, CODES.expand(len(x), -1, -1))


# Distributions over codes


@pytest.mark.parametrize("make", [Linear, make_autoregressive])
def test_a_small_code_space_is_summed_over(make, data):
    """No sampling: another seed gives the same, and it is the sum by hand, also in parts."""
    model = make_model(make())
    first, again = (evaluate(model, data, beta=0.3, batch_size=5, seed=seed).metrics for seed in (0, 1))
    log_q = log_q_of_all(model.policy, data)
    q = log_q.exp()
    assert q.max(1).values.median() < 0.99  # a code is a matter of chance
    assert first["log_likelihood"] == pytest.approx((q * log_likelihood_of_all(model, data)).sum(1).mean().item())
    assert first["kl"] == pytest.approx((q * (log_q + T * math.log(V))).sum(1).mean().item())
    assert first["entropy"] == pytest.approx(-(q * log_q).sum(1).mean().item())
    assert first["enumerated_codes"] == V**T
    assert [first[name] for name in ("beta_elbo", "entropy")] == [again[name] for name in ("beta_elbo", "entropy")]
    assert first["psnr"] != again["psnr"]


def test_a_large_code_space_is_sampled_and_quantisers_have_one_code(data, monkeypatch):
    model = make_model(Linear())
    exact = evaluate(model, data, beta=0.3).metrics
    monkeypatch.setattr("daps_rl.evaluation.split.LARGEST_TABLE", V**T * D * 5)  # as many data at once
    assert evaluate(model, data, beta=0.3).metrics["beta_elbo"] == pytest.approx(exact["beta_elbo"])
    monkeypatch.setattr("daps_rl.evaluation.codes.SCORED_AT_ONCE", 2 * N + 1)  # two codes of all data
    assert evaluate(model, data, beta=0.3).metrics["beta_elbo"] == pytest.approx(exact["beta_elbo"])
    sampled = [evaluate(model, data, beta=0.3, seed=seed, enumerable=V**T - 1).metrics for seed in range(200)]
    assert sampled[0]["enumerated_codes"] is None
    values = np.array([metrics["log_likelihood"] for metrics in sampled])
    assert abs(values.mean() - exact["log_likelihood"]) < 4.0 * values.std() / math.sqrt(len(values))
    assert values.std() > 0.0


def test_exact_terms_of_a_factorised_posterior(data):
    model = make_model(Linear())
    metrics = evaluate(model, data, beta=0.3, batch_size=5).metrics
    q = log_q_of_all(model.policy, data).exp().numpy()
    assert metrics["entropy"] == pytest.approx(scipy.stats.entropy(q, axis=-1).mean(), rel=1e-6)
    uniform = np.full(V**T, V**-T)
    assert metrics["kl"] == pytest.approx(scipy.stats.entropy(q, uniform, axis=-1).mean(), rel=1e-6)
    assert metrics["elbo"] == pytest.approx(metrics["log_likelihood"] - metrics["kl"])
    assert metrics["beta_elbo"] == pytest.approx(metrics["log_likelihood"] - 0.3 * metrics["kl"])
    assert metrics["bits"] == pytest.approx(T * math.log2(V))


def test_estimates_of_an_autoregressive_posterior_are_unbiased_and_less_noisy():
    """The estimate of each code, weighed with the code's probability."""
    policy, x = make_autoregressive(), torch.randn(5, D, dtype=torch.float64)
    with torch.no_grad():
        posterior, prior = policy(x), UniformCodes(T, V)
        codes = CODES[:, None].expand(-1, len(x), -1)  # [V^T, N, T]
        log_q = posterior.log_prob(codes)
        q, naive = log_q.exp(), log_q + T * math.log(V)
        both = [kl_and_entropy(posterior, prior, code) for code in codes]
        estimates, entropies = (torch.stack([part[name] for part in both]) for name in ("kl", "entropy"))  # [V^T, N]
    exact = (q * naive).sum(0)
    assert exact.min() > 0.1  # a posterior that has something to estimate
    torch.testing.assert_close((q * estimates).sum(0), exact)
    torch.testing.assert_close((q * entropies).sum(0), T * math.log(V) - exact)
    variance, naive_variance = ((q * (value - exact) ** 2).sum(0) for value in (estimates, naive))
    assert variance.max() > 0  # the draw does matter
    assert (variance < 0.5 * naive_variance).all()


class OneCode(nn.Module):
    """A prior that is no uniform one: tokens independent, without closed forms that torch knows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("logits", torch.randn(T, V, dtype=torch.float64))

    def forward(self):
        return Independent(torch.distributions.Categorical(logits=self.logits), 1)


def test_other_priors_are_estimated_from_the_draw(data):
    """The mean over many draws, within four standard errors of enumeration."""
    model = make_model(make_autoregressive(), OneCode())
    repeated = data[:1].expand(4000, -1)
    metrics = evaluate(model, repeated, beta=1.0, importance_data=0).metrics
    log_q = log_q_of_all(model.policy, data[:1])[0]
    ratio = log_q - model.prior().log_prob(CODES)
    exact = (log_q.exp() * ratio).sum().item()
    deviation = (log_q.exp() * (ratio - exact) ** 2).sum().sqrt().item()
    assert abs(metrics["kl"] - exact) < 4.0 * deviation / math.sqrt(4000)


@pytest.mark.parametrize("make_policy", [Linear, make_autoregressive])
def test_importance_bound_nears_the_evidence(make_policy, data):
    model = make_model(make_policy(0.5))  # which draws every code now and then
    metrics = evaluate(model, data, beta=1.0, batch_size=4096, importance_samples=4096).metrics
    evidence = (log_likelihood_of_all(model, data) - T * math.log(V)).logsumexp(-1).mean().item()
    assert metrics["importance_bound"] == pytest.approx(evidence, abs=0.05)
    assert metrics["elbo"] < evidence - 0.5
    assert (metrics["importance_samples"], metrics["importance_data"]) == (4096, N)


def test_importance_draws_are_of_evenly_spaced_data_and_never_too_many_at_once(data):
    """Data 0, 3, 6, 9 across batches of 5, and no more than a batch in the decoder at once."""
    model = make_model(Linear())
    drawn, rows = [], []
    sample = FactorizedCategorical.sample

    class Recorded(FactorizedCategorical):
        def sample(self, sample_shape=(), generator=None):
            if sample_shape:
                drawn.extend(self.log_probs[:, 0, 0].tolist())
            return sample(self, sample_shape, generator)

    model.policy.make = Recorded
    model.decoder.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][..., 0].numel()))
    metrics = evaluate(
        model, data, beta=1.0, batch_size=5, importance_samples=3, importance_data=4, enumerable=0
    ).metrics
    with torch.no_grad():
        assert drawn == model.policy(data[::3]).log_probs[:, 0, 0].tolist()
    assert metrics["importance_data"] == 4
    assert max(rows) == 5
    skipped = evaluate(model, data, beta=1.0, importance_data=0).metrics
    assert skipped["importance_bound"] is None
    assert skipped["importance_data"] is None


def test_active_positions_of_a_factorised_posterior(data):
    """One position is the same for all data, however uncertain; the other is not."""
    policy = Linear()
    with torch.no_grad():
        policy.layer.weight.view(T, V, D)[0] = 0.0
    assert evaluate(make_model(policy), data, beta=1.0).metrics["active_positions"] == 1
    assert evaluate(make_model(Linear(scale=0.0)), data, beta=1.0).metrics["active_positions"] == 0
    assert evaluate(make_model(Linear()), data, beta=1.0, importance_data=0).metrics["active_positions"] == 2


def test_counts_usage_and_perplexity(data):
    model = make_model(Linear(make=lambda logits: PointCodes(logits.argmax(-1))))
    evaluation = evaluate(model, data, beta=1.0, batch_size=5)
    codes = model.encode(data).numpy()
    counts = np.stack([np.bincount(codes[:, t], minlength=V) for t in range(T)])
    assert evaluation.counts.tolist() == counts.tolist()
    assert evaluation.metrics["code_usage"] == pytest.approx((counts > 0).mean())
    perplexity = np.exp(scipy.stats.entropy(counts, axis=-1)).mean()
    assert evaluation.metrics["code_perplexity"] == pytest.approx(perplexity)


def test_code_gain(data):
    """Deterministic codes, so that the other datum's code is known."""
    model = make_model(Linear(make=lambda logits: PointCodes(logits.argmax(-1))))
    codes = model.encode(data)
    with torch.no_grad():
        gain = model.log_likelihood(data, codes) - model.log_likelihood(data, codes[[N - 1, *range(N - 1)]])
    assert evaluate(model, data, beta=1.0).metrics["code_gain"] == pytest.approx(gain.mean().item())


# Point masses and continuous latents


def test_a_point_mass_has_no_bound(data):
    model = make_model(Linear(make=lambda logits: PointCodes(logits.argmax(-1))))
    metrics = evaluate(model, data, beta=0.1).metrics
    assert all(metrics[name] is None for name in NEVER_DEFINED_FOR_POINTS)
    assert metrics["entropy"] == 0.0
    assert metrics["active_positions"] == T
    assert metrics["psnr"] == metrics["psnr_greedy"]
    expected = model.log_likelihood(data, model.encode(data)).mean().item()
    assert metrics["log_likelihood"] == pytest.approx(expected)


class Rotation(nn.Module):
    """Linear Gaussian decoder, x = R z + noise of variance s², R orthogonal: the posterior is a diagonal Gaussian."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0])

    def forward(self, latents):
        mean = latents.flatten(-2) @ self.matrix.T
        return Independent(Normal(mean, math.sqrt(self.variance)), 1)


class TruePosterior(nn.Module):
    num_tokens, vocab_size = T, V

    def __init__(self, decoder, error=0.0):
        super().__init__()
        self.decoder, self.error = decoder, error

    def forward(self, x):
        variance = self.decoder.variance
        mean = (x @ self.decoder.matrix).view(-1, T, D // T) / (1.0 + variance)
        return Independent(Normal(mean + self.error, math.sqrt(variance / (1.0 + variance))), 2)


class StandardNormal(nn.Module):
    def forward(self):
        zeros = torch.zeros(T, D // T, dtype=torch.float64)
        return Independent(Normal(zeros, 1.0), 2)


def test_continuous_latents(data):
    """With the true posterior every draw's bound is log p(x), that of a Gaussian of covariance (1 + s²)·I."""
    decoder = Rotation(0.3)
    evidence = MultivariateNormal(torch.zeros(D), 1.3 * torch.eye(D)).log_prob(data.float()).mean().item()
    evaluation = evaluate(make_model(TruePosterior(decoder), StandardNormal(), decoder), data, beta=1.0, batch_size=5)
    metrics = evaluation.metrics
    assert metrics["importance_bound"] == pytest.approx(evidence, rel=1e-5)
    variance = 0.3 / 1.3
    means = (data @ decoder.matrix / 1.3).detach()
    by_hand = 0.5 * (means**2 + variance - 1.0 - math.log(variance)).sum(-1).mean().item()
    assert metrics["kl"] == pytest.approx(by_hand)
    assert metrics["entropy"] == pytest.approx(0.5 * D * math.log(2 * math.pi * math.e * variance))
    assert metrics["psnr_greedy"] > metrics["psnr"]
    for name in ("bits", "code_usage", "code_perplexity", "active_positions"):
        assert metrics[name] is None
    assert evaluation.counts is None
    worse = evaluate(make_model(TruePosterior(decoder, 0.5), StandardNormal(), decoder), data, beta=1.0).metrics
    assert worse["elbo"] < metrics["elbo"] - 1.0
    assert worse["elbo"] < worse["importance_bound"] < evidence


# Pictures


def test_psnr_of_hand_numbers():
    x = torch.zeros(3, 1, 2, 2)
    reconstruction = torch.stack([torch.full((1, 2, 2), value) for value in (0.1, 1.0, 0.0)])
    assert psnr(reconstruction, x, (0.0, 1.0)).tolist() == pytest.approx([20.0, 0.0, 100.0])
    assert psnr(reconstruction[:1], x[:1], (0.0, 10.0)).item() == pytest.approx(40.0)


@pytest.mark.parametrize("side", [8, 24])
def test_ssim_of_constant_images(side):
    """Without variance, SSIM is (2ab + c) / (a² + b² + c) with c = 0.01²."""
    a, b = 0.2, 0.6
    image = torch.ones(2, 1, side, side)
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(a * image, b * image, (0.0, 1.0)).tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_pictures_have_both_kinds_of_ssim():
    policy = FactorizedPolicy((1, 8, 8), T, V, embed_dim=8, num_heads=2, num_layers=1)
    decoder = MLPDecoder(T, V, (1, 8, 8), likelihood=FixedGaussianLikelihood(0.1), embed_dim=4, hidden=(8,))
    metrics = evaluate(DiscreteAutoencoder(policy, decoder, UniformPrior(T, V)), torch.rand(6, 1, 8, 8), beta=1).metrics
    assert -1.0 < metrics["ssim"] < 1.0
    assert -1.0 < metrics["ssim_greedy"] < 1.0


def test_data_that_are_no_pictures_have_no_ssim(data):
    metrics = evaluate(make_model(Linear()), data, beta=1.0).metrics
    assert metrics["ssim"] is None
    assert metrics["ssim_greedy"] is None
    assert "fid" not in metrics


# The contract


class Streamed:
    """What a stream of data offers."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def split(self, size):
        yield from self.data.split(size)


def test_same_seed_same_numbers_and_global_randomness_untouched(data):
    model = make_model(make_autoregressive()).train()
    state = torch.get_rng_state()
    first = evaluate(model, data, beta=0.3, batch_size=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    torch.manual_seed(17)
    again = evaluate(model, Streamed(data), beta=0.3, batch_size=5, seed=3)
    assert again.metrics == first.metrics
    assert torch.equal(again.counts, first.counts)
    assert evaluate(model, data, beta=0.3, batch_size=5, seed=4).metrics != first.metrics
    assert evaluate(model, data.double().numpy(), beta=0.3, batch_size=5, seed=3).metrics == first.metrics


def test_every_name_of_the_contract_is_there_and_documented(data):
    from pathlib import Path

    metrics = evaluate(make_model(Linear()), data, beta=1.0).metrics
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    names = {"log_likelihood", "kl", "elbo", "beta_elbo", "psnr", "ssim", "code_usage", "code_perplexity"}
    assert names <= set(metrics)
    for name in [*metrics, "fid", "lpips"]:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"importance_samples": 0}, {"importance_data": -1}])
def test_numbers_out_of_range(wrong, data):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        evaluate(make_model(Linear()), data, beta=1.0, **wrong)
    with pytest.raises(ValueError, match="needs data"):
        evaluate(make_model(Linear()), data[:0], beta=1.0)


def test_a_quantisers_usage_is_that_of_the_codes_it_has(data):
    """FSQ stands for 256 codes with 8·6·5 = 240."""
    config = make_config(agent="fsq", vocab_size=256, num_tokens=2, steps=1).model_config((6,), "fixed_gaussian")
    model = DiscreteAutoencoder.from_config(config)
    x = torch.rand(40, 6)
    metrics = evaluate(model, x, beta=0.1).metrics
    assert metrics["bits"] == pytest.approx(2 * math.log2(240)) == pytest.approx(config.bits)
    used = [len(set(column.tolist())) for column in model.encode(x).T]
    assert metrics["code_usage"] == pytest.approx(sum(used) / 480)


def test_long_codes_and_large_data_are_evaluated_fewer_at_a_time():
    sizes = {}
    for preset, shape in PUBLISHED_SHAPES.items():
        likelihood = make_config(preset).likelihood
        with torch.device("meta"):
            model = DiscreteAutoencoder.from_config(make_config(preset).model_config(shape, likelihood))
        sizes[preset] = _batch_size(model)
    assert sizes["mnist"] == 500
    assert sizes["imagenet256"] * 1024 * 1024 * 8 <= 2**30
    assert min(sizes.values()) >= 1
