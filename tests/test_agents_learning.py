"""What each agent learns, and its losses and gradients by hand.

Learning is held against problems whose optimum is known exactly, see problems.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from problems import bandit, dependent, encoding, factorized, learns, train
from torch import nn

from daps_rl.agents import A2C, DAPS, GRPO, PPO, RLOO, TPO, Agent, AgentLoss, Conditions, Reinforce, ReinforceNoCritic
from daps_rl.agents.policy_gradient import Critic, RewardScale
from daps_rl.functional import daps_loss, leave_one_out_advantage, standardized_reward, target_weights
from daps_rl.objectives import FixedTemperature
from daps_rl.policies import AutoregressivePolicy, Drawn, FactorizedPolicy

CLASSES = [DAPS, TPO, RLOO, GRPO, PPO, A2C, Reinforce, ReinforceNoCritic]


def make_policy() -> nn.Module:
    return encoding().policy()


def divergence(cls: type[Agent], *, steps: int = 250, lr: float = 2e-2, pay_kl: bool = True, **options) -> float:
    """KL(q ‖ q*) of the worst context of the encoding problem after training, in nats; 1.8 before."""
    problem = encoding()
    agent = cls(problem.policy(), **{"samples": 32, **options})
    train(agent, problem, steps, lr, pay_kl=pay_kl)
    return problem.divergence(agent.policy)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "problem",
    [factorized, encoding, *(pytest.param(problem, marks=pytest.mark.slow) for problem in (bandit, dependent))],
)
def test_every_agent_comes_to_the_optimum(problem, cls):
    """Measured: 0.97 (RLOO on the encoding problem) to 1.00."""
    assert learns(cls, problem()) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("gumbel", 0.8), ("gr-mck", 0.8), ("reinmax", 0.85)])
def test_relaxations_come_near_it_with_a_bias(name, least):
    """Measured: 0.86, 0.88 and 0.92."""
    assert learns(name, encoding()) > least


def test_an_agent_of_ones_own_learns_and_one_that_does_nothing_does_not():
    class Own(Agent):
        def losses(self, observation, score, beta):
            codes, log_prob = self.draw(observation)
            advantage = leave_one_out_advantage(score(codes, log_prob.detach()))
            yield AgentLoss(-(advantage * log_prob).mean(), codes, {})

    class Idle(Own):
        def losses(self, observation, score, beta):
            for out in super().losses(observation, score, beta):
                yield out._replace(loss=0.0 * out.loss)

    assert learns(Own, bandit()) > 0.95
    assert learns(Idle, bandit(), steps=3) < 0.2


def test_a_product_of_tokens_is_not_enough_where_they_depend_on_one_another():
    """The best product has 0.84 of the way, by mean field from many starts; measured: 1.00 and 0.79."""
    problem = dependent()
    assert learns(DAPS, problem) > 0.95
    assert learns(DAPS, problem, policy=problem.policy(FactorizedPolicy)) < 0.86


def test_a_random_and_an_ablated_agent_learn_nothing():
    assert learns(DAPS, factorized(), trust_region=FixedTemperature(1e9), centered=False) < 0.25
    assert learns(DAPS, factorized(), steps=1) < 0.25


@pytest.mark.parametrize("cls", [DAPS, TPO, RLOO])
def test_learning_from_some_of_the_codes_comes_to_it_too(cls):
    """Measured: 0.11 nats for TPO, where codes at random are 1.8 away."""
    assert divergence(cls, policy_samples=8) < 0.15


@pytest.mark.parametrize("cls", [DAPS, TPO])
def test_several_steps_a_batch_come_to_it_in_fewer_batches(cls):
    """Measured, after 60 batches: 0.46 (DAPS) and 0.44 nats (TPO) with one step each, 0.07 and 0.14 with three."""
    assert divergence(cls, steps=60, epochs=3) < 0.5 * divergence(cls, steps=60)


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_every_agent_comes_close_to_it_with_more_steps(cls):
    """Measured: 0.0002 (PPO) to 0.012 (TPO) nats."""
    assert divergence(cls, steps=500, lr=1e-2, samples=64) < 0.02


@pytest.mark.parametrize("cls", [RLOO, PPO])
def test_without_the_kl_in_the_reward_an_agent_goes_elsewhere(cls):
    assert divergence(cls, pay_kl=False) > 0.5


def test_pooling_leaves_the_effective_sample_size_as_it_is():
    """Where it makes a group's weights nothing, too."""
    reward = torch.tensor([[0.0, 0.0, 0.1, 0.0], [9.0, 0.0, 1.0, 0.0], [-torch.inf] * 4])

    def ess(pooling):
        agent = DAPS(make_policy(), samples=4, pooling=pooling, trust_region="fixed")
        (only,) = agent.losses(torch.rand(3, 5), lambda codes, log_prob: reward, torch.tensor(0.01))
        assert only.loss.isfinite()
        return only.metrics["ESS"]

    torch.testing.assert_close(ess(4.0), ess(0.0))
    terms = daps_loss(torch.zeros(3, 4), reward, temperature=0.01, centered=True, pooling=4.0)
    torch.testing.assert_close(terms.effective_sample_size, torch.tensor([1.0, 1.0, 4.0]), atol=1e-3, rtol=0)


