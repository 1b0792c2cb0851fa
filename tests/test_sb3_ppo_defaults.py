"""What makes AutoregressivePolicy learn at PPO's defaults: how it reads a vector, begins, and steps."""

import pytest
import torch
from sb3_envs import GroupBandit
from stable_baselines3.common.utils import update_learning_rate
from test_sb3_policies import SMALL, N, make, observations

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy
from daps_rl.agents.sb3.observations import VectorEncoder


def test_a_vector_is_read_whole_as_a_vector_of_unit_scale_for_each_token():
    read = VectorEncoder(8, num_tokens=3, embed_dim=16)(observations())
    assert read.shape == (N, 3, 16)
    torch.testing.assert_close(read.mean(-1), torch.zeros(N, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(read.var(-1, correction=0), torch.ones(N, 3), rtol=0, atol=1e-2)


def test_what_is_learned_of_a_vector_hardly_touches_another():
    """The cosine of the gradients of one logit at two observations. Measured: 0.15, and 0.87 with patches."""
    obs = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def cosine(policy):
        logits = policy.get_distribution(obs).distribution.token_logits(torch.zeros(8, 3).long())
        parameters = [p for p in policy.network.parameters() if p.requires_grad]
        rows = [torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in logits[:, 1, 0]]
        flat = torch.stack([torch.cat([g.flatten() for g in row if g is not None]) for row in rows])
        cosines = torch.nn.functional.cosine_similarity(flat[:, None], flat, dim=-1)
        return cosines[~torch.eye(8, dtype=torch.bool)].mean()

    assert cosine(make()) < 0.3
    assert cosine(make(num_patches=3)) > 0.7


def test_the_actor_takes_half_of_the_step_and_begins_uniform():
    """The first step of Adamax is the learning rate, whatever the gradient; SB3 sets the rate of all groups alike."""
    policy = make()
    assert policy.get_distribution(observations()).distribution.token_logits(torch.zeros(N, 3).long()).std() < 0.02
    update_learning_rate(policy.optimizer, 1e-3)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    values, log_prob, _ = policy.evaluate_actions(observations(), torch.zeros(N, 3))
    ((values + log_prob[:, None]).sum() * 1e6).backward()
    policy.optimizer.step()
    for name in ("network.transformer.head.bias", "value_net.bias"):
        step = (dict(policy.named_parameters())[name] - before[name]).abs()
        torch.testing.assert_close(step, torch.full_like(step, 5e-4 if "head" in name else 1e-3))
    assert [group["lr"] for group in policy.optimizer.param_groups] == [1e-3, 1e-3]
    with_sgd = make(optimizer_class=torch.optim.SGD, actor_share=0.1)
    assert [group.get("share", 1.0) for group in with_sgd.optimizer.param_groups] == [1.0, 0.1]


@pytest.mark.parametrize(("options", "steps"), [({}, 0.5), ({"optimizer_class": torch.optim.Adam}, 8.1)])
def test_a_rare_gradient_moves_no_weight_further_than_the_rate(options, steps):
    """One gradient of 1 among many of ±1e-4; with Adam √(1 − 0.999³⁰⁰) · 0.1 / √0.001 / (1 − 0.9) ≈ 16 half steps."""
    policy = make(**options)
    bias = policy.network.transformer.head.bias
    small = torch.randint(2, (400, len(bias)), generator=torch.Generator().manual_seed(0)) * 2e-4 - 1e-4
    for step, gradient in enumerate(small):
        if step == 300:
            before = bias.detach().clone()
        bias.grad = gradient if step != 300 else torch.ones_like(bias)
        policy.optimizer.step()
    moved = (bias - before).abs() / 1e-3
    torch.testing.assert_close(moved, torch.full_like(moved, steps), rtol=0.05, atol=0.0)


def test_daps_takes_whole_steps_of_adam_where_nothing_else_is_asked_for():
    def optimizer(**kwargs):
        kwargs |= SMALL
        model = DAPS(AutoregressivePolicy, GroupBandit(), policy_kwargs=kwargs, device="cpu")
        assert model.policy_kwargs == kwargs
        return model.policy.optimizer

    assert type(optimizer()) is torch.optim.Adam
    assert [group.get("share", 1.0) for group in optimizer().param_groups] == [1.0, 1.0]
    assert type(optimizer(optimizer_class=torch.optim.SGD)) is torch.optim.SGD
