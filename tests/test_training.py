"""The training loop: what a step does, what it leaves alone, and how it starts, stops and goes on."""

from __future__ import annotations

import math
import time

import pytest
import torch
from conftest import SIZES
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from daps_rl.agents import DAPS, Agent, AgentLoss
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import PUBLISHED, make_config
from daps_rl.data import Splits
from daps_rl.decoders import MLPDecoder
from daps_rl.device import choose_device
from daps_rl.distributed import World
from daps_rl.optim import GuardedAdamW, adaptive_clip_, exponential_decay, learning_rate_factor
from daps_rl.priors import UniformPrior
from daps_rl.training import Trainer, TrainingDiverged, loop


def trainer(splits: Splits, *, policy: nn.Module | None = None, decoder: nn.Module | None = None, **options) -> Trainer:
    return Trainer(make_config(**{**SIZES, "steps": 6, **options}), splits, policy=policy, decoder=decoder)


def test_both_sides_learn_and_one_value_of_beta_is_shared(splits):
    run = trainer(splits, agent="daps", beta_start=0.5, beta_end=0.1)
    before = {name: value.clone() for name, value in run.autoencoder.state_dict().items()}
    rows = list(run.run())
    changed = {name for name, value in run.autoencoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)
    betas = [exponential_decay(step / 6, 0.5, 0.1) for step in range(6)]
    assert [row["beta"] for row in rows] == pytest.approx(betas)
    assert [row["temperature_floor"] for row in rows] == pytest.approx(betas)
    assert all(row["temperature"] >= row["beta"] * (1 - 1e-6) for row in rows)


def test_elbo_and_beta_elbo_of_a_row_belong_together(splits):
    for row in trainer(splits).run():
        assert row["elbo"] == pytest.approx(row["log_likelihood"] - row["kl"], rel=1e-5)
        assert row["beta_elbo"] == pytest.approx(row["log_likelihood"] - row["beta"] * row["kl"], rel=1e-5)
        assert row["ESS"] == pytest.approx(0.33, rel=0.02) or row["temperature"] == pytest.approx(row["beta"])


def test_every_datum_is_seen_once_an_epoch_and_the_order_is_a_function_of_seed_and_step(splits):
    run = trainer(splits, batch_size=10)
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(4):
            run.step = epoch * 4 + step
            seen.append(run.batch())
        epochs.append(torch.cat(seen))
    everything = splits.train
    assert len(everything) == 40
    for epoch in epochs:
        assert torch.equal(epoch.sort(dim=0).values, everything.sort(dim=0).values)
    assert not torch.equal(*epochs)
    run.step = 2
    assert torch.equal(run.batch(), epochs[0][20:30])


def test_a_batch_may_be_larger_than_the_data(splits):
    assert trainer(splits, batch_size=100).batch().shape == (100, 6)


def test_one_seed_twice_and_another_seed(splits):
    def final(seed: int) -> torch.Tensor:
        run = trainer(splits, seed=seed)
        list(run.run())
        return torch.cat([p.detach().flatten() for p in run.autoencoder.parameters()])

    assert torch.equal(final(0), final(0))
    assert not torch.equal(final(0), final(1))


@pytest.mark.parametrize("agent", ["daps", "daps-na"])
@pytest.mark.parametrize("trust_region", ["ess", "adaptive"])
def test_state_taken_out_and_put_back_goes_on_bit_for_bit(splits, agent, trust_region):
    torch.set_num_threads(1)
    options = {"agent": agent, "trust_region": trust_region, "batch_size": 17, "steps": 9}
    whole = trainer(splits, **options)
    list(whole.run())
    first = trainer(splits, **options)
    list(first.run(lambda: first.step >= 4))
    assert first.step == 4
    tensors, info = first.state()
    tensors = {name: value.clone() for name, value in tensors.items()}
    list(first.run())  # the state is no view of a trainer that goes on
    second = trainer(splits, **options)
    second.load_state(tensors, info)
    list(second.run())
    for name, value in whole.state()[0].items():
        assert torch.equal(value, second.state()[0][name]), name


