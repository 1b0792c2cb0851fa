"""Causal language models as policies: padding and ends exactly masked, drawing and scoring alike, learning."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, GroupActor
from daps_rl.policies import CausalLMPolicy, ReferenceReward

V, T, END, PAD = 4, 3, 3, 0
PROMPTS = torch.tensor([[PAD, PAD, 1], [PAD, 2, 1], [2, 1, 2]])


class TinyLM(nn.Module):
    """One attention layer; positions from the mask, so that left padding changes nothing."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(V, dim), nn.Embedding(16, dim)
        self.qkv, self.head = nn.Linear(dim, 3 * dim), nn.Linear(dim, V)

    def forward(self, input_ids, attention_mask, position_ids):
        x = self.embed(input_ids) + self.place(position_ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        seen = causal & attention_mask[:, None].bool() | torch.eye(x.shape[1], dtype=torch.bool)
        scores = (q @ k.transpose(1, 2)).masked_fill(~seen, -math.inf)
        return SimpleNamespace(logits=self.head(x + scores.softmax(-1) @ v))


def make_policy(**options) -> CausalLMPolicy:
    torch.manual_seed(0)
    return CausalLMPolicy(TinyLM().double(), num_tokens=T, vocab_size=V, end_token=END, **{"pad_token": PAD, **options})


def all_answers() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=T)))


def is_answer(code: list[int]) -> bool:
    """Only padding behind the first end."""
    return END not in code or all(token == PAD for token in code[code.index(END) + 1 :])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_answers_have_all_the_probability_and_nothing_else_has_any(temperature):
    policy, codes = make_policy(temperature=temperature), all_answers()
    with torch.no_grad():
        log_prob = policy(PROMPTS).log_prob(codes[:, None].expand(-1, 3, -1))  # [V^T, B]
    proper = torch.tensor([is_answer(code) for code in codes.tolist()])
    assert (log_prob[~proper] == -math.inf).all()
    torch.testing.assert_close(log_prob[proper].exp().sum(0), torch.ones(3, dtype=torch.float64))


def test_padding_before_a_prompt_changes_nothing():
    policy, code = make_policy(), torch.tensor([[1, 2, END]])
    with torch.no_grad():
        short = policy(torch.tensor([[2, 1]])).log_prob(code)
        padded = policy(torch.tensor([[PAD, PAD, 2, 1]])).log_prob(code)
    torch.testing.assert_close(short, padded)


def test_drawing_and_scoring_agree():
    posterior = make_policy()(PROMPTS.float())
    codes, drawn = posterior.draw((40,))
    assert codes.shape == (40, 3, T)
    assert all(is_answer(code) for code in codes.view(-1, T).tolist())
    assert (codes[..., :-1] == END).any()  # some end early
    scored = posterior.log_prob(codes)
    torch.testing.assert_close(scored, drawn)
    scored.sum().backward()
    assert all(p.grad.isfinite().all() for p in posterior.policy.parameters() if p.grad is not None)
    assert (posterior.entropy() > 0.0).all()


def test_draws_have_the_frequencies_that_scoring_says():
    posterior = make_policy()(PROMPTS[2:])
    codes = posterior.sample((20_000,))[:, 0]
    answers = all_answers()
    with torch.no_grad():
        expected = posterior.log_prob(answers[:, None]).exp()[:, 0]
    counted = torch.stack([(codes == answer).all(-1).double().mean() for answer in answers])
    assert (counted - expected).abs().max() < 4.0 * math.sqrt(0.25 / 20_000)


def test_the_greedy_answer_takes_the_likeliest_token_each_time():
    policy = make_policy()
    answer = policy(PROMPTS).mode
    for row, prompt in enumerate(PROMPTS):
        ids = prompt[None]
        for t in range(T):
            logits = policy.logits(ids, (prompt[None] != PAD).long())[0, -1]  # of the token that comes next
            assert answer[row, t] == logits.argmax()
            if answer[row, t] == END:
                break
            ids = torch.cat((ids, answer[row : row + 1, t : t + 1]), 1)


def test_the_kl_to_a_reference_is_paid_in_the_reward():
    """Against the sum by hand; the uniform prior's constant apart."""
    policy = make_policy()
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        policy.model.head.weight.mul_(2.0)
    beta = torch.tensor(0.5, dtype=torch.float64)
    paid = ReferenceReward(lambda x, z: z.sum(-1).double(), reference, beta)
    env = EncodingEnv(
        PROMPTS.double(), num_tokens=T, vocab_size=V, batch_size=[3, 4], beta=beta, reward_fn=paid, seed=0
    )
    batch = env.rollout(1, GroupActor(policy))[..., 0]
    x, z = batch["observation"][:, 0], batch["action"]
    with torch.no_grad():
        log_q, log_ref = (p(x).log_prob(z.transpose(0, 1)).transpose(0, 1) for p in (policy, reference))
    constant = 0.5 * -T * math.log(V)
    expected = z.sum(-1) - 0.5 * (log_q - log_ref) + constant
    torch.testing.assert_close(batch["next", "reward"][..., 0].double(), expected, rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in reference.parameters())


