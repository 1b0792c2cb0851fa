"""daps_rl.objectives among TorchRL's own parts: its actors, copies and checkpoints, DecoderLoss, GroupActor."""

import copy
import pickle

import pytest
import scipy.stats
import torch
from batches import F64, B, D, K, T, V, make_batch, make_policy
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    set_composite_lp_aggregate,
)
from torch import nn
from torch.distributions import Categorical
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor

from daps_rl.decoders import MLPDecoder
from daps_rl.functional import daps_loss, keep_samples, solve_temperature, target_weights, weighted_likelihood_loss
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy, EndToken
from daps_rl.priors import IndependentPrior

# An ordinary TorchRL actor, an ordinary MDP


def ordinary_actor(one_hot):
    torch.manual_seed(0)
    net = TensorDictModule(MLP(D, V, num_cells=[8]).double(), in_keys=["observation"], out_keys=["logits"])
    distribution = OneHotCategorical if one_hot else torch.distributions.Categorical
    return ProbabilisticActor(net, in_keys=["logits"], distribution_class=distribution, return_log_prob=True)


def ordinary_batch(actor):
    torch.manual_seed(1)
    batch = TensorDict({"observation": torch.randn(B, K, D, dtype=F64)}, batch_size=[B, K])
    with torch.no_grad():
        actor(batch)
    return batch.set(("next", "reward"), torch.randn(B, K, 1, dtype=F64))


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_torchrl_s_own_actors_work(functional, one_hot):
    actor = ordinary_actor(one_hot)
    batch = ordinary_batch(actor)
    out = DAPSLoss(actor, ess_fraction=0.5, functional=functional)(batch)
    reward = batch["next", "reward"][..., 0]
    logits = actor.get_dist(batch.select("observation")).logits
    index = batch["action"].argmax(-1) if one_hot else batch["action"]
    log_probs = torch.log_softmax(logits, -1).gather(-1, index[..., None])[..., 0]
    expected = daps_loss(log_probs, reward, temperature=solve_temperature(reward, 0.5)).loss.mean()
    torch.testing.assert_close(out["loss_actor"], expected)
    assert out["kl_approx"].abs() < 1e-9
    out["loss_actor"].backward()
    assert all(p.grad.any() for p in actor.parameters())


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.arm, self.leg = nn.Linear(D, 3), nn.Linear(D, 2)

    def forward(self, x):
        return self.arm(x), self.leg(x)


@pytest.mark.parametrize("options", [{}, {"policy_samples": 2}, {"functional": False, "centered": False}])
@pytest.mark.parametrize("aggregate", [True, False])
def test_composite_actions_have_the_loss_of_their_joint_distribution(aggregate, options):
    """Of two tokens of 3 and 2 values, by the same numbers as one action of 6 values."""
    torch.manual_seed(0)
    net = TensorDictModule(TwoParts(), ["observation"], [("params", "arm", "logits"), ("params", "leg", "logits")])
    kind = {"arm": Categorical, "leg": Categorical}
    kwargs = {"distribution_map": kind, "name_map": {"arm": ("action", "arm"), "leg": ("action", "leg")}}
    with set_composite_lp_aggregate(aggregate):
        head = ProbabilisticTensorDictModule(
            ["params"], distribution_class=CompositeDistribution, distribution_kwargs=kwargs, return_log_prob=True
        )
        actor = ProbabilisticTensorDictSequential(net, head)
        batch = TensorDict({"observation": torch.randn(B, 1, D).expand(B, K, D)}, [B, K])
        with set_exploration_type(ExplorationType.RANDOM):
            batch = actor(batch).exclude("params")
        batch["next", "reward"] = torch.randn(B, K, 1)
        loss = DAPSLoss(actor, ess_fraction=0.5, **options)
        torch.manual_seed(1)
        out = loss(batch)
    arm, leg = net.module(batch["observation"])
    joint = Categorical(logits=(arm.log_softmax(-1).unsqueeze(-1) + leg.log_softmax(-1).unsqueeze(-2)).flatten(-2))
    log_prob = joint.log_prob(2 * batch["action", "arm"] + batch["action", "leg"])
    weights = target_weights(batch["next", "reward"][..., 0], out["temperature"])
    centered = options.get("centered", True)
    torch.manual_seed(1)
    kept = keep_samples(weights, options.get("policy_samples", 0), centered=centered)
    scored = log_prob if kept is None else log_prob.gather(1, kept.indices)
    expected = weighted_likelihood_loss(scored, weights, log_prob.detach(), kept, centered=centered).mean()
    torch.testing.assert_close(out["loss_actor"], expected)
    parameters = list(net.module.parameters())
    own = torch.autograd.grad(out["loss_actor"], list(loss.parameters()))
    torch.testing.assert_close(own, torch.autograd.grad(expected, parameters))


