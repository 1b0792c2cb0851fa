"""Verdicts as terms of the reward: their values, their weights, and the same reward in every host."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from conftest import small_decoder
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from daps_rl.agents import Scorer
from daps_rl.agents.sb3 import DAPS
from daps_rl.bottleneck import PolicyBottleneck
from daps_rl.decoders import CategoricalLikelihood
from daps_rl.envs import EncodingEnv, EncodingVecEnv
from daps_rl.functional import VerdictTerms, encoding_reward, group_deviations, reconstruction
from daps_rl.priors import UniformCodes
from daps_rl.verdicts import SSIM, Classifier, Verdicts, edit_distance

CODES = torch.cartesian_prod(torch.arange(2), torch.arange(3))  # all six of T = 2 tokens


class Table(nn.Module):
    """Decodes the code (a, b) to the datum (a, 2·b), exactly."""

    num_tokens, vocab_size = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, codes: Tensor) -> Independent:
        mean = torch.stack((codes[..., 0].float(), self.scale * codes[..., 1]), dim=-1)
        return Independent(Normal(mean, 1.0), 1)


def nearness(truth: Tensor, decoded: Tensor) -> np.ndarray:
    """Minus the largest difference."""
    return -np.abs(truth.numpy() - decoded.numpy()).max(1)


def parity(labels: Tensor, decoded: Tensor) -> Tensor:
    """1 where the decoded datum's sum has the parity of the label, else 0."""
    return (decoded.sum(1).round().long() % 2 == labels % 2).float()


parity.truth = "labels"  # type: ignore[attr-defined]

misspelt = functools.partial(nearness)
misspelt.truth = "label"  # type: ignore[attr-defined]

DATA = torch.tensor([[0.0, 0.0], [1.0, 4.0], [1.0, 1.0]])
LABELS = torch.tensor([0, 1, 0])


def by_hand(beta: float, log_prob: Tensor, codes: Tensor) -> np.ndarray:
    """The reward of codes [B, K, T] for DATA, number by number, with 2·nearness + 5·parity."""
    rewards = np.zeros(codes.shape[:2])
    for b, (x, label) in enumerate(zip(DATA.tolist(), LABELS.tolist(), strict=True)):
        for k, (first, second) in enumerate(codes[b].tolist()):
            made = (first, 2 * second)
            likelihood = sum(-((u - v) ** 2) / 2 - math.log(2 * math.pi) / 2 for u, v in zip(x, made, strict=True))
            near, same = -max(abs(x[0] - made[0]), abs(x[1] - made[1])), (sum(made) - label) % 2 == 0
            kl = log_prob[b, k].item() - 2 * math.log(1 / 3)
            rewards[b, k] = likelihood + 2 * near + 5 * same - beta * kl
    return rewards


def verdicts(**weights: float) -> Verdicts:
    return Verdicts({"near": nearness, "parity": parity}, weights)


def drawn() -> tuple[Tensor, Tensor]:
    codes = CODES.expand(3, 6, 2)
    return codes, torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).log()


def test_reward_by_hand_in_loop_environment_and_bottleneck():
    codes, log_prob = drawn()
    expected = by_hand(0.3, log_prob, codes)
    beta = torch.tensor(0.3)

    scorer = Scorer(
        Table(), UniformCodes(2, 3), DATA, beta, decoder_samples=1,
        verdicts=verdicts(near=2.0, parity=5.0), labels=LABELS,
    )  # fmt: skip
    np.testing.assert_allclose(scorer(codes, log_prob), expected, atol=1e-5)

    env = EncodingEnv(
        DATA, Table(), batch_size=[3, 6], beta=beta, labels=LABELS, verdicts=verdicts(near=2.0, parity=5.0), seed=0
    )
    start = env.reset()
    order = [DATA.tolist().index(row) for row in start["observation"][:, 0].tolist()]
    out = env.step(start.update({"action": codes, "action_log_prob": log_prob[order]}))["next"]
    np.testing.assert_allclose(out["reward"][..., 0], expected[order], atol=1e-5)
    made = torch.stack((codes[..., 0].float(), 2.0 * codes[..., 1]), dim=-1)
    near = -(made - DATA[order][:, None]).abs().amax(-1)
    torch.testing.assert_close(out["verdicts"][..., 0], near)

    bottleneck = PolicyBottleneck(4, 3, samples=6, num_tokens=2, beta=0.3, ess_fraction=0.5)
    _, codes, loss = bottleneck(torch.randn(3, 2, 4))
    decoded = Table()(codes)
    likelihood = decoded.log_prob(bottleneck.repeat(DATA))
    terms = verdicts(near=2.0, parity=5.0)(likelihood, reconstruction(decoded), DATA, LABELS)
    scores = encoding_reward(likelihood.detach().view(3, 6), loss.log_prob.detach(), loss.prior_log_prob, beta, terms)
    np.testing.assert_allclose(scores, by_hand(0.3, loss.log_prob, codes.view(3, 6, 2)), atol=1e-5)
    temperature = loss.trust_region(scores, beta)
    expected_weights = torch.softmax(scores / temperature, dim=-1)
    torch.testing.assert_close(loss.terms(likelihood, terms).weights, expected_weights)
    assert not torch.allclose(loss.terms(likelihood).weights, expected_weights)


