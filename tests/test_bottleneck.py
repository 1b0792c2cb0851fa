"""daps_rl.bottleneck: who learns from what, the loss in numbers, and learning."""

import contextlib
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent

from daps_rl.bottleneck import PolicyBottleneck
from daps_rl.functional import daps_loss, solve_temperature

EXAMPLE = Path(__file__).parent.parent / "examples" / "vqvae_to_daps.py"
F64 = torch.float64
B, K, T, D, V = 3, 5, 4, 8, 6
POLICIES = ["factorized", "autoregressive"]


def make(policy="factorized", **options):
    return PolicyBottleneck(D, V, samples=K, num_tokens=T, policy=policy, ess_fraction=0.5, **options)


# Shapes


@pytest.mark.parametrize("policy", POLICIES)
def test_sequences(policy):
    bottleneck = make(policy)
    z, codes, policy_loss = bottleneck(torch.randn(B, T, D))
    assert z.shape == (B * K, T, D)
    assert codes.shape == (B * K, T)
    assert codes.dtype == torch.int64
    assert policy_loss.log_prob.shape == policy_loss.kl.shape == (B, K)
    assert torch.equal(z, bottleneck.embed(codes))


@pytest.mark.parametrize("policy", POLICIES)
def test_grids_are_sequences_with_the_channels_first(policy):
    """[B, D, 2, 2] and its rows as [B, 4, D] have the same codes, at the same places."""
    features = torch.randn(B, D, 2, 2)
    grid, sequence = make(policy, channel_first=True), make(policy)
    sequence.load_state_dict(grid.state_dict())
    torch.manual_seed(1)
    z, codes, policy_loss = grid(features)
    torch.manual_seed(1)
    rows = sequence(features.flatten(2).transpose(1, 2))
    assert z.shape == (B * K, D, 2, 2)
    assert codes.shape == (B * K, 2, 2)
    assert torch.equal(codes.flatten(1), rows.codes)
    assert torch.equal(z.flatten(2).transpose(1, 2), rows.embedded)
    assert torch.equal(policy_loss.log_prob, rows.policy_loss.log_prob)
    assert torch.equal(grid.embed(codes), z)


def test_the_codes_of_a_datum_follow_one_another():
    """Each log-probability is that of its own code given its own features, as torch has it; so are repeated data."""
    bottleneck, features = make(), torch.randn(B, T, D)
    _, codes, policy_loss = bottleneck(features)
    logits = bottleneck.policy.head(bottleneck.policy.norm(bottleneck.repeat(features)))
    expected = Independent(Categorical(logits=logits), 1).log_prob(codes)
    torch.testing.assert_close(policy_loss.log_prob.flatten(), expected)
    assert torch.equal(bottleneck.repeat(torch.arange(B)), torch.arange(B).repeat_interleave(K))


@pytest.mark.parametrize("policy", POLICIES)
def test_eval_mode_gives_one_greedy_code(policy):
    bottleneck, features = make(policy).eval(), 5.0 * torch.randn(B, T, D)
    _, codes, policy_loss = bottleneck(features)
    assert codes.shape == (B, T)
    assert torch.equal(codes, bottleneck(features).codes)
    with torch.no_grad():
        assert torch.equal(codes, bottleneck.policy(features).mode)
    assert torch.equal(bottleneck.repeat(features), features)
    assert policy_loss(torch.randn(B)).item() == 0.0
    drawn = torch.stack([bottleneck(features, deterministic=False).codes for _ in range(20)])
    assert drawn.shape == (20, B, T)
    assert len(drawn.unique(dim=0)) > 1


# The loss


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("centered", [False, True])
def test_the_loss_is_the_methods_own(policy, beta, centered):
    """On the same numbers, in float64: reward − β·KL, temperature at the effective sample size and never below β."""
    bottleneck = make(policy, beta=beta, centered=centered).double()
    _, _, policy_loss = bottleneck(torch.randn(B, T, D, dtype=F64))
    reward = 3.0 * torch.randn(B * K, dtype=F64)
    log_q = policy_loss.log_prob.detach()
    score = reward.view(B, K) - beta * (log_q + T * math.log(V))
    temperature = solve_temperature(score, 0.5, beta)
    expected = daps_loss(policy_loss.log_prob, score, temperature=temperature, centered=centered)
    terms = policy_loss.terms(reward)
    torch.testing.assert_close(terms.loss, expected.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy_loss(reward), expected.loss.mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy_loss(reward.view(B, K)), policy_loss(reward), rtol=0, atol=0)
    if beta == 0.0:
        assert terms.effective_sample_size.mean().item() == pytest.approx(0.5 * K, rel=1e-3)
    torch.testing.assert_close(policy_loss.kl, log_q + T * math.log(V), rtol=1e-6, atol=1e-6)


