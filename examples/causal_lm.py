"""DAPSLoss in the place of a GRPO loss: a causal language model learns to answer by a checker's verdict alone.

The task is to copy three digits backwards and to stop. With transformers installed (`pip install
'daps-rl[language-models]'`) the model is a small GPT-2 with random weights; nothing is downloaded. Otherwise it is a
transformer of a few lines with the same interface.

python examples/causal_lm.py [--smoke]
"""

from __future__ import annotations

import argparse
import copy
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from daps_rl.envs import EncodingEnv
from daps_rl.objectives import DAPSLoss, GroupActor
from daps_rl.policies import CausalLMPolicy, ReferenceReward

DIGITS, ASK, END, PAD = 10, 10, 11, 12  # tokens: the digits, a question mark, the end, padding
LENGTH = 3


class SmallLM(nn.Module):
    """What every causal model of transformers has: `input_ids` and a mask in, an object with `logits` out."""

    def __init__(self, vocab_size: int = 13, dim: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab_size, dim), nn.Embedding(32, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> SimpleNamespace:
        x = self.embed(input_ids) + self.place(position_ids)
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        unseen = torch.zeros(attention_mask.shape).masked_fill(attention_mask == 0, float("-inf"))
        return SimpleNamespace(
            logits=self.head(self.blocks(x, mask=causal, src_key_padding_mask=unseen, is_causal=True))
        )


def make_model() -> nn.Module:
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        return SmallLM()
    return GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=32, n_embd=64, n_layer=2, n_head=4)).eval()


def check(prompt: Tensor, answer: Tensor) -> Tensor:
    """The share of tokens that are right, the end among them. Prompts [B, 1, P], answers [B, K, T] → [B, K]."""
    wanted = torch.cat((prompt[..., :LENGTH].flip(-1), torch.full_like(prompt[..., :1], END)), dim=-1)
    return (answer == wanted).float().mean(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    prompts = torch.randint(DIGITS, (5000, LENGTH)).float()
    prompts = torch.cat((prompts, torch.full((5000, 1), float(ASK))), dim=1)
    policy = CausalLMPolicy(make_model(), num_tokens=LENGTH + 1, vocab_size=13, end_token=END, pad_token=PAD)
    beta = torch.tensor(0.01)
    reward = ReferenceReward(check, copy.deepcopy(policy), beta)  # minus β times the KL to the model as it was
    env = EncodingEnv(prompts, num_tokens=LENGTH + 1, vocab_size=13, batch_size=[32, 8], reward_fn=reward, beta=beta)
    actor = GroupActor(policy)
    loss = DAPSLoss(actor, ess_fraction=0.5, temperature_floor=env.beta)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    steps = 10 if options.smoke else options.steps
    for step in range(steps):
        batch = env.rollout(1, actor)
        loss(batch)["loss_actor"].backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            answers = policy(prompts[:200]).mode[:, None]
            exact = (check(prompts[:200, None], answers) == 1.0).float().mean()
            print(f"step {step}  right tokens {check(prompts[:200, None], answers).mean():.2f}  exact {exact:.2f}")
    print("a prompt and its answer:", prompts[0].long().tolist(), policy(prompts[:1]).mode[0].tolist())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
