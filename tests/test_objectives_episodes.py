"""DAPSLoss and DAPSWeights on groups of whole episodes, beside SB3's DAPS and the enumeration of a small MDP."""

import pytest
import torch
from batches import F64, make_policy
from mazes import ACTIONS, HORIZON, STATES, Maze, actor, all_episodes, flat, make, of_model, played
from sb3_models import collected
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.modules import MLP, ProbabilisticActor

from daps_rl.objectives import DAPSLoss, DAPSWeights, FixedTemperature, GroupActor

TEMPERATURE = 0.5


def actor_of(network, key="logits"):
    module = TensorDictModule(network, ["observation"], [key])
    return ProbabilisticActor(module, in_keys=[key], distribution_class=Categorical, return_log_prob=True)


class Logits(nn.Module):
    """Those of an SB3 policy."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observation):
        logits = self.policy.get_distribution(observation.reshape(-1, STATES)).distribution.logits
        return logits.view(*observation.shape[:-1], ACTIONS)


def batch_of(model, padding=0.0):
    """The episodes of a rollout of SB3's as TorchRL holds them, [B, K, T, ...], padded behind their ends."""
    buffer, episodes, k = model.rollout_buffer, played(model), model.samples_per_context
    n = len(episodes)
    batch = {
        "observation": torch.full((n, HORIZON, STATES), padding),
        "action": torch.full((n, HORIZON), -1),
        "action_log_prob": torch.full((n, HORIZON), padding),
        "next": {
            "reward": torch.full((n, HORIZON, 1), padding),
            "done": torch.rand(n, HORIZON, 1) < 0.5,  # an environment that goes on ends again
        },
    }
    for i, steps in enumerate(episodes):
        for t, place in enumerate(steps):
            batch["observation"][i, t] = torch.as_tensor(buffer.observations[place])
            batch["action"][i, t] = int(buffer.actions[place][0])
            batch["action_log_prob"][i, t] = float(buffer.log_probs[place])
            batch["next"]["reward"][i, t] = float(buffer.rewards[place])
            batch["next"]["done"][i, t] = t == len(steps) - 1
    return TensorDict(batch, [n, HORIZON]).view(n // k, k, HORIZON)


def moved(model):
    """No longer the policy that drew the episodes."""
    with torch.no_grad():
        for parameter in actor(model):
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("padding", [0.0, float("nan")])
def test_loss_and_gradient_are_those_of_sb3(centered, padding):
    model = moved(collected(make(n_steps=2, centered=centered)))
    ours, gradient = of_model(model, model._form.batch(model), TEMPERATURE)
    options = {"centered": centered, "trust_region": FixedTemperature(TEMPERATURE), "functional": False}
    loss = DAPSLoss(actor_of(Logits(model.policy)), time_dim=2, **options)
    terms = loss(batch_of(model, padding))
    torch.testing.assert_close(terms["loss_actor"], ours)
    torch.testing.assert_close(flat(torch.autograd.grad(terms["loss_actor"], actor(model))), flat(gradient))
    assert 1.0 / 6.0 < terms["ESS"] < 1.0


def test_temperature_and_reduction_are_of_episodes():
    model = collected(make(n_steps=2))
    batch = batch_of(model, float("nan"))
    score = model._form.batch(model).score
    terms = DAPSLoss(actor_of(Logits(model.policy)), time_dim=2, functional=False, reduction="none")(batch)
    torch.testing.assert_close(terms["temperature"], model._trust_region(score, 0.0))
    assert terms["loss_actor"].shape == (4,)
    assert terms["ESS"] == pytest.approx(0.33, abs=1e-3)
    assert terms["kl_approx"] == pytest.approx(0.0, abs=1e-5)  # of the policy that drew them


def enumerated(network, state):
    """All 31 episodes from a state, as a group of one context, and their returns and log-probabilities."""
    log_policy = network(torch.eye(STATES, dtype=F64)).log_softmax(-1)
    returns, log_probs, actions = all_episodes(log_policy, state)
    n = len(returns)
    batch = {
        "observation": torch.full((1, n, HORIZON, STATES), torch.nan, dtype=F64),
        "action": torch.zeros(1, n, HORIZON, dtype=torch.int64),
        "action_log_prob": torch.full((1, n, HORIZON), torch.nan, dtype=F64),
        "next": {
            "reward": torch.full((1, n, HORIZON, 1), torch.nan, dtype=F64),
            "done": torch.zeros(1, n, HORIZON, 1, dtype=torch.bool),
        },
    }
    for i, episode in enumerate(actions):
        at = state
        for t, action in enumerate(episode):
            batch["observation"][0, i, t] = torch.eye(STATES)[at]
            batch["action"][0, i, t] = action
            batch["action_log_prob"][0, i, t] = log_policy[at, action].detach()
            batch["next"]["reward"][0, i, t] = Maze.REWARD[at, action]
            at = Maze.moved(at, action)
        batch["next"]["done"][0, i, len(episode) - 1] = True
    return TensorDict(batch, [1, n, HORIZON]), returns, log_probs


@pytest.mark.parametrize("centered", [True, False])
def test_some_of_the_episodes_stand_for_all_of_them(centered, monkeypatch):
    """The mean over all stratified choices is the loss of all; and only what was chosen is read."""
    model = moved(collected(make(n_steps=2, centered=centered)))
    batch, options = batch_of(model, float("nan")), {"centered": centered, "time_dim": 2, "functional": False}
    read = []
    player = actor_of(Logits(model.policy))
    player.module[0].module.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    whole = DAPSLoss(player, **options)(batch)
    assert read.pop() == DAPSWeights(time_dim=2).played(batch).sum()
    some_of = DAPSLoss(player, **options, policy_samples=2)
    losses, gradients = [], []
    for uniform in (torch.arange(200) + 0.5) / 200:
        monkeypatch.setattr(torch, "rand", lambda *shape, uniform=uniform, **_: torch.full(shape, uniform.item()))
        losses.append(some_of(batch)["loss_actor"])
        gradients.append(flat(torch.autograd.grad(losses[-1], actor(model), retain_graph=True)))
    with pytest.raises(ValueError, match=r"needs a batch size .* with time_dim \[B, K, T\], got \[4, 6\]"):
        some_of(batch.clone().auto_batch_size_(2))
    assert max(read) < DAPSWeights(time_dim=2).played(batch).sum()
    torch.testing.assert_close(torch.stack(losses).mean(), whole["loss_actor"], rtol=0.02, atol=0.0)
    expected = flat(torch.autograd.grad(whole["loss_actor"], actor(model)))
    assert (torch.stack(gradients).mean(0) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("functional", [True, False])
def test_loss_and_gradient_are_the_enumerated_ones(functional):
    """−E_q*[log q(episode)], q* = q·exp(R/τ)/Z: a score of R + τ·log q weighs every episode once by q*, exactly."""
    network = MLP(STATES, ACTIONS, num_cells=[8]).double()
    batch, returns, log_prob = enumerated(network, state=1)
    target = (log_prob.detach() + returns / TEMPERATURE).softmax(0)
    exact = -(target * log_prob).sum()
    options = {"centered": False, "trust_region": FixedTemperature(TEMPERATURE), "entropy_coeff": -TEMPERATURE}
    loss = DAPSLoss(actor_of(network), time_dim=2, functional=functional, **options)
    ours = loss(batch)["loss_actor"]
    torch.testing.assert_close(ours, exact)
    gradients = torch.autograd.grad(ours, list(loss.parameters()))
    expected = torch.autograd.grad(exact, list(network.parameters()))
    torch.testing.assert_close(flat(gradients), flat(expected))
    assert flat(expected).norm() > 0.1


def test_weights_of_the_whole_batch_are_used_on_every_part_of_it():
    model = moved(collected(make(n_steps=3)))
    batch, options = batch_of(model, float("nan")), {"time_dim": 2, "pooling": 2.0}
    loss = DAPSLoss(actor_of(Logits(model.policy)), functional=False, **options)
    whole = loss(batch)["loss_actor"]
    written = DAPSWeights(**options)(batch.clone())
    assert written["weights"].shape == (6, 6, HORIZON)
    assert torch.equal(written["weights"], written["weights"][..., :1].expand(6, 6, HORIZON))
    parts = [loss(part)["loss_actor"] for part in written.split(2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_episodes_of_one_step_are_single_actions():
    model = collected(make())
    batch = batch_of(model)[:, :, :1]
    batch["next", "done"][:] = True
    with_time, without = (
        DAPSLoss(actor_of(Logits(model.policy)), functional=False, time_dim=time_dim)(part)
        for time_dim, part in ((2, batch), (None, batch[:, :, 0]))
    )
    assert all(torch.equal(with_time[key], without[key]) for key in without.keys())  # noqa: SIM118 (a TensorDict)


def test_episodes_that_have_not_ended_are_refused():
    model = collected(make())
    batch = batch_of(model)
    batch["next", "done"][1, 2] = False
    with pytest.raises(ValueError, match=r"every episode must have ended, and one has not within 4 steps; roll out"):
        DAPSLoss(actor_of(Logits(model.policy)), functional=False, time_dim=2)(batch)
    del batch["next", "done"]
    with pytest.raises(KeyError, match=r"DAPS reads \('next', 'done'\)"):
        DAPSLoss(actor_of(Logits(model.policy)), functional=False, time_dim=2)(batch)


def test_options_that_make_no_sense():
    with pytest.raises(ValueError, match="time_dim must lie behind sample_dim, 1, got 1; 2 for episodes"):
        DAPSWeights(time_dim=1)
    with pytest.raises(ValueError, match="time_dim must lie behind sample_dim, None"):
        DAPSWeights(sample_dim=None, time_dim=2)
    with pytest.raises(ValueError, match="must read every step of all K episodes, and a GroupActor"):
        DAPSLoss(GroupActor(make_policy()), time_dim=2)


def test_ends_are_read_from_a_key_of_ones_own():
    model = collected(make())
    batch = batch_of(model, float("nan"))
    loss = DAPSLoss(actor_of(Logits(model.policy)), functional=False, time_dim=2)
    expected = loss(batch)["loss_actor"]
    batch["next", "over"] = batch["next"].pop("done")
    loss.set_keys(done="over")
    assert ("next", "over") in loss.in_keys
    assert torch.equal(loss(batch)["loss_actor"], expected)