def test_pooling_tells_a_group_that_is_all_wrong_from_one_that_is_all_right():
    """Contexts of their own logits; the first one's codes are paid nothing, the second one's 1."""
    x = torch.eye(2)

    def change(pooling):
        policy = FactorizedPolicy((2,), 1, 8, embed_dim=8, num_heads=2)
        agent = DAPS(policy, samples=4, pooling=pooling, trust_region="fixed")
        torch.manual_seed(0)
        (only,) = agent.losses(x, lambda codes, log_prob: torch.tensor([[0.0], [1.0]]).expand(2, 4), torch.tensor(0.5))
        log_prob = policy(x).log_prob(only.codes.transpose(0, 1)).mean(0)  # of what was drawn, by context
        grads = torch.autograd.grad(only.loss, list(policy.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, grad in zip(policy.parameters(), grads, strict=True):
                if grad is not None:
                    parameter.sub_(1e-2 * grad)
        return policy(x).log_prob(only.codes.transpose(0, 1)).mean(0) - log_prob

    assert change(0.0).abs().max() < 1e-6
    wrong, right = change(4.0)
    assert wrong < -1e-6
    assert right > 1e-6


@pytest.mark.parametrize("microbatch", [0, 2])
@pytest.mark.parametrize("centered", [True, False])
def test_later_steps_on_a_batch_keep_its_weights(centered, microbatch):
    """The loss of the second step, against the functions by hand on a policy that has moved since."""
    x, policy = torch.rand(4, 5), make_policy()
    agent = DAPS(policy, samples=4, epochs=2, centered=centered)
    agent.prepare(Conditions(microbatch=microbatch))
    losses = agent.losses(x, lambda codes, log_prob: codes.sum(-1).float(), torch.tensor(0.1))
    first = next(losses)
    drawn = policy(x).log_prob(first.codes.transpose(0, 1)).T.detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (second,) = losses
    assert (second.codes == first.codes).all()
    weights = target_weights(first.codes.sum(-1).float(), first.metrics["temperature"])
    log_prob = policy(x).log_prob(first.codes.transpose(0, 1)).T
    by_hand = -(weights * log_prob).sum(-1)
    if centered:
        by_hand = by_hand + (log_prob - drawn).expm1().mean(-1)
    torch.testing.assert_close(second.loss, by_hand.mean())
    grads = torch.autograd.grad(second.loss, list(policy.parameters()))
    others = torch.autograd.grad(by_hand.mean(), list(policy.parameters()))
    torch.testing.assert_close(grads, others, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("microbatch", [0, 3])
@pytest.mark.parametrize("cls", [DAPS, RLOO])
def test_the_gradient_of_some_codes_is_that_of_all_on_average(cls, microbatch, monkeypatch):
    """Over the uniforms that choose them; the codes are the same every time."""
    torch.manual_seed(0)
    policy = AutoregressivePolicy((6,), 2, 4, embed_dim=8, num_heads=2, num_patches=2).double()
    x, samples = torch.rand(4, 6, dtype=torch.float64), 5
    drawn = policy(x).sample((samples,))  # [K, B, T]
    reward = torch.randn(4, samples, dtype=torch.float64)
    kind = type(policy(x))
    start = iter(())

    def draw(self, sample_shape, generator=None):
        nonlocal start
        first = next(start, None)
        if first is None:
            start = iter(range(self.batch_shape[0], 4, self.batch_shape[0])) if self.batch_shape[0] < 4 else iter(())
            first = 0
        codes = drawn[:, first : first + self.batch_shape[0]]
        return Drawn(codes, self.log_prob(codes))

    monkeypatch.setattr(kind, "draw", draw)
    monkeypatch.setattr(kind, "sample", lambda self, shape, generator=None: self.draw(shape).codes)

    def gradient(policy_samples: int, uniform: float) -> torch.Tensor:
        agent = cls(policy, samples=samples, policy_samples=policy_samples)
        agent.prepare(Conditions(microbatch=microbatch))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
            (out,) = agent.losses(x, lambda codes, log_prob: reward, torch.tensor(0.1, dtype=torch.float64))
        policy.zero_grad()
        out.loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    points = 100
    mean = torch.stack([gradient(2, (i + 0.5) / points) for i in range(points)]).mean(0)
    whole = gradient(0, 0.5)
    assert (gradient(2, 0.5) - whole).norm() > 0.05 * whole.norm()
    assert (mean - whole).norm() < 0.02 * whole.norm()


@pytest.mark.parametrize("cls", [DAPS, TPO, RLOO])
@pytest.mark.parametrize("number", [-1, 9, 2.5])
def test_a_policy_is_scored_on_no_more_codes_than_there_are(cls, number):
    with pytest.raises(ValueError, match="policy_samples must be a whole number in 0 … K = 8"):
        cls(FactorizedPolicy((4,), 2, 3, embed_dim=8, num_heads=2), samples=8, policy_samples=number)


def test_ppo_takes_epochs_times_minibatches_steps_on_whole_groups():
    x = torch.rand(6, 5)
    agent = PPO(make_policy(), samples=4, epochs=3, minibatches=2)
    outs = list(agent.losses(x, lambda codes, log_prob: codes.sum(-1).float(), torch.tensor(0.0)))
    assert len(outs) == 6
    assert all(out.codes.shape == (6, 4, 2) for out in outs)
    assert outs[0].metrics["kl_approx"].abs() < 1e-5  # nothing has moved yet


def test_the_first_policy_gradient_of_grpo_is_the_standardised_one():
    """On-policy the clipped loss has the gradient of −mean(A · log q), computed here by hand."""
    x = torch.rand(3, 5)
    policy = make_policy()
    agent = GRPO(policy, samples=4, epochs=1)
    torch.manual_seed(3)
    (out,) = agent.losses(x, lambda codes, log_prob: codes.sum(-1).float(), torch.tensor(0.0))
    grads = torch.autograd.grad(out.loss, list(policy.parameters()))
    reward = out.codes.sum(-1).float()
    advantage = (reward - reward.mean(1, keepdim=True)) / reward.std(1, keepdim=True).clamp_min(1e-4)
    log_prob = policy(x).log_prob(out.codes.transpose(0, 1)).T
    expected = torch.autograd.grad(-(advantage * log_prob).mean(), list(policy.parameters()))
    for gradient, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_agents_loss_reaches_its_own_parameters_and_all_of_them(cls):
    policy = AutoregressivePolicy((5,), 2, 6, embed_dim=8, num_heads=2, num_patches=5)
    agent = cls(policy, samples=4)
    decoder = nn.Linear(2, 1)

    def score(codes, log_prob):
        assert not log_prob.requires_grad
        return decoder(codes.float()).squeeze(-1).detach()

    for out in agent.losses(torch.rand(3, 5), score, torch.tensor(0.1)):
        out.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in policy.parameters())
    assert all(parameter.grad is not None for parameter in agent.trained())
    assert decoder.weight.grad is None


def test_advantages_against_hand_numbers():
    reward = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out_advantage(reward), expected)
    scaled = standardized_reward(reward)
    torch.testing.assert_close(scaled[0], (reward[0] - 3.0) / math.sqrt(7.0))
    assert torch.equal(scaled[1], torch.zeros(3, dtype=torch.float64))
    for function in (leave_one_out_advantage, standardized_reward):
        with pytest.raises(ValueError, match="two codes"):
            function(reward[:, :1])


def test_the_reward_scale_follows_the_reward_and_ignores_what_is_not_finite():
    scale = RewardScale(decay=0.9)
    reward = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    first = scale(reward)
    assert first.mean().abs() < 1e-6
    assert first.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    before = scale.moments.clone()
    scale(torch.tensor([[1.0, -math.inf]]))
    assert torch.equal(scale.moments, before)


def test_the_critic_values_a_context_once_for_all_its_codes():
    from tensordict import TensorDict

    critic = Critic((2, 3), hidden=4)
    x = torch.rand(5, 2, 3)
    out = critic(TensorDict({"observation": x[:, None].expand(5, 4, 2, 3)}, batch_size=[5, 4]))
    assert out["state_value"].shape == (5, 4, 1)
    torch.testing.assert_close(out["state_value"][:, 2], critic.layers(x))
