"""Tokens on a lattice: its points, the vectors that the decoder reads, the Gaussian that the policy writes with."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import ModelConfig, config_from_dict, make_config
from daps_rl.linear import Linear
from daps_rl.policies import LatticeEmbedding, LatticeHead, lattice_levels


@given(st.integers(2, 5000))
@settings(max_examples=200, deadline=None)
def test_levels_multiply_to_the_vocabulary(vocab_size):
    levels = lattice_levels(vocab_size)
    assert math.prod(levels) == vocab_size
    assert min(levels) >= 2
    assert list(levels) == sorted(levels, reverse=True)
    largest_prime = max(p for p in range(2, vocab_size + 1) if vocab_size % p == 0 and all(p % q for q in range(2, p)))
    assert max(levels) <= max(8, largest_prime)


@pytest.mark.parametrize(
    ("vocab_size", "levels"),
    [(2, (2,)), (7, (7,)), (16, (4, 4)), (256, (8, 8, 4)), (257, (257,)), (1000, (8, 5, 5, 5))],
)
def test_levels_of_common_vocabularies(vocab_size, levels):
    assert lattice_levels(vocab_size) == levels


class TestEmbedding:
    def test_points_are_those_of_the_grid(self):
        embedding = LatticeEmbedding(6, 5, levels=(3, 2))
        grid = list(itertools.product((-1.0, 0.0, 1.0), (-1.0, 1.0)))
        assert embedding.coordinates.tolist() == [list(point) for point in grid]

    def test_a_token_in_the_middle_of_two_has_the_mean_of_their_vectors(self):
        embedding = LatticeEmbedding(6, 5, levels=(3, 2))
        low, middle, high = (embedding(torch.tensor(token)) for token in (0, 2, 4))
        torch.testing.assert_close(middle, (low + high) / 2)

    def test_reads_codes_of_any_shape(self):
        embedding = LatticeEmbedding(16, 5)
        codes = torch.randint(16, (2, 3, 4))
        assert embedding(codes).shape == (2, 3, 4, 5)
        assert torch.equal(embedding(codes)[1, 2, 3], embedding.weight[codes[1, 2, 3]])

    @pytest.mark.parametrize("levels", [(3, 3), (8, 1), ()])
    def test_other_products_are_refused(self, levels):
        with pytest.raises(ValueError, match="multiply to vocab_size = 8"):
            LatticeEmbedding(8, 4, levels=levels)


class TestHead:
    def make(self, vocab_size=16, dim=6):
        torch.manual_seed(0)
        head = LatticeHead(dim, LatticeEmbedding(vocab_size, 5)).double()
        nn.init.normal_(head.log_precision.weight, std=0.3)
        return head

    def test_is_a_gaussian_on_the_points(self):
        head, x = self.make(), torch.randn(3, 6, dtype=torch.float64)
        points = LatticeEmbedding(16, 5).coordinates.double()
        precision = head.log_precision(x).exp()
        density = torch.distributions.Normal(head.mean(x).unsqueeze(1), (0.5 / precision).sqrt().unsqueeze(1))
        expected = density.log_prob(points).sum(-1)  # [3, V]
        torch.testing.assert_close(torch.log_softmax(head(x), -1), torch.log_softmax(expected, -1))

    def test_starts_with_the_deviation_asked_for(self):
        head = LatticeHead(6, LatticeEmbedding(257, 5), deviation=0.1)
        nn.init.zeros_(head.mean.weight)
        nn.init.zeros_(head.mean.bias)
        probs = torch.softmax(head(torch.randn(6)), -1)
        points = LatticeEmbedding(257, 5).coordinates[:, 0]
        assert (probs * points.square()).sum().sqrt().item() == pytest.approx(0.1, abs=1e-3)

    def test_no_gradient_reaches_the_decoders_vectors(self):
        embedding = LatticeEmbedding(16, 5)
        LatticeHead(6, embedding)(torch.randn(2, 6)).sum().backward()
        assert all(p.grad is None for p in embedding.parameters())

    def test_stays_finite_for_wild_inputs(self):
        assert self.make()(1e6 * torch.randn(5, 6, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("policy", ["autoregressive", "factorized"])
@pytest.mark.parametrize(("vectors", "head"), [("lattice", LatticeHead), ("separate", Linear)])
def test_a_config_builds_the_head_it_names_and_reads_it_back(policy, vectors, head, tmp_path):
    config = make_config(policy=policy, token_vectors=vectors, num_tokens=3, vocab_size=12)
    model = DiscreteAutoencoder.from_config(config.model_config((1, 8, 8), "bernoulli")).eval()
    found = model.policy.head if policy == "factorized" else model.policy.transformer.head
    assert type(found) is head
    model.save_pretrained(tmp_path)
    again = DiscreteAutoencoder.from_pretrained(tmp_path)
    x, codes = torch.rand(2, 1, 8, 8), torch.randint(12, (2, 3))
    assert torch.equal(model.policy(x).log_prob(codes), again.policy(x).log_prob(codes))
    assert torch.equal(model.decode(codes), again.decode(codes))


def test_more_of_the_vocabulary_is_used_than_with_a_free_table():
    from daps_rl.data import load
    from daps_rl.evaluation import evaluate
    from daps_rl.training import Trainer

    perplexity = {}
    for vectors in ("lattice", "separate"):
        config = make_config(
            agent="daps-na",
            token_vectors=vectors,
            steps=150,
            num_tokens=4,
            vocab_size=64,
            validate_every=0,
            device="cpu",
        )
        trainer = Trainer(config, load("digits"))
        list(trainer.run())
        metrics = evaluate(trainer.autoencoder, trainer.splits.validation, beta=0.01).metrics
        perplexity[vectors] = metrics["code_perplexity"]
    assert perplexity["lattice"] > 1.5 * perplexity["separate"], perplexity  # measured: 43 and 20 of 64


def test_a_way_of_sharing_vectors_that_is_no_more_is_refused_in_one_line():
    assert config_from_dict({"token_vectors": "lattice"}, ModelConfig).token_vectors == "lattice"
    with pytest.raises(ValueError, match=r"^token_vectors must be one of lattice, separate, got 'shared'\.$"):
        config_from_dict({"token_vectors": "shared"}, ModelConfig)
