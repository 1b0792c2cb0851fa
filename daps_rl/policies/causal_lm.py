"""Any causal language model as a policy: prompts in, a distribution over answers out."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_rl.functional import encoding_reward
from daps_rl.functional.checks import as_float, check_beta, check_code_sizes, check_codes
from daps_rl.policies.distribution import Drawn, SequentialCodes, choose_token

OPTIONAL = ("position_ids", "past_key_values", "use_cache")  # passed to models that take them, or **kwargs


class CausalLMAnswers(SequentialCodes):
    """q(z|x) over answers of up to T tokens: batch shape [B], event shape [T].

    An answer ends with the end token; what stands behind it is padding, has probability exactly 1 there, and adds
    nothing to `log_prob`. Anything else behind an end has probability exactly 0. Prompts, int64 [B, P], are padded on
    the left, where their mask, int64 [B, P], is 0.
    """

    def __init__(self, policy: CausalLMPolicy, prompt: Tensor, mask: Tensor) -> None:
        self.policy, self.prompt, self.mask = policy, prompt, mask
        super().__init__(prompt.shape[:1], policy.num_tokens, policy.vocab_size)

    def unroll(self, samples: int, generator: torch.Generator | None, *, greedy: bool) -> Drawn:
        """With the model's own cache where it has one; see `SequentialCodes`."""
        policy, cache = self.policy, None
        ids, mask = self.prompt.repeat(samples, 1), self.mask.repeat(samples, 1)  # [K·B, P]
        n, length = ids.shape
        ended = torch.zeros(n, dtype=torch.bool, device=ids.device)
        log_prob = torch.zeros(n, device=ids.device)
        for _ in range(policy.num_tokens):
            logits, cache = policy.next_logits(ids, mask, cache)
            token, of_token = choose_token(logits, generator, greedy=greedy)
            log_prob = log_prob + torch.where(ended, 0.0, of_token)
            ids = torch.cat((ids, torch.where(ended, policy.pad_token, token)[:, None]), dim=1)
            ended = ended | (token == policy.end_token)
        return Drawn(ids[:, length:].reshape(samples, *self.batch_shape, -1), log_prob.view(samples, *self.batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats: one teacher-forced pass. value [*S, B, T] → [*S, B], with gradient."""
        check_codes(value, self.event_shape[0], self.batch_shape)
        policy, codes = self.policy, value.reshape(-1, self.policy.num_tokens)  # [N, T]
        prompt, mask = (x.repeat(len(codes) // len(self.prompt), 1) for x in (self.prompt, self.mask))
        logits = policy.logits(torch.cat((prompt, codes[:, :-1]), dim=1), mask)  # [N, T, V]
        picked = torch.log_softmax(logits, dim=-1).gather(-1, codes.unsqueeze(-1))[..., 0]  # [N, T]
        ends = codes == policy.end_token
        ended = (ends.long().cumsum(-1) - ends.long()) > 0  # before each position
        padding = torch.where(codes == policy.pad_token, 0.0, -math.inf).to(picked.dtype)
        return torch.where(ended, padding, picked).sum(-1).view(value.shape[:-1])

    def score_drawn(self, codes: Tensor, log_prob: Tensor) -> Tensor:
        """Scores them anew, as the model keeps nothing of the pass that drew them; see `CodePosterior`."""
        return self.log_prob(codes)

    def entropy(self, num_samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
        """Unbiased estimate of the entropy, −log q of drawn answers, in nats, without gradient. [B]."""
        return -self.draw((num_samples,), generator).log_prob.mean(0)


class CausalLMPolicy(nn.Module):
    """Makes a policy of a causal language model, so that `DAPSLoss` and all agents train it on checked answers.

    Called on prompts [B, P], token numbers in any dtype (environments hold floats), gives `CausalLMAnswers`. Which of
    them are padding says a mask [B, P], 0 and 1 as tokenizers give it: the second argument, or behind the prompts in
    an observation [B, 2, P]. Without one, `pad_token` before a prompt is padding, unless it also ends or begins a text:
    then it could be either, and is an error.

    Args:
        model: called with `input_ids` [N, L] and `attention_mask` [N, L], gives an object with `logits` [N, L, V], as
            the causal models of Hugging Face transformers do. `position_ids` are passed where it takes them, and
            `past_key_values` with `use_cache=True`, so that a token costs one step. It is kept in evaluation mode. Rows
            of logits beyond V are left out.
        num_tokens: T, the longest answer, its end token counted.
        vocab_size: V.
        end_token: ends an answer.
        pad_token: stands behind the end, and before a short prompt; the end token if None.
        temperature: that logits are divided by, in drawing and in scoring.
    Raises:
        ValueError: an argument is out of range; the model takes no `input_ids`, or has fewer logits than V; prompts are
            not padded on the left.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_tokens: int,
        vocab_size: int,
        end_token: int,
        pad_token: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        pad_token = end_token if pad_token is None else pad_token
        if not (0 <= end_token < vocab_size and 0 <= pad_token < vocab_size):
            raise ValueError(
                f"end_token and pad_token must lie in 0 … {vocab_size - 1} (vocab_size), got {end_token} and "
                f"{pad_token}."
            )
        if not temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {temperature}; logits are divided by it.")
        self.model, self.temperature = model, temperature
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        self.end_token, self.pad_token = end_token, pad_token
        parameters = inspect.signature(model.forward).parameters
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if "tensordict" in parameters or not (anything or "input_ids" in parameters):
            raise ValueError(
                f"model must take input_ids and attention_mask, and {type(model).__name__} takes "
                f"{', '.join(parameters)}; pass the causal model itself, not a wrapper of it."
            )
        begins = getattr(getattr(model, "config", None), "bos_token_id", None)
        self._only_pads = pad_token not in (end_token, begins)
        self._takes = {name for name in OPTIONAL if anything or name in parameters}
        self.model.eval()

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """The model stays in evaluation mode: with dropout, answers would be scored by another model than drew them."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, prompt: Tensor, mask: Tensor | None = None) -> CausalLMAnswers:
        if prompt.ndim == 3 and prompt.shape[1] == 2 and mask is None:
            prompt, mask = prompt.unbind(1)
        if prompt.ndim != 2:
            shape = tuple(prompt.shape)
            raise ValueError(f"prompts must be [B, P], or [B, 2, P] with masks, got {shape}; pad them on the left.")
        prompt = prompt.long()
        if mask is None:
            mask = ((prompt != self.pad_token).cumsum(-1) > 0).long()
            if not self._only_pads and not mask.all():
                raise ValueError(
                    f"prompts begin with token {self.pad_token}, which pads and also ends or begins a text; pass their "
                    "mask [B, P], or observations [B, 2, P] of prompts and masks."
                )
        if mask.shape != prompt.shape or not (mask[:, -1] == 1).all() or (mask.long().diff() < 0).any():
            raise ValueError(
                f"mask must be of shape {list(prompt.shape)}, 0 before each prompt and 1 from its first token to the "
                f"end, got shape {list(mask.shape)}; pad on the left (padding_side='left')."
            )
        return CausalLMAnswers(self, prompt, mask.long())

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of the tokens behind prompts that the mask [N, P] is of. [N, P + T - 1] → [N, T, V]."""
        out = self.model(**self._inputs(ids, mask))
        return self._of_tokens(out.logits[:, mask.shape[1] - 1 :])

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits of the token after the last, [N, V], and the model's cache, or None."""
        inputs = self._inputs(ids, mask)
        if not {"past_key_values", "use_cache"} <= self._takes:
            return self._of_tokens(self.model(**inputs).logits[:, -1]), None
        if cache is not None:  # what came before is in it
            inputs["input_ids"] = ids[:, -1:]
            if "position_ids" in inputs:
                inputs["position_ids"] = inputs["position_ids"][:, -1:]
        out = self.model(**inputs, past_key_values=cache, use_cache=True)
        return self._of_tokens(out.logits[:, -1]), out.past_key_values

    def _of_tokens(self, logits: Tensor) -> Tensor:
        """Of the V tokens that there are: models may have more rows, for padding. [..., >= V] → [..., V]."""
        if logits.shape[-1] < self.vocab_size:
            raise ValueError(
                f"vocab_size must be at most {logits.shape[-1]}, the model's own, got {self.vocab_size}; after adding "
                "tokens to a tokenizer, call the model's resize_token_embeddings."
            )
        return as_float(logits[..., : self.vocab_size]) / self.temperature

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Everything but the padding before a prompt is looked at."""
        seen = F.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
        inputs = {"input_ids": ids, "attention_mask": seen}
        if "position_ids" in self._takes:
            inputs["position_ids"] = (seen.cumsum(-1) - 1).clamp_min(0)
        return inputs


class ReferenceReward:
    """A reward plus β·log p_ref(z|x): with the −β·log q of an environment, minus β times the KL to a frozen policy.

    R = r(x, z) − β·(log q(z|x) − log p_ref(z|x)). The environment's own prior, uniform, adds a constant, which
    changes no weight.

    Args:
        reward_fn: r, of x [B, 1, *x] and z [B, K, T], gives [B, K].
        reference: the policy that is not to be left far behind; it is not trained.
        beta: the very tensor that the environment has (`env.beta`), or a number.
    """

    def __init__(self, reward_fn: Any, reference: nn.Module, beta: Tensor | float) -> None:
        check_beta(beta)
        self.reward_fn, self.beta = reward_fn, beta
        self.reference = reference.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, x: Tensor, codes: Tensor) -> Tensor:
        log_prob = self.reference(x[:, 0]).log_prob(codes.transpose(0, 1)).transpose(0, 1)  # [B, K]
        return encoding_reward(self.reward_fn(x, codes), None, log_prob, self.beta)
