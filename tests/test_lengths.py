"""Codes that end: exact against enumeration of all codes of all lengths, from the mask to the loop, hosts and files.

Shapes: B contexts, K codes per context, T positions, V tokens and the end token, D features.
"""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import SIZES, TINY
from problems import Problem, all_codes, learns
from torch import nn
from torch.distributions import kl_divergence
from torch.nn import functional as F

from daps_rl import DiscreteAutoencoder
from daps_rl.agents import Scorer
from daps_rl.bottleneck import PolicyBottleneck
from daps_rl.cli import main
from daps_rl.codes import draw_codes
from daps_rl.codes.prior import Codes, fit_prior
from daps_rl.config import ModelConfig, make_config
from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingEnv, EncodingVecEnv
from daps_rl.evaluation import evaluate
from daps_rl.functional import daps_loss, encoding_reward, solve_temperature
from daps_rl.policies import (
    AutoregressivePolicy,
    CodeMask,
    EndEmbedding,
    EndHead,
    EndToken,
    FactorizedPolicy,
    FactorizedUntilEnd,
    LatticeEmbedding,
    VisitOnce,
)
from daps_rl.policies.factorized import uniform_codes
from daps_rl.priors import AutoregressivePrior, IndependentPrior, UniformPrior
from daps_rl.training import Trainer

B, K, T, V, D = 3, 5, 4, 2, 6
F64 = torch.float64
ALL = all_codes(T, V + 1)
KINDS = [AutoregressivePolicy, FactorizedPolicy]


def length_of(code: list[int]) -> int:
    return code.index(V) if V in code else len(code)


LENGTHS = torch.tensor([length_of(code) for code in ALL.tolist()])
PROPER = torch.tensor([all(t == V for t in c[length_of(c) :]) for c in ALL.tolist()])


def make_policy(kind=AutoregressivePolicy, min_tokens: int = 1, **options) -> nn.Module:
    torch.manual_seed(0)
    head = EndHead(nn.Linear(8, V), 8, T)
    nn.init.normal_(head.end.weight)
    sizes = {"embed_dim": 8, "num_heads": 2, "head": head, "mask": EndToken(V, min_tokens)}
    return kind((D,), T, V + 1, **sizes, **options).double()


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(B, D, dtype=F64)


def scored(posterior) -> torch.Tensor:
    """Log-probabilities of all codes. [C, B]."""
    return posterior.log_prob(ALL[:, None].expand(-1, B, -1))


