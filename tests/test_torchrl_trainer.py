"""daps_rl.agents.trainer.DAPSTrainer: learning, groups in minibatches, β, logging, checkpoints, and what it refuses."""

import csv

import pytest
import torch
from torch import nn
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import PromptGroupSampler, RandomSampler, SamplerWithoutReplacement
from torchrl.record.loggers.csv import CSVLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.trainers import LogScalar

from daps_rl.agents.trainer import DAPSTrainer
from daps_rl.data import load
from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingEnv
from daps_rl.functional import solve_temperature
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.policies import FactorizedPolicy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*checkpoint:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*[Cc]heckpoint:FutureWarning"),
]
B, K, T, V, D = 6, 4, 2, 5, 7


def make_parts(*, seed=0, beta=0.5, batch_size=(B, K), data=None, shape=(D,), sizes=(T, V), width=8, **loss_options):
    """Policy, decoder, env, collector and losses that share them."""
    torch.manual_seed(seed)
    if data is None:
        data = torch.rand(20, D, generator=torch.Generator().manual_seed(0)).round()
    decoder = MLPDecoder(*sizes, shape, hidden=(2 * width,), embed_dim=width, data_mean=data.mean(0))
    env = EncodingEnv(
        data, decoder, num_tokens=sizes[0], vocab_size=sizes[1], batch_size=batch_size, beta=beta, seed=seed
    )
    actor = GroupActor(FactorizedPolicy(shape, *sizes, embed_dim=width, num_heads=2, num_layers=1))
    frames = env.batch_size.numel()
    collector = Collector(env, actor, frames_per_batch=frames, total_frames=-1, auto_register_policy_transforms=False)
    loss = DAPSLoss(actor, **({"ess_fraction": 0.5, "temperature_floor": env.beta} | loss_options))
    return env, actor, collector, loss, DecoderLoss(decoder)


def make_trainer(parts, *, batches=3, rate=1e-2, separate=False, **changes):
    env, _, collector, loss, decoder_loss = parts
    policy, decoder = list(loss.parameters()), list(decoder_loss.parameters())
    arguments = {
        "collector": collector,
        "total_frames": batches * env.batch_size.numel(),
        "loss_module": loss,
        "decoder_loss": decoder_loss,
        "optimizer": torch.optim.AdamW(policy if separate else [*policy, *decoder], lr=rate),
        "decoder_optimizer": torch.optim.SGD(decoder, lr=rate, momentum=0.9) if separate else None,
        "progress_bar": False,
        "log_interval": 0,
    }
    return DAPSTrainer(**(arguments | changes))


def make_buffer(minibatch, size=B, sampler=None):
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(size), sampler=sampler or SamplerWithoutReplacement(), batch_size=minibatch
    )


def snapshot(*modules):
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Learning


def test_it_learns_the_digits():
    splits = load("digits", binarize=True)
    options = {"data": splits.train, "shape": splits.observation_shape, "sizes": (6, 8), "width": 32}
    parts = make_parts(beta=0.1, batch_size=(64, 8), ess_fraction=0.33, **options)
    env, actor, *_ = parts
    before = env.rollout(1, actor)["next", "reward"].mean()
    make_trainer(parts, batches=80, rate=4e-3).train()
    after = env.rollout(1, actor)["next", "reward"].mean()
    random = env.rollout(1)["next", "reward"].mean()  # the prior's codes, read by the decoder that was trained
    assert after > before + 4.0
    assert after > random + 5.0


@pytest.mark.parametrize("separate", [False, True])
def test_policy_and_decoder_both_move(separate):
    parts = make_parts()
    decoder = parts[0].decoder
    start = snapshot(decoder), snapshot(parts[1])
    make_trainer(parts, separate=separate).train()
    assert not same(start[0], snapshot(decoder))
    assert not same(start[1], snapshot(parts[1]))


def test_each_optimizer_descends_its_own_loss():
    """With the policy's optimiser alone at rate 0, the policy stays and the decoder moves."""
    parts = make_parts()
    decoder = parts[0].decoder
    start = snapshot(decoder), snapshot(parts[1])
    frozen = torch.optim.SGD(parts[3].parameters(), lr=0.0)
    make_trainer(parts, separate=True, optimizer=frozen).train()
    assert same(start[1], snapshot(parts[1]))
    assert not same(start[0], snapshot(decoder))


