"""Runs with verdicts: what is logged, saved, resumed, compared and refused."""

from __future__ import annotations

import json
from pathlib import Path

import own_verdicts
import pytest
import torch
from conftest import SIZES, TINY, error_of

from daps_rl import cli
from daps_rl.agents import AGENTS, Scorer
from daps_rl.agents.sb3.adapter import SB3_AGENTS
from daps_rl.comparison.plan import Plan
from daps_rl.config import make_config
from daps_rl.data import Splits, from_arrays
from daps_rl.data.parts import Part, Parts, part_splits
from daps_rl.functional import encoding_reward
from daps_rl.names import weighted_name
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.session import train_run
from daps_rl.tensor_file import load_tensors
from daps_rl.training import Trainer
from daps_rl.verdicts import Classifier, Verdicts
from daps_rl.verdicts.named import make_verdicts

DIGITS = [*TINY, "--data", "digits", "--seed", "3"]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daps_rl.verdicts.classifier.TREES", 5)


@pytest.fixture
def labelled() -> Splits:
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(60, 6, generator=random), torch.randint(3, (60,), generator=random)
    return from_arrays(x + y[:, None], train_labels=y)


def settings(**options):
    return make_config(**{**SIZES, "steps": 8, "checkpoint_every": 4, **options})


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_each_term_is_logged_by_itself_and_measured_as_the_likelihood_is(labelled, tmp_path):
    config = settings(reward=("classifier", "own_verdicts:brightness:0.5"), validate_every=4)
    summary = train_run(config, labelled, RunFolder(tmp_path / "run"))
    last = rows(tmp_path / "run")[-1]
    assert last["weight/brightness"] == 0.5
    assert 0.0 < last["reward/classifier"] < 1.0
    assert last["weight/classifier"] > 0.0
    for split in ("validation", "test"):
        for name in ("verdict_classifier", "verdict_classifier_greedy"):
            assert 0.0 < summary[split][name] < 1.0
        assert -1.0 < summary[split]["verdict_brightness"] < 0.0
    assert last["validation_verdict_classifier"] == pytest.approx(summary["validation"]["verdict_classifier"], abs=0.05)
    assert last["reward/brightness"] == pytest.approx(summary["validation"]["verdict_brightness"], abs=0.2)


REWARDED = [name for name, spec in {**AGENTS, **SB3_AGENTS}.items() if not spec.cls.needs_decoder_gradient]


@pytest.mark.parametrize("agent", REWARDED)
def test_agents_that_learn_from_rewards_get_the_verdict(labelled, agent, monkeypatch):
    """The reward that the agent is given is the one that all the parts give, the verdict's term among them."""
    given = []
    score = Scorer.__call__

    def watched(self: Scorer, codes: torch.Tensor, log_prob: torch.Tensor) -> torch.Tensor:
        reward = score(self, codes, log_prob)
        rest = encoding_reward(self.log_likelihood.detach(), log_prob, self.prior.log_prob(codes), self.beta)
        given.append((reward - rest, self.decoder(codes).mean[..., 0].detach()))
        return reward

    monkeypatch.setattr(Scorer, "__call__", watched)
    config = settings(agent=agent, score_precision="float32")
    run = Trainer(config, labelled, verdicts=Verdicts({"first": own_verdicts.first_entry}, {"first": 100.0}))
    metrics = run.train_step()
    ((term, first),) = given
    torch.testing.assert_close(term, 100.0 * first, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(metrics["reward/first"], first.mean())


@pytest.mark.parametrize("agent", REWARDED)
def test_who_weighs_codes_takes_a_forbidden_one_and_others_say_that_they_do_not(labelled, agent):
    """The last of the five codes of each datum is forbidden."""

    def forbidding(truth: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(decoded)) % 5 == 4, -torch.inf, decoded[:, 0])

    run = Trainer(settings(agent=agent), labelled, verdicts=Verdicts({"forbidding": forbidding}))
    before = torch.nn.utils.parameters_to_vector(run.autoencoder.policy.parameters()).clone()
    if agent in ("daps", "daps-na", "daps-fixed", "tpo", "sb3:daps"):
        run.train_step()
        run.train_step()  # the first step's learning rate is 0
        after = torch.nn.utils.parameters_to_vector(run.autoencoder.policy.parameters())
        assert run.optimizer.skipped == 0
        assert after.isfinite().all()
        assert not torch.equal(after, before)
    else:
        with pytest.raises(ValueError, match="verdict 'forbidding' gave -inf, and a policy gradient has no finite"):
            run.train_step()