def test_a_state_of_other_sizes_is_refused(splits):
    tensors, info = trainer(splits).state()
    with pytest.raises(ValueError, match="does not fit this run"):
        trainer(splits, embed_dim=4).load_state(tensors, info)


class Fickle(nn.Module):
    """A decoder whose likelihood is NaN while it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 6)
        self.broken = False

    def forward(self, codes: torch.Tensor) -> Independent:
        mean = self.linear(codes.float())
        return Independent(Normal(mean * math.nan if self.broken else mean, 1.0, validate_args=False), 1)


def test_bad_steps_change_nothing_and_are_counted(splits):
    decoder = Fickle()
    run = trainer(splits, decoder=decoder)
    run.train_step()
    decoder.broken = True
    before = {
        name: value.clone() for name, value in run.state()[0].items() if name.startswith(("model", "optimizer.0"))
    }
    run.train_step()
    after = run.state()[0]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (run.optimizer.skipped, run.optimizer.skipped_in_row) == (1, 1)
    decoder.broken = False
    run.train_step()
    assert not torch.equal(run.state()[0]["model.decoder.linear.weight"], before["model.decoder.linear.weight"])
    assert (run.optimizer.skipped, run.optimizer.skipped_in_row) == (1, 0)


def test_a_hundred_bad_steps_in_a_row_end_the_run(splits):
    decoder = Fickle()
    decoder.broken = True
    run = trainer(splits, decoder=decoder, steps=500)
    with pytest.raises(TrainingDiverged, match="100 steps in a row"):
        list(run.run())
    assert run.step == 100


def test_a_run_of_minutes_ends_in_time(splits):
    run = trainer(splits, steps=None, minutes=0.5 / 60, beta_start=0.5)
    rows = list(run.run())
    assert 0.5 <= rows[-1]["seconds"] < 5.0
    assert 0.01 <= rows[-1]["beta"] < rows[0]["beta"] == 0.5


def test_parts_of_your_own(splits):
    class Own(nn.Module):
        num_tokens, vocab_size = 3, 4

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Linear(6, 12)

        def forward(self, x: torch.Tensor) -> Independent:
            return Independent(Categorical(logits=self.logits(x).view(-1, 3, 4)), 1)

    run = trainer(splits, policy=Own(), decoder=Fickle())
    list(run.run())
    assert run.autoencoder.config is None
    assert run.autoencoder.encode(splits.test, num_samples=2).shape == (len(splits.test), 2, 3)


def test_an_agent_that_yields_nothing_is_named(splits):
    class Lazy(Agent):
        def losses(self, observation, score, floor):
            yield from ()

    run = Trainer(make_config(**SIZES, steps=1), splits, agent=lambda config, policy: Lazy(policy))
    with pytest.raises(ValueError, match="yielded no loss"):
        run.train_step()


def test_an_agent_of_several_steps_per_batch(splits):
    class Twice(DAPS):
        def losses(self, observation, score, floor):
            (first,) = super().losses(observation, score, floor)
            yield first
            log_prob = self.policy(observation).log_prob(first.codes.transpose(0, 1))
            yield AgentLoss(-log_prob.mean(), first.codes, first.metrics)

    run = Trainer(make_config(**SIZES, steps=3), splits, agent=lambda config, policy: Twice(policy, samples=5))
    list(run.run())
    steps = {name: value for name, value in run.optimizer.tensors().items() if name.endswith(".step")}
    assert max(steps.values()) == 6  # the policy's
    assert min(steps.values()) == 3  # the decoder's, once per batch


def test_daps_needs_samples_to_compare():
    with pytest.raises(ValueError, match="needs samples >= 2"):
        DAPS(nn.Linear(1, 1), samples=1)
    with pytest.raises(ValueError, match="ess_fraction"):
        DAPS(nn.Linear(1, 1), samples=3, ess_fraction=0.33)


def test_adaptive_clip_bounds_each_row_by_its_weights():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]))
    parameter.grad = torch.tensor([[30.0, 40.0], [0.3, 0.4], [0.1, 0.0]])
    adaptive_clip_([parameter], clip_at=1.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([[3.0, 4.0], [0.0006, 0.0008], [0.1, 0.0]]))


def test_guarded_adamw_is_adamw_where_all_is_finite():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    guarded = GuardedAdamW(
        ours.parameters(),
        learning_rate=0.1,
        weight_decay=0.01,
        gradient_clip="none",
        clip_at=1.0,
        device=torch.device("cpu"),
        world=World(),
    )
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(5):
        x = torch.randn(4, 3)
        guarded.step(ours(x).square().sum())
        plain.zero_grad()
        theirs(x).square().sum().backward()
        plain.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_waiting_for_the_device_is_training_time_and_what_the_caller_does_is_not(splits, monkeypatch):
    """A GPU is waited for where the means are read."""
    read = loop._means

    def slow(*arguments):
        time.sleep(0.05)
        return read(*arguments)

    monkeypatch.setattr(loop, "_means", slow)
    run = trainer(splits, steps=6)
    for _ in run.run():
        time.sleep(0.2)
    assert 0.3 <= run.seconds < 1.2


def test_schedules():
    assert exponential_decay(0.0, 0.5, 0.01) == 0.5
    assert exponential_decay(1.0, 0.5, 0.01) == pytest.approx(0.01)
    assert exponential_decay(0.5, 1.0, 0.01) == pytest.approx(0.1)
    assert learning_rate_factor(5, 0.9, schedule="constant", warmup_steps=100) == 1.0
    assert learning_rate_factor(49, 0.0, schedule="cosine", warmup_steps=100) == pytest.approx(0.5)
    assert learning_rate_factor(1000, 1.0, schedule="cosine", warmup_steps=100) == pytest.approx(0.02)


def test_presets_and_recipes():
    for name in PUBLISHED:
        config = make_config(name)
        assert (config.learning_rate, config.samples, config.gradient_clip) == (3e-4, 8, "adaptive")
        assert config.aligned_patches is False
    assert make_config("mnist").bits == 64
    assert make_config("cifar10").bits == 576
    assert make_config("imagenet256").bits == 10240
    assert make_config("motion").bits == 640
    assert make_config("mnist", agent="daps-na").policy == "factorized"
    assert make_config("mnist", steps=5).steps == 5
    assert make_config().data == "digits"
    assert make_config().bits <= 32
    assert make_config(minutes=1.0).steps is None
    with pytest.raises(ValueError, match="unknown option nonsense"):
        make_config(nonsense=1)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no GPU"):
        choose_device("cuda")


def test_saved_model_is_the_same_model(splits, tmp_path):
    run = trainer(splits, agent="daps")
    list(run.run())
    model = run.autoencoder.eval()
    model.save_pretrained(tmp_path / "model")
    again = DiscreteAutoencoder.from_pretrained(tmp_path / "model")
    x = splits.test
    codes = model.encode(x, deterministic=True)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, again.encode(x, deterministic=True))
    assert torch.equal(model.decode(codes), again.decode(codes))
    many = model.encode(x, num_samples=4)
    assert many.shape == (len(x), 4, 3)
    assert model.log_likelihood(x, many).shape == (len(x), 4)
    torch.testing.assert_close(model.log_likelihood(x, many)[:, 2], model.log_likelihood(x, many[:, 2]))
    assert model.sample(9).shape == (9, 6)
    assert model.encode(x, num_samples=2, deterministic=True).shape == (len(x), 2, 3)


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    class Tied(nn.Module):
        """The embedding and the output matrix are one parameter."""

        num_tokens, vocab_size = 2, 5

        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return Independent(Categorical(logits=self.head(x).unsqueeze(1).expand(-1, 2, -1)), 1)

    model = DiscreteAutoencoder(Tied(), MLPDecoder(2, 5, (6,)), UniformPrior(2, 5))
    model.save_pretrained(tmp_path)
    again = DiscreteAutoencoder.from_pretrained(tmp_path, policy=Tied(), decoder=MLPDecoder(2, 5, (6,)))
    assert again.policy.embed.weight is again.policy.head.weight
    assert torch.equal(again.policy.head.weight, model.policy.head.weight)