def test_without_a_decoder_loss_the_decoder_stays():
    parts = make_parts()
    optimizer = torch.optim.AdamW(parts[3].parameters(), lr=1e-2)
    start = snapshot(parts[0].decoder)
    make_trainer(parts, decoder_loss=None, optimizer=optimizer).train()
    assert same(start, snapshot(parts[0].decoder))


def test_the_scheduler_steps_once_a_batch():
    parts = make_parts()
    optimizer = torch.optim.SGD(parts[3].parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    trainer = make_trainer(parts, decoder_loss=None, optimizer=optimizer, lr_scheduler=scheduler, num_epochs=2)
    trainer.train()
    assert optimizer.param_groups[0]["lr"] == 0.125


# Minibatches


class Recorder(nn.Module):
    """A loss that remembers the batches that came in."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.batches = loss, []
        self.temperature_floor, self.actor_network = loss.temperature_floor, loss.actor_network
        self.target = loss.target

    def forward(self, tensordict):
        self.batches.append(tensordict.clone())
        return self.loss(tensordict)


def test_minibatches_are_whole_groups_and_an_epoch_takes_each_once():
    _, _, collector, loss, _ = make_parts(beta=0.1)
    recorder = Recorder(loss)
    trainer = DAPSTrainer(
        collector=collector,
        total_frames=2 * B * K,
        loss_module=recorder,
        optimizer=torch.optim.SGD(loss.parameters(), lr=0.1),
        replay_buffer=make_buffer(2, size=10 * B),
        num_epochs=3,
        optim_steps_per_batch=None,
        progress_bar=False,
    )
    collected = []
    trainer.register_op("pre_steps_log", lambda batch: collected.append(batch.clone()))
    trainer.train()
    assert [tuple(batch.batch_size) for batch in recorder.batches] == [(2, K, 1)] * (2 * 3 * B // 2)
    for index, batch in enumerate(collected):
        of_this_batch = recorder.batches[3 * index * B // 2 : 3 * (index + 1) * B // 2]
        temperatures = {b["temperature"].flatten()[0].item() for b in of_this_batch}
        assert temperatures == {solve_temperature(batch["next", "reward"][..., 0, 0], 0.5, 0.1).item()}
        for epoch in range(3):
            start = (3 * index + epoch) * B // 2
            seen = torch.cat([b["action"] for b in recorder.batches[start : start + B // 2]])
            rows = sorted(codes.flatten().tolist() for codes in seen)
            assert rows == sorted(codes.flatten().tolist() for codes in batch["action"])
    assert len(collected) == 2


def test_a_number_of_steps_bounds_the_epoch():
    parts = make_parts()
    calls = []
    trainer = make_trainer(parts, replay_buffer=make_buffer(2), optim_steps_per_batch=2, num_epochs=2, batches=2)
    trainer.register_op("post_optim", lambda: calls.append(1))
    trainer.train()
    assert len(calls) == 2 * 2 * 2


def test_torchrls_own_group_sampler_keeps_groups_together():
    """Frames in a buffer, drawn by context: the loss of two whole groups, with the weights of the batch."""
    env, actor, _, loss, _ = make_parts()
    batch = loss.target(env.rollout(1, actor))[..., 0]  # [B, K]
    batch["context"] = torch.arange(B)[:, None].expand(B, K).clone()
    sampler = PromptGroupSampler(num_groups=2, group_key="context")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(B * K), sampler=sampler, batch_size=2 * K)
    buffer.extend(batch.reshape(-1))
    for _ in range(5):
        minibatch = buffer.sample().view(2, K)
        contexts = minibatch["context"]
        assert (contexts == contexts[:, :1]).all()
        whole = batch[contexts[:, 0]]
        torch.testing.assert_close(minibatch["weights"].sort(1).values, whole["weights"].sort(1).values)
        torch.testing.assert_close(loss(minibatch)["loss_actor"], loss(whole)["loss_actor"])


# β


def test_the_batch_is_paid_and_bounded_with_one_beta():
    parts = make_parts(beta=7.0)
    seen, used = [], []
    trainer = make_trainer(parts, beta_schedule=lambda done: 4.0 - 2.0 * done, batches=4)

    def paid(batch):
        reward, log_likelihood, kl = (batch["next", name] for name in ("reward", "log_likelihood", "kl"))
        torch.testing.assert_close(reward, log_likelihood - parts[0].beta * kl)
        seen.append(parts[0].beta.item())

    trainer.register_op("pre_steps_log", paid)
    trainer.register_op("post_optim", lambda: used.append(parts[3].temperature_floor.item()))
    trainer.train()
    assert used == seen
    assert seen == [4.0, 3.5, 3.0, 2.5]
    assert trainer._log_dict["beta"] == seen
    assert parts[0].beta == 2.0


# Logging


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_loggers(kind, tmp_path):
    if kind == "tensorboard":
        pytest.importorskip("tensorboard")
    logger_class = CSVLogger if kind == "csv" else TensorboardLogger
    trainer = make_trainer(make_parts(), logger=logger_class("run", log_dir=str(tmp_path)))
    trainer.register_op("pre_steps_log", LogScalar("action_log_prob", "log_q", include_std=False))
    trainer.train()
    names = {"r_training", "log_likelihood", "kl", "beta", "loss_actor", "loss_decoder", "ESS", "temperature", "log_q"}
    assert names <= set(trainer._log_dict)
    assert all(len(trainer._log_dict[name]) == 3 for name in names)
    if kind == "csv":
        files = {path.stem: path for path in (tmp_path / "run" / "scalars").glob("*.csv")}
        assert names <= set(files)
        rows = list(csv.reader(files["ESS"].open()))
        assert [int(row[0]) for row in rows] == [B * K, 2 * B * K, 3 * B * K]
        assert float(rows[-1][1]) == pytest.approx(float(trainer._log_dict["ESS"][-1]), rel=1e-3)
    else:
        assert any(path.name.startswith("events") for path in tmp_path.rglob("*"))


@pytest.mark.filterwarnings("ignore:The 'process_loss' hook stage:FutureWarning")
def test_hooks_of_the_loss_run():
    parts = make_parts()
    trainer = make_trainer(parts)
    start = snapshot(parts[1])
    trainer.register_op("process_loss", lambda batch, losses: losses.update({"loss_actor": 0.0 * losses["loss_actor"]}))
    for group in trainer._modules["optimizer"].optimizer.param_groups:
        group["weight_decay"] = 0.0
    trainer.train()
    assert same(start, snapshot(parts[1]))


# Checkpoints


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("checkpoint", [None, Checkpoint])
def test_save_and_resume(separate, checkpoint, tmp_path):
    """In TorchRL's old format, and in that of `torchrl.checkpoint`, a folder."""
    file = tmp_path / "trainer"
    schedule = lambda done: 2.0 - done  # noqa: E731
    options = {"separate": separate, "save_trainer_file": file, "beta_schedule": schedule}
    parts = make_parts()
    first = make_trainer(parts, checkpoint=checkpoint and checkpoint(), **options)
    first.train()
    assert file.is_dir() == (checkpoint is not None)
    other = make_parts(seed=1, beta=9.0)
    second = make_trainer(other, batches=5, checkpoint=checkpoint and checkpoint(), **options)
    second.load_from_file(file)
    assert same(snapshot(parts[0].decoder, parts[1]), snapshot(other[0].decoder, other[1]))
    assert other[0].beta == parts[0].beta
    assert second.collected_frames == 3 * B * K
    for name in ("optimizer", "decoder_optimizer")[: 1 + separate]:
        saved, loaded = (t._modules[name].optimizer.state_dict()["state"] for t in (first, second))
        assert saved
        torch.testing.assert_close(loaded, saved)
    betas = []
    second.register_op("pre_steps_log", lambda batch: betas.append(other[0].beta.item()))
    second.train()
    assert second.collected_frames == 5 * B * K
    assert betas == pytest.approx([2.0 - 3 / 5, 2.0 - 4 / 5])  # the schedule goes on from where the run stood


# What it refuses


def test_errors():
    parts = make_parts(temperature_floor=0.3)
    with pytest.raises(ValueError, match=r"beta_schedule needs the env's own beta .* temperature_floor is 0.3"):
        make_trainer(parts, beta_schedule=lambda done: 1.0)
    with pytest.raises(ValueError, match="decoder_optimizer needs a decoder_loss"):
        make_trainer(parts, separate=True, decoder_loss=None)
    with pytest.raises(ValueError, match=r"async_collection cannot be used here, got True: a batch gets its weights"):
        make_trainer(parts, async_collection=True)
    with pytest.raises(ValueError, match="optim_steps_per_batch must be a number"):
        make_trainer(parts, optim_steps_per_batch=None)
    with pytest.raises(ValueError, match=r"without replacement, .* got RandomSampler"):
        make_trainer(parts, replay_buffer=make_buffer(2, sampler=RandomSampler()))
    with pytest.raises(ValueError, match="holds 3 groups and a batch has 6"):
        make_trainer(parts, replay_buffer=make_buffer(2, size=3), optim_steps_per_batch=None).train()
