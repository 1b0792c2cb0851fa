"""daps_rl.decoders: every likelihood against scipy, the MLP's shapes and sizes, and what is refused.

The Gaussian's bounds and memory are in test_decoders_gaussian.py, the other networks in test_decoders_networks.py.
"""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.distributions import Bernoulli, Independent, Normal

from daps_rl.decoders import (
    LIKELIHOODS,
    BernoulliLikelihood,
    CategoricalLikelihood,
    FixedGaussianLikelihood,
    GaussianLikelihood,
    Likelihood,
    MLPDecoder,
)

F64 = torch.float64
B, K, T, V = 2, 3, 4, 5
SHAPE = (2, 3)


def outputs(entries, seed=0):
    """Network outputs [B, K, P, 2, 3]."""
    return torch.randn(B, K, entries, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(seed))


def normals(*shape, seed=1):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# Likelihoods


def test_bernoulli_agrees_with_scipy():
    logits = outputs(1)
    x = (normals(B, 1, *SHAPE) > 0).double()
    distribution = BernoulliLikelihood()(logits, 2)
    probs = scipy.special.expit(logits.squeeze(2).numpy())
    expected = scipy.stats.bernoulli.logpmf(x.numpy(), probs).sum((-1, -2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected)
    np.testing.assert_allclose(distribution.mean.numpy(), probs)


@pytest.mark.parametrize(
    ("logits", "value"),
    [
        ((3, 5, 4, 6), (3, 1, 4, 6)),
        ((3, 5, 4, 6), (4, 6)),
        ((5, 4, 6), (7, 1, 4, 6)),
        ((4, 6), (4, 6)),
        ((4, 6), (3, 4, 6)),
    ],
)
def test_bernoulli_is_torchs_own_with_its_gradient_however_the_datum_is_broadcast(logits, value):
    generator = torch.Generator().manual_seed(0)
    outputs = 8.0 * torch.randn(*logits[:-2], 1, *logits[-2:], generator=generator, dtype=torch.float64)
    outputs.requires_grad_()
    x = torch.rand(*value, generator=generator, dtype=torch.float64)
    ours = BernoulliLikelihood()(outputs, 2).log_prob(x)
    theirs = Independent(Bernoulli(logits=outputs.squeeze(-3), validate_args=False), 2, validate_args=False).log_prob(x)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(out.square().sum(), outputs)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda out: BernoulliLikelihood()(out, 2).log_prob(x), (outputs,))


def test_bernoulli_is_otherwise_torchs_own():
    logits = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    ours = BernoulliLikelihood()(logits, 2)
    theirs = Independent(Bernoulli(logits=logits[:, 0], validate_args=False), 2, validate_args=False)
    x = torch.rand(5, 3, 4, 6).round()
    assert ours.expand((5, 3)).batch_shape == (5, 3)
    torch.testing.assert_close(ours.expand((5, 3)).log_prob(x), theirs.expand((5, 3)).log_prob(x))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert ours.sample((2,)).shape == (2, 3, 4, 6)
    torch.testing.assert_close(ours.log_prob(torch.ones(())), theirs.log_prob(torch.ones(())))
    with pytest.raises((RuntimeError, ValueError)):
        ours.log_prob(torch.ones(3, 6, 4))  # another event of the same size
    low = BernoulliLikelihood()(logits.bfloat16(), 2).log_prob(x[0])
    torch.testing.assert_close(low, theirs.log_prob(x[0]), rtol=1e-2, atol=1e-2)
    assert low.dtype == torch.float32


def test_bernoulli_scores_grey_values_by_the_same_formula():
    logits, x = outputs(1), torch.rand(B, 1, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(2))
    probs = torch.sigmoid(logits.squeeze(2))
    expected = (x * probs.log() + (1 - x) * (1 - probs).log()).sum((-1, -2))
    torch.testing.assert_close(BernoulliLikelihood()(logits, 2).log_prob(x), expected)