def test_without_a_sample_dimension_the_batch_is_one_group_scored_by_its_advantage():
    actor = ordinary_actor(one_hot=False)
    batch = ordinary_batch(actor)
    loss = DAPSLoss(actor, ess_fraction=0.3, sample_dim=None)
    one_group = DAPSLoss(actor, ess_fraction=0.3)
    torch.testing.assert_close(loss(batch), one_group(batch.reshape(1, B * K)))
    batch["advantage"] = torch.randn(B, K, 1, dtype=F64)
    by_reward = loss(batch.exclude("advantage"))["loss_actor"]
    swapped = batch.clone().exclude("advantage").set(("next", "reward"), batch["advantage"])
    torch.testing.assert_close(loss(batch), loss(swapped))
    assert not torch.isclose(loss(batch)["loss_actor"], by_reward)
    torch.testing.assert_close(one_group(batch), one_group(batch.exclude("advantage")))  # groups look at the reward
    torch.testing.assert_close(loss(batch.reshape(-1)), loss(batch))


def test_a_batch_without_its_sample_dimension_is_refused():
    actor = ordinary_actor(one_hot=False)
    with pytest.raises(ValueError, match=r"samples of a context along dimension 1, got a batch of shape \(15,\)"):
        DAPSLoss(actor)(ordinary_batch(actor).reshape(-1))


# Copies


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_a_copy_is_the_same_loss_with_parameters_of_its_own(functional, copier):
    policy = make_policy()
    options = {"functional": functional, "trust_region": "adaptive", "temperature_floor": 0.5}
    loss, batch = DAPSLoss(GroupActor(policy), **options), make_batch(policy)
    clone = copier(loss)
    torch.testing.assert_close(clone(batch), loss(batch))
    assert {id(p) for p in clone.parameters()}.isdisjoint(id(p) for p in policy.parameters())
    clone(batch)["loss_actor"].backward()
    assert all(p.grad is None for p in policy.parameters())
    assert all(p.grad is not None for p in clone.parameters())


@pytest.mark.parametrize("functional", [True, False])
def test_state_dict_round_trip(functional):
    policy, options = make_policy(), {"functional": functional, "trust_region": "adaptive"}
    loss, batch = DAPSLoss(GroupActor(policy), **options), make_batch(policy)
    for _ in range(5):
        loss(batch)
    other = DAPSLoss(GroupActor(make_policy(seed=9)), **options)
    assert not torch.isclose(other(batch)["loss_actor"], loss(batch)["loss_actor"])
    other.load_state_dict(loss.state_dict())
    for _ in range(3):  # the adaptation goes on in step
        torch.testing.assert_close(other(batch), loss(batch))


# DecoderLoss


@pytest.mark.parametrize("time", [False, True])
def test_decoder_loss_is_the_mean_negative_log_likelihood(time):
    torch.manual_seed(0)
    policy, decoder = make_policy(), MLPDecoder(T, V, (D,)).double()
    batch = make_batch(policy)
    batch = batch.unsqueeze(-1) if time else batch
    loss = DecoderLoss(decoder)
    out = loss(batch)
    codes, x = batch["action"].reshape(-1, T), batch["observation"].reshape(-1, D)
    rows = [-decoder(code).log_prob(datum) for code, datum in zip(codes, x, strict=True)]
    torch.testing.assert_close(out["loss_decoder"], torch.stack(rows).mean())
    out["loss_decoder"].backward()
    assert all(p.grad.any() for p in decoder.parameters() if p.ndim > 1)
    assert all(p.grad is None for p in policy.parameters())
    assert {id(p) for p in loss.parameters()} == {id(p) for p in decoder.parameters()}


def test_decoder_loss_of_some_of_the_codes():
    decoder, batch = MLPDecoder(T, V, (D,)).double(), make_batch(make_policy())
    two = DecoderLoss(decoder, decoder_samples=2)(batch)["loss_decoder"]
    log_likelihood = decoder(batch["action"]).log_prob(batch["observation"])  # [B, K]
    torch.testing.assert_close(two, -log_likelihood[:, :2].mean())
    with pytest.raises(ValueError, match="decoder_samples must be >= 0"):
        DecoderLoss(decoder, decoder_samples=-1)


def test_the_decoder_loss_reads_codes_up_to_their_first_end_whoever_wrote_them():
    """TorchRL's own random policy writes anything behind one."""
    ends, decoder = EndToken(V - 1), MLPDecoder(T, V, (D,))
    prior = IndependentPrior(T, V, mask=ends)
    batch = TensorDict({"observation": torch.randn(B, K, D), "action": torch.randint(V, (B, K, T))}, [B, K])
    batch["action"][..., 0] = 0
    closed = batch.clone().set("action", ends.close(batch["action"]))
    assert not torch.equal(closed["action"], batch["action"])
    found, expected = (DecoderLoss(decoder, prior=prior)(each) for each in (batch, closed))
    assert expected["loss_prior"].isfinite()
    torch.testing.assert_close(dict(found.items()), dict(expected.items()))
    alone = DecoderLoss(decoder, mask=ends)(batch)["loss_decoder"]
    torch.testing.assert_close(alone, expected["loss_decoder"])


