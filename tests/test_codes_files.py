"""Codes, and data given their codes, as bytes: their sizes by other means, and what becomes of damaged ones."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZES, binary_data
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Independent

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes import HEADER, Container, compress, decompress, load_counts, save_counts
from daps_rl.codes import coder as coder_file
from daps_rl.codes.coder import CountedNumbers, PriorNumbers, Reader, Writer, code_tokens, whole_numbers
from daps_rl.config import ModelConfig
from daps_rl.decoders import MLPDecoder
from daps_rl.decoders.columns import ColumnsLikelihood
from daps_rl.decoders.likelihoods import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood
from daps_rl.evaluation import count_codes
from daps_rl.policies import EndToken, FactorizedCategorical, FactorizedPolicy
from daps_rl.priors import AutoregressivePrior, IndependentPrior, UniformPrior

T, V, SHAPE = 5, 7, (6,)


class KnownPrior(nn.Module):
    """Independent tokens of given probabilities [T, V]."""

    def __init__(self, probs: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(probs.log())

    def forward(self) -> FactorizedCategorical:
        return FactorizedCategorical(self.logits)


def skewed(num_tokens: int = T, vocab_size: int = V) -> Tensor:
    """Returns probabilities that differ by a factor of thousands. [T, V]."""
    logits = 3.0 * torch.randn(num_tokens, vocab_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return logits.softmax(-1)


def make_model(prior: nn.Module | None = None, likelihood: nn.Module | None = None, shape=SHAPE) -> DiscreteAutoencoder:
    """Returns a model of parts, whose policy is there for its sizes."""
    policy = FactorizedPolicy(SHAPE, T, V, embed_dim=8, num_heads=2)
    decoder = MLPDecoder(T, V, shape, embed_dim=4, hidden=(8,), likelihood=likelihood)
    with torch.no_grad():
        decoder.layers[-1].weight.mul_(10.0)  # data that depend on their codes
    return DiscreteAutoencoder(policy, decoder, prior or KnownPrior(skewed())).eval()


def draw_codes(count: int, probs: Tensor | None = None) -> Tensor:
    return Categorical(skewed() if probs is None else probs).sample((count,))


def bits(probs: np.ndarray, codes: Tensor) -> float:
    """Returns −log2 of the probability of codes whose tokens are independent, in float64."""
    picked = probs[np.arange(codes.shape[1]), codes.numpy()]
    return float(-np.log2(picked).sum())


# Sizes.


@pytest.mark.parametrize("count", [1, 2, 10, 3000])
def test_size_is_that_of_a_known_distribution(count):
    codes = draw_codes(count)
    content = compress(make_model(), codes)
    ideal = bits(skewed().numpy(), codes) / 8
    assert ideal <= len(content) - 46 + 0.5
    assert len(content) - 46 <= 1.01 * ideal + 8


def test_size_is_that_of_learned_priors():
    torch.manual_seed(3)
    for prior in (
        AutoregressivePrior(T, V),
        AutoregressivePrior(T, V, 3),
        IndependentPrior(T, V, 3),
        UniformPrior(T, V),
    ):
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            codes = prior().sample((700,))
            ideal = -prior().log_prob(codes).double().sum().item() / math.log(2) / 8
        model = make_model(prior)
        content = compress(model, codes)
        assert abs(len(content) - 46 - ideal) <= 0.01 * ideal + 8
        assert torch.equal(decompress(model, content).codes, codes)


def test_size_by_counts_is_that_of_their_shares():
    model, training, codes = make_model(UniformPrior(T, V)), draw_codes(500), draw_codes(400)
    counts = count_codes(training, V)
    by_hand = np.array([[int((training[:, t] == v).sum()) for v in range(V)] for t in range(T)])
    assert counts.tolist() == by_hand.tolist()
    content = compress(model, codes, counts=counts)
    ideal = bits((by_hand + 1) / (500 + V), codes) / 8
    assert abs(len(content) - 46 - ideal) <= 0.01 * ideal + 8
    assert torch.equal(decompress(model, content, counts=counts).codes, codes)
    assert len(content) < 0.9 * len(compress(model, codes))


def test_whole_numbers_are_in_proportion_and_add_up():
    numbers = whole_numbers(torch.tensor([[0.25, 0.75, 0.0], [1e-30, 1.0, 0.0]]).log())
    total = 2**24 - 3
    assert numbers.tolist() == [[math.floor(total / 4), total - math.floor(total / 4), 0], [0, total, 0]]
    with pytest.raises(ValueError, match="finite"):
        whole_numbers(torch.tensor([[0.0, math.nan]]))


def test_what_is_coded_with_is_a_whole_number_and_one_more():
    """By the state of constriction's encoder: its lower end and its range, of 64 bits."""
    numbers = whole_numbers(torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4)
    start, below = (2**64 - 1) >> 24, 0
    for symbol in range(50):
        writer = Writer()
        writer.code(numbers, torch.tensor([symbol]))
        weight = int(numbers[0, symbol]) + 1
        _, (low, width) = writer._encoder.pos()
        grown = 2**32 if start * weight < 2**32 else 1  # a word has gone out
        assert (int(low), int(width)) == (start * below * grown % 2**64, start * weight * grown)
        below += weight
    assert below == 2**24