class Rewards(BaseCallback):
    """Keeps the codes and rewards of each step, as they are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[np.ndarray, ...]] = []

    def _on_step(self) -> bool:
        given = self.locals
        self.kept.append((given["obs_tensor"].numpy().copy(), given["actions"].copy(), given["rewards"].copy()))
        return True


def test_sb3_gives_the_same_reward_less_what_it_completes():
    env = EncodingVecEnv(
        DATA, Table(), num_contexts=4, samples_per_context=6, labels=LABELS, seed=0,
        verdicts=verdicts(near=2.0, parity=5.0),
    )  # fmt: skip
    seen = Rewards()
    model = DAPS("MlpPolicy", env, samples_per_context=6, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    model.learn(48, callback=seen)
    for observations, actions, rewards in seen.kept:
        for x, code, reward in zip(observations, actions, rewards, strict=True):
            row = DATA.tolist().index(x.tolist())
            codes = torch.as_tensor(code).expand(3, 1, 2)
            assert reward == pytest.approx(by_hand(0.0, torch.zeros(3, 1), codes)[row, 0], abs=1e-4)
    assert len(seen.kept) == 2


def test_where_an_environment_stands_holds_the_running_weights():
    def env() -> EncodingVecEnv:
        return EncodingVecEnv(
            DATA, Table(), num_contexts=4, samples_per_context=6, labels=LABELS, verdicts=verdicts(), seed=0
        )

    first, second = env(), env()
    first.reset()
    codes = CODES.repeat(4, 1).numpy()
    first.step(codes)
    assert first.task.verdicts is not None
    assert second.task.verdicts is not None
    state, weights = first.get_state(), first.task.verdicts.weights()
    assert (weights > 0.01).all()
    first.step_async(codes)
    second.set_state(state)
    torch.testing.assert_close(second.task.verdicts.weights(), weights)


def test_groups_whose_verdicts_are_alike_or_not_finite_count_for_nothing():
    values = torch.tensor([
        [[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [2.0, 2.0, 2.0 + 1e-7]],
        [[-500.0, -500.0, -500.0], [1.0, -math.inf, 0.0], [0.0, 0.0, 0.0]],
    ])  # fmt: skip
    sums, counts = group_deviations(values)
    torch.testing.assert_close(sums, torch.tensor([math.sqrt(2.0), 0.0]))
    assert counts.tolist() == [1.0, 0.0]


def test_a_term_by_the_rule_varies_twice_as_much_as_the_likelihood_in_the_groups_it_tells_apart():
    likelihood = torch.tensor([[0.0, 4.0], [0.0, 8.0], [0.0, 6.0], [1.0, 7.0]])  # deviations 2, 4, 3, 3
    scores = {0.0: 0.0, 4.0: 0.0, 8.0: 0.0, 6.0: 1.0, 1.0: 0.0, 7.0: 0.0}  # one group of four differs, by 1/2
    terms = Verdicts({"v": lambda truth, decoded: [scores[value] for value in decoded[:, 0].tolist()]})
    weight = terms(likelihood, likelihood.reshape(4, 2, 1), torch.zeros(4, 1)).weights
    torch.testing.assert_close(weight, torch.tensor([2.0 * 3.0 / 0.5]))
    flat = terms(torch.zeros(4, 2), torch.zeros(4, 2, 1), torch.zeros(4, 1)).weights  # a batch that says nothing
    torch.testing.assert_close(flat, weight)


def test_running_weights_remember_about_a_hundred_batches():
    terms = Verdicts({"v": lambda truth, decoded: decoded[:, 0]})
    first = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    for scale in (1.0, 3.0):  # both groups differ twice: deviations 1 and 3 of the verdict, 1 of the likelihood
        weights = terms(first, (scale * first).reshape(4, 1), torch.zeros(2, 1)).weights
    torch.testing.assert_close(weights, torch.tensor([2.0 * 1.99 / (0.99 * 1.0 + 3.0)]))
    terms.eval()(first, (100.0 * first).reshape(4, 1), torch.zeros(2, 1))
    torch.testing.assert_close(terms.weights(), weights)


def test_what_is_remembered_decays_by_the_groups_that_come_in_its_place():
    terms = Verdicts({"v": lambda truth, decoded: decoded[:, 0]})
    likelihood = torch.tensor([[0.0, 2.0], [0.0, 2.0]])  # deviations of 1
    terms(likelihood, torch.tensor([0.0, 2.0, 0.0, 2.0])[:, None], torch.zeros(2, 1))
    weights = terms(likelihood, torch.tensor([0.0, 6.0, 5.0, 5.0])[:, None], torch.zeros(2, 1)).weights
    kept = 2 * 0.99**0.5  # groups of the first batch, now that one of two came anew
    torch.testing.assert_close(weights, torch.tensor([2.0 * (kept + 1) / (kept * 1.0 + 3.0)]))


@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_a_verdict_in_another_unit_gives_the_same_reward(factor):
    codes, log_prob = drawn()

    def rewards(scale: float) -> Tensor:
        terms = Verdicts({"near": lambda truth, decoded: scale * nearness(truth, decoded)})
        scorer = Scorer(Table(), UniformCodes(2, 3), DATA, torch.tensor(0.1), verdicts=terms)
        return scorer(codes, log_prob)

    torch.testing.assert_close(rewards(factor), rewards(1.0), rtol=1e-4, atol=1e-4)


def test_minus_infinity_is_a_verdict_also_before_a_weight_is_known():
    forbidden = Verdicts({"v": lambda truth, decoded: np.where(decoded[:, 0] > 0.5, -math.inf, 1.0)})
    likelihood = torch.tensor([[1.0, 2.0, 4.0]])
    terms = forbidden(likelihood, torch.tensor([[[0.0], [0.0], [1.0]]]), torch.zeros(1, 1))
    reward = encoding_reward(likelihood, None, torch.zeros(1, 3), 0.0, terms)
    assert reward.tolist() == [[1.0, 2.0, -math.inf]]


def test_weight_zero_is_no_term():
    terms = verdicts(near=0.0, parity=1.0)
    assert terms.learned == ["parity"]
    assert terms(torch.zeros(3, 2), torch.zeros(3, 2, 2), DATA, LABELS).scores.shape == (1, 3, 2)
    assert set(terms.scores(DATA, DATA, LABELS)) == {"near", "parity"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda truth, decoded: decoded, "must give one number for each of 6 data"),
        (lambda truth, decoded: np.full(6, np.nan), "gave NaN or"),
        (lambda truth, decoded: np.full(6, np.inf), "gave NaN or"),
        (lambda truth, decoded: {}["x"], "verdict 'v' failed: KeyError"),
        (parity, "compares with labels"),
    ],
)
def test_a_verdict_that_fails_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        Verdicts({"v": given})(torch.zeros(3, 2), torch.zeros(6, 2), DATA)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (({},), "no"),
        (({"a/b": nearness},), "under a name of letters"),
        (({"a": 3},), "must be a function"),
        (({"a": nearness}, {"b": 1.0}), "weights must be of the verdicts given"),
        (({"a": nearness}, {"a": -1.0}), "turn the verdict's sign round"),
        (({"a": misspelt},), "truth of verdict 'a' must be 'data' or 'labels', got 'label'"),
    ],
)
def test_terms_that_make_no_sense(arguments, said):
    with pytest.raises(ValueError, match=said):
        Verdicts(*arguments)


def test_the_rule_needs_groups():
    with pytest.raises(ValueError, match="each datum has one code"):
        Verdicts({"near": nearness})(torch.zeros(3, 1), DATA, DATA)
    assert Verdicts({"near": nearness}, {"near": 1.0})(torch.zeros(3, 1), DATA, DATA).weights.tolist() == [1.0]


def test_a_weight_that_is_kept_as_it_is_needs_no_groups():
    terms = Verdicts({"v": lambda truth, decoded: decoded[:, 0]})
    likelihood = torch.tensor([[0.0, 6.0]])
    terms(likelihood, torch.tensor([[0.0], [2.0]]), torch.zeros(1, 1))  # deviations of 3 and 1
    judged = terms.eval()(torch.tensor([[4.0]]), torch.tensor([[5.0]]), torch.zeros(1, 1))
    assert judged.weights.tolist() == [6.0]
    assert judged.scores.tolist() == [[[5.0]]]


def test_labels_come_to_where_the_decoded_data_are():
    """No other device is needed: a tensor on "meta" has a place and no values."""
    places = []

    class OnDevice:
        truth, on_device = "labels", True

        def __call__(self, labels: Tensor, decoded: Tensor) -> Tensor:
            places.append((labels.device.type, decoded.device.type))
            return torch.zeros(len(labels))

    terms = Verdicts({"there": OnDevice()})
    terms._judge("there", torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta"), torch.tensor([0, 1]))
    assert places == [("meta", "meta")]


def test_environments_refuse_what_cannot_be_judged():
    with pytest.raises(ValueError, match="there is a reward_fn"):
        EncodingEnv(DATA, reward_fn=lambda x, z: z, num_tokens=2, vocab_size=3, batch_size=[2, 2], verdicts=verdicts())
    with pytest.raises(ValueError, match="pass labels="):
        EncodingEnv(DATA, Table(), batch_size=[2, 2], verdicts=verdicts())
    with pytest.raises(ValueError, match=r"labels must be integers \[3\]"):
        EncodingEnv(DATA, Table(), batch_size=[2, 2], labels=torch.zeros(2))


def test_edit_distance_is_levenshteins():
    def slow(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    random = torch.Generator().manual_seed(0)
    a, b = (torch.randint(3, (20, 5), generator=random) for _ in range(2))
    expected = torch.tensor([-slow(x, y) / 5 for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    torch.testing.assert_close(edit_distance(a, b.float()), expected)
    torch.testing.assert_close(edit_distance(a[..., None], b[..., None].float()), expected)  # as windows of text are


def test_symbols_are_decoded_to_the_most_probable():
    logits = torch.tensor([[0.0, 3.0, 2.0], [1.0, 0.0, 5.0]]).T  # [C, L]
    distribution = CategoricalLikelihood(3)(logits, 1)
    assert reconstruction(distribution).tolist() == [1, 2]
    bits = small_decoder(2, 3, (4,))(CODES)
    torch.testing.assert_close(reconstruction(bits), bits.mean)
    assert not reconstruction(bits).requires_grad


def test_ssim_is_one_for_the_same_picture_only():
    x = torch.rand(3, 1, 9, 9)
    same, other = SSIM()(x, x), SSIM()(x, 1.0 - x)
    torch.testing.assert_close(same, torch.ones(3))
    assert (other < 0.5).all()
    with pytest.raises(ValueError, match="needs pictures"):
        SSIM()(x.flatten(1), x.flatten(1))


def test_a_classifier_gives_the_probability_of_the_right_label_or_the_answer():
    from sklearn.naive_bayes import GaussianNB

    x = np.array([[0.0], [0.2], [1.0], [1.2]], np.float32)
    bayes = GaussianNB().fit(x, [3, 3, 7, 7])
    labels, decoded = torch.tensor([3, 7, 5, 9]), torch.tensor([0.6, 0.0, 0.0, 1.0])[:, None]
    expected = bayes.predict_proba(decoded.numpy())
    verdict = Classifier(bayes)(labels, decoded)
    np.testing.assert_allclose(verdict, [expected[0, 0], expected[1, 1], 0.0, 0.0], rtol=1e-6)
    assert verdict[0] == pytest.approx(0.5, abs=1e-3)
    right = Classifier(bayes, probability=False)(
        torch.tensor([3, 3, 7, 7]), torch.tensor([0.0, 1.1, 1.1, 0.1])[:, None]
    )
    assert right.tolist() == [1.0, 0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="must be fitted"):
        Classifier(GaussianNB())
    with pytest.raises(ValueError, match=r"labels that are whole numbers, got .*'seven'"):
        Classifier(GaussianNB().fit(x, ["three", "three", "seven", "three"]))


def test_a_decoder_that_has_diverged_is_not_judged():
    terms = Verdicts({"v": lambda truth, decoded: pytest.fail("asked")}, {"v": 1.0})
    judged = terms(torch.zeros(2, 2), torch.tensor([[[0.0]], [[math.nan]]]).expand(2, 2, 1), torch.zeros(2, 1))
    assert judged.scores.isnan().all()
    assert isinstance(judged, VerdictTerms)
    assert not terms.sums.any()
