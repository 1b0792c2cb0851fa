"""Stable-Baselines3's algorithms as agents of the training loop: `--agent sb3:NAME`."""

from __future__ import annotations

import pytest
import torch
from conftest import SIZES
from problems import encoding, factorized, learns, make, train
from torch import nn

from daps_rl.agents.sb3.adapter import SB3_AGENTS
from daps_rl.config import make_config
from daps_rl.training import Trainer

NAMES = list(SB3_AGENTS)


@pytest.mark.parametrize(
    ("name", "learning_rate"), [("daps", 2e-2), ("ppo", 1e-2), pytest.param("a2c", 1e-2, marks=pytest.mark.slow)]
)
def test_sb3s_algorithms_come_to_the_optimum(name, learning_rate):
    """Measured: 0.99 to 1.00."""
    assert learns(f"sb3:{name}", encoding(), learning_rate=learning_rate) > 0.95


@pytest.mark.parametrize(
    ("name", "learning_rate", "steps"), [("daps", 1e-2, 150), ("ppo", 1e-2, 150), ("a2c", 3e-3, 400)]
)
def test_sb3s_algorithms_solve_the_factorised_problem(name, learning_rate, steps):
    assert learns(f"sb3:{name}", factorized(), steps, learning_rate=learning_rate, samples=16) > 0.98


def test_without_the_kl_in_the_reward_they_do_not():
    problem = encoding()
    agent = make("sb3:ppo", problem)
    out = train(agent, problem, 100, 1e-2, pay_kl=False)
    assert problem.divergence(agent.policy) > 0.5
    assert out.loss is None  # the algorithm has taken its own steps
    assert out.codes.shape == (3, 32, 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_runs_own_and_the_decoder_is_evaluated_once(name, splits):
    trainer = Trainer(make_config(**{**SIZES, "steps": 3, "agent": name, "decoder_samples": 0}), splits)
    reference = Trainer(make_config(**{**SIZES, "steps": 3, "agent": "daps"}), splits)
    assert trainer.agent.actor_critic.network is trainer.autoencoder.policy
    for value, other in zip(trainer.autoencoder.parameters(), reference.autoencoder.parameters(), strict=True):
        assert torch.equal(value, other)
    calls = []
    trainer.autoencoder.decoder.register_forward_hook(lambda module, args, out: calls.append(args[0].shape))
    before = {key: value.clone() for key, value in trainer.autoencoder.state_dict().items()}
    (*_, row) = trainer.run()
    assert calls == [(7, 5, 3)] * 3
    changed = {key for key, value in trainer.autoencoder.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(before)
    assert row["skipped"] == 0
    assert row["elbo"] == pytest.approx(row["log_likelihood"] - row["kl"], rel=1e-5)


def test_the_learning_rate_is_the_runs(splits):
    trainer = Trainer(make_config(**{**SIZES, "steps": 3, "agent": "sb3:ppo"}), splits)
    trainer.train_step()
    rate = trainer.agent.algorithm.policy.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(trainer.config.learning_rate / trainer.config.warmup_steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "sb3:nobody"}, "sb3:daps, sb3:ppo, sb3:a2c"),
        ({"agent": "sb3:stable_baselines3:DQN"}, "on-policy"),
        ({"agent": "sb3:ppo", "agent_options": {"epochs": 2}}, "unknown agent option epochs; PPO takes .*n_epochs"),
        ({"agent": "sb3:ppo", "agent_options": {"learning_rate": 1e-4}}, "unknown agent option learning_rate"),
        ({"agent": "sb3:daps", "agent_options": {"beta": 7}}, "unknown agent option beta"),
        ({"agent": "sb3:daps", "samples": 1}, "at least two"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_run(options, message, splits):
    with pytest.raises(ValueError, match=message):
        Trainer(make_config(**{**SIZES, "steps": 2, **options}), splits)


def test_any_on_policy_algorithm_by_its_path(splits):
    trainer = Trainer(make_config(**{**SIZES, "steps": 2, "agent": "sb3:stable_baselines3.a2c:A2C"}), splits)
    assert len(list(trainer.run())) == 2


def test_a_policy_that_does_not_say_its_sizes_is_refused(splits):
    policy = nn.Linear(6, 12)
    with pytest.raises(ValueError, match="observation_shape"):
        Trainer(make_config(**{**SIZES, "steps": 2, "agent": "sb3:ppo"}), splits, policy=policy)


def test_the_folder_of_a_run_has_a_plain_name(tmp_path, monkeypatch):
    from daps_rl.cli import main

    monkeypatch.chdir(tmp_path)
    sizes = ["--steps", "1", "--batch-size", "8", "--embed-dim", "8", "--num-heads", "2"]
    assert main(["train", "--agent", "sb3:daps", *sizes]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-sb3-daps"]
