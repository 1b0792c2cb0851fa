"""EncodingEnv and DAPSLoss among TorchRL's collectors, replay buffers, transforms and worker processes."""

import signal
from functools import partial

import pytest
import torch
from conftest import small_decoder
from torch import nn
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import (
    Compose,
    EnvCreator,
    FlattenObservation,
    ObservationNorm,
    ParallelEnv,
    RewardScaling,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    VecNormV2,
    check_env_specs,
)
from torchrl.envs.utils import ExplorationType, set_exploration_type

from daps_rl.agents.trainer import DAPSTrainer
from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy, FactorizedPolicy
from daps_rl.priors import UniformCodes

N, B, K, T, V = 30, 6, 4, 2, 5
SHAPE = (1, 2, 3)


make_decoder = partial(small_decoder, T, V, SHAPE)


def make_env(decoder=None, beta=0.5, seed=0):
    data = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    return EncodingEnv(
        data, decoder or make_decoder(), num_tokens=T, vocab_size=V, batch_size=[B, K], beta=beta, seed=seed
    )


def make_actor(policy_class=FactorizedPolicy, **options):
    torch.manual_seed(1)
    return GroupActor(policy_class(SHAPE, T, V, embed_dim=8, num_heads=2, num_layers=1), **options)


def make_collector(env, actor, **options):
    frames = env.batch_size.numel()
    options = {"total_frames": -1, "auto_register_policy_transforms": False} | options
    return Collector(env, actor, frames_per_batch=frames, **options)


def disagreement(batch, decoder, actor, beta):
    """How far a batch is from what decoder, policy and β, as they are now, make of its codes."""
    with torch.no_grad():
        log_likelihood = decoder(batch["action"]).log_prob(batch["observation"])
        log_prob = actor.get_dist(batch).log_prob(batch["action"])
    kl = log_prob - UniformCodes(T, V).log_prob(batch["action"])
    return {
        "decoder": (batch["next", "log_likelihood"][..., 0] - log_likelihood).abs().max().item(),
        "policy": (batch["action_log_prob"] - log_prob).abs().max().item(),
        "reward": (batch["next", "reward"][..., 0] - (log_likelihood - beta * kl)).abs().max().item(),
    }


@torch.no_grad()
def move(*modules):
    for module in modules:
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


# Collector


def test_collector_counts_frames_and_keeps_groups():
    env = make_env()
    batches = list(make_collector(env, make_actor(), total_frames=3 * B * K))
    assert [tuple(batch.batch_size) for batch in batches] == [(B, K, 1)] * 3
    for batch in batches:
        assert (batch["observation"] == batch["observation"][:, :1]).all()
        assert batch["next", "done"].all()
        assert batch["action"].shape == (B, K, 1, T)
    assert not torch.equal(batches[0]["observation"], batches[1]["observation"])


def test_one_process_holds_no_copies():
    env, actor = make_env(), make_actor()
    batches = iter(make_collector(env, actor))
    for beta in (0.5, 0.1, 3.0):
        env.beta.fill_(beta)
        batch = next(batches)
        assert max(disagreement(batch, env.decoder, actor, beta).values()) < 1e-4
        move(env.decoder, actor)
        assert min(disagreement(batch, env.decoder, actor, beta).values()) > 1e-3


@pytest.mark.parametrize("options", [{}, {"compact_obs": True}, {"use_buffers": False}, {"return_same_td": True}])
def test_losses_take_the_collector_s_batches(options):
    env, actor = make_env(), make_actor()
    batch = next(iter(make_collector(env, actor, **options)))
    for loss in (DAPSLoss(actor, ess_fraction=0.5, temperature_floor=env.beta), DecoderLoss(env.decoder)):
        torch.testing.assert_close(loss(batch), loss(batch.squeeze(-1)))
    assert (("next", "observation") in batch.keys(True)) == ("compact_obs" not in options)


def test_random_frames_come_from_the_prior():
    batches = iter(make_collector(make_env(), make_actor(), init_random_frames=B * K))
    first, second = next(batches), next(batches)
    torch.testing.assert_close(first["next", "kl"], torch.zeros(B, K, 1, 1))
    assert (second["next", "kl"] != 0).any()


# Replay buffers


@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
def test_a_replay_buffer_keeps_groups_together(storage):
    env, actor = make_env(), make_actor()
    batch = next(iter(make_collector(env, actor)))
    buffer = TensorDictReplayBuffer(storage=storage(B), sampler=SamplerWithoutReplacement(), batch_size=2)
    buffer.extend(batch)
    loss = DAPSLoss(actor, ess_fraction=0.5, temperature_floor=env.beta)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    groups = {tuple(codes.flatten().tolist()): reward for codes, reward in zip(*_codes_and_rewards(batch), strict=True)}
    drift = []
    for _ in range(3):  # epochs
        seen = []
        for minibatch in buffer:
            assert minibatch.batch_size == (2, K, 1)
            for codes, reward in zip(*_codes_and_rewards(minibatch), strict=True):
                seen.append(tuple(codes.flatten().tolist()))
                torch.testing.assert_close(reward, groups[seen[-1]])
            terms = loss(minibatch)
            drift.append(terms["kl_approx"].abs().item())
            terms["loss_actor"].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert sorted(seen) == sorted(groups)
    assert drift[0] < 1e-5 < drift[-1]  # scored with the log-probability the codes had when they were drawn


