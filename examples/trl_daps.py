"""DAPS in TRL: a causal language model learns to answer from a reward that is 1 only if the whole answer is right.

The tasks are to turn bits around, and to add two numbers of digits. At first hardly an answer is right, so that most
groups of completions say nothing. The model is a small transformer with random weights and the tokenizer has a word
for each digit; nothing is downloaded. Needs TRL: pip install 'daps-rl[language-models]'

python examples/trl_daps.py [--smoke] [--trainer grpo] [--task add1]
"""

from __future__ import annotations

import argparse
import os
import random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from daps_rl.agents.trl import DAPSConfig, DAPSTrainer

PROMPTS, COMPLETIONS = 32, 8  # a step learns from so many prompts, and so many completions of each
OTHERS = ["=", "<end>"]  # words that no answer has
TRAINERS: dict[str, tuple[type[GRPOTrainer], type[GRPOConfig]]] = {
    "daps": (DAPSTrainer, DAPSConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
}


def questions(task: str, count: int, seed: int) -> Dataset:
    """Returns prompts and answers: of reverse8 eight bits and "=", of add2 two numbers of two digits and "="."""
    generator, size = random.Random(seed), int(task.lstrip("adrevs"))
    rows = []
    for _ in range(count):
        if task.startswith("reverse"):
            words = [generator.choice("01") for _ in range(size)]
            answer = words[::-1]
        else:
            numbers = [generator.randrange(10**size) for _ in range(2)]
            words = list("".join(f"{number:0{size}}" for number in numbers))
            answer = list(f"{sum(numbers):0{size + 1}}"[::-1])  # the last digit first, as one adds by hand
        rows.append({"prompt": " ".join([*words, "="]), "answer": " ".join(answer)})
    return Dataset.from_list(rows)


def exact(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """The reward: 1 where the whole answer is right, and 0 elsewhere."""
    return [float(completion == wanted) for completion, wanted in zip(completions, answer, strict=True)]


def make_tokenizer(digits: int) -> PreTrainedTokenizerFast:
    words = [*map(str, range(digits)), *OTHERS]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=OTHERS[1]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=OTHERS[1], pad_token=OTHERS[1])


def make_model(digits: int) -> PhiForCausalLM:
    """Two layers of width 64, with random weights; it answers in digits, all answers equally likely at first."""
    config = PhiConfig(
        vocab_size=digits + len(OTHERS), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=digits + 1,
    )  # fmt: skip
    model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[digits:] = -1e4
    return model


def make_trainer(trainer: str, task: str, *, steps: int, seed: int, out: str, **options: Any) -> GRPOTrainer:
    """Returns a trainer of TRL, to whose configuration the options go."""
    cls, config = TRAINERS[trainer]
    data = questions(task, PROMPTS * steps, seed)
    torch.manual_seed(seed)
    digits = 2 if task.startswith("reverse") else 10
    settings: dict[str, Any] = {
        "per_device_train_batch_size": PROMPTS * COMPLETIONS, "num_generations": COMPLETIONS, "max_steps": steps,
        "max_completion_length": len(data[0]["answer"].split()), "learning_rate": 1e-3, "seed": seed,
        "lr_scheduler_type": "constant", "logging_steps": 10, "save_strategy": "no", "report_to": [],
        "bf16": False, "use_cpu": True, "activation_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    return cls(
        make_model(digits),
        exact,
        args=config(out, **{**settings, **options}),
        train_dataset=data,
        processing_class=make_tokenizer(digits),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", choices=list(TRAINERS), default="daps")
    parser.add_argument("--task", default="reverse5", help="reverseN or addN")
    parser.add_argument("--steps", type=int, default=120, help="about a second each")
    parser.add_argument("--out", default="runs/trl", help="TRL's folder")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    steps = 3 if options.smoke else options.steps
    trainer = make_trainer(options.trainer, options.task, steps=steps, seed=0, out=options.out)
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print(f"share of right answers: {rewards[0]:.3f} at first, {rewards[-1]:.3f} at the end")


if __name__ == "__main__":
    main()
