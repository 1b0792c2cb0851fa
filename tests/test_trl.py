"""daps_rl.agents.trl: DAPS in TRL's GRPOTrainer, against hand computations, DAPSLoss and CausalLMPolicy."""

# ruff: noqa: E402 (imports follow importorskip)
from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")

from datasets import Dataset
from tiny_lm import ASK, BOS, EOS, WORDS, A, B, C, make_model, make_tokenizer
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

from daps_rl.agents.trl import HOOKS, DAPSConfig, DAPSTrainer
from daps_rl.objectives import DAPSLoss, FixedTemperature, GroupActor
from daps_rl.policies import CausalLMPolicy

B_PROMPTS, K = 2, 4
PROMPTS = ["a b ?", "c ?"]


def no_reward(completions, **columns):
    return [0.0] * len(completions)


def make_trainer(folder: Path, model=None, reward=no_reward, cls=DAPSTrainer, config=DAPSConfig, **options):
    settings = {
        "per_device_train_batch_size": B_PROMPTS * K, "num_generations": K, "max_completion_length": 3,
        "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "no", "report_to": [],
        "bf16": False, "use_cpu": True, "activation_checkpointing": False, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    data = Dataset.from_dict({"prompt": PROMPTS * 8, "answer": ["a", "b"] * 8})
    return cls(
        make_model() if model is None else model,
        reward,
        args=config(str(folder), **{**settings, **options}),
        train_dataset=data,
        processing_class=make_tokenizer(),
    )


PROMPT_IDS = [[BOS, A, B, ASK]] * K + [[BOS, C, ASK]] * K
COMPLETIONS = [[A, B, EOS], [EOS], [C, C, C], [B, EOS], [A, A, EOS], [EOS], [B, C, A], [C, EOS]]
REWARD = torch.tensor([[1.0, 0.0, 0.25, 0.5], [0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)


def make_batch(trainer, reward: Tensor = REWARD, *, left: int = 0, right: int = 0) -> dict:
    """What TRL makes of the completions above, with so much padding more."""

    def padded(rows, at, more):
        length = max(map(len, rows)) + more
        gaps = [length - len(row) for row in rows]
        if at == "left":
            ids = [[EOS] * gap + row for row, gap in zip(rows, gaps, strict=True)]
            return torch.tensor(ids), torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
        ids = [row + [EOS] * gap for row, gap in zip(rows, gaps, strict=True)]
        return torch.tensor(ids), torch.tensor([[1] * (length - gap) + [0] * gap for gap in gaps])

    prompt_ids, prompt_mask = padded(PROMPT_IDS, "left", left)
    completion_ids, completion_mask = padded(COMPLETIONS, "right", right)
    return {
        "prompt_ids": prompt_ids, "prompt_mask": prompt_mask,
        "completion_ids": completion_ids, "completion_mask": completion_mask,
        "advantages": torch.zeros(len(COMPLETIONS)), "num_items_in_batch": completion_mask.sum(),
        "target_ratio": trainer.target_ratio(reward).flatten(),
    }  # fmt: skip


TOKENS = sum(map(len, COMPLETIONS))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""TRL scores tokens in float32, whatever the model is."""


def loss_and_gradient(trainer, batch: dict) -> tuple[Tensor, Tensor]:
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train().zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


def token_log_probs(model, index: int) -> Tensor:
    """Of a completion alone, by the model's own forward, without any padding."""
    prompt, completion = PROMPT_IDS[index], COMPLETIONS[index]
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return torch.stack([logits[len(prompt) - 1 + t].log_softmax(-1)[token] for t, token in enumerate(completion)])


def weights_by_hand(reward: Tensor, fraction: float) -> Tensor:
    """Softmax weights whose mean effective sample size is the fraction of K, by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = (low * high) ** 0.5
        weights = (reward / middle).softmax(-1)
        low, high = (middle, high) if (1 / weights.square().sum(-1)).mean() < fraction * K else (low, middle)
    return weights


def test_the_hooks_are_there_in_this_version_of_trl():
    """What agents/trl.py builds on: a version without them needs a new look at it."""
    missing = [name for name in HOOKS if not callable(getattr(GRPOTrainer, name, None))]
    assert not missing, f"TRL {trl.__version__} has no GRPOTrainer.{missing[0]}, which agents/trl.py builds on."
    version = tuple(map(int, trl.__version__.split(".")[:2]))
    assert version == (1, 16), f"agents/trl.py was read against TRL 1.16, and this is {trl.__version__}."


def test_loss_and_gradient_are_those_by_hand(tmp_path):
    """Sequence by sequence: without padding, with the bos before the prompt, and with the end of a completion."""
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5)
    batch = make_batch(trainer)
    old = torch.randn(len(COMPLETIONS), 3, dtype=torch.float64) * 0.3 - 2.0  # drawn by another policy
    batch["old_per_token_logps"] = old
    loss, gradient = loss_and_gradient(trainer, batch)
    trainer.model.zero_grad()
    weights, expected = weights_by_hand(REWARD, 0.5).flatten(), 0.0
    for i, completion in enumerate(COMPLETIONS):
        log_prob = token_log_probs(trainer.model, i).sum()
        ratio = (log_prob - old[i, : len(completion)].sum()).exp()
        expected = expected + (-K * weights[i] * log_prob + ratio - 1.0) / TOKENS
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    by_hand = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    torch.testing.assert_close(gradient, by_hand, **CLOSE)
    assert by_hand.abs().max() > 1e-3


def test_it_is_daps_loss_of_a_causal_lm_policy(tmp_path):
    """Per token of the batch; `DAPSLoss` reads prompts and masks [B, K, 2, P] and answers [B, K, T]."""
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5, pooling=2.0)
    batch = make_batch(trainer)
    loss, gradient = loss_and_gradient(trainer, batch)
    policy = CausalLMPolicy(trainer.model, num_tokens=3, vocab_size=len(WORDS), end_token=EOS)
    observation = torch.stack((batch["prompt_ids"], batch["prompt_mask"]), 1).unflatten(0, (B_PROMPTS, K))
    answers = batch["completion_ids"].unflatten(0, (B_PROMPTS, K))
    with torch.no_grad():
        drawn = policy(observation[:, 0]).log_prob(answers.transpose(0, 1)).transpose(0, 1)
    data = {"observation": observation, "action": answers, "action_log_prob": drawn, "next": {"reward": REWARD}}
    daps = DAPSLoss(GroupActor(policy), ess_fraction=0.5, pooling=2.0, functional=False)
    trainer.model.zero_grad()
    ours = daps(TensorDict(data, [B_PROMPTS, K]))["loss_actor"]
    ours.backward()
    share = B_PROMPTS * K / TOKENS
    torch.testing.assert_close(loss, ours.detach() * share, **CLOSE)
    theirs = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    torch.testing.assert_close(gradient, theirs * share, **CLOSE)


def test_padding_and_the_split_into_micro_batches_change_nothing(tmp_path):
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5)
    loss, gradient = loss_and_gradient(trainer, make_batch(trainer))
    wide = loss_and_gradient(trainer, make_batch(trainer, left=3, right=2))
    torch.testing.assert_close(wide, (loss, gradient), **CLOSE)
    order = torch.randperm(len(COMPLETIONS))  # TRL shuffles, so that groups are torn apart
    shuffled = {name: value[order] if value.ndim else value for name, value in make_batch(trainer).items()}
    halves = [{name: v.chunk(2)[i] if v.ndim else v for name, v in shuffled.items()} for i in range(2)]
    trainer.args.steps_per_generation = trainer.current_gradient_accumulation_steps = 2
    trainer.model.zero_grad()
    parts = [trainer._compute_loss(trainer.model, half) for half in halves]
    sum(parts).backward()
    torch.testing.assert_close(sum(parts).detach(), loss, **CLOSE)
    summed = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    torch.testing.assert_close(summed, gradient, **CLOSE)


def test_groups_without_signal_move_nothing(tmp_path):
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5)
    ratio = trainer.target_ratio(torch.tensor([[0.1] * K, [-3.0] * K]))
    assert ratio.tolist() == [[1.0] * K] * B_PROMPTS
    assert trainer._metrics["train"]["daps/ESS"] == [1.0]
    _, gradient = loss_and_gradient(trainer, make_batch(trainer, torch.ones(B_PROMPTS, K)))
    assert gradient.abs().max() < 1e-15


def test_pooling_makes_a_group_that_is_all_wrong_less_likely(tmp_path):
    """By hand, at temperature 1: (K·w) = e^R (K + c) / (Σ e^R + c · mean over the batch)."""
    trainer = make_trainer(tmp_path, pooling=2.0)
    trainer.trust_region = FixedTemperature(1.0)
    e = torch.tensor(1.0).exp()
    ratio = trainer.target_ratio(torch.tensor([[0.0] * K, [1.0, 1.0, 0.0, 0.0]]))
    mean = (6 + 2 * e) / 8
    torch.testing.assert_close(ratio[0], (6 / (4 + 2 * mean)).expand(K))
    torch.testing.assert_close(ratio[1, 0], 6 * e / (2 + 2 * e + 2 * mean))
    assert ratio[0, 0] < 1.0


@pytest.mark.parametrize("pooling", [0.0, 2.0])
def test_a_completion_without_a_reward_does_not_count(tmp_path, pooling):
    """As if it had not been drawn: the ratios of the others are those of a group of three."""
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5, pooling=pooling)
    trainer.trust_region = FixedTemperature(0.7)
    reward = REWARD.clone()
    reward[0, 1] = torch.nan
    ratio = trainer.target_ratio(reward)
    e = (reward / 0.7).exp()
    pool = pooling * e[~e.isnan()].mean()
    torch.testing.assert_close(ratio[0], e[0] * (3 + pooling) / (e[0].nansum() + pool), equal_nan=True)
    torch.testing.assert_close(ratio[1], e[1] * (4 + pooling) / (e[1].sum() + pool))
    batch = make_batch(trainer, reward)
    loss, gradient = loss_and_gradient(trainer, batch)
    rest = torch.tensor([0, *range(2, len(COMPLETIONS))])
    without = loss_and_gradient(trainer, {name: v[rest] if v.ndim else v for name, v in batch.items()})
    torch.testing.assert_close((loss, gradient), without, **CLOSE)
    assert trainer.target_ratio(torch.full((B_PROMPTS, K), torch.nan)).isnan().all()


def test_several_rewards_with_weights_and_none(tmp_path):
    """Through TRL's own way from the data to the batch; the columns of the data reach the rewards."""
    seen = []

    def first(completions, answer, **columns):
        seen.extend(answer)
        return [1.0, 0.0, None, 0.0] * B_PROMPTS

    def second(completions, **columns):
        return [None, 1.0, None, 0.0] * B_PROMPTS

    trainer = make_trainer(tmp_path, reward=[first, second], reward_weights=[2.0, 1.0], ess_fraction=0.5)
    trainer.model.train()
    rows = [{"prompt": prompt, "answer": prompt[0]} for prompt in PROMPTS for _ in range(K)]
    batch = trainer._generate_and_score_completions(rows)
    assert seen == ["a"] * K + ["c"] * K
    metrics = trainer._metrics["train"]
    (temperature,) = metrics["daps/temperature"]
    totals = torch.tensor([2.0, 1.0, 0.0])  # of the first, second and fourth
    weights = (totals / temperature).softmax(-1)
    expected = torch.tensor([*(3 * weights[:2]), torch.nan, 3 * weights[2]])
    torch.testing.assert_close(batch["target_ratio"].view(-1, K), expected.expand(B_PROMPTS, -1), equal_nan=True)
    torch.testing.assert_close(1 / weights.square().sum(), torch.tensor(0.5 * K), rtol=1e-4, atol=0)
    assert metrics["daps/ESS"] == [pytest.approx(0.5, rel=1e-4)]
    assert metrics["frac_reward_zero_std"] == [0.0]
    torch.testing.assert_close(
        torch.tensor(trainer._logs["extra"]["target_ratio"]), batch["target_ratio"], equal_nan=True
    )


def test_tokens_of_tools_and_truncated_completions_are_not_learned(tmp_path):
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5)
    batch = make_batch(trainer)
    batch["tool_mask"] = torch.ones_like(batch["completion_mask"])
    batch["tool_mask"][0, 1] = 0
    batch["completion_mask"][2] = 0  # as mask_truncated_completions leaves one without an end
    loss, _ = loss_and_gradient(trainer, batch)
    ratio, expected = batch["target_ratio"], 0.0
    with torch.no_grad():
        for i in range(len(COMPLETIONS)):
            log_probs = token_log_probs(trainer.model, i)
            log_probs = log_probs[[0, 2]] if i == 0 else log_probs
            expected = expected - (0.0 if i == 2 else ratio[i] * log_probs.sum()) / TOKENS
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_of_vllm_the_policy_that_drew_is_vllms(tmp_path):
    """A token that it could not score is taken to have had the probability that it has now."""
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.5)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    batch = make_batch(trainer)
    with torch.no_grad():
        now = torch.nn.utils.rnn.pad_sequence([token_log_probs(trainer.model, i) for i in range(8)], batch_first=True)
    batch["old_per_token_logps"], batch["importance_sampling_ratio"] = now, torch.ones(8, 1)
    batch["sampling_per_token_logps"] = now.clone()
    batch["sampling_per_token_logps"][0, 0] -= 0.5
    batch["sampling_per_token_logps"][1, 0] = torch.nan
    loss, _ = loss_and_gradient(trainer, batch)
    likelihood = -(batch["target_ratio"] * now.sum(-1)).sum()
    torch.testing.assert_close(loss, (likelihood + torch.tensor(0.5).double().exp() - 1.0) / TOKENS, **CLOSE)


def test_beta_adds_the_kl_to_the_reference_as_trl_counts_it(tmp_path):
    """TRL's estimate exp(d) − d − 1, d = log p_ref − log q of a token, averaged over the tokens."""
    make_model().save_pretrained(tmp_path / "model")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    trainer = make_trainer(tmp_path, model, beta=0.3, ess_fraction=0.5)
    batch = make_batch(trainer, REWARD.float())
    with torch.no_grad():
        model.lm_head.weight.mul_(0.8)
        now, ref = (
            torch.nn.utils.rnn.pad_sequence([token_log_probs(m, i) for i in range(8)], batch_first=True)
            for m in (model, trainer.ref_model)
        )
    batch["ref_per_token_logps"] = ref
    loss, gradient = loss_and_gradient(trainer, batch)
    trainer.beta = 0.0
    without, other = loss_and_gradient(trainer, batch)
    kl = ((ref - now).exp() - (ref - now) - 1.0).sum() / TOKENS
    torch.testing.assert_close(loss - without, 0.3 * kl, rtol=1e-3, atol=1e-5)
    assert kl > 3e-4
    assert (gradient - other).abs().max() > 1e-4


def ends_at_once(completions, **columns):
    return [float(len(completion) == 0) for completion in completions]


def test_two_iterations_use_a_batch_twice_and_end_nearer_its_target(tmp_path):
    calls = []

    def reward(completions, **columns):
        calls.append(len(completions))
        return [float(c.startswith("a")) for c in completions]

    trainer = make_trainer(tmp_path, reward=reward, num_iterations=2, max_steps=4, ess_fraction=0.5)
    trainer.train()
    assert calls == [B_PROMPTS * K] * 2  # four steps, two batches
    moved = [row["daps/kl_approx"] for row in trainer.state.log_history if "daps/kl_approx" in row]
    assert moved[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(moved[1]) > 1e-4
    assert abs(moved[2]) < 1e-5


def test_the_loss_is_least_at_the_target(tmp_path):
    """Where every ratio is K·w the gradient is zero: reuse cannot go beyond it."""
    trainer = make_trainer(tmp_path, make_model().double(), ess_fraction=0.7)
    batch = make_batch(trainer, REWARD)
    with torch.no_grad():
        now = torch.nn.utils.rnn.pad_sequence([token_log_probs(trainer.model, i) for i in range(8)], batch_first=True)
    batch["old_per_token_logps"] = now.clone()
    batch["old_per_token_logps"][:, 0] -= batch["target_ratio"].log()  # so that q / q_b = K·w
    _, gradient = loss_and_gradient(trainer, batch)
    assert gradient.abs().max() < CLOSE["atol"]


def test_it_learns_and_evaluates(tmp_path):
    """To answer each prompt by its own first word, beside what it did before."""

    def reward(prompts, completions, **columns):
        return [float(c.startswith(p[0])) for p, c in zip(prompts, completions, strict=True)]

    trainer = make_trainer(tmp_path, reward=reward, max_steps=30, per_device_train_batch_size=32)
    before = trainer.evaluate(trainer.train_dataset)
    trainer.train()
    after = trainer.evaluate(trainer.train_dataset)
    assert before["eval_reward"] < 0.6
    assert after["eval_reward"] > 0.9
    assert 0.0 < after["eval_daps/ESS"] <= 1.0


def test_a_resumed_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    options = {"reward": ends_at_once, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ess_fraction": 0.5}
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    again = make_trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert again.state.global_step == 4
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert "Discrete Variational Autoencoding" in (tmp_path / "whole" / "README.md").read_text()


def test_a_grpo_config_does_and_what_is_of_grpo_alone_is_named(tmp_path):
    trainer = make_trainer(tmp_path, config=GRPOConfig)
    assert (trainer.trust_region.ess_fraction, trainer.pooling, trainer.temperature_floor) == (0.33, 0.0, 0.0)
    with pytest.warns(UserWarning, match="no use for epsilon_high, scale_rewards, of GRPO's own loss"):
        make_trainer(tmp_path, config=GRPOConfig, epsilon_high=0.28, scale_rewards="none")
    (options,) = trl.TrlParser(DAPSConfig).parse_args_and_config(
        ["--output_dir", "x", "--use_cpu", "true", "--ess_fraction", "0.5"]
    )
    assert options.ess_fraction == 0.5


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"ess_fraction must lie in \(1/K, 1\] and K is 2, got 0.33"):
        make_trainer(tmp_path, num_generations=2)
    with pytest.raises(ValueError, match="pooling must be >= 0"):
        make_trainer(tmp_path, pooling=-1.0)
    with pytest.raises(ValueError, match="reward must be finite"):
        make_trainer(tmp_path).target_ratio(torch.tensor([[0.0, torch.inf, 0.0, 0.0]]))


def test_without_trl_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "daps_rl.agents.trl")
    with pytest.raises(ImportError, match=r"needs TRL: pip install 'daps-rl\[language-models\]'"):
        importlib.import_module("daps_rl.agents.trl")
