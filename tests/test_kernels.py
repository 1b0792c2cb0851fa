"""Compiled kernels: the same codes, scores and gradients as PyTorch's, and no harm where they cannot be had."""

from __future__ import annotations

import copy
import itertools

import batches
import pytest
import torch
from kernel_policies import HEADS, B, D, K, T, V, gradients, make_policy, pair
from sb3_models import make_grouped, parameters
from torch import nn

from daps_rl.agents import Conditions, make_agent
from daps_rl.config import make_config
from daps_rl.kernels import CpuKernels, use_cpu_kernels
from daps_rl.objectives import DAPSLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy
from daps_rl.policies.lattice import LOG_PRECISIONS
from daps_rl.training import Trainer, load_data

pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("aligned", [True, False])
def test_scores_and_gradients_are_those_of_float64(head, aligned):
    exact, policy = pair(head, aligned_patches=aligned)
    x, codes, weights = torch.randn(B, 9), torch.randint(V, (K, B, T)), torch.randn(K, B)
    expected, found = exact(x.double()).log_prob(codes), policy(x).log_prob(codes)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    reference = gradients(exact, (weights.double() * expected).sum())
    own = gradients(policy, (weights * found).sum())
    assert own.keys() == reference.keys()
    assert len(own) > 50
    for name in own:
        torch.testing.assert_close(own[name], reference[name], atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 1, "embed_dim": 16},  # widths of a head that are compiled for
        {"num_heads": 2, "embed_dim": 64},
        {"num_heads": 1, "embed_dim": 64},
        {"num_heads": 3, "embed_dim": 15, "num_patches": 1, "num_layers": 1},
        {"num_heads": 3, "embed_dim": 51},  # products that end in parts of a vector
        {"mlp_ratio": 0.5},  # narrower than what is taken with attention
    ],
    ids=str,
)
def test_other_widths(options):
    exact, policy = pair(**options)
    x, codes = torch.randn(B, 9), torch.randint(V, (K, B, T))
    expected, found = exact(x.double()).log_prob(codes), policy(x).log_prob(codes)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    reference, own = gradients(exact, expected.sum()), gradients(policy, found.sum())
    for name in reference:
        torch.testing.assert_close(own[name], reference[name], atol=5e-4, rtol=1e-3)


def test_long_codes():
    """Whose attention is matrix products, and of which a thread takes one at a time or a few."""
    tokens = 150
    torch.manual_seed(0)
    policy = AutoregressivePolicy((40,), tokens, 7, embed_dim=24, num_heads=3, num_layers=2, num_patches=33)
    exact = copy.deepcopy(policy).double()
    use_cpu_kernels(policy)
    x, codes = torch.randn(2, 40), torch.randint(7, (3, 2, tokens))
    expected, found = exact(x.double()).log_prob(codes), policy(x).log_prob(codes)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-5)
    reference, own = gradients(exact, expected.mean()), gradients(policy, found.mean())
    for name in reference:
        torch.testing.assert_close(own[name], reference[name], atol=1e-4, rtol=1e-3)
    drawn, log_prob = policy(x).draw((40,))
    torch.testing.assert_close(log_prob.double(), exact(x.double()).log_prob(drawn).detach(), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_same_seed_draws_the_same_codes(head):
    policy = make_policy(head)
    twin = copy.deepcopy(policy)
    use_cpu_kernels(policy)
    x = torch.randn(40, 9)
    drawn = [model(x).draw((7,), torch.Generator().manual_seed(1)) for model in (policy, twin)]
    (codes, log_prob), (expected, expected_log_prob) = drawn
    same = (codes == expected).all(-1)
    assert same.float().mean() > 0.99  # a number may fall between two sums that round apart
    torch.testing.assert_close(log_prob[same], expected_log_prob[same], atol=1e-4, rtol=1e-5)
    assert len(codes.flatten(0, 1).unique(dim=0)) > 100
    torch.testing.assert_close(policy(x).mode, twin(x).mode)


def test_drawing_follows_the_probabilities():
    policy = AutoregressivePolicy((2,), 2, 3, embed_dim=8, num_heads=2)
    nn.init.normal_(policy.transformer.head.weight, std=2.0)
    use_cpu_kernels(policy)
    posterior = policy(torch.randn(1, 2))
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))[:, None]  # [9, 1, 2]
    probability = posterior.log_prob(every).exp().squeeze(1).detach()
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))
    n = 40_000
    codes, log_prob = posterior.draw((n,), torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, posterior.log_prob(codes).detach(), atol=1e-5, rtol=1e-5)
    counts = torch.bincount(codes[:, 0, 0] * 3 + codes[:, 0, 1], minlength=9)
    deviation = (counts - n * probability) / (n * probability * (1 - probability)).sqrt()
    assert deviation.abs().max() < 4.5  # false alarm: 1 in 16,000