def test_counts_become_whole_numbers_without_rounding():
    counts = torch.tensor([[0, 2, 0, 10**9]])
    total = 2**24 - 4
    shares = [(c + 1) * total // (10**9 + 6) for c in (0, 2, 0, 10**9)]
    shares[3] += total - sum(shares)
    assert CountedNumbers(counts, 2).numbers().tolist() == [shares, shares]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 40), st.integers(1, 30), st.integers(0, 2**31), st.floats(0.0, 0.9))
def test_any_codes_come_back(num_tokens, vocab_size, count, seed, forbidden):
    """Also where most tokens may not come, and where parts hold a few codes each."""
    generator = torch.Generator().manual_seed(seed)
    logits = 20.0 * torch.randn(num_tokens, vocab_size, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < forbidden] = -math.inf
    logits[:, 0] = 0.0
    codes = Categorical(logits=logits).sample((count,))
    prior, writer = KnownPrior(logits.exp()), Writer()
    prior.logits.data = logits
    with torch.no_grad():
        for stream, given_codes in ((writer, codes), (None, None)):
            stream = stream or Reader(writer.to_bytes())
            found = code_tokens(stream, lambda n: PriorNumbers(prior, n), given_codes, codes.shape, vocab_size)
            assert torch.equal(found, codes)


def test_parts_are_as_many_as_their_numbers_allow(monkeypatch):
    monkeypatch.setattr(coder_file, "NUMBERS_AT_ONCE", 3 * (V + 64 * T))
    assert list(coder_file.parts(8, V + 64 * T)) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    codes, model = draw_codes(8), make_model(AutoregressivePrior(T, V))
    assert torch.equal(decompress(model, compress(model, codes)).codes, codes)


# The file.


def test_header_holds_what_it_says():
    model, codes = make_model(), draw_codes(20)
    content = compress(model, codes)
    assert HEADER.size == 46
    assert content[:6] == b"DAPS\x01\x00"
    assert np.frombuffer(content[6:22], "<u4").tolist() == [T, V, 20, len(content) - 46]
    file = Container.from_bytes(content)
    assert file.to_bytes() == content
    assert (file.counted, file.lossless, file.data) == (False, False, b"")


def test_what_is_decompressed_is_what_decode_gives():
    model, codes = make_model(), draw_codes(1203)
    found = decompress(model, compress(model, codes))
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.data, torch.cat([model.decode(part) for part in codes.split(500)]))


