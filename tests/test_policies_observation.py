"""daps_rl.policies: patches, encoders, sizes, priors and what the constructors refuse."""

import math

import pytest
import torch

from daps_rl.policies import (
    AutoregressivePolicy,
    FactorizedCategorical,
    FactorizedPolicy,
    ObservationEncoder,
    Patches,
    draw,
)
from daps_rl.priors import UniformCodes, UniformPrior

POLICIES = [AutoregressivePolicy, FactorizedPolicy]
SIZES = {"embed_dim": 16, "num_heads": 2}
ENCODER = {"embed_dim": 8, "num_heads": 2, "num_layers": 1, "mlp_ratio": 2.0}


def count(module):
    return sum(p.numel() for p in module.parameters())


# Patches


def test_an_image_is_cut_into_its_quarters():
    image = torch.arange(2 * 4 * 6).float().view(1, 2, 4, 6)
    patches = Patches((2, 4, 6), 4)
    assert (patches.grid, patches.patch_shape, patches.patch_dim) == ((2, 2), (2, 3), 12)
    quarters = [image[0, :, r : r + 2, c : c + 3] for r in (0, 2) for c in (0, 3)]
    assert torch.equal(patches(image)[0], torch.stack([q.flatten() for q in quarters]))


def test_an_image_that_does_not_divide_is_padded_with_zeros():
    image = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).view(1, 1, 3, 3)
    expected = [[1.0, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0]]
    assert Patches((1, 3, 3), 4)(image)[0].tolist() == expected


def test_a_vector_is_cut_into_pieces():
    vector = torch.tensor([[1.0, 2, 3, 4, 5]])
    assert Patches((5,), 3)(vector)[0].tolist() == [[1.0, 2], [3, 4], [5, 0]]


def test_a_sequence_is_cut_in_time():
    sequence = torch.arange(10.0).view(1, 5, 2)  # five steps of two features
    assert Patches((5, 2), 3)(sequence)[0].tolist() == [[0.0, 2, 1, 3], [4, 6, 5, 7], [8, 0, 9, 0]]


@pytest.mark.parametrize(
    ("shape", "num_patches", "grid"),
    [
        ((1, 28, 28), 8, (2, 4)),
        ((3, 32, 32), 64, (8, 8)),
        ((1, 8, 32), 4, (1, 4)),
        ((1, 32, 8), 4, (4, 1)),
        ((1, 5, 5), 1, (1, 1)),
        ((40,), 8, (1, 8)),
        ((40, 3), 8, (1, 8)),
    ],
)
def test_patches_are_as_square_as_can_be(shape, num_patches, grid):
    patches = Patches(shape, num_patches)
    assert patches.grid == grid
    assert patches(torch.zeros(2, *shape)).shape == (2, num_patches, patches.patch_dim)


@pytest.mark.parametrize(
    ("shape", "num_patches", "message"),
    [
        ((), 2, r"observation_shape must be \(C, H, W\).*got \(\)"),
        ((1, 2, 3, 4), 2, "observation_shape must be .*pass an encoder of your own"),
        ((5,), 6, r"num_patches must be at most .*\(5,\), got 6"),
        ((1, 2, 2), 7, "num_patches must be at most"),
        ((1, 2, 2), 0, "num_patches must be >= 1, got 0"),
        ((1, 2, 2), -1, "num_patches must be >= 1, got -1"),
    ],
)
def test_impossible_patches_are_refused(shape, num_patches, message):
    with pytest.raises(ValueError, match=message):
        Patches(shape, num_patches)


# The encoder


def test_the_encoder_knows_where_a_patch_was():
    torch.manual_seed(0)
    encoder = ObservationEncoder((8,), num_patches=4, **ENCODER)
    x = torch.randn(1, 8)
    swapped = torch.cat((x[:, 2:4], x[:, :2], x[:, 4:]), -1)
    before, after = encoder(x)[0], encoder(swapped)[0]
    assert before.shape == (4, 8)
    assert (before[0] - after[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "observation", [torch.zeros(2, 7), torch.zeros(8), torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 1, 8)]
)
def test_observations_of_the_wrong_kind_are_refused(observation):
    with pytest.raises(ValueError, match=r"observation must be a floating-point batch of shape \[B, 8\], got torch"):
        ObservationEncoder((8,), num_patches=4, **ENCODER)(observation)


# Policies over every kind of observation


