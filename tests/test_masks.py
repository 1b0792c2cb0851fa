"""Masks and pointers: feasible codes alone, the same in sampling and in scoring, against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from daps_rl.functional import gumbel_softmax
from daps_rl.policies import AutoregressivePolicy, CodeMask, ItemEncoder, VisitOnce, WithinCapacity

B, K, N, F = 3, 5, 4, 2
CAPACITY = 1.0


def routes(first: int | None = 0, **options) -> AutoregressivePolicy:
    torch.manual_seed(0)
    return AutoregressivePolicy(
        (N, F),
        N,
        N,
        embed_dim=8,
        num_heads=2,
        encoder=ItemEncoder(F, 8, num_heads=2, num_layers=2),
        aligned_patches=False,
        pointer=True,
        mask=VisitOnce(N, first),
        **options,
    ).double()


def packs() -> AutoregressivePolicy:
    torch.manual_seed(0)
    encoder = ItemEncoder(F, 8, num_heads=2)
    mask = WithinCapacity(CAPACITY, column=1)
    return AutoregressivePolicy(
        (N, F), N, 2, embed_dim=8, num_heads=2, encoder=encoder, num_patches=N, mask=mask
    ).double()


@pytest.fixture
def items() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(1, 64, (B, N, F)).double() / 64


def all_codes(vocab_size: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=N)))


def feasible_routes(codes: torch.Tensor, first: int | None = 0) -> torch.Tensor:
    once = codes.sort(-1).values.eq(torch.arange(N)).all(-1)
    return once if first is None else once & (codes[:, 0] == first)


@pytest.mark.parametrize("first", [0, 2, None])
def test_routes_are_permutations_and_their_probabilities_sum_to_one(items, first):
    policy, codes = routes(first), all_codes(N)
    posterior = policy(items)
    with torch.no_grad():
        log_prob = posterior.log_prob(codes[:, None].expand(-1, B, -1))  # [N^N, B]
    feasible = feasible_routes(codes, first)
    assert feasible.sum() == math.factorial(N if first is None else N - 1)
    assert (log_prob[~feasible] == -math.inf).all()
    torch.testing.assert_close(log_prob[feasible].exp().sum(0), torch.ones(B, dtype=torch.float64))
    assert log_prob[feasible].isfinite().all()
    drawn = posterior.sample((200,)).flatten(0, 1)
    assert feasible_routes(drawn, first).all()
    assert feasible_routes(posterior.mode, first).all()


def test_packs_stay_within_the_capacity(items):
    policy, codes = packs(), all_codes(2)
    posterior = policy(items)
    with torch.no_grad():
        log_prob = posterior.log_prob(codes[:, None].expand(-1, B, -1))  # [2^N, B]
    weight = (codes[:, None] * items[..., 1]).sum(-1)  # [2^N, B]
    assert (weight > CAPACITY).any()  # the mask has something to forbid
    assert torch.equal(log_prob == -math.inf, weight > CAPACITY)
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(B, dtype=torch.float64))
    drawn = posterior.sample((200,))
    assert ((drawn * items[..., 1]).sum(-1) <= CAPACITY).all()


@pytest.mark.parametrize("make", [routes, packs])
def test_sampling_and_scoring_agree_and_gradients_are_finite(items, make):
    policy = make()
    posterior = policy(items)
    codes, drawn = posterior.draw((K,))
    scored = posterior.log_prob(codes)
    torch.testing.assert_close(scored, drawn)
    entropy = posterior.entropy(num_samples=4)
    assert (entropy > 0.0).all()
    (scored.sum() + entropy.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())


@pytest.mark.parametrize(("limit", "passes"), [("LARGEST_LOGITS", 2), ("CPU_TOKENS", 1)])
@pytest.mark.parametrize("make", [routes, packs])
def test_scoring_a_few_contexts_at_a_time_changes_nothing(items, make, limit, passes, monkeypatch):
    """Values and gradients, of codes whose logits, or tokens, are held to one context's at once."""
    policy = make()
    codes = policy(items).sample((K,))

    def scored():
        policy.zero_grad()
        log_prob = policy(items).log_prob(codes)
        log_prob.square().sum().backward()
        return log_prob.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    whole, gradients = scored()
    sizes = []
    masked_logits = type(policy.transformer).masked_logits

    def watched(self, hidden, part, context):
        sizes.append(len(part))
        return masked_logits(self, hidden, part, context)

    monkeypatch.setattr(type(policy.transformer), "masked_logits", watched)
    monkeypatch.setattr(f"daps_rl.policies.code_transformer.{limit}", 1)
    parts, in_parts = scored()
    assert sizes == [1] * passes * B  # logits are made again in the backward pass
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(in_parts, gradients)


def test_draws_have_the_frequencies_that_scoring_says(items):
    posterior = routes()(items[:1])
    codes = posterior.sample((20_000,))[:, 0]
    orders = all_codes(N)[feasible_routes(all_codes(N))]
    with torch.no_grad():
        expected = posterior.log_prob(orders[:, None]).exp()[:, 0]
    counted = torch.stack([(codes == order).all(-1).double().mean() for order in orders])
    assert (counted - expected).abs().max() < 4.0 * math.sqrt(0.25 / 20_000)
    assert expected.max() - expected.min() > 0.02


