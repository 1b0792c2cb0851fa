"""daps_rl.search: every search against an enumeration of all codes."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import CountingDecoder, small_decoder
from torch import nn
from torch.distributions import Categorical, Independent

from daps_rl import DiscreteAutoencoder, search
from daps_rl.codes import Search, find_codes, likelihood_score
from daps_rl.decoders import MLPDecoder, RewardDecoder
from daps_rl.evaluation import evaluate
from daps_rl.policies import (
    AutoregressivePolicy,
    Codebook,
    EndToken,
    FactorizedCategorical,
    FactorizedPolicy,
    GaussianPolicy,
    ItemEncoder,
    PointCodes,
    QuantizerPolicy,
    VisitOnce,
    WithinCapacity,
)
from daps_rl.priors import UniformPrior

B, T, V = 5, 3, 4
CODES = torch.tensor(list(itertools.product(range(V), repeat=T)))  # [V^T, T]
X = torch.arange(B).unsqueeze(-1).double()  # each datum is its number


class Table:
    """A score that is a number for each datum and each of all codes; counts what it was asked for."""

    def __init__(self, values=None):
        self.values = torch.randn(B, len(CODES), dtype=torch.float64) if values is None else values
        self.asked, self.most = 0, 0

    def __call__(self, x, codes):
        self.asked, self.most = self.asked + codes.shape[:2].numel(), max(self.most, codes.shape[:2].numel())
        return self.values[x[:, 0].long().unsqueeze(-1), index_of(codes)]


def index_of(codes):
    return (codes * V ** torch.arange(T - 1, -1, -1)).sum(-1)


def autoregressive(**options):
    """Each token depends on the datum and on the tokens before."""
    policy = AutoregressivePolicy((1,), T, V, embed_dim=8, num_heads=2, num_patches=1, **options).double()
    with torch.no_grad():
        policy.transformer.head.weight.mul_(6.0)
        policy.transformer.embed.weight.mul_(50.0)
        return policy(X)


POSTERIORS = {
    "factorized": lambda: FactorizedCategorical(torch.randn(B, T, V, dtype=torch.float64)),
    "autoregressive": autoregressive,
    "of torch": lambda: Independent(Categorical(logits=torch.randn(B, T, V, dtype=torch.float64)), 1),
    "quantizer": lambda: PointCodes(torch.randint(V, (B, T))),
}
POLICIES = [name for name in POSTERIORS if name != "quantizer"]
WITH_STEPS = ("factorized", "autoregressive")


def found(how, posterior, score):
    return find_codes(how, X, posterior, score, vocab_size=V)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("best-of:16", ("best-of", 16, 0)),
        ("sweep:2", ("sweep", 2, 0)),
        ("sweep:2/64", ("sweep", 2, 64)),
        ("beam:4", ("beam", 4, 0)),
        ("multistart", ("multistart", 0, 0, 1)),
        ("augment:8", ("greedy", 0, 0, 8)),
        ("sweep:2/64+augment:4", ("sweep", 2, 64, 4)),
        ("multistart+augment:8", ("multistart", 0, 0, 8)),
    ],
)
def test_a_search_is_read_as_it_is_written(text, parts):
    assert Search.parse(text) == Search(*parts)
    assert str(Search.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "sweep", "sweep:0", "sweep:-1", "sweep:2/0", "sweep:1.5", "swep:2", "best-of:2/3", "beam:1000000",
        "sweep:²", "multistart:4", "+augment:8", "augment:0", "augment:8+beam:4", "beam:4augment:8", "beam:4+augment",
    ],
)  # fmt: skip
def test_what_is_no_search_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"search must be best-of:K, sweep:N, sweep:N/M, beam:W or multi.*try sweep:2"):
        Search.parse(text)
    with pytest.raises(ValueError, match="search must be"):
        Search("beam", 4, top=2)


@pytest.mark.parametrize("name", POLICIES)
def test_best_of_is_the_best_of_its_draws_and_the_greedy_code(name):
    posterior, score = POSTERIORS[name](), Table()
    torch.manual_seed(3)
    best = found("best-of:6", posterior, score)
    torch.manual_seed(3)
    candidates = torch.cat((posterior.mode[None], posterior.sample((6,)))).transpose(0, 1)
    values = Table(score.values)(X, candidates)
    torch.testing.assert_close(best.score, values.amax(1))
    assert torch.equal(best.codes, candidates[torch.arange(B), values.argmax(1)])
    assert (best.evaluations.tolist(), score.asked) == ([7] * B, 7 * B)


def swept(codes, values, passes, tokens=lambda prefix, datum: range(V)):
    """Replaces one token after another by the best, in plain Python."""
    result = codes.clone()
    for datum, _, position in itertools.product(range(B), range(passes), range(T)):
        code = result[datum].tolist()
        tried = [code, *([*code[:position], z, *code[position + 1 :]] for z in tokens(code[:position], datum))]
        result[datum] = max(torch.tensor(tried), key=lambda one: values[datum, index_of(one)].item())
    return result


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_sweep_replaces_token_after_token_by_the_best_of_all(name):
    posterior, score = POSTERIORS[name](), Table()
    best = found("sweep:1", posterior, score)
    assert torch.equal(best.codes, swept(posterior.mode, score.values, 1))
    assert best.evaluations.tolist() == [1 + T * (V - 1)] * B
    assert score.asked == best.evaluations.sum()


@pytest.mark.parametrize("name", POSTERIORS)
def test_sweeps_end_where_no_other_token_is_better_and_then_stop(name):
    posterior, score = POSTERIORS[name](), Table()
    best = found("sweep:1000", posterior, score)
    assert best.evaluations[0] < 1 + 20 * T * (V - 1)
    for position, token in itertools.product(range(T), range(V)):
        other = best.codes.clone()
        other[:, position] = token
        assert (score(X, other.unsqueeze(1))[:, 0] <= best.score).all()


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_sweep_finds_the_best_code_where_tokens_do_not_depend_on_each_other(name):
    of_token = torch.randn(B, T, V, dtype=torch.float64)
    score = Table(sum(of_token[:, t, CODES[:, t]] for t in range(T)))
    best = found("sweep:1", POSTERIORS[name](), score)
    assert torch.equal(best.codes, of_token.argmax(-1))
    torch.testing.assert_close(best.score, of_token.amax(-1).sum(-1))


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize(("top", "seed"), [(1, 0), *((2, seed) for seed in range(6)), (V, 0), (99, 0)])
def test_a_sweep_over_the_likeliest_tokens_takes_them_given_those_before(name, top, seed):
    torch.manual_seed(seed)
    posterior, score = POSTERIORS[name](), Table()
    log_prob = posterior.log_prob(CODES[:, None].expand(-1, B, -1))  # [V^T, B]

    def likeliest(prefix, datum):
        begins = (CODES[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.int64)).all(-1)
        mass = [log_prob[begins & (CODES[:, len(prefix)] == token), datum].logsumexp(0).item() for token in range(V)]
        return sorted(range(V), key=lambda token: -mass[token])[:top]

    best = found(f"sweep:2/{top}", posterior, score)
    assert torch.equal(best.codes, swept(posterior.mode, score.values, 2, likeliest))
    assert best.evaluations[0] <= 1 + 2 * T * min(top, V)


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize("width", [V ** (T - 1), V**T])
def test_a_wide_beam_ends_at_the_likeliest_codes_and_the_score_chooses(name, width):
    posterior, score = POSTERIORS[name](), Table()
    likeliest = posterior.log_prob(CODES[:, None].expand(-1, B, -1)).T.topk(width).indices  # [B, W]
    codes = search.likeliest_codes(posterior, width)
    assert torch.equal(index_of(codes).sort(-1).values, likeliest.sort(-1).values)
    best = found(f"beam:{width}", posterior, score)
    torch.testing.assert_close(best.score, score.values.gather(1, likeliest).amax(1))


def test_a_beam_of_independent_tokens_is_exact_at_any_width():
    posterior = POSTERIORS["factorized"]()
    likeliest = posterior.log_prob(CODES[:, None].expand(-1, B, -1)).T.topk(3).indices
    assert torch.equal(index_of(search.likeliest_codes(posterior, 3)), likeliest)


def test_a_beam_wider_than_there_are_codes_of_some_probability_repeats_the_likeliest():
    logits = torch.full((B, T, V), -torch.inf).scatter(-1, torch.zeros(B, T, 1, dtype=torch.int64), 0.0)
    logits[:, 0, 2] = -1.0  # two codes: 000 and 200
    codes = search.likeliest_codes(FactorizedCategorical(logits), 7)
    assert {tuple(code) for code in codes.flatten(0, 1).tolist()} == {(0, 0, 0), (2, 0, 0)}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *itertools.product(WITH_STEPS, ("best-of:3", "sweep:2", "sweep:1/2", "beam:2")),
        *itertools.product(("of torch",), ("best-of:3", "sweep:2")),
        ("quantizer", "sweep:2"),
    ],
)
def test_nothing_is_worse_than_the_greedy_code_and_the_count_is_right(name, how):
    posterior, score = POSTERIORS[name](), Table()
    best = found(how, posterior, score)
    assert score.asked == best.evaluations.sum()
    assert (best.score >= score(X, posterior.mode.unsqueeze(1))[:, 0]).all()
    assert torch.equal(best.score, score(X, best.codes.unsqueeze(1))[:, 0])
    assert best.codes.dtype == torch.int64


@pytest.mark.parametrize("how", ["best-of:9", "sweep:2", "sweep:2/3", "beam:9"])
def test_memory_is_bounded_and_the_parts_give_the_same(how, monkeypatch):
    posterior, score = POSTERIORS["factorized"](), Table()
    torch.manual_seed(1)
    whole = found(how, posterior, score)
    for entries, at_once in ((3 * T, 3), (12 * T, 12)):  # fewer codes than data, and more
        monkeypatch.setattr(search, "ENTRIES", entries)
        parts = Table(score.values)
        torch.manual_seed(1)
        best = found(how, posterior, parts)
        assert parts.most <= at_once
        if "best-of" not in how:  # draws in parts are other draws
            assert torch.equal(best.codes, whole.codes)
        assert torch.equal(best.evaluations, whole.evaluations)


class Permutations(Table):
    """Says that every code that it is asked for has every token once."""

    def __call__(self, x, codes):
        assert (codes.sort(-1).values == torch.arange(codes.shape[-1])).all()
        return super().__call__(x, codes[..., :T])


@pytest.mark.parametrize("how", ["best-of:8", "sweep:2", "sweep:2/3", "beam:30"])
def test_a_code_that_a_mask_forbids_is_never_scored(how):
    policy = AutoregressivePolicy((1,), V, V, embed_dim=8, num_heads=2, num_patches=1, mask=VisitOnce(V)).double()
    posterior, score = policy(X), Permutations()
    best = find_codes(how, X, posterior, score, vocab_size=V)
    if how == "beam:30":  # all 24
        orders = torch.tensor(list(itertools.permutations(range(V)))).expand(B, -1, -1)
        torch.testing.assert_close(best.score, score(X, orders).amax(1))


def test_a_sweep_within_a_capacity_takes_what_still_fits():
    items = torch.tensor([[[4.0, 1.0], [2.0, 1.0], [3.0, 1.0]]])  # weight, and a column of no meaning
    policy = AutoregressivePolicy(
        (3, 2), 3, 2, embed_dim=8, num_heads=2, num_patches=3, encoder=ItemEncoder(2, embed_dim=8, num_heads=2),
        mask=WithinCapacity(5.0, 0),
    )  # fmt: skip
    asked = []

    def heaviest(x, codes):
        asked.extend(codes.flatten(0, 1).tolist())
        return (codes * x[:, None, :, 0]).sum(-1)

    best = find_codes("sweep:3", items, PointOf(policy(items), torch.tensor([[0, 0, 0]])), heaviest, vocab_size=2)
    assert best.codes.tolist() == [[1, 0, 0]]  # 4 of 5: neither 2 nor 3 fits beside it
    assert [1, 1, 0] not in asked
    assert [1, 0, 1] not in asked


class PointOf:
    """A posterior whose greedy code is another."""

    def __init__(self, posterior, mode):
        self.posterior, self.mode, self.log_prob = posterior, mode, posterior.log_prob


def test_tokens_of_probability_zero_are_left_out():
    logits = torch.randn(B, T, V, dtype=torch.float64)
    logits[:, 1, 3] = -torch.inf
    score = Table((CODES == 3).double().sum(-1).expand(B, -1))  # wants 3 everywhere
    for how in ("sweep:1", "sweep:1/4"):
        assert found(how, FactorizedCategorical(logits), score).score.tolist() == [2.0] * B
    posterior = autoregressive(token_sizes=[4, 3, 4])
    assert found("sweep:1", posterior, score).score.tolist() == [2.0] * B


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_a_quantizer_proposes_the_codes_whose_vectors_are_nearest(kind):
    codes, codebook, score = torch.randint(V, (B, T)), Codebook(kind, V, 6).eval(), Table()
    vectors = codebook(torch.arange(V))
    distance = (vectors[:, None] - vectors).square().sum(-1)  # [V, V]
    to_all = distance[codes[:, None], CODES].sum(-1)  # [B, V^T]
    posterior = PointCodes(codes, codebook)
    nearest = search.likeliest_codes(posterior, 10)
    torch.testing.assert_close(to_all.gather(1, index_of(nearest)), to_all.sort().values[:, :10])
    best = found("sweep:1/2", posterior, score)
    tried = swept(codes, score.values, 1, lambda code, i: distance[codes[i, len(code)]].sort(stable=True).indices[:2])
    if kind == "vq":  # of FSQ's levels two are equally near
        assert torch.equal(best.codes, tried)
    assert best.evaluations.tolist() == [1 + 2 * T] * B


def test_a_quantizer_has_one_code_to_draw():
    with pytest.raises(ValueError, match="a quantiser has one to draw; use sweep:2/16, or beam:16"):
        found("best-of:16", POSTERIORS["quantizer"](), Table())
    with pytest.raises(ValueError, match="and it has none; use sweep:2"):
        found("sweep:2/3", POSTERIORS["quantizer"](), Table())


def test_what_cannot_be_searched_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"need a policy .* Independent has none; use sweep:2 or best-of:16"):
        found("beam:2", POSTERIORS["of torch"](), Table())
    with pytest.raises(ValueError, match="these latents are continuous; leave search out"):
        found("sweep:1", GaussianPolicy(nn.Linear(1, 6).double(), 1, 4)(X.unsqueeze(1)), Table())
    with pytest.raises(ValueError, match=r"numbers \[B, K\] = \[5, 1\], got shape \[5, 1\] with 5 NaN"):
        found("sweep:1", POSTERIORS["factorized"](), Table(torch.full((B, len(CODES)), torch.nan)))
    with pytest.raises(ValueError, match=r"numbers \[B, K\] = \[5, 1\], got shape \[5\] with 0 NaN"):
        found("sweep:1", POSTERIORS["factorized"](), lambda x, codes: x[:, 0])


def make_model(prior=None):
    decoder = MLPDecoder(T, V, (6,), embed_dim=4, hidden=(8,))
    nn.init.normal_(decoder.layers[-1].weight)
    return DiscreteAutoencoder(
        FactorizedPolicy((6,), T, V, embed_dim=8, num_heads=2), decoder, prior or UniformPrior(T, V)
    )


def test_encode_maximises_the_likelihood_less_the_price_of_the_bits(monkeypatch):
    model, x = make_model(), (torch.rand(7, 6) > 0.5).float()
    log_likelihood = model.log_likelihood(x, CODES.expand(7, -1, -1))
    codes = model.encode(x, search=f"beam:{V**T}")
    assert torch.equal(codes, CODES[log_likelihood.argmax(1)])
    prior = FactorizedCategorical(3.0 * torch.randn(T, V))
    score = likelihood_score(model.decoder, prior, 0.7)
    codes = model.encode(x, search=Search("beam", V**T), score=score)
    assert torch.equal(codes, CODES[(log_likelihood + 0.7 * prior.log_prob(CODES)).argmax(1)])
    monkeypatch.setattr(search, "PREFIXES", 2 * V**T)  # two data at a time
    found = model.search(f"beam:{V**T}", x, score=score)
    assert torch.equal(found.codes, codes)
    assert found.evaluations.tolist() == [1 + V**T] * 7
    with pytest.raises(ValueError, match="leave out num_samples"):
        model.encode(x, 3, search="sweep:1")


def test_a_quantizers_tokens_stay_within_its_codebook():
    codebook = Codebook("fsq", 16, 2, {"levels": [3, 3]})
    encoder = nn.Sequential(nn.Linear(6, T * 2), nn.Unflatten(-1, (T, 2)))
    model = DiscreteAutoencoder(
        QuantizerPolicy(encoder, codebook, T, 16),
        MLPDecoder(T, 16, (6,), embed_dim=2, embed=codebook),
        UniformPrior(T, 16),
    ).eval()
    x, seen = torch.rand(4, 6), []

    def score(x, codes):
        seen.append(codes.max().item())
        return likelihood_score(model.decoder)(x, codes)

    codes = model.encode(x, search="sweep:2", score=score)
    assert max(seen) == 8
    assert (model.log_likelihood(x, codes) >= model.log_likelihood(x, model.encode(x))).all()


def test_evaluate_adds_what_is_found_and_changes_nothing_else():
    model, x = make_model(), (torch.rand(20, 6) > 0.5).float()
    model.decoder = small_decoder(T, V, (6,), CountingDecoder)
    plain = evaluate(model, x, beta=0.1, batch_size=8, enumerable=0)
    how = Search.parse("best-of:5")
    measured = evaluate(model, x, beta=0.1, batch_size=8, enumerable=0, search=how)
    new = {"log_likelihood_greedy", "log_likelihood_search", "psnr_search", "ssim_search", "search_evaluations"}
    assert set(measured.metrics) - set(plain.metrics) == new & set(measured.metrics)
    assert {name: measured.metrics[name] for name in plain.metrics} == plain.metrics
    greedy, best = (measured.columns[f"log_likelihood_{end}"] for end in ("greedy", "search"))
    torch.testing.assert_close(greedy, model.log_likelihood(x, model.encode(x, deterministic=True)).double())
    assert (best >= greedy).all()
    assert best.mean() > greedy.mean()
    assert measured.metrics["search_evaluations"] == 6


def test_a_problem_has_the_reward_of_the_decision_found():
    def reward(x, codes):
        return -(codes - x).abs().sum(-1).float()

    policy = FactorizedPolicy((T,), T, V, embed_dim=8, num_heads=2)
    model = DiscreteAutoencoder(policy, RewardDecoder(reward, T, V, (T,)), UniformPrior(T, V))
    x = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0]])
    metrics = evaluate(model, x, beta=0.1, enumerable=0, search=Search.parse("sweep:1")).metrics
    greedy = reward(x.unsqueeze(1), model.encode(x, deterministic=True).unsqueeze(1))
    assert metrics["reward_greedy"] == pytest.approx(greedy.mean().item())
    assert metrics["reward_search"] == 0.0
    assert "log_likelihood_search" not in metrics


def test_tokens_cost_in_a_search_what_they_cost_in_training() -> None:
    def decoder(codes: torch.Tensor) -> torch.distributions.Distribution:
        mean = torch.zeros(*codes.shape[:-1], 2)
        return torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)

    ends, codes = EndToken(4, min_tokens=0), torch.tensor([[[0, 1, 2], [0, 4, 4], [4, 4, 4]]])
    x = torch.zeros(1, 2)
    free = likelihood_score(decoder)(x, codes)  # type: ignore[arg-type]
    priced = likelihood_score(decoder, ends=ends, token_price=0.5)(x, codes)  # type: ignore[arg-type]
    assert torch.allclose(free - priced, torch.tensor([[1.5, 0.5, 0.0]]))


@pytest.mark.parametrize("how", ["best-of:2", "sweep:1", "sweep:1/2", "beam:2"])
def test_of_no_data_there_are_no_codes(how):
    found = make_model().search(how, torch.zeros(0, 6))
    assert found.codes.shape == (0, T)
    assert found.score.shape == found.evaluations.shape == (0,)


@pytest.mark.parametrize("kind", [AutoregressivePolicy, FactorizedPolicy])
def test_a_sweep_ends_a_code_where_its_tokens_are_not_worth_their_price(kind):
    """At once: what stood behind the new end goes too."""
    policy = kind((1,), T, V, embed_dim=8, num_heads=2, num_patches=1, mask=EndToken(V - 1)).double()
    posterior, full = policy(X), torch.zeros(B, T, dtype=torch.int64)
    asked = []

    def short(x, codes):
        asked.append(codes)
        return -EndToken(V - 1).lengths(codes).double()

    class Full(PointOf):
        mask = posterior.mask

    best = find_codes("sweep:1", X, Full(posterior, full), short, vocab_size=V)
    assert best.codes.tolist() == [[0, V - 1, V - 1]] * B
    assert all((posterior.log_prob(codes.transpose(0, 1)) > -torch.inf).all() for codes in asked)


def test_fewer_data_are_searched_at_once_where_codes_are_long():
    sizes = {(8, 256): 8192, (64, 512): 8192, (1024, 2): 512, (1024, 1024): 256, (1, 2**20): 16}
    for (num_tokens, vocab_size), count in sizes.items():
        assert Search.parse("sweep:2").data_at_once(num_tokens, vocab_size) == count
        assert Search.parse("beam:4").data_at_once(num_tokens, vocab_size) == count // 4
    assert Search.parse("beam:9999").data_at_once(8, 256) == 1