@pytest.mark.parametrize("lossless", [False, True])
def test_flipped_cut_or_longer_files_are_refused(lossless):
    model, codes = make_model(), draw_codes(60)
    data = model.decoder(codes).sample() if lossless else None
    content = compress(model, codes, data=data)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        how = rng.integers(4)
        if how == 0:
            damaged = damaged[: rng.integers(len(content))]
        elif how == 1:
            damaged += rng.bytes(rng.integers(1, 9))
        else:
            for at in rng.integers(8 * len(content), size=1 if how == 2 else 20):
                damaged[at // 8] ^= 1 << (at % 8)
        if bytes(damaged) == content:
            continue
        with pytest.raises(ValueError, match="file"):
            decompress(model, bytes(damaged))
        refused += 1
    assert refused > 290


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codes": 2**32 - 1}, "more than this machine's memory"),
        ({"num_codes": 21}, "numbers come out differently"),
        ({"num_codes": 0}, "damaged"),
        ({"codes": b"\xff" * 40}, "numbers come out differently"),
        ({"codes": b"\xff" * 39}, "damaged"),
        ({"data": b"1234"}, "damaged"),
        ({"vocab_size": V + 1}, "another model"),
        ({"num_tokens": 1}, "another model"),
        ({"model": b"01234567"}, "another model"),
        ({"counted": True}, "there are none with the model"),
        ({"lossless": True}, "numbers come out differently"),
    ],
)
def test_files_with_a_right_checksum_and_wrong_content_are_refused(change, message, monkeypatch):
    model = make_model()
    monkeypatch.setattr("daps_rl.codes.compression.memory_size", lambda: 2**30)
    file = Container.from_bytes(compress(model, draw_codes(20)))
    with pytest.raises(ValueError, match=message):
        decompress(model, file._replace(**change).to_bytes(), where="F.daps")


def test_other_versions_and_other_files_are_named():
    content = compress(make_model(), draw_codes(3))
    for damaged, message in ((b"DAPS\x02" + content[5:], "format 2, here 1"), (b"PK" + content, "no file of daps-rl")):
        with pytest.raises(ValueError, match=f"F.daps is damaged, or .*{message}"):
            Container.from_bytes(damaged, "F.daps")


def test_the_model_is_known_by_what_decoding_needs():
    model, codes = make_model(), draw_codes(20)
    content = compress(model, codes)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.policy.parameters()).add_(1.0)
    assert torch.equal(decompress(other, content).codes, codes)
    for part in ("decoder", "prior"):
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(getattr(other, part).parameters()).view(-1)[0] += 1e-3
        with pytest.raises(ValueError, match="compressed with another model"):
            decompress(other, content)
    counts = count_codes(codes, V)
    content = compress(model, codes, counts=counts)
    with pytest.raises(ValueError, match="compressed with another model"):
        decompress(model, content, counts=counts + 1)
    with torch.no_grad():
        model.prior.logits.add_(1.0)  # which they do not need
    assert torch.equal(decompress(model, content, counts=counts).codes, codes)


def test_settings_that_differ_are_another_model():
    config = {name: SIZES[name] for name in ("num_tokens", "vocab_size", "embed_dim", "num_heads", "decoder_hidden")}
    made = []
    for variance in (0.25, 0.5):
        torch.manual_seed(0)
        settings = ModelConfig(
            **config, observation_shape=(6,), likelihood="fixed_gaussian", variance=variance, decoder="mlp"
        )
        made.append(DiscreteAutoencoder.from_config(settings).eval())
    content = compress(made[0], made[0].encode(torch.rand(4, 6)))
    assert len(decompress(made[0], content).data) == 4
    with pytest.raises(ValueError, match="compressed with another model"):
        decompress(made[1], content)


# The same numbers on both sides.


class DriftingPrior(KnownPrior):
    """Says something else each time."""

    def forward(self) -> FactorizedCategorical:
        self.logits.data[:, 0] += 0.01
        return super().forward()


def test_numbers_that_differ_are_noticed(monkeypatch):
    monkeypatch.setattr("daps_rl.codes.compression.in_float64", lambda module: module)
    with pytest.raises(ValueError, match="does not decompress to the same"):
        compress(make_model(DriftingPrior(skewed())), draw_codes(100))


def test_another_machine_whose_numbers_differ_is_told_so(monkeypatch):
    model, codes = make_model(), draw_codes(500)
    content, real = compress(model, codes), coder_file.whole_numbers

    def rounded_otherwise(logits: Tensor) -> np.ndarray:
        numbers = real(logits)
        numbers[:, 0] += 1
        numbers[:, 1] -= 1
        return numbers

    monkeypatch.setattr(coder_file, "whole_numbers", rounded_otherwise)
    with pytest.raises(ValueError, match=r"F\.daps was compressed where numbers come out differently from here"):
        decompress(model, content, where="F.daps")
    counts = count_codes(codes, V)
    assert torch.equal(decompress(model, compress(model, codes, counts=counts), counts=counts).codes, codes)