def test_a_token_without_probability_is_never_drawn():
    policy = make_policy()
    with torch.no_grad():
        policy.transformer.head.bias[:] = torch.where(torch.arange(V) % 3 == 0, 0.0, -1e4)
    use_cpu_kernels(policy)
    x = torch.randn(1, 9)
    context = policy.transformer.prepare(policy.encoder(x))
    for number in (0.0, 1.0 - 2**-24, 0.5):
        codes, log_prob = CpuKernels().draw(policy.transformer, context, torch.full((1, 9, T), number))
        assert (codes % 3 == 0).all()
        assert log_prob.isfinite().all()


@pytest.mark.parametrize("contexts", [1, 37])
@pytest.mark.parametrize("samples", [1, 300])
def test_whatever_a_thread_takes_at_a_time(contexts, samples):
    exact, policy = pair()
    x, codes = torch.randn(contexts, 9), torch.randint(V, (samples, contexts, T))
    expected, found = exact(x.double()).log_prob(codes), policy(x).log_prob(codes)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    reference, own = (gradients(model, scores.mean()) for model, scores in ((exact, expected), (policy, found)))
    for name in reference:
        torch.testing.assert_close(own[name], reference[name], atol=1e-5, rtol=1e-3)
    drawn, log_prob = policy(x).draw((samples,))
    torch.testing.assert_close(log_prob.double(), exact(x.double()).log_prob(drawn).detach(), atol=1e-4, rtol=1e-5)


def test_what_was_drawn_is_not_scored_again():
    _, policy = pair()
    x = torch.randn(B, 9)
    codes, drawn = policy(x).draw((K,))
    weights = torch.randn(K, B)
    expected = gradients(policy, (weights * policy(x).log_prob(codes)).sum())
    scored = policy(x).score_drawn(codes, drawn + 1.0)
    assert torch.equal(scored, drawn + 1.0)  # as it was given
    found = gradients(policy, (weights * scored).sum())
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("agent", ["daps", "ppo", "grpo", "reinforce", "gumbel", "sb3:daps"])
def test_agents_train_as_they_do_without(agent):
    moved = []
    for kernels in (False, True):
        config = make_config(
            agent=agent, steps=4, samples=4, batch_size=16, num_tokens=3, vocab_size=8, embed_dim=16, num_layers=1,
            validate_every=0, device="cpu", score_precision="float32", cpu_kernels=kernels,
        )  # fmt: skip
        trainer = Trainer(config, load_data(config))
        policy = trainer.autoencoder.policy
        before = torch.cat([p.detach().flatten() for p in policy.parameters()])
        list(trainer.run())
        assert (policy.transformer.backend is not None) is kernels
        moved.append(torch.cat([p.detach().flatten() for p in policy.parameters()]) - before)
    assert torch.cosine_similarity(*moved, dim=0) > 0.95  # AdamW makes much of gradients that are next to nothing
    torch.testing.assert_close(moved[0].norm(), moved[1].norm(), rtol=0.05, atol=0.0)


@pytest.mark.parametrize("policy_samples", [0, 2])
@pytest.mark.parametrize("microbatch", [0, 2])
def test_a_group_s_loss_and_gradient(policy_samples, microbatch):
    policy = make_policy()
    twin = copy.deepcopy(policy)
    use_cpu_kernels(policy)
    x, weights = torch.randn(6, 9), torch.randn(6, 4)
    config = make_config(steps=1, samples=4, num_tokens=T, vocab_size=V)
    found = []
    for model in (twin, policy):
        agent = make_agent(config, model)
        agent.prepare(Conditions(microbatch=microbatch))
        torch.manual_seed(0)
        group = agent.draw_group(x, policy_samples)
        loss = group.loss(weights).sum()
        found.append((group.codes, group.log_prob, loss.detach(), gradients(model, loss)))
    (codes, log_prob, loss, expected), (own_codes, own_log_prob, own_loss, own) = found
    assert torch.equal(codes, own_codes)
    torch.testing.assert_close(log_prob, own_log_prob, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(loss, own_loss, atol=1e-3, rtol=1e-4)
    assert own.keys() == expected.keys()
    for name in own:
        torch.testing.assert_close(own[name], expected[name], atol=1e-3, rtol=1e-3)


def test_a_lattice_s_precision_is_clamped():
    exact, policy = pair("lattice")
    for net in (exact, policy):
        net.transformer.head.log_precision.bias.data += 5.0
    x, codes = torch.randn(B, 9), torch.randint(V, (K, B, T))
    expected, found = exact(x.double()).log_prob(codes), policy(x).log_prob(codes)
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-4)
    reference, own = gradients(exact, expected.sum()), gradients(policy, found.sum())
    for name in reference:
        assert (own[name] - reference[name]).norm() < 1e-3 * reference[name].norm() + 1e-3, name
    hidden = exact.transformer.norm(torch.randn(100, D, dtype=torch.float64))
    assert (exact.transformer.head.log_precision(hidden) > LOG_PRECISIONS[1]).any()