def test_relaxed_routes_are_permutations_with_a_gradient(items):
    policy = routes()
    drawn = policy(items).relaxed_sample(lambda logits: gumbel_softmax(logits, 1.0), K)
    codes = drawn.one_hot.argmax(-1)
    assert feasible_routes(codes.flatten(0, 1)).all()
    (drawn.one_hot * torch.randn(N, dtype=torch.float64)).sum().backward()
    assert policy.transformer.head.query.weight.grad.isfinite().all()


def test_relaxed_codes_ask_a_mask_for_no_more_than_their_tokens(items):
    class Counting(VisitOnce):
        def advance(self, state, position, token):
            assert position < N - 1
            return super().advance(state, position, token)

    policy = routes()
    policy.transformer.mask = Counting(N)
    drawn = policy(items).relaxed_sample(lambda logits: gumbel_softmax(logits, 1.0), K)
    assert (drawn.one_hot.argmax(-1).sort(-1).values == torch.arange(N)).all()


def test_permuting_the_items_permutes_the_route(items):
    policy, order = routes(first=None), torch.tensor([2, 0, 3, 1])
    code = torch.tensor([[3, 1, 0, 2]]).expand(B, -1)
    with torch.no_grad():
        before = policy(items[:, order]).log_prob(code)
        after = policy(items).log_prob(order[code])
    torch.testing.assert_close(before, after)


def test_a_mask_of_ones_own(items):
    """No token twice in a row; the state is the last token."""

    class Changing(CodeMask):
        def start(self, observation, samples):
            return torch.full((len(observation), samples), -1)

        def allowed(self, state, position):
            return torch.arange(3) != state.unsqueeze(-1)

        def advance(self, state, position, token):
            return token

    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "num_heads": 2, "num_patches": 2}
    policy = AutoregressivePolicy((N, F), 6, 3, **sizes, mask=Changing()).double()
    codes = policy(items).sample((50,))
    assert (codes.diff(dim=-1) != 0).all()
    assert (policy(items).log_prob(torch.zeros_like(codes)) == -math.inf).all()


@pytest.mark.parametrize("position", range(N))
def test_what_a_knapsack_tells(items, position):
    """What is left, and what would be with the next item, over the capacity; counted from whole codes."""
    mask, codes = WithinCapacity(CAPACITY, column=1), all_codes(2).expand(B, -1, -1)
    weights = items[:, None, :, 1] * codes
    left = CAPACITY - weights[..., :position].sum(-1)
    features = mask.along(mask.features, items, codes)[:, :, position]
    torch.testing.assert_close(features[..., 0], left / CAPACITY)
    torch.testing.assert_close(features[..., 1], (left - items[:, None, position, 1]) / CAPACITY)


def test_what_is_told_reaches_the_next_token_and_no_earlier_one(items):
    """A policy that is told the last token alone, of embeddings that are zero, still depends on it."""

    class Telling(CodeMask):
        num_features = 1

        def start(self, observation, samples):
            return torch.zeros(len(observation), samples, dtype=torch.int64)

        def allowed(self, state, position):
            return torch.ones(*state.shape, 3, dtype=torch.bool)

        def advance(self, state, position, token):
            return token

        def features(self, state, position):
            return state.unsqueeze(-1)  # whole numbers

    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "num_heads": 2, "num_patches": 2}
    policy = AutoregressivePolicy((N, F), 3, 3, **sizes, mask=Telling()).double()
    with torch.no_grad():
        policy.transformer.embed.weight.zero_()
    codes = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0]])[:, None].expand(-1, B, -1)
    with torch.no_grad():
        logits = policy(items).token_logits(codes)  # [3, B, T, V]
        drawn, log_prob = policy(items).draw((K,))
        torch.testing.assert_close(policy(items).log_prob(drawn), log_prob)
    torch.testing.assert_close(logits[0, :, 0], logits[1, :, 0])
    assert (logits[0, :, 1] - logits[1, :, 1]).abs().min() > 1e-4
    torch.testing.assert_close(logits[0, :, 1], logits[2, :, 1])
    assert (logits[0, :, 2] - logits[2, :, 2]).abs().min() > 1e-4


def test_a_mask_that_leaves_nothing_is_named(items):
    policy = AutoregressivePolicy((N, F), N + 1, N, embed_dim=8, num_heads=2, num_patches=2, mask=VisitOnce(N))
    with pytest.raises(ValueError, match="VisitOnce allows no token at position 4"):
        policy(items.float()).sample()


def test_errors(items):
    with pytest.raises(ValueError, match=r"capacity must be > 0, got 0.0"):
        WithinCapacity(0.0, column=1)
    with pytest.raises(ValueError, match="a pointer is a head"):
        routes(head=torch.nn.Linear(8, N))
    with pytest.raises(ValueError, match="vocab_size is 4, and the encoder gives 3 items"):
        routes()(items[:, :3])


def test_a_mask_that_lacks_a_method_says_which():
    class Half(CodeMask):
        def start(self, observation, samples):
            return torch.zeros(len(observation), samples)

        def allowed(self, state, position):
            return torch.ones(*state.shape, 3, dtype=torch.bool)

    policy = AutoregressivePolicy((4,), 2, 3, embed_dim=8, num_heads=2, mask=Half())
    with pytest.raises(NotImplementedError, match=r"Half needs a method advance\(state, position, token\); write it"):
        policy(torch.rand(5, 4)).sample((2,))