def _codes_and_rewards(batch):
    return batch["action"], batch["next", "reward"]


def test_frames_without_their_groups_are_refused():
    env, actor = make_env(), make_actor()
    batch = next(iter(make_collector(env, actor))).reshape(-1)  # what TorchRL's on-policy trainers put into a buffer
    with pytest.raises(ValueError, match=r"along dimension 1, got a batch of shape \(24,\)"):
        DAPSLoss(actor, ess_fraction=0.5)(batch)


# Transforms


@pytest.mark.parametrize(
    "transform",
    [
        lambda: RewardScaling(0.0, 0.1),
        lambda: Compose(StepCounter(), RewardSum()),
        lambda: ObservationNorm(0.5, 2.0, in_keys=["observation"], out_keys=["pixels"]),
        lambda: FlattenObservation(-3, -1, in_keys=["observation"], out_keys=["pixels"]),
        lambda: VecNormV2(in_keys=["observation"], out_keys=["pixels"]),
    ],
)
def test_transforms(transform):
    env = TransformedEnv(make_env(), transform())
    check_env_specs(env)
    batch = env.rollout(1)
    assert (batch["observation"] == batch["observation"][:, :1]).all()
    if ("next", "pixels") in batch.keys(True):  # the datum itself is what the decoder is asked to explain
        expected = env.decoder(batch["action"]).log_prob(batch["observation"])
        torch.testing.assert_close(batch["next", "log_likelihood"][..., 0], expected.detach())
        assert not torch.equal(batch["pixels"].flatten(), batch["observation"].flatten()) or batch["pixels"].ndim == 4


def test_an_actor_reads_what_a_transform_wrote():
    flat = FlattenObservation(-3, -1, in_keys=["observation"], out_keys=["flat"])
    env = TransformedEnv(make_env(), flat)
    actor = GroupActor(FactorizedPolicy((6,), T, V, embed_dim=8, num_heads=2), in_key="flat")
    batch = next(iter(make_collector(env, actor)))
    loss = DAPSLoss(actor, ess_fraction=0.5, temperature_floor=env.beta)
    assert loss.in_keys[0] == "flat"
    assert loss(batch)["loss_actor"].isfinite()
    assert DecoderLoss(env.decoder)(batch)["loss_decoder"].isfinite()


# Hazards