def mean(log_prob: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Σ_z q(z)·f(z) over the codes that there are. [C, B] each → [B]."""
    return torch.where(log_prob.isfinite(), log_prob.exp() * values, 0.0).sum(0)


# Distributions


@pytest.mark.parametrize("min_tokens", [0, 1, 3, T])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_codes_of_all_lengths_sum_to_one(x, kind, min_tokens):
    posterior = make_policy(kind, min_tokens)(x)
    with torch.no_grad():
        log_prob = scored(posterior)
    there = PROPER & (min_tokens <= LENGTHS)
    assert there.sum() == sum(V**length for length in range(min_tokens, T + 1))
    assert torch.equal(log_prob > -math.inf, there[:, None].expand(-1, B))
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(B, dtype=F64))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_scored_as_drawn_and_have_the_frequencies_that_scoring_says(x, kind):
    posterior = make_policy(kind)(x)
    codes = posterior.sample((20_000,))  # [N, B, T]
    with torch.no_grad():
        expected = scored(posterior).exp()
    index = (codes * (V + 1) ** torch.arange(T - 1, -1, -1)).sum(-1)  # [N, B]
    counted = torch.stack([torch.bincount(of, minlength=len(ALL)) for of in index.T], dim=-1) / len(codes)
    assert (counted - expected).abs().max() < 4.5 * math.sqrt(0.25 / 20_000)
    if kind is AutoregressivePolicy:
        drawn, log_prob = posterior.draw((K,))
        torch.testing.assert_close(posterior.log_prob(drawn), log_prob)


@pytest.mark.parametrize("min_tokens", [0, 2])
def test_independent_tokens_until_the_end_say_entropy_kl_and_marginals_exactly(x, min_tokens):
    posterior = make_policy(FactorizedPolicy, min_tokens)(x)
    torch.manual_seed(2)
    prior = FactorizedUntilEnd(torch.randn(T, V + 1, dtype=F64), EndToken(V, min_tokens))
    log_prob, log_prior = scored(posterior), prior.log_prob(ALL)[:, None]
    torch.testing.assert_close(log_prior.exp().sum(), torch.ones((), dtype=F64))
    torch.testing.assert_close(posterior.entropy(), mean(log_prob, -log_prob))
    torch.testing.assert_close(kl_divergence(posterior, prior), mean(log_prob, log_prob - log_prior))
    of_position = (log_prob.exp().T @ F.one_hot(ALL).double().flatten(1)).view(B, T, V + 1)
    torch.testing.assert_close(posterior.marginals(), of_position)
    posterior.entropy().sum().backward(retain_graph=True)
    posterior.log_prob(posterior.sample((K,))).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_those_of_the_probabilities_sum_to_zero(x, kind):
    policy = make_policy(kind, min_tokens=2)
    log_prob = scored(policy(x))[PROPER & (LENGTHS >= 2)]
    log_prob.exp().sum().backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert gradients
    assert all(g.abs().max() < 1e-10 for g in gradients)
    policy.zero_grad()
    policy(x).log_prob(torch.tensor([0, 1, V, V]).expand(B, -1)).sum().backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert max(g.abs().max() for g in gradients) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_steps_say_what_scoring_says_and_a_beam_goes_on_with_the_codes_it_keeps(x, kind):
    posterior = make_policy(kind)(x)
    with torch.no_grad():
        steps, first = posterior.steps(2), torch.tensor([[0, 1]]).expand(B, -1)
        steps.advance(first)
        steps.advance(torch.tensor([[V, 0]]).expand(B, -1))  # the first has ended
        steps.select(torch.tensor([[1, 0, 0]]).expand(B, -1))
        written = torch.tensor([[1, 0], [0, V], [0, V]])
        codes = F.pad(written, (0, T - 2))[:, None].expand(-1, B, -1)
        expected = torch.log_softmax(posterior.token_logits(codes)[:, :, 2], -1)  # [3, B, V + 1]
    torch.testing.assert_close(torch.log_softmax(steps.logits, -1), expected.transpose(0, 1))
    assert torch.equal(steps.logits[:, 1:].argmax(-1), torch.full((B, 2), V))
    greedy = posterior.mode
    assert PROPER[(greedy * (V + 1) ** torch.arange(T - 1, -1, -1)).sum(-1)].all()


def test_the_mask_of_whole_codes_is_the_one_of_codes_that_are_written(x):
    mask, codes = EndToken(V, 2), ALL[PROPER].expand(B, -1, -1)
    at_once = mask.along(mask.allowed, x, codes)
    torch.testing.assert_close(at_once, CodeMask.along(mask, mask.allowed, x, codes))


def test_lengths_prefixes_and_what_stands_behind_an_end():
    mask = EndToken(V)
    assert torch.equal(mask.lengths(ALL), LENGTHS)
    closed = mask.close(ALL)
    assert torch.equal(closed[PROPER], ALL[PROPER])
    assert torch.equal(
        closed, torch.tensor([c[:n] + [V] * (T - n) for c, n in zip(ALL.tolist(), LENGTHS, strict=True)])
    )
    assert mask.pad(torch.tensor([[0, 1]]), T).tolist() == [[0, 1, V, V]]


# Priors


@pytest.mark.parametrize("min_tokens", [0, 1, 3])
def test_the_uniform_prior_has_each_symbol_that_may_stand_as_likely(min_tokens):
    log_prob = UniformPrior(T, V + 1, EndToken(V, min_tokens))().log_prob(ALL)
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones(()))
    for length in range(min_tokens, T + 1):
        open_positions = min(length + 1, T) - min(min_tokens, T)  # where the end token may stand
        nats = min_tokens * math.log(V) + open_positions * math.log(V + 1)
        of_length = log_prob[PROPER & (length == LENGTHS)]
        torch.testing.assert_close(of_length, torch.full_like(of_length, -nats))


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("kind", [IndependentPrior, AutoregressivePrior])
def test_learned_priors_end_as_the_policy_does(kind, classes):
    torch.manual_seed(0)
    prior = kind(T, V + 1, classes, mask=EndToken(V))
    with torch.no_grad():
        log_prob = prior().log_prob(ALL)
    assert torch.equal(log_prob > -math.inf, PROPER & (LENGTHS >= 1))
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones(()))
    assert torch.isfinite(prior().log_prob(prior().sample((50,)))).all()


def test_an_independent_prior_is_fitted_to_what_stands_before_the_ends():
    torch.manual_seed(0)
    true = FactorizedUntilEnd(torch.randn(T, V + 1), EndToken(V))
    codes, prior = true.sample((20_000,)), IndependentPrior(T, V + 1, mask=EndToken(V))
    bits = fit_prior(prior, Codes(codes), Codes(codes))
    assert bits == pytest.approx(true.entropy().item() / math.log(2.0), abs=0.03)
    proper = ALL[PROPER & (LENGTHS >= 1)]
    assert (prior().log_prob(proper).exp() - true.log_prob(proper).exp()).abs().max() < 0.015
    drawn = draw_codes(prior(), 100, temperature=0.5)
    assert torch.equal(EndToken(V).close(drawn), drawn)


# What tokens are read with


@pytest.mark.parametrize("tokens", [lambda: LatticeEmbedding(V, 3), lambda: nn.Embedding(V, 3)])
def test_the_end_has_a_vector_of_its_own_which_begins_as_zeros(tokens):
    embed = EndEmbedding(tokens())
    codes = torch.tensor([[0, 1, V]])
    torch.testing.assert_close(embed(codes)[:, :2], embed.tokens(codes[:, :2]))
    assert torch.equal(embed(codes)[:, 2], torch.zeros(1, 3))
    assert embed.weight.shape == (V + 1, 3)
    embed(codes).square().sum().backward()
    assert embed.end.grad is not None


def test_half_of_the_codes_end_at_each_position_at_the_start_whatever_the_tokens_logits():
    head = EndHead(nn.Linear(8, V), 8, T)
    probs = head(torch.randn(B, T, 8) * 10.0).softmax(-1)
    torch.testing.assert_close(probs[..., -1], torch.full((B, T), 0.5))
    assert probs[..., :-1].std() > 0.05


@pytest.mark.parametrize("early", [0.1, 1 / 3])
def test_a_share_of_the_codes_ends_early_however_sure_a_policy_is(early):
    head = EndHead(nn.Linear(8, V), 8, T, early)
    nn.init.constant_(head.end.bias, -1e4)
    goes_on = 1.0 - head(torch.randn(B, T, 8)).double().softmax(-1)[..., -1]
    torch.testing.assert_close(goes_on.prod(-1), torch.full((B,), 1.0 - early, dtype=F64), atol=1e-6, rtol=0.0)
    assert head(torch.randn(B, T, 8)).argmax(-1).max() < V  # the greedy code goes on


# The reward


def test_the_price_is_paid_once_in_the_one_place():
    torch.manual_seed(0)
    log_likelihood, log_q, log_p, price = torch.randn(4, B, K)
    whole = encoding_reward(log_likelihood, log_q, log_p, 0.5, None, 0.25, price)
    torch.testing.assert_close(whole, log_likelihood - 0.5 * (log_q - log_p) + 0.25 * log_p - price)
    with pytest.raises(ValueError, match="price"):
        encoding_reward(log_likelihood, log_q, log_p, 0.5, price=price[:, :1])


@pytest.fixture
def data() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(9, D)


def test_a_scorer_charges_for_the_tokens_before_the_end(data):
    decoder, prior, beta = MLPDecoder(T, V + 1, (D,)), UniformPrior(T, V + 1, EndToken(V))(), torch.tensor(0.3)
    codes = torch.tensor([[0, 1, V, V], [1, V, V, V], [1, 1, 1, 1]]).expand(len(data), -1, -1)
    scorer = Scorer(decoder, prior, data, beta, ends=EndToken(V), token_price=0.7)
    log_q = torch.randn(codes.shape[:2])
    reward = scorer(codes, log_q)
    likelihood = decoder(codes).log_prob(data[:, None])
    expected = likelihood - 0.3 * (log_q - prior.log_prob(codes)) - 0.7 * torch.tensor([2.0, 1.0, 4.0])
    torch.testing.assert_close(reward, expected)
    assert scorer.metrics()["length"].item() == pytest.approx(7 / 3)


def test_environments_read_a_code_up_to_its_first_end(data):
    """What stands behind an end is neither decoded nor charged for, whoever wrote it."""
    decoder = MLPDecoder(T, V + 1, (D,))
    env = EncodingEnv(data, decoder, batch_size=[2, 3], beta=0.4, mask=EndToken(V), token_price=0.5, seed=0)
    step = env.reset()
    written = torch.tensor([[0, V, 1, 0], [0, V, V, V], [1, 1, 0, 1]]).expand(2, -1, -1)
    step = env.step(step.set("action", written).set("action_log_prob", torch.full((2, 3), -2.0)))["next"]
    closed = torch.tensor([[0, V, V, V], [0, V, V, V], [1, 1, 0, 1]]).expand(2, -1, -1)
    log_prior = -math.log(V + 1) * torch.tensor([2.0, 2.0, 4.0])
    expected = decoder(closed).log_prob(step["observation"]) - 0.4 * (-2.0 - log_prior) - 0.5 * torch.tensor([1, 1, 4])
    torch.testing.assert_close(step["reward"][..., 0], expected)
    host = EncodingVecEnv(data, decoder, num_contexts=2, samples_per_context=3, mask=EndToken(V), token_price=0.5)
    observation = torch.as_tensor(host.reset())
    reward = host.step(written.reshape(6, T).numpy())[1]
    likelihood = decoder(closed.reshape(6, T)).log_prob(observation)
    np.testing.assert_allclose(reward, (likelihood - 0.5 * torch.tensor([1, 1, 4] * 2)).detach(), rtol=1e-5)


def test_without_data_or_decoder_the_end_says_nothing_of_a_component():
    env = EncodingEnv(batch_size=[2, 3], mask=EndToken(4), num_tokens=5, token_price=1.0)
    fixed = EncodingEnv(batch_size=[2, 3], num_tokens=2, vocab_size=4)
    ended, short = torch.tensor([1, 3, 4, 4, 4]), torch.tensor([1, 3])
    torch.testing.assert_close(env.decoder(ended).mean, fixed.decoder(short).mean)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_sb3_learns_codes_that_end(data, beta):
    from stable_baselines3 import PPO

    from daps_rl.agents.sb3 import AutoregressivePolicy as SB3Policy
    from daps_rl.agents.sb3 import KLRewardCallback

    mask = EndToken(V)
    env = EncodingVecEnv(data, MLPDecoder(T, V + 1, (D,)), num_contexts=4, mask=mask, token_price=100.0, beta=beta)
    options = {"embed_dim": 8, "num_heads": 2, "mask": mask}
    model = PPO(SB3Policy, env, n_steps=8, n_epochs=4, learning_rate=0.02, policy_kwargs=options, seed=0)
    model.learn(8 * env.num_envs * 12, callback=KLRewardCallback(beta))
    codes = torch.as_tensor(model.predict(data.numpy())[0])
    assert torch.equal(mask.close(codes), codes)
    assert mask.lengths(codes).float().mean() == 1.0  # the fewest, where nothing is worth the price


# The loop, the model and the files


def trainer(splits, **options) -> Trainer:
    return Trainer(make_config(**{**SIZES, "steps": 4, "num_tokens": T, "vocab_size": 4, **options}), splits)


@pytest.mark.parametrize("prior", ["uniform", "independent", "autoregressive"])
@pytest.mark.parametrize("agent", ["daps", "daps-na"])
def test_the_loop_tells_lengths_and_a_model_is_read_back(splits, tmp_path, agent, prior):
    run = trainer(splits, agent=agent, prior=prior, token_price=0.5)
    assert run.config.end_token
    rows = list(run.run())
    assert all(1.0 <= row["length"] <= T for row in rows)
    model = run.autoencoder
    found = evaluate(model, splits.test, beta=0.1, importance_samples=2)
    codes = model.encode(splits.test, deterministic=True)
    assert found.metrics["length_greedy"] == EndToken(4).lengths(codes).double().mean().item()
    assert found.metrics["bits"] == 2.0 * T
    assert found.metrics["code_usage"] <= 1.0
    assert math.isfinite(found.metrics["importance_bound"])
    model.save_pretrained(tmp_path)
    again = DiscreteAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(splits.test, deterministic=True), codes)
    torch.testing.assert_close(again.prior().log_prob(codes), model.prior().log_prob(codes))


@pytest.mark.parametrize("agent", ["daps", "daps-na"])
def test_a_few_codes_are_enumerated_and_agree_with_many_draws(splits, agent):
    model = trainer(splits, agent=agent, token_price=0.1, num_tokens=2, vocab_size=2).autoencoder
    x = splits.test[:4]
    exact = evaluate(model, x, beta=0.1).columns["kl"]
    with torch.no_grad():
        codes = all_codes(2, 3)
        log_prob = model.policy(x).log_prob(codes[:, None].expand(-1, 4, -1)).double()
        expected = mean(log_prob, log_prob - model.prior().log_prob(codes)[:, None])
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-6)
    sampled = evaluate(model, x.repeat(500, *[1] * (x.ndim - 1)), beta=0.1, enumerable=0).columns["kl"].view(500, -1)
    assert (sampled.mean(0) - exact).abs().max() < 5.0 * sampled.std() / math.sqrt(500) + 1e-5


def test_a_prefix_is_a_code_too(splits):
    model = trainer(splits, token_price=0.5).autoencoder.eval()
    codes = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    for length in range(T + 1):
        ended = torch.cat((codes[:, :length], torch.full((2, T - length), 4)), dim=1)
        torch.testing.assert_close(model.decode(codes[:, :length]), model.decode(ended))
        torch.testing.assert_close(model.decode(codes[:, :length]), model.decoder(ended).mean)
    behind = torch.tensor([[0, 4, 2, 3]])
    torch.testing.assert_close(model.decode(behind), model.decode(behind[:, :1]))
    with pytest.raises(ValueError, match=r"0 … 4"):
        model.decode(codes + 2)
    with pytest.raises(ValueError, match=r"integers \[..., 4\]"):
        model.decode(torch.zeros(2, 5, dtype=torch.int64))


@pytest.fixture
def images(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((40, 1, 4, 6)).astype(np.float32))
    return tmp_path / "data.npy"


def test_the_command_trains_draws_and_decodes_prefixes(images, tmp_path, capsys):
    run, codes, out = tmp_path / "run", tmp_path / "codes.npy", tmp_path / "out.npy"
    arguments = ["--data", str(images), "--out", str(run), *TINY, "--steps", "2", "--token-price", "0.5"]
    assert main(["train", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "codes of up to 6 bits" in printed
    assert "tokens" in printed
    summary = json.loads((run / "summary.json").read_text())
    assert {"reconstructions.png", "prefixes.png"} <= set(summary["pictures"])
    assert 1.0 <= summary["test"]["length_greedy"] <= 3.0
    assert main(["encode", str(run), "--input", str(images), "--output", str(codes)]) == 0
    written = np.load(codes)
    np.save(codes, written[:, :1])
    assert main(["decode", str(run), "--input", str(codes), "--output", str(out)]) == 0
    model = DiscreteAutoencoder.from_pretrained(run / "model")
    ended = torch.as_tensor(written)
    ended[:, 1:] = 4
    np.testing.assert_allclose(np.load(out), model.decode(ended).numpy(), rtol=1e-5)
    np.save(codes, np.full_like(written, 5))
    assert main(["decode", str(run), "--input", str(codes), "--output", str(out)]) == 2
    assert "in 0 … 4" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["factorized", "autoregressive"])
def test_a_bottleneck_pays_for_tokens(policy):
    torch.manual_seed(0)
    options = {"samples": K, "num_tokens": T, "policy": policy, "ess_fraction": 0.5}
    bottleneck = PolicyBottleneck(D, V, token_price=0.5, beta=0.2, num_heads=2, **options)
    bottleneck.embedding.end.data.fill_(7.0)
    z, codes, policy_loss = bottleneck(torch.randn(B, T, D))
    mask, groups = EndToken(V), codes.view(B, K, T)
    lengths = mask.lengths(groups)
    assert torch.equal(mask.close(groups), groups)
    assert lengths.unique().numel() > 1
    assert torch.equal((z == 7.0).all(-1).view(B, K, T).sum(-1), T - lengths)
    assert bottleneck.perplexity(codes) <= V + 1
    reward = torch.randn(B, K)
    log_prior = uniform_codes(T, V + 1, mask).log_prob(groups)
    score = reward - 0.2 * (policy_loss.log_prob.detach() - log_prior) - 0.5 * lengths
    temperature = solve_temperature(score, 0.5, floor=0.2)
    expected = daps_loss(policy_loss.log_prob, score, temperature=temperature, centered=True).loss
    torch.testing.assert_close(policy_loss.terms(reward).loss, expected)
    assert bottleneck.eval()(torch.randn(B, T, D)).codes.shape == (B, T)


# Learning


def lengths_problem() -> Problem:
    """A datum wants 1, 2 or 4 tokens of its own; each right one is worth 1, each wrong one nothing, and each costs 0.2.

    With β > 0 the best distribution over codes and lengths is known exactly.
    """
    wanted = [1, 2, 4]
    mask, target = EndToken(V), torch.tensor([0, 1, 1, 0])
    codes = ALL[PROPER & (LENGTHS >= 1)]
    right = torch.stack([((codes == target) & (torch.arange(T) < count)).sum(-1) for count in wanted]).float()
    value = right - 0.2 * mask.lengths(codes)
    table = torch.full((3, len(ALL)), -1e9)  # `value` is found by a code's number
    powers = (V + 1) ** torch.arange(T - 1, -1, -1)
    table[:, (codes * powers).sum(-1)] = value
    prior = uniform_codes(T, V + 1, EndToken(V, 0))
    return Problem(torch.eye(T)[:3], ALL, table, V + 1, prior, beta=0.02, beta_start=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_daps_learns_codes_and_lengths_together(kind):
    problem = lengths_problem()
    torch.manual_seed(1)
    sizes = {"embed_dim": 16, "num_heads": 2, "num_layers": 1, "head": EndHead(nn.Linear(16, V), 16, T)}
    policy = kind((T,), T, V + 1, **sizes, mask=EndToken(V))
    learns("daps", problem, 200, learning_rate=5e-3, policy=policy)
    greedy = policy(problem.x).mode
    assert greedy.tolist() == [[0, V, V, V], [0, 1, V, V], [0, 1, 1, 0]]
    with torch.no_grad():
        log_prob = problem.log_prob(policy)
    reached = torch.where(log_prob.isfinite(), log_prob.exp() * problem.value, 0.0).sum(-1)
    assert (reached > 0.8 * torch.tensor([0.8, 1.6, 3.2])).all()  # of the best there is, with a third that end early


# What is refused


def test_errors(splits):
    with pytest.raises(ValueError, match=r"end = vocab_size - 1"):
        FactorizedPolicy((D,), T, V, embed_dim=8, num_heads=2, mask=EndToken(V))
    with pytest.raises(ValueError, match=r"min_tokens <= num_tokens"):
        AutoregressivePolicy((D,), T, V + 1, embed_dim=8, num_heads=2, mask=EndToken(V, T + 1))
    with pytest.raises(ValueError, match="got VisitOnce; use an AutoregressivePolicy"):
        FactorizedPolicy((D,), T, V, embed_dim=8, num_heads=2, mask=VisitOnce(V))
    with pytest.raises(ValueError, match="end must be >= 1"):
        EndToken(0)
    with pytest.raises(ValueError, match="min_tokens must be <= num_tokens, 4, got 5"):
        ModelConfig(num_tokens=4, end_token=True, min_tokens=5)
    for agent in ("fsq", "vq", "gaussian"):
        with pytest.raises(ValueError, match="have no end token"):
            make_config(**SIZES, agent=agent, token_price=0.1)
    with pytest.raises(ValueError, match="problem 'tsp20' have all their tokens"):
        make_config(problem="tsp20", token_price=0.1)
    with pytest.raises(ValueError, match="token_price must be >= 0"):
        make_config(**SIZES, token_price=-0.1)
    with pytest.raises(ValueError, match="does not say where a code should end"):
        trainer(splits, agent="gumbel", token_price=0.1)
    own = FactorizedPolicy(splits.observation_shape, 2, 4, embed_dim=8, num_heads=2)
    config = make_config(**SIZES, steps=2, token_price=0.1)
    with pytest.raises(ValueError, match="the policy's mask is no EndToken"):
        Trainer(config, splits, policy=own)
    env = partial(EncodingEnv, batch_size=[2, 2])
    with pytest.raises(ValueError, match=r"0 for codes without an end token, got 0\.5"):
        env(token_price=0.5)
    bottleneck = PolicyBottleneck(D, V, num_tokens=T, end_token=True)
    with pytest.raises(ValueError, match="mask is for codes of the data's own lengths"):
        bottleneck(torch.randn(B, T, D), mask=torch.ones(B, T, dtype=torch.bool))
    with pytest.raises(ValueError, match="codes that end need num_tokens"):
        PolicyBottleneck(D, V, end_token=True)