class WatchingPrior(KnownPrior):
    """Writes down how it is computed."""

    seen: set[tuple] = set()  # noqa: RUF012  # a copy's too

    def forward(self) -> FactorizedCategorical:
        kinds = self.logits.dtype, torch.get_default_dtype()
        self.seen.add((torch.get_num_threads(), *kinds, torch.is_autocast_enabled("cpu"), self.training))
        return super().forward()


def test_numbers_are_computed_in_one_way():
    model, threads = make_model(WatchingPrior(skewed().float())).train(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.autocast("cpu", torch.bfloat16):
            decompress(model, compress(model, draw_codes(10)))
    finally:
        torch.set_num_threads(threads)
    assert WatchingPrior.seen == {(1, torch.float64, torch.float64, False, False)}
    assert torch.get_default_dtype() == torch.float32


def test_bytes_do_not_depend_on_threads_or_autocast_which_stay_as_they_were():
    codes, model = draw_codes(300), make_model(AutoregressivePrior(T, V, embed_dim=32))
    expected, threads = compress(model, codes), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.autocast("cpu", torch.bfloat16):
            assert compress(model, codes) == expected
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError):
            decompress(model, expected[:-4] + b"abcd")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


# Data too.


def lossless_size(model: DiscreteAutoencoder, codes: Tensor, data: Tensor) -> tuple[int, float]:
    """Returns the bytes after the header, checked to give the data back, and −log2 p(z) − log2 p(x|z) in bytes."""
    content = compress(model, codes, data=data)
    found = decompress(model, content)
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.data, data.float())
    with torch.no_grad():
        nats = -model.prior().log_prob(codes).double().sum() - model.decoder(codes).log_prob(data).double().sum()
    return len(content) - 46, nats.item() / math.log(2) / 8


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        (BernoulliLikelihood(), (1, 4, 5)),
        (CategoricalLikelihood(5), (9,)),
        (ColumnsLikelihood(["category:11"]), (8, 1)),
    ],
    ids=["bernoulli", "categorical", "text"],
)
@pytest.mark.parametrize("count", [1, 600])
def test_data_come_back_in_as_many_bits_as_they_have(likelihood, shape, count):
    torch.manual_seed(2)
    model, codes = make_model(likelihood=likelihood, shape=shape), draw_codes(count)
    with torch.no_grad():
        distribution = model.decoder(codes)
        if isinstance(likelihood, ColumnsLikelihood):
            data = Categorical(logits=distribution.outputs).sample().float().unsqueeze(-1)
        else:
            data = distribution.sample().float()
    size, ideal = lossless_size(model, codes, data)
    assert abs(size - ideal) <= 0.005 * ideal + 16


@pytest.mark.parametrize("policy", ["autoregressive", "vq", "fsq"])
@pytest.mark.parametrize("decoder", ["mlp", "resnet"])
def test_data_come_back_whatever_the_policy_and_the_decoder(policy, decoder):
    config = ModelConfig(
        observation_shape=(1, 8, 8), num_tokens=4, vocab_size=12, embed_dim=8, num_heads=2, decoder_embed_dim=4,
        decoder_channels=8, likelihood="bernoulli", policy=policy, decoder=decoder, decoder_norm="batch",
    )  # fmt: skip
    model, data = DiscreteAutoencoder.from_config(config).eval(), binary_data(30, 1, 8, 8)
    size, ideal = lossless_size(model, model.encode(data, deterministic=True), data)
    assert abs(size - ideal) <= 0.005 * ideal + 16


def test_rows_with_cells_that_are_not_there_come_back():
    """What is missing is 0, costs nothing, and its flag may stand behind it."""
    torch.manual_seed(2)
    likelihood = ColumnsLikelihood(["category:6@3", "yes-no*2@3", "yes-no", "category:3"])
    model, codes = make_model(likelihood=likelihood, shape=(5,)), draw_codes(800)
    there = torch.rand(800) < 0.5
    columns = [torch.randint(6, (800,)) * there, *(torch.randint(2, (2, 800)) * there), there, torch.randint(3, (800,))]
    size, ideal = lossless_size(model, codes, torch.stack([column.float() for column in columns], dim=-1))
    assert abs(size - ideal) <= 0.005 * ideal + 16