def test_decoder_loss_keys_and_keyword_tensors():
    loss, batch = DecoderLoss(MLPDecoder(T, V, (D,)).double()), make_batch(make_policy())
    expected = loss(batch)["loss_decoder"]
    torch.testing.assert_close(loss(observation=batch["observation"], action=batch["action"]), expected)
    loss.set_keys(observation="x", action="z")
    assert loss.in_keys == ["x", "z"]
    renamed = TensorDict({"x": batch["observation"], "z": batch["action"]}, batch_size=[B, K])
    torch.testing.assert_close(loss(renamed)["loss_decoder"], expected)


# GroupActor


def test_group_actor_draws_k_codes_from_one_encoding():
    policy, calls = make_policy(AutoregressivePolicy), []
    policy.encoder.register_forward_hook(lambda module, args, out: calls.append(args[0].shape))
    batch = GroupActor(policy)(make_batch(policy).select("observation"))
    assert calls[1:] == [(B, D)]  # the first call made the batch
    assert batch["action"].shape == (B, K, T)
    assert batch["action_log_prob"].shape == (B, K)
    assert not batch["action_log_prob"].requires_grad
    for b in range(B):
        alone = policy(batch["observation"][b, :1]).log_prob(batch["action"][b][:, None])[:, 0]
        torch.testing.assert_close(batch["action_log_prob"][b], alone.detach())
    assert all(len(codes.unique(dim=0)) > 1 for codes in batch["action"])


def test_group_actor_frequencies_follow_the_policy():
    """Chi-square of 6 000 first tokens per context; with a fresh seed it would fail once in 3 000 runs."""
    policy = make_policy()
    x = torch.randn(B, 1, D, dtype=F64, generator=torch.Generator().manual_seed(0)).expand(B, 6_000, D)
    torch.manual_seed(3)
    first = GroupActor(policy)(TensorDict({"observation": x}, batch_size=[B, 6_000]))["action"][..., 0]
    probs = policy(x[:, 0]).log_probs[:, 0].exp().detach()
    for b in range(B):
        assert scipy.stats.chisquare(torch.bincount(first[b], minlength=V), 6_000 * probs[b]).pvalue > 1e-4


@pytest.mark.parametrize("mode", [ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN])
def test_group_actor_without_exploration_writes_the_mode(mode):
    policy = make_policy(AutoregressivePolicy)
    batch = make_batch(policy).select("observation")
    with set_exploration_type(mode):
        GroupActor(policy)(batch)
    greedy = policy(batch["observation"][:, 0]).mode
    assert torch.equal(batch["action"], greedy[:, None].expand(B, K, T))
    expected = policy(batch["observation"][:, 0]).log_prob(greedy)
    torch.testing.assert_close(batch["action_log_prob"], expected[:, None].expand(B, K).detach())


def test_group_actor_with_a_time_dimension():
    policy = make_policy()
    batch = torch.stack((make_batch(policy, seed=1), make_batch(policy, seed=2)), 2).select("observation")
    GroupActor(policy)(batch)
    assert batch["action"].shape == (B, K, 2, T)
    for t in range(2):
        codes = batch["action"][:, :, t]
        alone = policy(batch["observation"][:, 0, t]).log_prob(codes.transpose(0, 1)).T.detach()
        torch.testing.assert_close(batch["action_log_prob"][:, :, t], alone)


def test_group_distribution_is_a_distribution_of_the_batch_s_shape():
    policy = make_policy()
    batch = make_batch(policy)
    distribution = GroupActor(policy).get_dist(batch)
    assert (distribution.batch_shape, distribution.event_shape) == ((B, K), (T,))
    base = policy(batch["observation"][:, 0])
    torch.testing.assert_close(distribution.entropy(), base.entropy()[:, None].expand(B, K))
    assert torch.equal(distribution.deterministic_sample, distribution.mode)
    with pytest.raises(ValueError, match="a group has K codes already"):
        distribution.sample((2,))


def test_group_actor_s_keys_and_what_it_refuses():
    policy = make_policy()
    actor = GroupActor(policy, in_key="x", action_key="z", log_prob_key=("nested", "log_q"))
    batch = actor(make_batch(policy).select("observation").rename_key_("observation", "x"))
    assert set(batch.keys(True, True)) == {"x", "z", ("nested", "log_q")}
    with pytest.raises(ValueError, match=r"needs a tensordict of batch size \[B, K, \.\.\.\], got \[15\]"):
        actor(batch.reshape(-1))
