"""The decoders' Gaussian: against torch's own, its gradient at the bounds of the variance, and what it keeps."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from daps_rl.decoders import GaussianLikelihood, MLPDecoder
from daps_rl.decoders import gaussian as gaussian_module

F64 = torch.float64
B, K, SHAPE = 2, 3, (2, 5)
LOW, HIGH = 0.1, 2.0


def normals(*shape, seed=0, dtype=F64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_torch(outputs, event_dims):
    """The same distribution from torch's parts, with a hard clamp."""
    mean, log_variance = outputs.unbind(-event_dims - 1)
    log_variance = log_variance.clamp(math.log(LOW), math.log(HIGH))
    return Independent(Normal(mean, (0.5 * log_variance).exp()), event_dims)


@pytest.mark.parametrize(
    ("batch", "event", "value"),
    [
        ((B, K), SHAPE, (B, 1, *SHAPE)),
        ((B, K), SHAPE, SHAPE),
        ((B, K), SHAPE, (7, B, K, *SHAPE)),
        ((B, K), SHAPE, (B, K, 1, 5)),
        ((), SHAPE, SHAPE),
        ((), SHAPE, (4, *SHAPE)),
        ((4, B, K), (3,), (B, 1, 3)),
        ((B,), (), (B,)),
    ],
)
def test_values_and_gradients_are_those_of_torchs_own(batch, event, value):
    raw = normals(*batch, 2, *event)
    raw.select(len(batch), 1).clamp_(math.log(LOW) + 0.01, math.log(HIGH) - 0.01)
    x, weights = normals(*value, seed=1), None
    gradients = []
    for make in (GaussianLikelihood(LOW, HIGH), by_torch):
        outputs, datum = raw.clone().requires_grad_(), x.clone().requires_grad_()
        distribution = make(outputs, len(event))
        assert distribution.batch_shape == batch
        assert distribution.event_shape == event
        log_prob = distribution.log_prob(datum)
        weights = normals(*log_prob.shape, seed=2) if weights is None else weights
        (log_prob * weights).sum().backward()
        gradients.append((log_prob.detach(), outputs.grad, datum.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_contexts_are_no_error():
    outputs = torch.empty(0, K, 2, *SHAPE, requires_grad=True)
    log_prob = GaussianLikelihood(LOW, HIGH)(outputs, 2).log_prob(torch.empty(0, 1, *SHAPE))
    assert log_prob.shape == (0, K)
    log_prob.sum().backward()
    assert outputs.grad.shape == outputs.shape


@pytest.mark.parametrize("entries", [1, 25, 10**9])
def test_rows_at_a_time_change_nothing(entries, monkeypatch):
    outputs, x = normals(7, K, 2, *SHAPE).requires_grad_(), normals(7, 1, *SHAPE, seed=1)
    expected = by_torch(outputs, 2).log_prob(x)
    monkeypatch.setattr(gaussian_module, "ENTRIES_AT_A_TIME", entries)
    torch.testing.assert_close(GaussianLikelihood(LOW, HIGH)(outputs, 2).log_prob(x), expected)
    inside = torch.full_like(outputs, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: GaussianLikelihood(LOW, HIGH)(o, 2).log_prob(x), inside)


def test_moments_entropy_and_draws_are_those_of_torchs_own():
    outputs = 2.0 * normals(B, K, 2, *SHAPE)
    ours, theirs = GaussianLikelihood(LOW, HIGH)(outputs, 2), by_torch(outputs, 2)
    for name in ("mean", "mode", "variance", "stddev"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.manual_seed(0)
    draws = ours.sample((20_000,))
    assert draws.shape == (20_000, B, K, *SHAPE)
    torch.testing.assert_close(draws.mean(0), ours.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(draws.var(0), ours.variance, atol=0.12, rtol=0)
    leaf = outputs.clone().requires_grad_()
    GaussianLikelihood(LOW, HIGH)(leaf, 2).rsample().sum().backward()
    assert (leaf.grad[:, :, 0] == 1.0).all()


def test_float32_outputs_score_float64_data_and_bytes():
    outputs = normals(B, 2, *SHAPE, dtype=torch.float32).requires_grad_()
    for x in (normals(B, *SHAPE), torch.ones(B, *SHAPE, dtype=torch.uint8)):
        log_prob = GaussianLikelihood(LOW, HIGH)(outputs, 2).log_prob(x)
        torch.testing.assert_close(log_prob.double(), by_torch(outputs.double(), 2).log_prob(x.double()))
        (grad,) = torch.autograd.grad(log_prob.sum(), outputs)
        assert grad.dtype == torch.float32
        assert grad.any()


# The bounds


def loss_at(log_variance, error):
    """Minus the log-density of one entry, and its gradient by the raw log-variance."""
    outputs = torch.tensor([[0.0], [log_variance]], dtype=F64, requires_grad=True)
    loss = -GaussianLikelihood(LOW, HIGH)(outputs, 1).log_prob(torch.tensor([error], dtype=F64))
    loss.backward()
    return loss.item(), outputs.grad[1].item()


@pytest.mark.parametrize("error", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("beyond", [0.0, 1e-6, 0.5, 30.0])
@pytest.mark.parametrize("bound", ["low", "high"])
def test_gradient_beyond_a_bound_is_that_at_the_bound_where_it_leads_back(bound, beyond, error):
    """Against finite differences on the inner side of the bound; none where descending them leads further out."""
    at, inwards = (math.log(LOW), 1.0) if bound == "low" else (math.log(HIGH), -1.0)
    step = 1e-6
    slope = inwards * (loss_at(at + inwards * step, error)[0] - loss_at(at, error)[0]) / step
    value, gradient = loss_at(at - inwards * beyond, error)
    assert value == pytest.approx(loss_at(at, error)[0])
    leads_back = slope * inwards < 0.0
    if leads_back or beyond == 0.0:
        assert gradient == pytest.approx(slope, rel=1e-4, abs=1e-5)
    else:
        assert gradient == 0.0


@pytest.mark.parametrize(("start", "error"), [(5.0, 0.7), (-9.0, 0.7), (math.log(HIGH), 0.7), (math.log(LOW), 0.7)])
def test_a_variance_that_starts_beyond_a_bound_finds_its_optimum(start, error):
    outputs = torch.tensor([[0.0], [start]], dtype=F64)
    log_variance = outputs[1].clone().requires_grad_()
    optimizer = torch.optim.SGD([log_variance], lr=0.5)
    for _ in range(200):
        both = torch.stack((outputs[0], log_variance))
        loss = -GaussianLikelihood(LOW, HIGH)(both, 1).log_prob(torch.tensor([error], dtype=F64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert log_variance.exp().item() == pytest.approx(error**2, rel=1e-3)


def test_a_variance_that_wants_beyond_a_bound_stays_by_it():
    for error, bound in ((0.0, LOW), (9.0, HIGH)):
        log_variance = torch.zeros(1, dtype=F64, requires_grad=True)
        optimizer = torch.optim.SGD([log_variance], lr=0.05)
        for _ in range(300):
            both = torch.stack((torch.zeros(1, dtype=F64), log_variance))
            optimizer.zero_grad()
            (-GaussianLikelihood(LOW, HIGH)(both, 1).log_prob(torch.tensor([error], dtype=F64))).backward()
            optimizer.step()
        assert abs(log_variance.item() - math.log(bound)) < 2.0  # at most one step beyond
        assert GaussianLikelihood(LOW, HIGH)(both, 1).variance.item() == pytest.approx(bound)


def test_an_infinite_bound_is_no_bound():
    outputs = torch.tensor([[0.0], [40.0]], dtype=F64)
    assert GaussianLikelihood(1e-7, math.inf)(outputs, 1).variance.item() == pytest.approx(math.exp(40.0))


def test_a_decoder_starts_inside_the_bounds():
    decoder = MLPDecoder(3, 4, (5,), likelihood=GaussianLikelihood(0.01, 0.3), data_mean=torch.zeros(5))
    assert decoder.likelihood.outputs_at(torch.zeros(5))[1].exp() == pytest.approx(0.3)


# Memory


def test_log_prob_keeps_nothing_but_its_inputs():
    outputs, x = normals(B, K, 2, *SHAPE).requires_grad_(), normals(B, 1, *SHAPE, seed=1)
    log_prob = GaussianLikelihood(LOW, HIGH)(outputs, 2).log_prob(x)
    kept = {tensor.untyped_storage().data_ptr() for tensor in saved(log_prob.grad_fn)}
    assert kept == {outputs.untyped_storage().data_ptr(), x.untyped_storage().data_ptr()}
    theirs = {tensor.untyped_storage().data_ptr() for tensor in saved(by_torch(outputs, 2).log_prob(x).grad_fn)}
    assert len(theirs - kept) >= 4


def saved(node):
    """Tensors that a graph keeps for its backward pass."""
    found, seen, queue = [], set(), [node]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        values += list(getattr(node, "saved_tensors", ()))
        found += [value for value in values if isinstance(value, torch.Tensor)]
        queue += [parent for parent, _ in node.next_functions]
    return found