@pytest.mark.parametrize("agent", ["sb3:ppo", "sb3:a2c"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_algorithm_that_skips_no_step_is_given_no_reward_that_is_not_finite(labelled, agent, bad):
    run = Trainer(settings(agent=agent), labelled)
    with pytest.raises(ValueError, match=r"a reward is NaN or infinite, and (PPO|A2C) of SB3"):
        list(run.agent.losses(labelled.train[:7], lambda codes, log_prob: torch.full_like(log_prob, bad), run.beta))
    assert all(weight.isfinite().all() for weight in run.agent.parameters())


def test_codes_get_better_by_the_verdict(labelled):
    """A verdict so dear that nothing else counts: the first entry of what a frozen decoder makes of the codes."""

    def final(weight: float) -> float:
        verdicts = Verdicts({"first": own_verdicts.first_entry}, {"first": weight})
        run = Trainer(settings(steps=60, learning_rate=0.01, batch_size=30, seed=1), labelled, verdicts=verdicts)
        for parameter in run.autoencoder.decoder.parameters():
            parameter.requires_grad_(False)
            parameter.mul_(3.0)  # its entries differ by much
        list(run.run())
        return run.autoencoder.decode(run.autoencoder.encode(labelled.test)).mean(0)[0].item()

    assert final(1000.0) > final(0.0) + 0.1


@pytest.mark.parametrize("agent", ["gumbel-na", "fsq", "gaussian"])
def test_agents_of_the_decoders_gradient_refuse_and_are_measured(labelled, agent):
    with pytest.raises(ValueError, match=r"none of; use an agent .* --reward classifier:0 to measure alone"):
        Trainer(settings(agent=agent, reward=("classifier",)), labelled)
    run = Trainer(settings(agent=agent, reward=("classifier:0",), validate_every=8), labelled)
    *_, last = run.run()
    assert 0.0 < last["validation_verdict_classifier"] < 1.0
    assert "reward/classifier" not in last


def test_a_resumed_run_ends_as_one_that_was_not_stopped(labelled, tmp_path):
    torch.set_num_threads(1)
    config = settings(reward=("classifier", "classifier-right", "own_verdicts:brightness"))
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    train_run(config, labelled, whole)
    steps = iter([False, False, False, False, False, True])
    assert train_run(config, labelled, parted, stop=lambda: next(steps)) is None
    assert sorted(path.name for path in parted.verdicts.iterdir()) == ["classifier-right.skops", "classifier.skops"]
    train_run(config, labelled, parted, resume=True)
    (first, _), (second, info) = (load_tensors(run.checkpoint, "checkpoint") for run in (whole, parted))
    assert first.keys() == second.keys()
    assert "verdicts.sums" in first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert set(info["verdicts"]) == {"classifier.skops", "classifier-right.skops"}


def test_a_resumed_run_takes_its_saved_classifier_and_no_other(labelled, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    config = settings(reward=("classifier",))
    train_run(config, labelled, run, stop=lambda: True)
    train_run(config, labelled, run, resume=True, stop=iter([False] * 4 + [True]).__next__)
    monkeypatch.setattr(Classifier, "fitted", lambda *_, **__: pytest.fail("fitted again"))
    train_run(config, labelled, run, resume=True, stop=lambda: True)
    (run.verdicts / "classifier.skops").write_bytes(own_verdicts.fitted.to_bytes())
    with pytest.raises(ValueError, match="other classifiers than this run began with"):
        train_run(config, labelled, run, resume=True)


def test_a_classifier_of_ones_own_is_saved_and_one_that_cannot_be_is_refused(labelled, tmp_path, monkeypatch):
    mended = Classifier(own_verdicts.GaussianNB().fit(labelled.train, labelled.train_labels))
    monkeypatch.setattr(own_verdicts, "fitted", mended)
    run = RunFolder(tmp_path / "run")
    train_run(settings(reward=("own_verdicts:fitted",)), labelled, run)
    loaded = Classifier.load(run.verdicts / "fitted.skops")
    labels, data = labelled.test_labels, labelled.test
    assert (loaded(labels, data) == mended(labels, data)).all()
    refused = RunFolder(tmp_path / "refused")
    with pytest.raises(ValueError, match=r"Odd holds own_verdicts\.Odd, and a run loads nothing but scikit-learn's"):
        train_run(settings(reward=("own_verdicts:odd",)), labelled, refused)
    assert not refused.path.exists()


def test_command_line_train_resume_and_evaluate(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    out = str(tmp_path / "run")
    rewards = ["--reward", "classifier", "--reward", "own_verdicts:brightness:2"]
    assert cli.main(["train", *DIGITS, *rewards, "--steps", "4", "--out", out]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["reward"] == ["classifier", "own_verdicts:brightness:2"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    capsys.readouterr()
    assert cli.main(["evaluate", out]) == 2
    assert "own_verdicts:brightness, code that is not part of daps-rl" in error_of(capsys)
    assert cli.main(["evaluate", out, "--trust"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == summary["test"]
    (tmp_path / "run" / "summary.json").unlink()
    assert cli.main(["train", "--resume", "--out", out]) == 2
    assert "pass --trust" in error_of(capsys)
    assert cli.main(["train", "--resume", "--out", out, *rewards]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == summary["test"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "clasifier"], "did you mean classifier?"),
        (["--reward", "classifier:-1"], "the weight in 0 … 1e+30, got 'classifier:-1'"),
        (["--reward", "classifier:1e39"], "the weight in 0 … 1e+30, got 'classifier:1e39'"),
        (["--agent", "sb3:ppo", "--agent-options", "n_epochs=0"], "PPO of SB3 cannot work with these settings"),
        (["--agent", "sb3:ppo", "--agent-options", "batch_size=1"], "PPO of SB3 cannot work with these settings"),
        (["--agent", "sb3:daps", "--agent-options", "n_epochs=1.5"], "DAPS of SB3 cannot work with these settings"),
        (["--reward", "own_verdicts:leaves"], "verdict 'leaves' failed: SystemExit: 3"),
        (["--reward", "classifier", "--reward", "classifier:2"], "each reward must be named once"),
        (["--reward", "no_such_module:f"], "cannot be imported"),
        (["--reward", "own_verdicts:TRUTH"], "cannot be imported"),
        (["--reward", "classifier", "--agent", "fsq"], "learns through the decoder's gradient"),
        (["--reward", "own_verdicts:brightness", "--problem", "nk20"], "decodes nothing"),
        (["--reward", "own_verdicts:Unmakable"], "cannot be made without arguments (RuntimeError: no licence)"),
        (["--reward", "edit-distance"], "needs sequences of whole numbers"),
        (["--reward", "ssim", "--agent", "ppo", "--samples", "1"], "follows from how the codes of a datum differ"),
    ],
)
def test_what_is_refused_is_said_in_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    sizes = ["--steps", "2"] if "--problem" in arguments else [*DIGITS, "--steps", "2"]
    assert cli.main(["train", *sizes, *arguments, "--out", str(tmp_path / "run")]) == 2
    assert said in error_of(capsys)
    assert not (tmp_path / "run").exists()


def test_data_without_labels_are_refused(splits):
    with pytest.raises(ValueError, match="compares with labels"):
        Trainer(settings(reward=("classifier",)), splits)
    parity = Verdicts({"classifier": own_verdicts.fitted})
    with pytest.raises(ValueError, match="compares with labels"):
        Trainer(settings(), splits, verdicts=parity)


def test_a_comparison_rewards_those_that_can_take_it_and_measures_the_others():
    agents = {"daps": "daps", "dear": "daps", "fsq": "fsq"}
    plan = Plan(
        agents=agents, seeds=(0,), options={"reward": ["classifier", "ssim:2"], "steps": 3},
        own={"dear": {"reward": ["classifier:9"]}},
    )  # fmt: skip
    configs = {label: plan.config(label, 0) for label in agents}
    assert configs["daps"].reward == ("classifier", "ssim:2")
    assert configs["dear"].reward == ("classifier:9",)
    assert configs["fsq"].reward == ("classifier:0", "ssim:0")
    command = plan.command(next(iter(plan.runs())))
    assert command[command.index("--reward") + 1] == "classifier,ssim:2"
    assert AGENTS["fsq"].cls.needs_decoder_gradient


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssim", ("ssim", None)),
        ("ssim:0.5", ("ssim", 0.5)),
        ("a.b:f", ("a.b:f", None)),
        ("a.b:f:1e-3", ("a.b:f", 1e-3)),
    ],
)
def test_a_name_and_its_weight(text, parts):
    assert weighted_name(text) == parts


def test_a_classifier_does_not_read_the_label_that_is_a_part_of_the_data():
    kind = Parts(parts=(Part(name="a", shape=(2,)), Part(name="label", shape=(1,), entries="category:2")))
    data = {"a": torch.zeros(8, 2), "label": torch.arange(8)[:, None] % 2}
    splits = part_splits("pairs", kind, dict.fromkeys(("train", "validation", "test"), data), [["a"]])
    with pytest.raises(ValueError, match="reward 'classifier' would read the label that is a part of pairs itself"):
        make_verdicts(["classifier"], splits)


def test_a_verdict_of_ones_own_compares_a_part_with_the_label():
    kind = Parts(parts=(Part(name="a", shape=(2,)), Part(name="label", shape=(1,), entries="category:2")))
    label = torch.arange(8) % 2
    data = {"a": label[:, None] + torch.tensor([0.0, 0.5]), "label": label[:, None]}
    splits = part_splits("pairs", kind, dict.fromkeys(("train", "validation", "test"), data), [["a"]])
    seen = []

    class NearTheLabel:
        truth = "labels"

        def __call__(self, labels: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
            seen.append(labels)
            return -(kind.unpack(decoded)["a"][:, 0] - labels).abs()

    trainer = Trainer(settings(likelihood="auto"), splits, verdicts=Verdicts({"near": NearTheLabel()}))
    metrics = trainer.train_step()
    assert metrics["reward/near"] < 0.0
    rows = trainer.feed.indices(0).cpu()
    assert torch.equal(seen[0], splits.train_labels[rows].repeat_interleave(5))
