"""What DAPSLoss and DAPSWeights say of batches that nothing can be learned from, and that they do no harm with them."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import pytest
import torch
from batches import B, K, make_batch, make_policy
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import ClipPPOLoss, PPOLoss, ValueEstimators
from torchrl.objectives.value import GAE

from daps_rl.functional import checks
from daps_rl.functional.checks import read_flags
from daps_rl.objectives import DAPSLoss, DAPSWeights, GroupActor, daps
from daps_rl.objectives.daps import ELSEWHERE, LOOKS


def acted(policy, kind: ExplorationType):
    """A batch whose actions the actor gave under a type of exploration."""
    with set_exploration_type(kind):
        return GroupActor(policy)(make_batch(policy).exclude("action", "action_log_prob"))


def gradient_norm(loss: DAPSLoss, batch) -> float:
    loss.zero_grad()
    loss(batch)["loss_actor"].backward()
    return math.sqrt(sum(p.grad.square().sum().item() for p in loss.parameters()))


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("kind", [ExplorationType.DETERMINISTIC, ExplorationType.MODE])
def test_an_actor_that_gives_its_mode_is_named_once_and_learns_nothing(centered, kind):
    policy = make_policy()
    loss = DAPSLoss(GroupActor(policy), centered=centered, functional=False)
    batch = acted(policy, kind)
    with pytest.warns(UserWarning, match=r"K actions of each group are equal.*ExplorationType\.RANDOM"):
        assert gradient_norm(loss, batch) < 1e-12
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        assert max(gradient_norm(loss, batch) for _ in range(3)) < 1e-12
        assert gradient_norm(loss, acted(policy, ExplorationType.RANDOM)) > 1e-3
    assert len(shown) == 1


def test_uncentred_weights_do_not_lock_a_policy_into_its_mode():
    policy = make_policy()
    loss = DAPSLoss(GroupActor(policy), centered=False, functional=False)
    before = copy.deepcopy(policy.state_dict())
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)

    def update():
        loss(acted(policy, ExplorationType.MODE))["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(5):
        with pytest.warns(UserWarning, match="mode instead of drawing"):
            update()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_policy_that_is_certain_draws_equal_actions_and_learns_from_them():
    policy = make_policy()
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    loss = DAPSLoss(GroupActor(policy), centered=False, functional=False)
    batch = acted(policy, ExplorationType.RANDOM)
    assert (batch["action"] == 0).all()  # nearly certain, and seeded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradient_norm(loss, batch) > 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sample_dim", [1, None])
def test_rewards_that_are_no_numbers_are_an_error(bad, sample_dim):
    policy = make_policy()
    batch = make_batch(policy)
    batch["next", "reward"][0, :2] = bad
    message = rf"reward must be finite.*got 2 of {B * K} that are NaN or \+inf"
    with pytest.raises(ValueError, match=message):
        DAPSLoss(GroupActor(policy), sample_dim=sample_dim)(batch)
    with pytest.raises(ValueError, match=message):
        DAPSWeights(sample_dim=sample_dim)(batch)
    assert "weights" not in set(batch.keys())


@pytest.mark.parametrize("options", [{}, {"pooling": 2.0}, {"trust_region": "kl"}, {"trust_region": "adaptive"}])
def test_rewards_of_minus_infinity_weigh_nothing_and_a_batch_of_them_is_said_once(options):
    policy = make_policy()
    loss, batch = DAPSLoss(GroupActor(policy), functional=False, **options), make_batch(policy)
    batch["next", "reward"][0] = -math.inf
    batch["next", "reward"][1, 0] = -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights, temperature = loss.target.target(batch)
        assert weights[1, 0] == 0.0
        assert (weights[0] == (0.0 if "pooling" in options else 1.0 / K)).all()
        assert temperature.isfinite()
        assert math.isfinite(gradient_norm(loss, batch))
    batch["next", "reward"][:] = -math.inf
    with pytest.warns(UserWarning, match="all rewards of a batch are -inf"):
        weights, temperature = loss.target.target(batch)
    assert temperature.isfinite()
    with pytest.warns(UserWarning, match="all rewards of a batch are -inf"):
        assert math.isfinite(gradient_norm(loss, batch))
    torch.testing.assert_close(weights, torch.full_like(weights, 1.0 / K))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("critic_network", "no critic"),
        ("critic_coeff", "no critic"),
        ("gamma", "GAE write advantages"),
        ("entropy_bonus", "pass entropy_coeff="),
        ("clip_epsilon", "pass ess_fraction= or trust_region="),
        ("delay_actor", "no target networks"),
        ("normalize_advantage", "temperature follows"),
        ("kl_to_ref_coeff", "ReferenceReward"),
    ],
)
def test_what_users_of_torchrl_s_losses_look_for_is_answered_by_name(name, answer):
    actor = GroupActor(make_policy())
    with pytest.raises(TypeError, match=f"DAPSLoss takes no {name}: .*{answer}"):
        DAPSLoss(actor, **{name: 1.0})
    with pytest.raises(AttributeError, match=f"DAPSLoss has no {name}: .*{answer}"):
        getattr(DAPSLoss(actor), name)
    assert not hasattr(DAPSLoss(actor), name)


def test_a_critic_a_value_estimator_and_target_networks_are_answered_too():
    actor = GroupActor(make_policy())
    loss = DAPSLoss(actor)
    with pytest.raises(TypeError, match="DAPSLoss takes no critic_network"):
        DAPSLoss(actor, ClipPPOLoss)
    for value_type in (None, ValueEstimators.GAE, GAE(gamma=0.9, lmbda=0.9, value_network=None)):
        with pytest.raises(NotImplementedError, match="DAPSLoss makes no value estimator: there is no critic"):
            loss.make_value_estimator(value_type)
    with pytest.raises(AttributeError, match="no target_critic_network_params: there are no target networks"):
        _ = loss.target_critic_network_params
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loss.nothing
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        DAPSLoss(actor, nothing=1)
    assert copy.deepcopy(loss).out_keys == loss.out_keys


def test_options_of_ours_are_not_answered_away():
    ours = {*vars(DAPSLoss(GroupActor(make_policy())))}
    ours |= {name for cls in (DAPSLoss, DAPSWeights) for name in inspect.signature(cls.__init__).parameters}
    assert not ours & ELSEWHERE.keys()
    theirs = {*inspect.signature(ClipPPOLoss.__init__).parameters, *inspect.signature(PPOLoss.__init__).parameters}
    assert theirs - ours - ELSEWHERE.keys() <= {"kwargs", "device", "log_explained_variance"}


# Reads of the device, each of which waits for a GPU


class Reads(TorchDispatchMode):
    """Counts what PyTorch would fetch from a device, beside `read_flags`."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")
        self.count += function.overloadpacket.__name__ in names
        return function(*args, **(kwargs or {}))


