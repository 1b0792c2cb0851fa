"""Every agent behind one interface: its options, what it cannot do, and that it is saved whole."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import SIZES
from torch import nn

from daps_rl.agents import AGENTS, Agent, AgentLoss, PathwiseAgent, find_agent, make_agent
from daps_rl.config import make_config
from daps_rl.training import Trainer


@pytest.mark.parametrize("trust_region", ["ess", "kl", "fixed", "adaptive"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_some_codes_with_any_trust_region_and_precision(trust_region, precision, splits):
    options = {"trust_region": trust_region, "precision": precision, "policy_samples": 2, "device": "cpu"}
    trainer = Trainer(make_config(**{**SIZES, **options, "steps": 3}), splits)
    before = [p.detach().clone() for p in trainer.autoencoder.policy.parameters()]
    list(trainer.run())
    assert trainer.optimizer.skipped == 0
    assert all(p.isfinite().all() for p in trainer.autoencoder.policy.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(trainer.autoencoder.policy.parameters(), before, strict=True))


@pytest.mark.parametrize("agent", [*AGENTS, "sb3:daps", "sb3:ppo"])
def test_every_agent_learns_where_float64_is_the_default(agent, splits):
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(make_config(**{**SIZES, "agent": agent, "steps": 3, "device": "cpu"}), splits)
        before = [p.detach().clone() for p in trainer.autoencoder.parameters()]
        list(trainer.run())
    finally:
        torch.set_default_dtype(torch.float32)
    after = list(trainer.autoencoder.parameters())
    assert trainer.optimizer.skipped == 0
    assert {p.dtype for p in after} == {torch.float64}
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(after, before, strict=True))


def test_who_learns_from_some_of_the_codes_unless_told_otherwise():
    def learnt(**options):
        return make_config(**{"steps": 1, "samples": 8, **options}).policy_samples

    assert [learnt(agent=name) for name in ("daps", "daps-fixed", "daps-na", "tpo", "rloo")] == [3, 3, 0, 0, 0]
    assert learnt(agent="daps", samples=16, ess_fraction=0.5) == 8
    assert learnt(agent="daps", policy="factorized") == 0
    assert learnt(agent="daps", policy_samples=0) == 0
    assert learnt(agent="rloo", policy_samples=3) == 3
    assert learnt(preset="mnist", agent="daps") == 0
    assert learnt(problem="reverse3", agent="daps") == 0
    with pytest.raises(ValueError, match="policy_samples must be >= 0"):
        learnt(policy_samples=-1)


@pytest.mark.parametrize("name", [*AGENTS, "sb3:daps", "sb3:ppo", "sb3:a2c"])
def test_a_run_stopped_and_resumed_is_the_run_that_was_not(name, splits):
    """Critics, running moments and optimisers are part of the state, each tensor once."""
    config = make_config(**{**SIZES, "steps": 6, "agent": name})
    whole = Trainer(config, splits)
    list(whole.run())
    first = Trainer(config, splits)
    list(first.run(stop=lambda: first.step == 3))
    tensors, info = first.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    pointers = [value.data_ptr() for key, value in first.state()[0].items() if value.numel() and "random" not in key]
    assert len(pointers) == len(set(pointers))
    second = Trainer(config, splits)
    second.load_state(tensors, info)
    list(second.run())
    for (key, value), other in zip(whole.state()[0].items(), second.state()[0].values(), strict=True):
        assert torch.equal(value, other), key


def test_agents_start_from_the_same_weights_and_see_the_same_data(splits):
    trainers = [Trainer(make_config(**{**SIZES, "steps": 2, "agent": name}), splits) for name in ("daps", "ppo")]
    states = [trainer.autoencoder.state_dict() for trainer in trainers]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(trainers[0].batch(), trainers[1].batch())


@pytest.mark.parametrize(("decoder_samples", "precision"), [(0, "bfloat16"), (2, "float32"), (2, "bfloat16")])
@pytest.mark.parametrize("name", list(AGENTS))
def test_each_step_scores_each_code_once_and_trains_the_decoder_once(name, decoder_samples, precision, splits):
    options = {"steps": 3, "agent": name, "decoder_samples": decoder_samples, "score_precision": precision}
    trainer = Trainer(make_config(**{**SIZES, **options}), splits)
    calls, decoder = [], trainer.autoencoder.decoder
    decoder.register_forward_hook(lambda module, args, out: calls.append(args[0].shape))
    before = {key: value.clone() for key, value in trainer.autoencoder.state_dict().items()}
    (*_, row) = trainer.run()
    samples = 1 if name in ("vq", "vq-rotation", "fsq") else 5  # a quantiser has one code to a datum
    # Codes, or codes embedded already. Those that the decoder does not learn from are scored apart.
    apart = [2, 3] if precision == "float32" else [2, 5]  # in low precision, all of them
    split = apart if decoder_samples and not isinstance(trainer.agent, PathwiseAgent) else [samples]
    assert [shape[:3] for shape in calls] == [(7, count, 3) for count in split] * 3
    assert trainer.decoder_evaluations == 3 * 7 * sum(split)
    same = {key for key, value in trainer.autoencoder.state_dict().items() if torch.equal(value, before[key])}
    # FSQ's first codes are all its middle one, which is zero, and so is the gradient of what it is multiplied by.
    assert same <= ({"decoder.embed.quantizer.project_out.weight"} if name == "fsq" else set())
    steps = next(iter(trainer.optimizer.optimizer.state[next(decoder.parameters())].values()))
    assert steps == 3
    assert math.isfinite(row["loss_actor"])


class Mine(Agent):
    """An agent as a user writes it."""

    def __init__(self, policy: nn.Module, *, samples: int = 8, power: float = 1.0) -> None:
        super().__init__(policy, samples=samples)
        self.power = power

    def losses(self, observation, score, beta):
        codes, log_prob = self.draw(observation)
        reward = score(codes, log_prob.detach())
        yield AgentLoss(-(log_prob * (reward - reward.mean()) * self.power).mean(), codes, {})


class Likely(Mine):
    """Takes an argument that a setting of the model has the name of, and asks for one of the run's."""

    run_settings = ("samples", "beta_end")
    settings = {"policy": "factorized"}  # noqa: RUF012
    recipe = {"learning_rate": 7e-4}  # noqa: RUF012
    several_processes = False

    def __init__(self, policy, *, samples=8, variance=1.0, beta_end=0.0):
        super().__init__(policy, samples=samples)
        self.variance, self.beta_end = variance, beta_end