def test_the_temperature_never_falls_below_beta():
    """Of rewards that hardly differ no more is made than β allows: w = softmax(score / β), nearly uniform."""
    bottleneck = make(beta=2.0)
    nn.init.zeros_(bottleneck.policy.head.weight)
    _, _, policy_loss = bottleneck(torch.randn(B, T, D))
    reward = 0.01 * torch.randn(B, K)
    score = reward - 2.0 * policy_loss.log_prob.detach()
    torch.testing.assert_close(policy_loss.terms(reward).weights, torch.softmax(score / 2.0, -1))


def test_gradient_by_hand():
    """d loss / d log q = −(w − 1/K) / B."""
    bottleneck = make()
    _, _, policy_loss = bottleneck(torch.randn(B, T, D))
    reward = torch.randn(B * K)
    (gradient,) = torch.autograd.grad(policy_loss(reward), policy_loss.log_prob, retain_graph=True)
    torch.testing.assert_close(gradient, -(policy_loss.terms(reward).weights - 1.0 / K) / B)


def gradients(module):
    return {name for name, value in module.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}


@pytest.mark.parametrize("policy", POLICIES)
def test_each_part_learns_from_its_own_loss(policy):
    encoder, bottleneck, decoder = nn.Linear(D, D), make(policy), nn.Linear(D, 2)
    modules = nn.ModuleDict({"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder})
    z, _, policy_loss = bottleneck(encoder(torch.randn(B, T, D)))
    log_likelihood = -(decoder(z) - 1.0).square().sum((1, 2))

    log_likelihood.mean().backward(retain_graph=True)
    theirs = gradients(modules)
    assert theirs == {"decoder.weight", "decoder.bias", "bottleneck.embedding.weight"}

    modules.zero_grad()
    policy_loss(log_likelihood).backward()
    ours = gradients(modules)
    assert {"encoder.weight", "encoder.bias"} <= ours
    everything = {name for name, _ in modules.named_parameters()}
    assert ours | theirs == everything
    assert not ours & theirs


def test_beta_is_a_schedules_to_fill():
    bottleneck = make(beta=0.5)
    _, _, policy_loss = bottleneck(torch.randn(B, T, D))
    reward = torch.randn(B * K)
    before = policy_loss.terms(reward).weights
    bottleneck.beta.fill_(50.0)
    assert torch.equal(policy_loss.terms(reward).weights, before)  # the batch keeps the β it was drawn with
    torch.manual_seed(0)
    assert not torch.equal(bottleneck(torch.randn(B, T, D)).policy_loss.terms(reward).weights, before)


# Learning


class Untrained(nn.Module):
    """Codes at random, whatever the features: what the decoder can do by itself."""

    def forward(self, features):
        return Independent(Categorical(logits=torch.zeros(len(features), T, V, requires_grad=True)), 1)


def learn(policy, steps=300):
    """Reconstructs vectors of four groups from codes; returns the mean squared error of drawn codes."""
    torch.manual_seed(0)
    centres = 2.0 * torch.randn(4, D)
    encoder = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, T * D), nn.Unflatten(1, (T, D)))
    bottleneck, decoder = make(policy), nn.Sequential(nn.Flatten(), nn.Linear(T * D, D))
    model = nn.ModuleList((encoder, bottleneck, decoder))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        x = centres[torch.randint(4, (32,))] + 0.1 * torch.randn(32, D)
        z, _, policy_loss = bottleneck(encoder(x))
        error = (decoder(z) - bottleneck.repeat(x)).square().mean(-1)
        loss = error.mean() + policy_loss(-error)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return error.mean().item()


def test_learning_beats_codes_at_random():
    """The vectors' variance is about 4, of which 0.01 is noise within a group."""
    random = learn(Untrained())
    assert random > 1.0
    assert learn("factorized") < 0.1 * random
    assert learn("autoregressive", steps=200) < 0.1 * random


# Contracts