@pytest.mark.parametrize("policy_class", POLICIES)
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 4), (11,), (9, 2)])
@pytest.mark.parametrize("num_patches", [None, 2])
def test_policies_take_images_vectors_and_sequences(policy_class, shape, num_patches):
    torch.manual_seed(0)
    policy = policy_class(shape, 3, 5, num_patches=num_patches, **SIZES)
    x = torch.randn(2, *shape, requires_grad=True)
    codes = policy(x).sample((4,))
    assert codes.shape == (4, 2, 3)
    policy(x).log_prob(codes).sum().backward()
    assert (x.grad != 0).all()  # every entry is read


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("policy_class", POLICIES)
def test_log_probabilities_stay_float32_in_half_precision(policy_class, dtype):
    torch.manual_seed(0)
    policy = policy_class((6,), 3, 4, **SIZES).to(dtype)
    distribution = policy(torch.randn(2, 6, dtype=dtype))
    codes, log_prob = draw(distribution, (5,))
    assert log_prob.dtype == distribution.log_prob(codes).dtype == distribution.entropy().dtype == torch.float32
    torch.testing.assert_close(log_prob, distribution.log_prob(codes).detach(), atol=0.05, rtol=0)


def test_aligned_patches_put_each_patch_at_its_token():
    """With the attention to the context cut off, a token's logits read their own patch and those before it."""
    torch.manual_seed(0)
    policy = AutoregressivePolicy((1, 4, 4), 4, 3, aligned_patches=True, **SIZES)
    for block in policy.encoder.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    for block in policy.transformer.blocks:
        torch.nn.init.zeros_(block.cross.out.weight)
    x = torch.rand(1, 1, 4, 4)
    changed = x.clone()
    changed[..., 2:, :2] += 1.0  # the third of four patches
    codes = torch.zeros(1, 4, dtype=torch.int64)
    moved = (policy(x).token_logits(codes) - policy(changed).token_logits(codes)).abs().amax(-1)[0] > 1e-5
    assert moved.tolist() == [False, False, True, True]


def test_published_sizes():
    autoregressive = AutoregressivePolicy((1, 28, 28), 8, 256, aligned_patches=False)
    assert count(autoregressive) == pytest.approx(157_000, rel=0.01)
    assert count(FactorizedPolicy((1, 28, 28), 8, 256)) == pytest.approx(157_000, rel=0.01)


@pytest.mark.parametrize("policy_class", POLICIES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 0}, "num_tokens must be >= 1 and vocab_size >= 2, got 0 and 4"),
        ({"vocab_size": 1}, "num_tokens must be >= 1 and vocab_size >= 2, got 3 and 1"),
        ({"num_heads": 3}, "embed_dim must be a positive multiple of num_heads.*num_heads=3"),
        ({"num_layers": 0}, "num_layers >= 1, got .*num_layers=0"),
        ({"num_patches": 0}, "num_patches must be >= 1, got 0"),
        ({"num_patches": 99}, "num_patches must be at most"),
    ],
)
def test_impossible_sizes_are_refused(policy_class, changes, message):
    arguments = {"observation_shape": (6,), "num_tokens": 3, "vocab_size": 4, **SIZES} | changes
    with pytest.raises(ValueError, match=message):
        policy_class(**arguments)


def test_a_code_needs_a_layer():
    with pytest.raises(ValueError, match=r"num_layers >= 1, got .*num_layers=0"):
        AutoregressivePolicy((6,), 3, 4, num_code_layers=0, **SIZES)


@pytest.mark.parametrize("policy_class", POLICIES)
def test_observation_of_another_shape_is_refused(policy_class):
    with pytest.raises(ValueError, match=r"of shape \[B, 6\], got torch.float32 of shape \(2, 5\)"):
        policy_class((6,), 3, 4, **SIZES)(torch.zeros(2, 5))


def test_factorised_logits_need_not_be_normalised():
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(9), 0.0]]], dtype=torch.float64)
    distribution = FactorizedCategorical(logits + 5.0)
    assert distribution.log_prob(torch.tensor([[1, 0]])).exp().item() == pytest.approx(0.75 * 0.9)


# Priors


def test_uniform_codes():
    prior = UniformCodes(3, 5)
    codes = prior.sample((2_000,), generator=torch.Generator().manual_seed(0))
    assert (codes.shape, codes.dtype) == ((2_000, 3), torch.int64)
    assert prior.support.check(codes).all()
    assert torch.unique(codes, dim=0).shape[0] == 125  # missed with probability 125·(124/125)^2000 < 2e-5
    assert (prior.batch_shape, prior.event_shape) == ((), (3,))
    torch.testing.assert_close(prior.log_prob(codes[:6].view(2, 3, 3)), torch.full((2, 3), -3 * math.log(5)))
    assert prior.entropy().item() == pytest.approx(3 * math.log(5))
    again = prior.sample((2_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(codes, again)


def test_uniform_prior_is_a_module_without_state():
    prior = UniformPrior(3, 5)
    assert isinstance(prior(), UniformCodes)
    assert prior().sample((4,)).shape == (4, 3)
    assert prior.state_dict() == {}
    assert str(prior.to("meta")().device) == "meta"


@pytest.mark.parametrize("prior_class", [UniformCodes, UniformPrior])
def test_priors_refuse_impossible_sizes(prior_class):
    with pytest.raises(ValueError, match="num_tokens must be >= 1 and vocab_size >= 2, got 3 and 1"):
        prior_class(3, 1)
