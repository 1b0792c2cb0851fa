"""What each agent learns, and its losses and gradients by hand.

Two oracles: an enumerated bandit whose optimum p(z)·exp(log p(x|z)/β)/Z is known exactly, and the identity bandit,
whose best reward is 1.
"""

from __future__ import annotations

import math

import pytest
import torch
from test_bandit_optimum import divergence, make_bandit, make_policy, optimum
from torch import nn

from daps_rl.agents import A2C, DAPS, GRPO, PPO, RLOO, TPO, Agent, Conditions, Reinforce, ReinforceNoCritic
from daps_rl.agents.critic import Critic, RewardScale
from daps_rl.functional import daps_loss, encoding_reward, leave_one_out_advantage, standardized_reward, target_weights
from daps_rl.objectives import FixedTemperature
from daps_rl.policies import AutoregressivePolicy, Drawn, FactorizedPolicy

CLASSES = [DAPS, TPO, RLOO, GRPO, PPO, A2C, Reinforce, ReinforceNoCritic]


def descend(agent: Agent, x: torch.Tensor, score, steps: int, lr: float, floor: torch.Tensor, beta=lambda share: None):
    """Trains with plain Adam and a cosine; β follows `beta(share of the run)`."""
    optimizer = torch.optim.Adam(agent.trained())
    for step in range(steps):
        beta(step / steps)
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        for out in agent.losses(x, score, floor):
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
    return out


def on_the_bandit(make, *, steps: int, lr: float, beta: float = 1.0, pay_kl: bool = True) -> tuple[float, float]:
    """KL(q ‖ q*) of the worst context before and after training, in nats."""
    x, decoder, prior = make_bandit()
    policy = make_policy()
    target = optimum(x, decoder, prior, beta)
    before = divergence(policy, x, target)
    current, zero = torch.tensor(0.0), torch.tensor(0.0)

    def score(codes, log_prob):
        log_likelihood = decoder(codes).log_prob(x[:, None])
        return encoding_reward(log_likelihood, log_prob, prior.log_prob(codes), current if pay_kl else zero)

    def schedule(share):
        current.fill_(8.0 * (beta / 8.0) ** min(1.0, 2.0 * share))

    descend(make(policy), x, score, steps, lr, current, schedule)
    return before, divergence(policy, x, target)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_agent_comes_to_the_same_optimum(cls):
    """Measured: 0.003 to 0.043 nats, from 1.8 of the untrained policy."""
    before, after = on_the_bandit(lambda policy: cls(policy, samples=32), steps=250, lr=2e-2)
    assert before > 1.5
    assert after < 0.1


@pytest.mark.parametrize("cls", [DAPS, TPO, RLOO])
def test_learning_from_some_of_the_codes_comes_to_it_too(cls):
    before, after = on_the_bandit(lambda policy: cls(policy, samples=32, policy_samples=8), steps=250, lr=2e-2)
    assert before > 1.5
    assert after < 0.1


@pytest.mark.parametrize("cls", [DAPS, TPO])
def test_several_steps_a_batch_come_to_it_in_fewer_batches(cls):
    """Measured, after 60 batches: 0.46 (DAPS) and 0.44 nats (TPO) with one step each, 0.07 and 0.14 with three."""
    (_, once), (_, thrice) = (
        on_the_bandit(lambda policy, epochs=epochs: cls(policy, samples=32, epochs=epochs), steps=60, lr=2e-2)
        for epochs in (1, 3)
    )
    assert thrice < 0.5 * once


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
        by_hand = by_hand + (log_prob - drawn).exp().mean(-1)
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
            patch.setattr(torch, "rand_like", lambda like: torch.full_like(like, uniform))
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


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_every_agent_comes_close_to_it_with_more_steps(cls):
    """Measured: 0.0002 (PPO) to 0.012 (TPO) nats."""
    assert on_the_bandit(lambda policy: cls(policy, samples=64), steps=500, lr=1e-2)[1] < 0.02


@pytest.mark.parametrize("cls", [RLOO, PPO])
def test_without_the_kl_in_the_reward_an_agent_goes_elsewhere(cls):
    assert on_the_bandit(lambda policy: cls(policy, samples=32), steps=250, lr=2e-2, pay_kl=False)[1] > 0.5


B, K, T, V = 4, 16, 3, 5


def identity(make, steps: int = 150) -> float:
    """Mean reward, of at most 1, when the code is to repeat the context: token t is x_t."""
    torch.manual_seed(0)
    target = torch.tensor([[0, 1, 2], [3, 4, 0], [1, 1, 1], [4, 2, 3]])
    x = torch.nn.functional.one_hot(target, V).float().flatten(1)  # [B, T·V]
    policy = FactorizedPolicy((T * V,), T, V, embed_dim=16, num_heads=2, num_layers=1)

    def score(codes, log_prob):
        return (codes == target[:, None]).float().mean(-1)

    descend(make(policy), x, score, steps, 1e-2, torch.tensor(0.0))
    return score(policy(x).sample((500,)).transpose(0, 1), None).mean().item()


@pytest.mark.parametrize("cls", CLASSES)
def test_every_agent_solves_the_identity_bandit(cls):
    assert identity(lambda policy: cls(policy, samples=K)) > 0.99


def test_a_random_and_an_ablated_agent_do_not():
    def uniform(policy):
        return DAPS(policy, samples=K, trust_region=FixedTemperature(1e9), centered=False)

    assert identity(uniform) < 0.4
    assert identity(lambda policy: DAPS(policy, samples=K), steps=1) < 0.4


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