@pytest.mark.parametrize("policy", POLICIES)
def test_state_round_trip(policy, tmp_path):
    bottleneck = make(policy, beta=0.3, trust_region="adaptive")
    bottleneck(torch.randn(B, T, D)).policy_loss(torch.randn(B * K))  # moves the adaptive temperature
    torch.save(bottleneck.state_dict(), tmp_path / "state.pt")
    again = make(policy, trust_region="adaptive")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    features, reward = torch.randn(B, T, D), torch.randn(B * K)
    outcomes = []
    for module in (bottleneck, again):
        torch.manual_seed(1)
        z, codes, policy_loss = module(features)
        outcomes.append((z, codes, policy_loss(reward)))
    assert all(torch.equal(first, second) for first, second in zip(*outcomes, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be >= 2"),
        ({"samples": 2, "ess_fraction": 0.33}, "ess_fraction"),
        ({"beta": -1.0}, "beta must be >= 0"),
        ({"policy": "nearest"}, "factorized, autoregressive"),
        ({"policy": "autoregressive"}, "needs num_tokens"),
        ({"policy": "autoregressive", "num_tokens": 4, "num_heads": 3}, "num_heads"),
        ({"trust_region": "none"}, "trust_region"),
        ({"num_tokens": 0}, "num_tokens"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        PolicyBottleneck(D, V, **options)


def test_shapes_are_checked():
    for wrong in ((B, D), (B, T, D + 1), (B, D, 2, 2)):
        with pytest.raises(ValueError, match="channel_first"):
            make()(torch.randn(wrong))
    with pytest.raises(ValueError, match="num_tokens=4"):
        make()(torch.randn(B, T + 1, D))
    _, _, policy_loss = make()(torch.randn(B, T, D))
    for wrong in ((B,), (B * K, 1), (K, B)):
        with pytest.raises(ValueError, match=r"reward must be .* shape \[15\] or \[3, 5\]"):
            policy_loss(torch.randn(wrong))
    for bad in (math.nan, math.inf):
        reward = torch.randn(B, K)
        reward[1, 2] = bad
        with pytest.raises(ValueError, match=r"reward must be finite, or -inf .* 1 of 15 that are NaN or"):
            policy_loss(reward)
    reward[1, 2] = -math.inf
    assert policy_loss(reward).isfinite()


def run_example(kind, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vqvae_to_daps.py", "--bottleneck", kind, "--smoke"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


@pytest.mark.parametrize("kind", ["daps", "vq"])
def test_example_runs(kind, monkeypatch, capsys):
    if kind == "vq":
        pytest.importorskip("vector_quantize_pytorch")
    run_example(kind, monkeypatch)
    assert re.search(rf"{kind}: 20 steps .* test PSNR \d+\.\d\d dB, perplexity \d+\.\d of 64", capsys.readouterr().out)


def test_example_without_the_extra_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(SystemExit, match=r"pip install 'daps-rl\[quantizers\]'"):
        run_example("vq", monkeypatch)


# Padding, and how much of the vocabulary is in use

MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


@pytest.mark.parametrize("policy", POLICIES)
def test_padding_counts_nothing_and_is_not_read(policy):
    """log q of the tokens before it is the sum over all that could stand there, by enumeration."""
    bottleneck = make(policy, beta=0.5).double()
    features = torch.randn(B, T, D, dtype=F64, requires_grad=True)
    z, codes, policy_loss = bottleneck(features, mask=MASK)
    of_codes = bottleneck.repeat(MASK)
    assert torch.equal(codes < 0, ~of_codes)
    assert torch.equal(z == 0.0, ~of_codes.unsqueeze(-1).expand_as(z))
    with torch.no_grad():
        posterior = bottleneck.policy(torch.where(MASK[..., None], features, 0.0))
        every = torch.cartesian_prod(*[torch.arange(V)] * T)[:, None].expand(-1, B, -1)
        log_probs = posterior.log_prob(every)  # [V^T, B]
    for b in range(B):
        for k in range(K):
            alike = ((every[:, b] == codes.view(B, K, T)[b, k]) | ~MASK[b]).all(-1)
            torch.testing.assert_close(policy_loss.log_prob[b, k].detach(), log_probs[alike, b].logsumexp(0))
    length = MASK.sum(-1, keepdim=True)
    torch.testing.assert_close(policy_loss.prior_log_prob.double(), (-math.log(V) * length).double().expand(B, K))
    policy_loss(torch.randn(B * K)).backward()
    assert (features.grad[~MASK] == 0.0).all()
    assert features.grad[MASK].abs().sum() > 0.0
    bottleneck.eval()
    greedy = bottleneck(features, mask=MASK).codes
    garbage = torch.where(MASK[..., None], features, 99.0)
    assert torch.equal(bottleneck(garbage, mask=MASK).codes, greedy)
    assert torch.equal(bottleneck(features, mask=MASK | True).codes, bottleneck(features).codes)


def test_masks_that_say_something_else_are_refused():
    features = torch.randn(B, T, D)
    for mask in (MASK.float(), MASK[:, :3], MASK[:2]):
        with pytest.raises(ValueError, match=r"mask must be bool of shape \[3, 4\]"):
            make()(features, mask=mask)
    make()(features, mask=MASK.flip(-1))  # each token from its own feature: padding anywhere
    with pytest.raises(ValueError, match="mask must be False on the right alone"):
        make("autoregressive")(features, mask=MASK.flip(-1))
    grid = make(channel_first=True)
    assert grid(torch.randn(B, D, 2, 2), mask=MASK.view(B, 2, 2)).codes.shape == (B * K, 2, 2)
    with pytest.raises(ValueError, match="distribution that has token_logits, and Independent has none"):
        make(PlainPolicy())(features, mask=MASK)


class PlainPolicy(nn.Module):
    def forward(self, features):
        return Independent(Categorical(logits=features[..., :V]), 1)


def test_perplexity_and_usage_by_hand():
    codes = torch.tensor([[0, 1, 5, -1], [0, 2, -1, -1], [0, 1, 5, -1], [0, 2, 4, -1]])
    bottleneck = make()
    half = math.exp(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert bottleneck.perplexity(codes).item() == pytest.approx((1.0 + 2.0 + half) / 3)
    assert bottleneck.usage(codes).item() == pytest.approx((1 + 2 + 2 + 0) / (4 * V))
    torch.testing.assert_close(bottleneck.perplexity(codes.view(4, 2, 2)), bottleneck.perplexity(codes))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}])
def test_distributed_data_parallel_has_the_gradients_of_the_model_itself(policy, options, tmp_path):
    """One pass a step, two, or two that accumulate; compiled, too."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.bottleneck, self.decoder = nn.Linear(D, D), make(policy), nn.Linear(D, 2)

        def forward(self, x):
            z, _, policy_loss = self.bottleneck(self.encoder(x))
            return self.decoder(z), policy_loss

    x = torch.randn(2, B, T, D)
    model = Model()

    def loss(run, part):
        decoded, policy_loss = run(x[part])
        error = decoded.square().sum((1, 2))
        return error.mean() + policy_loss(-error)

    def two_steps(run, passes):
        torch.manual_seed(1)
        for _ in range(2):
            model.zero_grad()
            if passes == "accumulated":
                with run.no_sync() if hasattr(run, "no_sync") else contextlib.nullcontext():
                    loss(run, 0).backward()
                loss(run, 1).backward()
            else:
                sum(loss(run, part) for part in range(passes)).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        # PyTorch's static graphs do not take no_sync() in their first step.
        for passes in (1, 2) if options.get("static_graph") else (1, 2, "accumulated"):
            expected = two_steps(model, passes)
            assert all(gradient.abs().sum() > 0 for gradient in expected.values())
            for run in (model, torch.compile(model, backend="eager")):
                found = two_steps(nn.parallel.DistributedDataParallel(run, **options), passes)
                torch.testing.assert_close(found, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_policy_of_ones_own_need_not_know_how_codes_end():
    """What stands behind an end is not read, and a code shorter than the fewest has a probability under the prior."""
    written = torch.tensor([[2, 0, 1, 1], [0, 2, 2, 1], [1, 1, 0, 2]])  # V = 2, and the end token

    class Writes(nn.Module):
        def forward(self, features):
            logits = torch.full((1, 4, 3), -30.0).scatter(-1, written[:1].unsqueeze(-1), 0.0)
            return Independent(Categorical(logits=logits.expand(len(features), -1, -1)), 1)

    bottleneck = PolicyBottleneck(4, 2, samples=2, num_tokens=4, policy=Writes(), end_token=True, ess_fraction=0.75)
    embedded, codes, policy_loss = bottleneck(torch.randn(3, 4, 4))
    assert codes.tolist() == [[2, 2, 2, 2]] * 6
    assert torch.equal(embedded, bottleneck.embed(codes))
    torch.testing.assert_close(policy_loss.prior_log_prob, torch.full((3, 2), -math.log(3.0)))
    assert policy_loss(torch.randn(3, 2)).isfinite()