def test_daps_loss_trains_a_language_model():
    """To end at once, for which it is paid; beside the untrained model."""
    policy = make_policy().float()
    env = EncodingEnv(
        PROMPTS.float(),
        num_tokens=T,
        vocab_size=V,
        batch_size=[8, 8],
        seed=0,
        reward_fn=lambda x, z: (z[..., 0] == END).float(),
    )
    actor = GroupActor(policy)
    loss = DAPSLoss(actor, ess_fraction=0.5, centered=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    before = env.rollout(1, actor)["next", "reward"].mean()
    for _ in range(60):
        loss(env.rollout(1, actor))["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = env.rollout(1, actor)["next", "reward"].mean()
    assert before < 0.6
    assert after > 0.9


def test_errors():
    with pytest.raises(ValueError, match="end_token and pad_token must lie in"):
        make_policy(pad_token=V)
    with pytest.raises(ValueError, match="temperature must be positive"):
        make_policy(temperature=0.0)
    with pytest.raises(ValueError, match=r"prompts must be \[B, P\]"):
        make_policy()(torch.zeros(3))


def test_a_mask_says_what_pads_where_tokens_cannot():
    """Token 3 ends, begins and pads; as the first of a prompt it is read, behind it it is not."""
    policy, code = make_policy(pad_token=None), torch.tensor([[1, 2, END]])
    prompt = torch.tensor([[END, 2, 1]])  # begins with it, not padded
    with torch.no_grad():
        read = policy(prompt, torch.ones_like(prompt)).log_prob(code)
        short = policy(prompt[:, 1:]).log_prob(code)
    assert not torch.isclose(read, short)
    padded = torch.tensor([[END, END, END, 2, 1]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    for posterior in (policy(padded, mask), policy(torch.stack((padded, mask), 1).float())):
        torch.testing.assert_close(posterior.log_prob(code), read, atol=1e-12, rtol=0)
        assert torch.equal(posterior.mode, policy(prompt, torch.ones_like(prompt)).mode)
        drawn = posterior.draw((30,))
        torch.testing.assert_close(posterior.log_prob(drawn.codes), drawn.log_prob)


def test_what_could_be_padding_or_a_beginning_is_asked_for():
    prompt = torch.tensor([[PAD, 2, 1]])
    assert make_policy()(prompt).mask.tolist() == [[0, 1, 1]]  # a token that does nothing but pad
    begins = make_policy()
    begins.model.config = SimpleNamespace(bos_token_id=PAD)
    begins = CausalLMPolicy(begins.model, num_tokens=T, vocab_size=V, end_token=END, pad_token=PAD)
    with pytest.raises(ValueError, match=r"prompts begin with token 0, which pads and also.*pass their mask"):
        begins(prompt)
    assert begins(prompt[:, 1:]).mask.tolist() == [[1, 1]]  # nothing to guess
    with pytest.raises(ValueError, match="prompts begin with token 3"):
        make_policy(pad_token=None)(torch.tensor([[END, 2, 1]]))


@pytest.mark.parametrize("mask", [[[1, 1, 0]], [[1, 0, 1]], [[1, 1]], [[0, 0, 0]]])
def test_masks_of_prompts_that_are_not_padded_on_the_left_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask must be .* pad on the left"):
        make_policy()(torch.tensor([[2, 2, 1]]), torch.tensor(mask))


def test_a_wrapper_of_a_model_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model must take input_ids .* TensorDictModule takes tensordict"):
        CausalLMPolicy(
            TensorDictModule(TinyLM(), in_keys=["x"], out_keys=["y"]), num_tokens=T, vocab_size=V, end_token=END
        )


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_model_of_transformers_with_its_cache():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=END, eos_token_id=END)
    model = GPT2LMHeadModel(config).double().eval()
    policy = CausalLMPolicy(model, num_tokens=T, vocab_size=V, end_token=END, pad_token=PAD)
    posterior = policy(PROMPTS)
    codes, drawn = posterior.draw((10,))
    torch.testing.assert_close(posterior.log_prob(codes).detach(), drawn)
    answers = all_answers()
    total = posterior.log_prob(answers[:, None].expand(-1, 3, -1)).exp().sum(0)
    torch.testing.assert_close(total.detach(), torch.ones(3, dtype=torch.float64))


def test_rows_beyond_the_vocabulary_are_never_drawn():
    """Models pad their table of logits; a model with too few is refused."""
    wide = TinyLM().double()
    wide.head = nn.Linear(8, V + 3).double()
    policy = CausalLMPolicy(wide, num_tokens=T, vocab_size=V, end_token=END, pad_token=PAD)
    codes = policy(PROMPTS).sample((200,))
    assert codes.max() < V
    total = policy(PROMPTS).log_prob(all_answers()[:, None].expand(-1, 3, -1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))
    narrow = CausalLMPolicy(TinyLM(), num_tokens=T, vocab_size=V + 1, end_token=END, pad_token=PAD)
    with pytest.raises(ValueError, match=f"vocab_size must be at most {V}.*resize_token_embeddings"):
        narrow(PROMPTS).sample((2,))