def test_data_that_cannot_be_lossless_are_refused():
    codes = draw_codes(4)
    model = make_model(likelihood=GaussianLikelihood())
    with pytest.raises(ValueError, match=r"zeros and ones, of categories or of symbols.* made of Normal"):
        compress(model, codes, data=torch.rand(4, *SHAPE))
    model = make_model(likelihood=ColumnsLikelihood(["number*4", "category:3"]), shape=(5,))
    with pytest.raises(ValueError, match="columns of numbers"):
        compress(model, codes, data=torch.zeros(4, 5))
    model = make_model(likelihood=BernoulliLikelihood())
    for data in (torch.rand(4, *SHAPE), torch.full((4, *SHAPE), 2.0), torch.full((4, *SHAPE), -1.0)):
        with pytest.raises(ValueError, match=r"whole numbers in 0 … 1"):
            compress(model, codes, data=data)
    with pytest.raises(ValueError, match="cannot be coded by counts"):
        compress(model, codes, data=binary_data(4, *SHAPE), counts=count_codes(codes, V))
    with pytest.raises(ValueError, match="got 4 of 3 data"):
        compress(model, codes, data=binary_data(3, *SHAPE))


# Wrong use.


def test_codes_that_are_none_of_the_model_are_refused():
    model = make_model()
    for codes, message in (
        (torch.full((2, T), V), "0 … 6"),
        (torch.zeros(T, dtype=torch.int64), "shape"),
        (torch.zeros(0, T, dtype=torch.int64), "one or more"),
        (torch.zeros(2, T, 3), "continuous latents"),
    ):
        with pytest.raises(ValueError, match=message):
            compress(model, codes)
    with pytest.raises(ValueError, match="0 … 5, got 6"):  # of a prior that knows fewer
        compress(make_model(KnownPrior(skewed(T, V - 1))), torch.full((2, T), V - 1))


class PlainPrior(nn.Module):
    """A distribution of torch's own."""

    def forward(self) -> Independent:
        return Independent(Categorical(skewed()), 1)


def test_a_prior_without_steps_is_refused():
    with pytest.raises(ValueError, match=r"Independent has no steps\(samples\)"):
        compress(make_model(PlainPrior()), draw_codes(3))


def test_without_constriction_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"pip install 'daps-rl\[compress\]'"):
        compress(make_model(), draw_codes(3))


def test_counts_are_saved_and_read(tmp_path: Path):
    counts = count_codes(draw_codes(50), V)
    assert load_counts(tmp_path, T, V) is None
    path = save_counts(tmp_path, counts)
    assert torch.equal(load_counts(tmp_path, T, V), counts)
    with pytest.raises(ValueError, match=r"does not hold counts: counts must be int64 \[5, 8\]"):
        load_counts(tmp_path, T, V + 1)
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(ValueError, match="damaged"):
        load_counts(tmp_path, T, V)


def test_what_stands_behind_an_end_is_not_written():
    ends = EndToken(V - 1)
    model = make_model(AutoregressivePrior(T, V, mask=ends))
    model.policy.mask = ends
    codes = torch.tensor([[0, V - 1, 2, 3, 1], [1, 1, 1, 1, 1]])
    found = decompress(model, compress(model, codes))
    assert torch.equal(found.codes, ends.close(codes))
    with pytest.raises(ValueError, match="the codes are none that the prior can write"):
        compress(model, torch.full((1, T), V - 1))  # shorter than the fewest


@pytest.mark.parametrize(
    "counts",
    [
        torch.zeros(T, V + 1, dtype=torch.int64),
        torch.full((T, V), -1),
        torch.ones(T, V),
        torch.where(torch.arange(V) == 0, 2**60, 1).expand(T, V).contiguous(),
    ],
    ids=["another size", "negative", "not whole", "beyond 64 bits"],
)
def test_counts_that_no_code_can_be_written_by_are_refused(counts: torch.Tensor, tmp_path: Path):
    model, codes = make_model(), draw_codes(20)
    with pytest.raises(ValueError, match=rf"counts must be int64 \[{T}, {V}\], each of 0 … 2\^38, got"):
        compress(model, codes, counts=counts)
    content = compress(model, codes, counts=count_codes(codes, V))
    with pytest.raises(ValueError, match="counts must be int64"):
        decompress(model, content, counts=counts)
    with pytest.raises(ValueError, match="does not hold counts: counts must be int64"):
        load_counts(save_counts(tmp_path, counts).parent, T, V)
