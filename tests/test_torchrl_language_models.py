"""TorchRL's own parts for language models beside `DAPSLoss`: completions of its wrapper, groups and advantages of its
`MCAdvantage`, in its replay buffer."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")

from tiny_lm import BOS, EOS, WORDS, A, B, C, make_model, make_tokenizer
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules.llm import TransformersWrapper
from torchrl.objectives.llm import MCAdvantage

from daps_rl.objectives import DAPSLoss, FixedTemperature, GroupActor
from daps_rl.policies import CausalLMPolicy

B_PROMPTS, K, T = 3, 4, 5
PROMPTS = torch.tensor([[BOS, A, B], [BOS, C, A], [EOS, BOS, B]])  # the last is padded
MASKS = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 1, 1]])


def collected(model) -> TensorDict:
    """Trajectories [N, 1] of one step, prompts in turn and not in groups; the reward counts a token."""
    order = torch.arange(B_PROMPTS).repeat(K)
    prompts, masks = PROMPTS[order], MASKS[order]
    settings = {"max_new_tokens": T, "do_sample": True, "pad_token_id": EOS}
    writer = TransformersWrapper(
        model, tokenizer=make_tokenizer(), input_mode="tokens", pad_output=True, generate_kwargs=settings
    )
    asked = {"tokens": {"prompt": prompts}, "masks": {"all_attention_mask": masks.bool()}}
    answers = writer(TensorDict(asked, [len(order)]).auto_batch_size_(1))["tokens", "response"]
    answers = F.pad(answers, (0, T - answers.shape[-1]), value=EOS)
    found = {
        "observation": torch.stack((prompts, masks), 1)[:, None],
        "action": answers[:, None],
        "next": {"reward": (answers == A).sum(-1).float()[:, None, None], "done": torch.ones(len(order), 1, 1).bool()},
    }
    return TensorDict(found, [len(order), 1])


def groups_of(buffer, actor) -> TensorDict:
    """[B, K], with the log-probability that each answer has now, before it is learned from."""
    groups = buffer[:].view(-1, K)
    return groups.set("action_log_prob", actor.get_dist(groups).log_prob(groups["action"]).detach())


def log_prob_by_hand(model, observation: Tensor, answer: Tensor) -> Tensor:
    """Of one answer up to its first end, without padding."""
    prompt = observation[0][observation[1] == 1]
    ends = (answer == EOS).nonzero().flatten().tolist()
    answer = answer[: ends[0] + 1] if ends else answer
    logits = model(input_ids=torch.cat((prompt, answer))[None]).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, answer[:, None]).sum()


@pytest.fixture
def buffer_and_actor():
    model = make_model()
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(B_PROMPTS * K), transform=MCAdvantage(K, prompt_key="observation"), batch_size=K
    )
    buffer.extend(collected(model))
    return buffer, GroupActor(CausalLMPolicy(model, num_tokens=T, vocab_size=len(WORDS), end_token=EOS))


def test_groups_that_mc_advantage_has_gathered_are_learned_from(buffer_and_actor):
    buffer, actor = buffer_and_actor
    groups = groups_of(buffer, actor)
    assert groups.batch_size == (B_PROMPTS, K)
    assert (groups["observation"] == groups["observation"][:, :1]).all()  # whole groups, each of one prompt
    loss = DAPSLoss(actor, functional=False, trust_region=FixedTemperature(0.8))
    out = loss(groups)
    model, reward = actor.policy.model, groups["next", "reward"][..., 0]
    weights = (reward / 0.8).softmax(-1)
    by_hand = torch.stack(
        [
            torch.stack([log_prob_by_hand(model, x, z) for x, z in zip(xs, zs, strict=True)])
            for xs, zs in zip(groups["observation"], groups["action"], strict=True)
        ]
    )
    torch.testing.assert_close(groups["action_log_prob"], by_hand.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["loss_actor"], -(weights * by_hand).sum(-1).mean(), rtol=1e-4, atol=1e-5)
    (-((weights - 1 / K) * by_hand).sum(-1).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    out["loss_actor"].backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert gradient.abs().max() > 1e-3


def test_its_advantages_at_temperature_one_are_the_target_of_tpo(buffer_and_actor):
    buffer, actor = buffer_and_actor
    groups = groups_of(buffer, actor)
    reward = groups["next", "reward"][..., 0]
    standardized = (reward - reward.mean(-1, keepdim=True)) / reward.std(-1, keepdim=True).clamp_min(1e-6)
    loss = DAPSLoss(actor, functional=False, trust_region=FixedTemperature(1.0))
    groups["next", "reward"] = groups["advantage"]
    torch.testing.assert_close(loss.target(groups)["weights"], standardized.softmax(-1))