class Vague(Mine):
    def __init__(self, policy):
        super().__init__(policy)


class Forwarding(Mine):
    fixed = {"power": 2.0}  # noqa: RUF012

    def __init__(self, policy, *, least=1, **options):
        super().__init__(policy, **self.fixed, **options)


def test_options_of_a_constructor_are_those_of_the_class_above_but_what_is_fixed(splits):
    assert [*Forwarding.options()] == ["samples", "least"]
    assert [*find_agent("grpo").cls.options()] == ["samples", "clip_epsilon", "epochs", "minibatches"]
    assert [*find_agent("tpo").cls.options()] == ["samples", "centered", "policy_samples", "epochs", "temperature"]
    assert find_agent("reinmax").cls.options()["temperature_end"].default == 1.0
    config = make_config(**{**SIZES, "steps": 1, "agent": "test_agents:Forwarding", "agent_options": {"least": 3}})
    assert Trainer(config, splits).agent.power == 2.0
    with pytest.raises(ValueError, match="unknown agent option power; Forwarding takes least, samples"):
        Trainer(
            make_config(**{**SIZES, "steps": 1, "agent": "test_agents:Forwarding", "agent_options": {"power": 1}}),
            splits,
        )


class Hasty(Mine):
    def losses(self, observation, score, beta):
        codes, log_prob = self.draw(observation)
        yield AgentLoss(-log_prob.mean(), codes, {})


class Greedy(Mine):
    def losses(self, observation, score, beta):
        codes, log_prob = self.draw(observation)
        score(codes, log_prob.detach())
        score(codes, log_prob.detach())
        yield AgentLoss(-log_prob.mean(), codes, {})


@pytest.mark.parametrize(("agent", "message"), [(Hasty, "before it called `score`"), (Greedy, "twice")])
def test_the_rewards_of_a_batch_are_asked_for_once(agent, message, splits):
    with pytest.raises(ValueError, match=message):
        list(Trainer(make_config(**{**SIZES, "steps": 1}), splits, agent=agent.from_config).run())


def test_an_agent_of_ones_own_by_its_name(splits):
    config = make_config(**{**SIZES, "steps": 2, "agent": "test_agents:Mine", "agent_options": {"power": 2.0}})
    trainer = Trainer(config, splits)
    assert type(trainer.agent).__name__ == "Mine"
    assert (trainer.agent.samples, trainer.agent.power) == (5, 2.0)
    assert len(list(trainer.run())) == 2


def test_nothing_is_filled_in_by_the_likeness_of_names(splits):
    """The likelihood's variance is 0.25 here; it is no business of an agent whose argument has the same name."""
    options = {**SIZES, "steps": 1, "agent": "test_agents:Likely", "beta_end": 0.02, "variance": 0.25}
    config = make_config(**options)
    agent = make_agent(config, nn.Linear(2, 2))
    assert (agent.samples, agent.variance, agent.beta_end) == (5, 1.0, 0.02)
    chosen = make_config(**options, agent_options={"variance": 3.0})
    assert make_agent(chosen, nn.Linear(2, 2)).variance == 3.0