@pytest.mark.parametrize("wrong", [-1, V])
def test_a_token_outside_the_vocabulary_is_an_error(wrong):
    _, policy = pair()
    codes = torch.randint(V, (K, B, T))
    codes[1, 2, 3] = wrong
    posterior = policy(torch.randn(B, 9))
    with pytest.raises(IndexError, match=f"codes must lie in 0 … {V - 1}, got some from"):
        posterior.log_prob(codes)
    with pytest.raises(IndexError, match=f"codes must lie in 0 … {V - 1}, got some from"):
        posterior.score_drawn(codes, torch.zeros(K, B)).sum().backward()


def test_no_codes_at_all():
    _, policy = pair()
    posterior = policy(torch.randn(B, 9))
    assert posterior.sample((0,)).shape == (0, B, T)
    scores = posterior.log_prob(torch.empty(0, B, T, dtype=torch.int64))
    assert scores.shape == (0, B)
    assert all((gradient == 0).all() for gradient in gradients(policy, scores.sum()).values())


def test_the_beginning_of_codes():
    exact, policy = pair()
    x, codes = torch.randn(B, 9), torch.randint(V, (B, K, T - 2))
    found, expected = (
        net.transformer.log_prob(codes, net.transformer.prepare(net.encoder(data)))
        for net, data in ((policy, x), (exact, x.double()))
    )
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_what_is_added_may_be_too_long_or_for_all_data_alike():
    _, policy = pair()
    net = policy.transformer
    twin = copy.deepcopy(net)
    twin.backend = None
    context, codes = net.prepare(policy.encoder(torch.randn(B, 9))), torch.randint(V, (B, K, T))
    for aligned in (torch.randn(B, 1, T + 2, D), torch.randn(1, 1, T, D)):
        of_both = context._replace(aligned=aligned)
        torch.testing.assert_close(net.log_prob(codes, of_both), twin.log_prob(codes, of_both), atol=1e-4, rtol=1e-5)
    with pytest.raises(RuntimeError, match="expanded size"):
        net.log_prob(codes, context._replace(aligned=torch.randn(B, 1, T - 1, D)))


def test_a_head_of_another_size_is_an_error():
    policy = make_policy(head="without a bias")
    policy.transformer.head = nn.Linear(D, V + 9)
    use_cpu_kernels(policy)
    with pytest.raises(RuntimeError, match=f"the embedding has {V} tokens, the head {V + 9}"):
        policy(torch.randn(B, 9)).sample((K,))


def test_under_torch_func_they_are_not_used():
    _, policy = pair()
    x, codes = torch.randn(B, 9), torch.randint(V, (K, B, T))

    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = policy

        def forward(self):
            return self.policy(x).log_prob(codes).sum()

    model = Score()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    found = torch.func.grad(lambda parameters: torch.func.functional_call(model, parameters, ()))(parameters)
    expected = gradients(model, model())
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], atol=1e-3, rtol=1e-3)


def test_whatever_the_default_precision():
    _, policy = pair()
    x = torch.randn(B, 9)
    torch.set_default_dtype(torch.float64)
    try:
        codes, log_prob = policy(x).draw((K,))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(log_prob, policy(x).log_prob(codes).detach(), atol=1e-4, rtol=1e-5)


def test_torchrl_s_loss_is_the_same():
    policy = batches.make_policy(AutoregressivePolicy)
    batch = batches.make_batch(policy)
    exact = DAPSLoss(GroupActor(policy), ess_fraction=0.5)(batch)["loss_actor"]
    reference = gradients(policy, exact)
    twin = copy.deepcopy(policy).float()
    actor = GroupActor(twin)
    assert use_cpu_kernels(actor)
    single = batch.apply(lambda t: t.float() if t.is_floating_point() else t)
    found = DAPSLoss(actor, ess_fraction=0.5)(single)["loss_actor"]
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)
    own = gradients(twin, found)
    for name in reference:
        torch.testing.assert_close(own[name], reference[name], atol=1e-3, rtol=1e-3)


def test_stable_baselines3_trains_as_it_does_without():
    results = []
    for kernels in (False, True):
        model = make_grouped()
        if kernels:
            assert use_cpu_kernels(model.policy)
        model.learn(64, log_interval=1000)
        results.append(parameters(model))
    torch.testing.assert_close(*results, atol=2e-3, rtol=1e-2)
    assert not torch.equal(*results)  # they round apart, and so are not the same passes
