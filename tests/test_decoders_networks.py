"""daps_rl.decoders' networks: shapes, geometry, what a code's score depends on, gradients, start, learning."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F

from daps_rl.decoders import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    CodeDecoder,
    FixedGaussianLikelihood,
    GaussianLikelihood,
    MLPDecoder,
    ResNetDecoder,
    SequenceDecoder,
)
from daps_rl.decoders.resampling import initialize, plan_resampling

B, K, V = 2, 3, 5
IMAGES = [  # T, (C, H, W), size of the residual blocks
    (64, (3, 32, 32), (8, 8)),
    (16, (1, 64, 64), (4, 4)),
    (16, (1, 16, 16), (4, 4)),
    (8, (1, 8, 8), (4, 4)),
    (64, (1, 28, 28), (14, 14)),
    (6, (2, 17, 31), (3, 4)),
    (4, (1, 2, 2), (2, 2)),
    (7, (1, 28, 28), (7, 7)),
    (1, (4, 5, 3), (3, 2)),
    (12, (3, 50, 9), (13, 3)),
]
SEQUENCES = [
    (8, (64, 3)),
    (64, (32, 5)),
    (16, (16, 1)),
    (5, (33, 2)),
    (9, (2, 3)),
    (1, (7, 2)),
    (10, (9, 1)),
    (6, (1, 4)),
]


def make(num_tokens, shape, **options):
    """A small decoder for data of that shape, seeded."""
    torch.manual_seed(0)
    network = ResNetDecoder if len(shape) == 3 else SequenceDecoder
    options = {"likelihood": GaussianLikelihood(0.01, 1.0), "embed_dim": 8, "channels": 16, **options}
    return network(num_tokens, V, shape, **options)


def codes_of(num_tokens, *batch, seed=1):
    return torch.randint(V, (*batch, num_tokens), generator=torch.Generator().manual_seed(seed))


def data_of(shape, *batch, seed=2):
    return torch.randn(*batch, *shape, generator=torch.Generator().manual_seed(seed))


# Shapes and geometry


@pytest.mark.parametrize(
    ("num_tokens", "shape"), [(t, shape) for t, shape, _ in IMAGES] + SEQUENCES, ids=lambda value: str(value)
)
def test_codes_of_any_leading_shape_are_scored_against_one_datum_per_context(num_tokens, shape):
    decoder = make(num_tokens, shape)
    codes, x = codes_of(num_tokens, B, K), data_of(shape, B, 1)
    distribution = decoder(codes)
    assert distribution.batch_shape == (B, K)
    assert distribution.mean.shape == (B, K, *shape)
    log_likelihood = distribution.log_prob(x)
    assert log_likelihood.shape == (B, K)
    mean, log_variance = decoder.outputs(decoder.embed(codes.flatten(0, 1))).double().detach().numpy().swapaxes(0, 1)
    deviation = np.sqrt(np.clip(np.exp(log_variance), 0.01, 1.0))
    expected = scipy.stats.norm.logpdf(x.double().numpy().repeat(K, 1).reshape(mean.shape), mean, deviation)
    np.testing.assert_allclose(log_likelihood.detach().numpy().ravel(), expected.reshape(B * K, -1).sum(1), rtol=1e-5)
    one = decoder(codes[1, 2])
    assert one.batch_shape == ()
    torch.testing.assert_close(one.log_prob(x[1, 0]), log_likelihood[1, 2])


@pytest.mark.parametrize(("num_tokens", "shape", "start"), IMAGES, ids=lambda value: str(value))
def test_residual_blocks_work_at_the_grid_or_less_than_twice_its_size(num_tokens, shape, start):
    decoder = make(num_tokens, shape)
    seen = []
    decoder.residual.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    decoder(codes_of(num_tokens, B))
    assert seen == [start]
    assert math.prod(decoder.grid) == num_tokens


@pytest.mark.parametrize(
    ("grid", "size", "doublings", "start"),
    [
        ((8, 8), (32, 32), 2, (8, 8)),
        ((32, 32), (256, 256), 3, (32, 32)),
        ((8, 8), (33, 33), 2, (9, 9)),
        ((8, 8), (63, 63), 2, (16, 16)),
        ((4,), (4,), 0, (4,)),
        ((4,), (7,), 0, (7,)),
        ((64,), (32,), -1, (64,)),
        ((64,), (16,), -2, (64,)),
        ((64,), (50,), 0, (50,)),
        ((100,), (30,), -1, (60,)),
    ],
)
def test_the_plan_of_a_resampling(grid, size, doublings, start):
    assert plan_resampling(grid, size) == (doublings, start)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 29, 29)])
@pytest.mark.parametrize("place", [(2, 5), (5, 2), (4, 4)])
def test_a_token_of_an_image_acts_where_it_lies(shape, place):
    decoder = make(64, shape, norm="none", num_blocks=1)
    rows, columns = decoder.grid
    token = place[0] * columns + place[1]
    codes = codes_of(64, 20)
    changed = codes.clone()
    changed[:, token] = (codes[:, token] + 1) % V
    moved = (decoder(changed).mean - decoder(codes).mean).abs().mean((0, 1)).detach()  # [H, W]
    for axis, count in enumerate((rows, columns)):
        along = moved.sum(1 - axis)
        centre = (along * (torch.arange(len(along)) + 0.5)).sum() / along.sum() * count / len(along) - 0.5
        assert centre.item() == pytest.approx(place[axis], abs=0.5)


@pytest.mark.parametrize(
    ("num_tokens", "shape"), [(64, (1, 28, 28)), (6, (2, 17, 31)), (12, (3, 50, 9)), (5, (33, 2)), (9, (4, 3))]
)
def test_every_token_matters(num_tokens, shape):
    decoder = make(num_tokens, shape)
    embedded = decoder.embed(codes_of(num_tokens)).detach().requires_grad_()
    decoder(embedded).log_prob(data_of(shape)).backward()
    assert (embedded.grad.abs().amax(-1) > 1e-4).all()


def test_tokens_of_a_sequence_know_their_position():
    decoder = make(6, (6, 2))  # no convolution, which would know it too
    code = torch.tensor([0, 1, 2, 3, 4, 0])
    assert (decoder(code.flip(0)).mean.flip(0) - decoder(code).mean).abs().max() > 1e-3


@pytest.mark.parametrize(("num_tokens", "shape"), SEQUENCES, ids=lambda value: str(value))
def test_a_sequence_is_resampled_to_its_length_with_little_to_crop(num_tokens, shape):
    decoder = make(num_tokens, shape)
    seen = []
    decoder.resample.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    decoder(codes_of(num_tokens, B))
    assert shape[0] <= seen[0] < shape[0] + max(1, shape[0] / num_tokens)


def test_published_sizes_of_the_image_networks():
    """Counted by hand: the first convolution, two blocks, and transposed convolutions that halve the channels."""
    for num_tokens, shape, channels in ((64, (3, 32, 32), (64, 32, 6)), (1024, (3, 256, 256), (64, 32, 16, 6))):
        decoder = ResNetDecoder(num_tokens, 16, shape, likelihood=GaussianLikelihood(), embed_dim=128)
        expected = 16 * 128 + (9 * 128 * 64 + 64) + 2 * (9 * 64 * 64 + 64 * 64 + 2 * 64 + 4 * 64)
        expected += sum(16 * a * b + b for a, b in itertools.pairwise(channels)) + sum(2 * c for c in channels[1:-1])
        assert sum(p.numel() for p in decoder.parameters()) == expected


# What a score depends on


@pytest.mark.parametrize("shape", [(3, 16, 16), (40, 3)])
@pytest.mark.parametrize(("norm", "alone"), [("group", True), ("none", True), ("batch", False)])
def test_a_code_is_scored_without_its_batch_mates_unless_the_norm_is_over_the_batch(shape, norm, alone):
    decoder = make(16 if len(shape) == 3 else 10, shape, norm=norm)
    codes, x = codes_of(decoder.num_tokens, 6), data_of(shape)
    others = torch.cat((codes[:1], codes_of(decoder.num_tokens, 5, seed=9)))
    first, again = (decoder(batch).log_prob(x)[0].item() for batch in (codes, others))
    assert (abs(first - again) < 1e-3) == alone
    decoder.eval()
    first, again = (decoder(batch).log_prob(x)[0].item() for batch in (codes, others))
    assert abs(first - again) < 1e-3


@pytest.mark.parametrize("shape", [(2, 12, 12), (20, 3)])
def test_embedded_codes_and_relaxed_ones_are_scored_as_the_codes_they_are(shape):
    decoder = make(9, shape)
    codes, x = codes_of(9, B, K), data_of(shape, B, 1)
    by_codes = decoder(codes).log_prob(x)
    torch.testing.assert_close(decoder(decoder.embed(codes)).log_prob(x), by_codes, rtol=0, atol=0)
    relaxed = F.one_hot(codes, V).float() @ decoder.embed.weight
    torch.testing.assert_close(decoder(relaxed).log_prob(x), by_codes)


@pytest.mark.parametrize("shape", [(2, 12, 12), (20, 3)])
def test_one_seed_one_decoder_and_weights_travel(shape):
    decoder, twin = make(9, shape, data_mean=data_of(shape)), make(9, shape, data_mean=data_of(shape))
    codes = codes_of(9, B, K)
    torch.testing.assert_close(decoder(codes).mean, twin(codes).mean, rtol=0, atol=0)
    torch.manual_seed(5)
    other = type(decoder)(9, V, shape, likelihood=GaussianLikelihood(0.01, 1.0), embed_dim=8, channels=16)
    assert (other(codes).mean - decoder(codes).mean).abs().max() > 0.1
    other.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(other(codes).mean, decoder(codes).mean, rtol=0, atol=0)


# Gradients, start, learning


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize(
    ("num_tokens", "shape"),
    [(16, (2, 16, 16)), (4, (1, 2, 2)), (6, (2, 17, 31)), (4, (32, 3)), (16, (4, 3)), (5, (7, 2))],
)
def test_gradient_reaches_every_parameter(num_tokens, shape, norm):
    decoder = make(num_tokens, shape, norm=norm)
    codes = torch.arange(V).repeat(20 * num_tokens)[: 20 * num_tokens].view(20, num_tokens)
    (-decoder(codes).log_prob(data_of(shape, 20)).mean()).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_of_a_network_is_that_of_finite_differences():
    for num_tokens, shape in ((4, (1, 4, 4)), (3, (6, 2))):
        decoder = make(num_tokens, shape, likelihood=GaussianLikelihood(1e-6, math.inf)).double()
        x = data_of(shape).double()
        embedded = decoder.embed(codes_of(num_tokens, 2)).detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda e, decoder=decoder, x=x: decoder(e).log_prob(x), embedded)


@pytest.mark.parametrize(
    "likelihood",
    [BernoulliLikelihood(), GaussianLikelihood(0.01, 0.5), FixedGaussianLikelihood(1e-4), CategoricalLikelihood(3)],
)
@pytest.mark.parametrize("shape", [(2, 16, 16), (20, 3)])
def test_reconstructions_start_near_the_datas_mean(shape, likelihood):
    data_mean = 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(4))
    decoder = make(4, shape, likelihood=likelihood, data_mean=data_mean, channels=64)
    mean = decoder(codes_of(4, 50)).mean.detach()
    target = torch.ones(shape) if isinstance(likelihood, CategoricalLikelihood) else data_mean
    spread = (mean - target).std()
    assert 0.01 * likelihood.output_scale < spread < 0.6 * likelihood.output_scale
    assert (mean.mean(0) - target).abs().mean() < 0.4 * likelihood.output_scale


def test_a_mean_per_channel_will_do():
    decoder = make(4, (3, 8, 8), data_mean=torch.tensor([1.0, 20.0, 300.0]).view(3, 1, 1))
    torch.testing.assert_close(
        decoder(codes_of(4, 9)).mean.mean((0, 2, 3)), torch.tensor([1.0, 20.0, 300.0]), atol=1, rtol=0
    )


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(32, 40, 3), nn.ConvTranspose2d(32, 40, 4, 2), nn.ConvTranspose1d(32, 40, 4, 2)]
)
def test_layers_start_with_the_gain_asked_for(layer):
    torch.manual_seed(0)
    initialize(layer, 3.0)
    x = torch.randn(8, 32, *[40] * (layer.weight.ndim - 2))
    inner = (slice(None), slice(None), *[slice(3, -3)] * (layer.weight.ndim - 2))
    assert layer(x)[inner].std().item() == pytest.approx(3.0, rel=0.05)


def colour_patches(n=64):
    """Standardised images [n, 3, 16, 16] of four patches, each of one of four colours, and which colours these are."""
    generator = torch.Generator().manual_seed(6)
    codes = torch.randint(4, (n, 4), generator=generator)
    colours = torch.randn(4, 3, generator=generator)
    images = colours[codes].transpose(1, 2).unflatten(2, (2, 2)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (images - images.mean()) / images.std(), codes


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_few_steps_on_colour_patches_beat_the_mean_image_by_far(norm):
    images, codes = colour_patches()
    mean_image = torch.distributions.Normal(images.mean(0), images.std(0)).log_prob(images).sum((1, 2, 3)).mean().item()
    decoder = make(4, (3, 16, 16), data_mean=images.mean(0), norm=norm)
    first, last = fit(decoder, images, codes)
    assert first < mean_image + 50
    assert last > mean_image + 500  # of 768 entries, at most 1.38 nats each at the variance's bound


def test_a_few_steps_on_step_functions_beat_the_mean_sequence_by_far():
    images, codes = colour_patches()
    sequences = images[:, :, ::8, 0].repeat_interleave(8, 2).transpose(1, 2)  # [64, 16, 3] of two stretches
    mean_sequence = (
        torch.distributions.Normal(sequences.mean(0), sequences.std(0)).log_prob(sequences).sum((1, 2)).mean()
    )
    decoder = make(4, (16, 3), data_mean=sequences.mean(0), embed_dim=16)
    _, last = fit(decoder, sequences, codes)
    assert last > mean_sequence + 30  # of 48 entries


def fit(decoder: CodeDecoder, x, codes, steps=60):
    """Mean log-likelihood before and after."""
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    values = []
    for _ in range(steps):
        log_likelihood = decoder(codes).log_prob(x).mean()
        optimizer.zero_grad()
        (-log_likelihood).backward()
        optimizer.step()
        values.append(log_likelihood.item())
    return values[0], values[-1]


# Errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ResNetDecoder(16, V, (28, 28)),
            r"must be \(C, H, W\) for a ResNetDecoder, got \(28, 28\); give images",
        ),
        (lambda: ResNetDecoder(16, V, (784,)), r"must be \(C, H, W\) for a ResNetDecoder"),
        (lambda: ResNetDecoder(64, V, (3, 4, 4)), r"no more tokens than pixels along a side, got 64"),
        (lambda: ResNetDecoder(31, V, (3, 28, 28)), r"no more tokens than pixels along a side, got 31"),
        (lambda: ResNetDecoder(16, V, (1, 8, 8), norm="layer"), "norm must be one of group, batch, none, got 'layer'"),
        (lambda: ResNetDecoder(16, V, (1, 8, 8), channels=0), "channels must be an integer >= 1, got 0"),
        (lambda: ResNetDecoder(16, V, (1, 8, 8), num_blocks=0), "num_blocks must be an integer >= 1, got 0"),
        (lambda: ResNetDecoder(0, V, (1, 8, 8)), "num_tokens must be >= 1"),
        (lambda: SequenceDecoder(16, V, (1, 8, 8)), r"must be \(L, D\) for a SequenceDecoder, got \(1, 8, 8\)"),
        (lambda: SequenceDecoder(16, V, (8, 2), embed_dim=6), "multiple of num_heads"),
        (lambda: SequenceDecoder(16, V, (8, 2), channels=0), "channels must be an integer >= 1, got 0"),
        (lambda: MLPDecoder(4, V, (3,), embed_dim=0), "embed_dim must be an integer >= 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("codes", [torch.zeros(B, 5, dtype=torch.int64), torch.zeros(B, 4, 7), torch.zeros(B, 8)])
def test_codes_of_another_size_are_refused(codes):
    with pytest.raises(ValueError, match=r"integers \[\.\.\., 4\] or embedded \[\.\.\., 4, 8\], got"):
        make(4, (1, 8, 8))(codes)


def test_a_network_of_ones_own_needs_outputs():
    with pytest.raises(NotImplementedError):
        CodeDecoder(4, V, (3,))(codes_of(4, B))