def test_an_agent_of_ones_own_brings_settings_by_attributes_of_its_class():
    spec = find_agent("test_agents:Likely")
    assert (spec.cls.__name__, spec.several_processes, spec.scores_some) == ("Likely", False, False)
    config = make_config(steps=1, agent="test_agents:Likely")
    assert (config.policy, config.learning_rate) == ("factorized", 7e-4)
    published = make_config("mnist", agent="test_agents:Likely")
    assert (published.policy, published.learning_rate) == ("factorized", 3e-4)
    assert find_agent("test_agents:Mine").several_processes


@pytest.mark.parametrize("name", [*AGENTS, "sb3:daps", "sb3:ppo", "sb3:a2c"])
def test_an_agent_says_all_about_itself(name):
    spec = find_agent(name)
    assert spec.name == name
    assert re.fullmatch(r"[a-z].{10,53}", spec.help)
    assert set(spec.cls.run_settings) <= {*vars(make_config(agent=name, steps=1))}
    assert spec.cls.options()
    assert spec.several_processes is not (name.startswith("sb3:") or name in ("vq", "vq-rotation"))


@pytest.mark.parametrize("agent", ["ppo", "sb3:ppo"])
def test_an_option_of_the_wrong_kind_is_an_error_of_use(agent, splits):
    option = {"ppo": "clip_epsilon", "sb3:ppo": "n_epochs"}[agent]
    with pytest.raises(ValueError, match=f"agent option {option} must be a number"):
        Trainer(make_config(**{**SIZES, "steps": 1, "agent": agent, "agent_options": {option: "abc"}}), splits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "nobody"}, "must be one of daps"),
        ({"agent": "no.such.module:Agent"}, "cannot be imported"),
        ({"agent": "test_agents:NoSuch"}, "cannot be imported"),
        ({"agent": "math:sqrt"}, "subclass"),
        ({"agent": "ppo", "agent_options": {"epoch": 3}}, r"unknown agent option epoch; PPO takes .*epochs"),
        ({"agent": "ppo", "agent_options": {"epochs": 0}}, "epochs must be an integer >= 1, got 0"),
        ({"agent": "daps", "agent_options": {"epochs": 0}}, "epochs must be an integer >= 1, got 0"),
        ({"agent": "daps", "agent_options": {"pooling": -1}}, "pooling must be >= 0 and finite, got -1"),
        (
            {"agent": "daps", "agent_options": {"pooling": 4, "centered": False}},
            "pooling needs groups and centred weights",
        ),
        ({"agent": "ppo", "agent_options": {"epochs": 2.5}}, "epochs must be an integer >= 1, got 2.5"),
        ({"agent": "a2c", "agent_options": {"hidden": 0}}, "hidden must be an integer >= 1, got 0"),
        ({"agent": "test_agents:Vague"}, "must name what it takes"),
        ({"agent": "daps", "samples": 1}, "DAPS .* samples >= 2"),
        ({"agent": "rloo", "samples": 1}, "RLOO .* samples >= 2"),
        ({"agent": "grpo", "samples": 1}, "GRPO .* samples >= 2"),
        ({"agent": "tpo", "samples": 1}, "samples >= 2"),
    ],
)
def test_what_an_agent_cannot_do_is_said_before_the_run(options, message, splits):
    with pytest.raises(ValueError, match=message):
        Trainer(make_config(**{**SIZES, "steps": 2, **options}), splits)


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
def test_agents_with_a_critic_need_no_group(name, splits):
    trainer = Trainer(make_config(**{**SIZES, "steps": 2, "agent": name, "samples": 1}), splits)
    assert all(math.isfinite(row["loss_actor"]) for row in trainer.run())


def test_a_critic_needs_to_know_the_size_of_a_datum():
    with pytest.raises(ValueError, match="observation_shape"):
        make_agent(make_config(steps=1, agent="ppo"), nn.Linear(2, 2))


def test_agent_options_from_the_command_line(tmp_path: Path):
    from daps_rl.cli import main
    from daps_rl.runs.folder import RunFolder

    run = tmp_path / "run"
    command = ["train", "--agent", "ppo", "--agent-options", "epochs=1,clip_epsilon=0.1,normalize_advantage=false"]
    sizes = ["--steps", "1", "--batch-size", "8", "--embed-dim", "8", "--num-heads", "2", "--out", str(run)]
    assert main([*command, *sizes]) == 0
    config = RunFolder(run).read_json(run / "config.json")
    assert config["agent_options"] == {"epochs": 1, "clip_epsilon": 0.1, "normalize_advantage": False}
    assert main([*command, "--resume", "--out", str(run)]) in (0, 2)