@pytest.fixture
def flags_read(monkeypatch):
    """How many flags each call of `read_flags` read."""
    calls = []

    def counted(*flags):
        calls.append(len(flags))
        return read_flags(*flags)

    for module in (checks, daps):
        monkeypatch.setattr(module, "read_flags", counted)
    return calls


@pytest.mark.parametrize("options", [{}, {"centered": False}, {"policy_samples": 2}, {"sample_dim": None}])
def test_a_call_reads_the_device_once_and_with_weights_soon_no_more(options, flags_read):
    policy = make_policy()
    loss, batch = DAPSLoss(GroupActor(policy), **options), make_batch(policy)
    with Reads() as reads:
        loss(batch)
    assert reads.count == 0
    assert flags_read == [2 if "sample_dim" in options else 3]
    loss.target(batch)
    flags_read.clear()
    with Reads() as reads:
        for _ in range(LOOKS + 5):
            loss(batch)
    assert flags_read == ([] if "sample_dim" in options else [1] * LOOKS)
    assert reads.count == 0


def test_with_weights_a_mode_is_named_once_and_looked_for_no_more(flags_read):
    policy = make_policy()
    loss = DAPSLoss(GroupActor(policy))
    batch = loss.target(acted(policy, ExplorationType.MODE))
    flags_read.clear()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(3):
            loss(batch)
    assert ["K actions of each group are equal" in str(one.message) for one in shown] == [True]
    assert flags_read == [1]


def test_nothing_is_read_while_a_step_is_compiled(monkeypatch):
    """As in a CUDA graph. The weights of rewards that are no numbers are then NaN, which the loss shows."""
    policy = make_policy()
    loss, batch = DAPSLoss(GroupActor(policy)), make_batch(policy)
    weighed = loss.target(batch.clone())
    batch["next", "reward"][0, 0] = math.nan
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with Reads() as reads:
        losses = [loss(each)["loss_actor"] for each in (batch, weighed)]
    assert (reads.count, loss.looks) == (0, LOOKS)
    assert [value.isfinite().item() for value in losses] == [False, True]