@pytest.mark.parametrize("policy_class", [FactorizedPolicy, AutoregressivePolicy])
def test_the_collector_explores_and_the_loss_scores_what_it_drew(policy_class):
    """Loss modules run under deterministic exploration; were codes drawn there, they would be K equal modes."""
    env, actor = make_env(), make_actor(policy_class)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        batch = next(iter(make_collector(env, actor, exploration_type=ExplorationType.RANDOM)))
        assert any(len(codes.unique(dim=0)) > 1 for codes in batch["action"])
        terms = DAPSLoss(actor, ess_fraction=0.5)(batch)
    assert terms["kl_approx"].abs() < 1e-5
    torch.testing.assert_close(terms["ESS"], torch.tensor(0.5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy_class", [FactorizedPolicy, AutoregressivePolicy])
def test_the_log_probability_of_drawing_is_that_of_scoring(policy_class):
    """The actor's comes with the sample, token by token; the loss's is one pass, in train and in eval mode alike."""
    env, actor = make_env(), make_actor(policy_class)
    loss = DAPSLoss(actor, ess_fraction=0.5, functional=False)
    batch = env.rollout(1, actor)
    torch.testing.assert_close(actor.get_dist(batch).log_prob(batch["action"]).detach(), batch["action_log_prob"])
    values = []
    for training in (True, False):
        actor.train(training)
        values.append(loss.train(training)(batch)["loss_actor"])
        assert loss(batch)["kl_approx"].abs() < 1e-5
    torch.testing.assert_close(*values)


def test_a_policy_that_scores_differently_in_training_shows_in_kl_approx():
    env = make_env()
    policy = nn.Sequential(nn.Dropout(0.5), make_actor().policy)
    actor = GroupActor(policy)
    policy.eval()
    batch = env.rollout(1, actor)
    loss = DAPSLoss(actor, ess_fraction=0.5, functional=False)
    assert loss.eval()(batch)["kl_approx"].abs() < 1e-5
    assert loss.train()(batch)["kl_approx"].abs() > 1e-3


def test_a_distribution_without_a_joint_sampler_is_scored_after_it():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.linspace(0, 1, T * V).view(T, V))

        def forward(self, observation):
            categorical = torch.distributions.Categorical(logits=self.logits.expand(len(observation), T, V))
            return torch.distributions.Independent(categorical, 1)

    actor = GroupActor(Plain())
    batch = make_env().rollout(1, actor)
    torch.testing.assert_close(actor.get_dist(batch).log_prob(batch["action"]).detach(), batch["action_log_prob"])


# Several envs: the group lies one dimension further back


def test_several_envs_in_one_process():
    env = SerialEnv(2, [partial(make_env, seed=1), partial(make_env, seed=2)])
    actor = make_actor(sample_dim=2)
    batch = env.rollout(1, actor)
    assert batch.batch_size == (2, B, K, 1)
    loss = DAPSLoss(actor, ess_fraction=0.5, temperature_floor=0.5, sample_dim=2)
    plain = DAPSLoss(GroupActor(actor.policy), ess_fraction=0.5, temperature_floor=0.5)
    torch.testing.assert_close(loss(batch), plain(batch.flatten(0, 1)))
    torch.testing.assert_close(actor.get_dist(batch).log_prob(batch["action"]).detach(), batch["action_log_prob"])
    for worker in range(2):
        found = disagreement(batch[worker], make_decoder(), GroupActor(actor.policy), 0.5)
        assert max(found.values()) < 1e-4
    env.close()


def test_groups_looked_for_in_the_wrong_place_are_refused():
    env, actor = SerialEnv(2, make_env), make_actor()
    with pytest.raises(ValueError, match=r"along dimension 1 of a batch \[2, 6, 4\], must be one datum.* sample_dim=2"):
        env.rollout(1, actor)
    with pytest.raises(ValueError, match="sample_dim must be the actor's own, 1, got 2"):
        DAPSLoss(actor, sample_dim=2)
    with pytest.raises(ValueError, match=r"sample_dim counts from the front.* got 0"):
        GroupActor(actor.policy, sample_dim=0)
    env.close()


# Worker processes


@pytest.fixture
def deadline():
    """A worker that hangs fails its test."""

    def late(signum, frame):
        raise TimeoutError("the workers hang")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(150)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("deadline")
def test_parallel_env_keeps_decoder_and_beta_in_step():
    decoder, beta, actor = make_decoder(), torch.tensor(0.5), make_actor(sample_dim=2)
    env = ParallelEnv(2, EnvCreator(make_env, {"decoder": decoder, "beta": beta}))
    try:
        for value in (0.5, 3.0):
            beta.fill_(value)
            batch = env.rollout(1, actor)
            assert batch.batch_size == (2, B, K, 1)
            assert max(disagreement(batch, decoder, actor, value).values()) < 1e-4
            move(decoder)
            assert disagreement(batch, decoder, actor, value)["decoder"] > 1e-3
    finally:
        env.close()


@pytest.mark.slow
@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("functional", [True, False])
def test_trainer_keeps_policy_decoder_and_beta_of_its_workers_in_step(functional):
    decoder, beta, actor = make_decoder(), torch.tensor(0.5), make_actor()
    creator = EnvCreator(make_env, {"decoder": decoder, "beta": beta})
    collector = MultiSyncCollector(
        [creator, creator],
        actor,
        frames_per_batch=2 * B * K,
        total_frames=-1,
        cat_results=0,
        auto_register_policy_transforms=False,
    )
    loss, decoder_loss = DAPSLoss(actor, temperature_floor=beta, functional=functional), DecoderLoss(decoder)
    trainer = DAPSTrainer(
        collector=collector,
        total_frames=5 * 2 * B * K,
        loss_module=loss,
        decoder_loss=decoder_loss,
        optimizer=torch.optim.AdamW([*loss.parameters(), *decoder_loss.parameters()], lr=0.05),
        beta_schedule=lambda done: 1.0 - 0.9 * done,
        progress_bar=False,
    )
    before, after = [], []

    def check(found, batch):
        assert batch.batch_size == (2 * B, K, 1)
        found.append(disagreement(batch, decoder, actor, beta))

    trainer.register_op("pre_steps_log", partial(check, before))
    trainer.register_op("post_epoch_log", partial(check, after))
    trainer.train()
    assert len(before) == 5
    assert max(max(found.values()) for found in before) < 1e-4
    assert min(min(found.values()) for found in after) > 1e-4  # there was something to keep in step


@pytest.mark.slow
@pytest.mark.usefixtures("deadline")
def test_private_copies_are_refused(capfd):
    make = partial(make_env, decoder=make_decoder(), beta=torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="holds a copy of the decoder"):
        MultiSyncCollector(
            [make], make_actor(), frames_per_batch=B * K, total_frames=-1, auto_register_policy_transforms=False
        )
    env = ParallelEnv(2, make)
    with pytest.raises(EOFError):  # TorchRL passes no more on than that; the reason is printed by the worker
        env.reset()
    assert "holds a copy of the decoder" in capfd.readouterr().err
