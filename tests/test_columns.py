"""Data of several columns: what a network reads of them, and their likelihood against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.columns import Columns
from daps_rl.config import ModelConfig
from daps_rl.data import DataError, Splits
from daps_rl.data.kind import Kind
from daps_rl.decoders import ColumnsLikelihood, FixedColumnsLikelihood, MLPDecoder, SequenceDecoder

TEXTS = ("number*2@3", "category:4@3", "yes-no", "number")  # entry 3 says whether the first three are there
X = torch.tensor([[0.5, -0.25, 2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0, -1.0]])  # [N, C]


class Mixed(Kind):
    """Two numbers and a category that may be missing, and a number."""

    @property
    def columns(self) -> tuple[str, ...]:
        return TEXTS


def test_what_a_network_reads():
    columns = Columns(TEXTS)
    assert (columns.width, columns.features) == (5, 8)
    expected = [[0.5, -0.25, 0, 0, 1, 0, 1, 3], [0, 0, 0, 0, 0, 0, 0, -1]]  # category 0 that is not there is no 0
    torch.testing.assert_close(columns(X), torch.tensor(expected))


def expected_log_prob(outputs: torch.Tensor, x: torch.Tensor, deviation: float | None) -> float:
    """Entry by entry, in float64; `outputs` in the order of the columns."""
    parts = outputs.double().tolist()
    take = lambda count: [parts.pop(0) for _ in range(count)]  # noqa: E731
    means, spread = take(2), [deviation] * 2 if deviation else [math.exp(v / 2) for v in take(2)]
    logits, flag, last = take(4), take(1)[0], take(1)[0]
    last_spread = deviation or math.exp(take(1)[0] / 2)
    values = x.double()
    total = Bernoulli(logits=torch.tensor(flag).double()).log_prob(values[3])
    total += Normal(torch.tensor(last).double(), last_spread).log_prob(values[4])
    if values[3] == 1:
        total += sum(
            Normal(torch.tensor(m).double(), s).log_prob(v) for m, s, v in zip(means, spread, values, strict=False)
        )
        total += Categorical(logits=torch.tensor(logits).double()).log_prob(values[2])
    return total.item()


@pytest.mark.parametrize("fixed", [False, True])
def test_the_likelihood_is_the_product_of_what_is_there(fixed: bool):
    torch.manual_seed(0)
    likelihood = FixedColumnsLikelihood(TEXTS, 0.09) if fixed else ColumnsLikelihood(TEXTS, 1e-3, 10.0)
    shape = likelihood.output_shape((5,))
    assert shape == (1, 8 if fixed else 11)
    outputs = torch.randn(2, 3, *shape)  # [B, K, 1, O]
    distribution = likelihood(outputs, 1)
    assert (distribution.batch_shape, distribution.event_shape) == ((2, 3), (5,))
    found = distribution.log_prob(X[:, None])
    expected = [
        [expected_log_prob(o[0], x, 0.3 if fixed else None) for o in row] for row, x in zip(outputs, X, strict=True)
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distribution.column_log_probs(X[:, None]).sum(-1), found)


def test_what_is_not_there_has_no_gradient():
    likelihood = ColumnsLikelihood(TEXTS)
    outputs = torch.zeros(2, *likelihood.output_shape((5,)), requires_grad=True)
    likelihood(outputs, 1).log_prob(X).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[1, 0, :8] == 0).all()
    assert (outputs.grad[0, 0, :8] != 0).any()
    assert (outputs.grad[:, 0, 8] != 0).all()  # whether it is there


def test_the_mean_is_a_number_a_probability_and_the_most_probable_category():
    likelihood = FixedColumnsLikelihood(TEXTS)
    outputs = torch.tensor([[[0.1, 0.2, 0.0, 3.0, -1.0, 0.0, 2.0, 0.7]]])
    mean = likelihood(outputs, 1).mean
    torch.testing.assert_close(mean, torch.tensor([[0.1, 0.2, 1.0, torch.tensor(2.0).sigmoid().item(), 0.7]]))


@pytest.mark.parametrize("make", [MLPDecoder, SequenceDecoder])
def test_a_decoder_starts_at_the_frequencies(make: type):
    kind = ("category:3", "yes-no", "number")
    x = torch.tensor([[[0.0, 1.0, 2.0]] * 4, [[2.0, 0.0, 4.0]] * 4])  # [N, L, C]
    mean = Columns(kind)(x).mean(0)
    decoder = make(2, 5, (4, 3), likelihood=FixedColumnsLikelihood(kind, 0.5), data_mean=mean)
    with torch.no_grad():
        for parameter in decoder.parameters():  # what the codes add
            parameter.mul_(0.0 if parameter.ndim > 1 else 1.0)
        outputs = decoder(torch.zeros(1, 2, dtype=torch.int64)).outputs
    probs = outputs[0, 0, :3].softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([0.49, 0.02, 0.49]), atol=0.01, rtol=0)
    torch.testing.assert_close(outputs[0, 0, 3:], torch.tensor([0.0, 3.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("policy", ["autoregressive", "factorized", "fsq", "gaussian"])
def test_a_model_of_mixed_columns(policy: str, tmp_path):
    config = ModelConfig(
        observation_shape=(5,), column_kinds=TEXTS, likelihood="columns", decoder="mlp", num_tokens=2, vocab_size=8,
        policy=policy, num_heads=2, embed_dim=8, num_patches=2,
    )  # fmt: skip
    model = DiscreteAutoencoder.from_config(config, kind=Mixed())
    z = model.encode(X, deterministic=True)
    assert model.decode(z).shape == X.shape
    assert model.log_likelihood(X, z).shape == (2,)
    changed = X.clone()
    changed[1, :3] = 9.0  # what is not there
    if policy == "factorized":
        torch.testing.assert_close(model.policy(changed).log_probs, model.policy(X).log_probs)
    with pytest.raises(ValueError, match=r"x must hold whole numbers in 0 … 3 in column 2 \(category\), got 2 … 4"):
        model.encode(torch.tensor([[0.0, 0.0, 4.0, 1.0, 0.0], [0.0, 0.0, 2.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"x must hold finite numbers in column 0 \(number\), got nan"):
        model.encode(X.index_fill(1, torch.tensor([1]), math.nan))
    with pytest.raises(DataError, match=r"x must have shape \[N, 5\], got \[2, 4\]"):
        model.encode(X[:, :4])


def test_splits_check_columns_and_likelihood():
    data = {"train": X, "validation": X, "test": X}
    splits = Splits(name="a", **data, likelihood="columns", kind=Mixed())
    torch.testing.assert_close(splits.mean(), Columns(TEXTS)(X).mean(0))
    with pytest.raises(DataError, match="a: likelihood must be columns or fixed_columns for a kind with columns"):
        Splits(name="a", **data, likelihood="gaussian", kind=Mixed())
    with pytest.raises(ValueError, match="a: test must hold whole numbers in 0 … 1 in column 3"):
        Splits(name="a", **{**data, "test": X * 0.5}, likelihood="columns", kind=Mixed())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("numbers",), "got 'numbers'"),
        (("category:1",), "got 'category:1'"),
        (("number*0",), r"got 'number\*0'"),
        (("number@1", "number"), "@1 must name an entry that is a yes-no"),
    ],
)
def test_columns_that_make_no_sense(texts: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        Columns(texts)