def test_gaussian_agrees_with_scipy():
    raw, x = outputs(2), normals(B, 1, *SHAPE)
    raw[:, :, 1] = -1.0 - raw[:, :, 1].abs()
    distribution = GaussianLikelihood(1e-6, 1.0)(raw, 2)
    mean, log_variance = raw[:, :, 0].numpy(), raw[:, :, 1].numpy()
    expected = scipy.stats.norm.logpdf(x.numpy(), mean, np.exp(0.5 * log_variance)).sum((-1, -2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected)
    np.testing.assert_allclose(distribution.mean.numpy(), mean)


@pytest.mark.parametrize(("log_variance", "variance"), [(-50.0, 0.01), (50.0, 0.8), (math.log(0.3), 0.3)])
def test_gaussian_variance_is_clamped(log_variance, variance):
    raw = torch.zeros(2, *SHAPE, dtype=F64)
    raw[1] = log_variance
    distribution = GaussianLikelihood(0.01, 0.8)(raw, 2)
    torch.testing.assert_close(distribution.variance, torch.full(SHAPE, variance, dtype=F64))
    expected = scipy.stats.norm.logpdf(1.5, 0.0, math.sqrt(variance)) * math.prod(SHAPE)
    assert distribution.log_prob(torch.full(SHAPE, 1.5, dtype=F64)).item() == pytest.approx(expected)


def test_fixed_gaussian_agrees_with_scipy():
    raw, x = outputs(1), normals(B, 1, *SHAPE)
    distribution = FixedGaussianLikelihood(0.25)(raw, 2)
    expected = scipy.stats.norm.logpdf(x.numpy(), raw.squeeze(2).numpy(), 0.5).sum((-1, -2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected)
    torch.testing.assert_close(distribution.mean, raw.squeeze(2))


def test_categorical_agrees_with_scipy():
    raw = outputs(4)
    x = torch.randint(4, (B, 1, *SHAPE), generator=torch.Generator().manual_seed(3))
    log_probs = scipy.special.log_softmax(raw.numpy(), axis=2)
    picked = np.take_along_axis(log_probs, np.broadcast_to(x.numpy()[:, :, None], (B, K, 1, *SHAPE)), axis=2)
    expected = picked.sum((2, 3, 4))
    distribution = CategoricalLikelihood(4)(raw, 2)
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected)
    by_numpy = np.einsum("bkcij,c->bkij", np.exp(log_probs), np.arange(4))
    np.testing.assert_allclose(distribution.mean.numpy(), by_numpy)


# Network and likelihood together


@pytest.mark.parametrize(
    "likelihood", [BernoulliLikelihood(), GaussianLikelihood(), FixedGaussianLikelihood(), CategoricalLikelihood(7)]
)
@pytest.mark.parametrize("shape", [(1, 3, 2), (6,), (4, 2)])
def test_codes_of_any_leading_shape_are_scored_against_one_datum_per_context(likelihood, shape):
    torch.manual_seed(0)
    decoder = MLPDecoder(T, V, shape, likelihood=likelihood, embed_dim=6, hidden=(9,)).double()
    codes = torch.randint(V, (B, K, T))
    x = torch.randint(2, (B, 1, *shape)).double()
    distribution = decoder(codes)
    assert distribution.batch_shape == (B, K)
    assert distribution.event_shape == shape
    log_likelihood = distribution.log_prob(x)
    assert log_likelihood.shape == (B, K)
    rows = [torch.stack([decoder(code).log_prob(x[b, 0]) for code in codes[b]]) for b in range(B)]
    torch.testing.assert_close(log_likelihood, torch.stack(rows))
    assert decoder(codes[None]).batch_shape == (1, B, K)


def test_every_token_and_its_position_matter():
    torch.manual_seed(0)
    decoder = MLPDecoder(T, V, SHAPE).double()
    code = torch.tensor([0, 1, 2, 3])
    mean = decoder(code).mean
    for t in range(T):
        changed = code.clone()
        changed[t] = 4
        assert (decoder(changed).mean - mean).abs().max() > 1e-4
    assert (decoder(code.flip(0)).mean - mean).abs().max() > 1e-4


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    decoder = MLPDecoder(2, 3, SHAPE, likelihood=GaussianLikelihood(), embed_dim=4, hidden=(8, 8))
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    (-decoder(codes).log_prob(torch.randn(SHAPE)).mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_the_last_layer_has_no_rectifier():
    torch.manual_seed(0)
    mean = MLPDecoder(T, V, (50,), likelihood=FixedGaussianLikelihood())(torch.randint(V, (20, T))).mean
    assert mean.min() < 0 < mean.max()


def test_published_size():
    assert sum(p.numel() for p in MLPDecoder(8, 256, (1, 28, 28)).parameters()) == pytest.approx(267_000, rel=0.01)


def test_a_likelihood_of_your_own():
    class UnitGaussian(Likelihood):
        outputs_per_entry = 3  # two more than it needs

        def forward(self, outputs, event_dims):
            return Independent(Normal(outputs.select(-event_dims - 1, 2), 1.0), event_dims)

    decoder = MLPDecoder(T, V, SHAPE, likelihood=UnitGaussian())
    assert decoder(torch.zeros(B, K, T, dtype=torch.int64)).log_prob(torch.zeros(B, 1, *SHAPE)).shape == (B, K)


def test_likelihoods_by_name():
    assert LIKELIHOODS["bernoulli"] is BernoulliLikelihood
    assert LIKELIHOODS["gaussian"] is GaussianLikelihood
    assert LIKELIHOODS["fixed_gaussian"] is FixedGaussianLikelihood
    assert LIKELIHOODS["categorical"] is CategoricalLikelihood
    with pytest.raises(NotImplementedError):
        Likelihood()(torch.zeros(1), 0)


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianLikelihood(0.0, 1.0), "0 < min_variance < max_variance, got 0.0 and 1.0"),
        (lambda: GaussianLikelihood(1.0, 0.1), "0 < min_variance < max_variance, got 1.0 and 0.1"),
        (lambda: FixedGaussianLikelihood(0.0), "variance must be positive, got 0.0"),
        (lambda: FixedGaussianLikelihood(math.nan), "variance must be positive, got nan"),
        (lambda: CategoricalLikelihood(1), "num_classes must be >= 2, got 1"),
        (lambda: MLPDecoder(0, 5, SHAPE), "num_tokens must be >= 1 and vocab_size >= 2, got 0 and 5"),
        (lambda: MLPDecoder(4, 1, SHAPE), "num_tokens must be >= 1 and vocab_size >= 2, got 4 and 1"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
