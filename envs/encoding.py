"""Encoding as a one-step contextual bandit, for TorchRL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.data import Binary, Bounded, Composite, MultiCategorical, Unbounded
from torchrl.envs import EnvBase
from typing_extensions import Unpack

from daps_rl.envs.default import Data
from daps_rl.envs.processes import refuse_stale_copies
from daps_rl.envs.task import EncodingTask, HoldsTask, TaskOptions, takes_task_arguments
from daps_rl.functional import encoding_reward, kl_estimate
from daps_rl.functional.checks import check_same_shape


class EncodingEnv(HoldsTask, EnvBase):
    """Encode a datum x as a code z: one step, rewarded by how well the decoder explains x from z.

    Observation:
        `observation` [B, K, *x]: B data, each repeated for the K codes of its group (a view, not a copy). With
        `targets` also `target` [B, K, *y], which is scored, and with `labels` `label` [B, K]; a policy is not to read
        these. With a mask, and actions of one token, also `action_mask` [B, K, V].
    Action:
        `action` [B, K, T], int64 in 0 … V-1; with it `action_log_prob` [B, K], log q(z|x) in nats.
    Reward:
        `reward` [B, K, 1] = log p(x|z) − β·(log q(z|x) − log p(z)) − token_price·L, and the terms of `verdicts`, in
        nats; larger is better. Beside it `log_likelihood` and `kl` (the one-sample estimate; 0 when no log-probability
        came in) [B, K, 1], and with J verdicts in the reward `verdicts` [B, K, J], each in its own unit.
    Episode end:
        Every episode ends, terminated, after its one step.
    Reset and seed:
        A reset draws B data uniformly (whole groups: all K of a context, or none of them). `set_seed(s)` makes the
        sequence of data repeatable.

    With β > 0 a step needs the log-probability that its own codes were drawn with (a reset sets it to NaN);
    `rand_action` draws from the prior and writes it. `env.beta` is the one shared value of β, a 0-dim tensor: update it
    in place (`env.beta.fill_(0.1)`) and pass it to `DAPSLoss(temperature_floor=env.beta)`.

    Args:
        data, decoder, options: see `EncodingTask`; the device is that of the tensordicts too.
        batch_size: [B, K], contexts and codes per context.
        seed: of the sequence of data; drawn from torch's global generator if None.
    Raises:
        ValueError: batch_size makes no sense, or as `EncodingTask`.
        RuntimeError: this is a worker process, and the decoder is a copy that training would not reach.
    """

    @takes_task_arguments
    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        batch_size: Sequence[int],
        seed: int | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        if len(batch_size) != 2 or min(batch_size) < 1:
            raise ValueError(f"batch_size must be [B, K], contexts and codes per context, got {list(batch_size)}.")
        task = EncodingTask(data, decoder, **options)
        super().__init__(device=task.device, batch_size=torch.Size(batch_size))
        refuse_stale_copies(decoder, *(options.get(name) for name in ("beta", "prior", "rate_weight")))
        self.task = task
        self.generator = torch.Generator(device=task.device)
        self.set_seed(int(torch.randint(2**31 - 1, ())) if seed is None else seed)
        self._make_spec()

    @property
    def data(self) -> Tensor:
        """The data [N, *x]."""
        return self.task.data

    @property
    def prior(self) -> Distribution:
        """The prior over codes."""
        return self.task.prior

    def _make_spec(self) -> None:
        batch, device = self.batch_size, self.device
        code = torch.full((self.task.num_tokens,), self.task.vocab_size)

        def entry(*shape: int, dtype: torch.dtype = torch.float32) -> Unbounded:
            return Unbounded((*batch, *shape), device=device, dtype=dtype)

        self.observation_spec = Composite(
            observation=entry(*self.data.shape[1:], dtype=self.data.dtype),
            log_likelihood=entry(1),
            kl=entry(1),
            shape=batch,
            device=device,
        )
        if self.task.targets is not None:
            self.observation_spec["target"] = entry(*self.task.targets.shape[1:], dtype=self.task.targets.dtype)
        if self.task.labels is not None:
            self.observation_spec["label"] = entry(dtype=self.task.labels.dtype)
        if self.task.verdicts is not None:
            self.observation_spec["verdicts"] = entry(len(self.task.verdicts.learned))
        if self.task.allowed(torch.zeros(1, dtype=torch.int64, device=device)) is not None:
            self.observation_spec["action_mask"] = Binary(
                shape=(*batch, self.task.vocab_size), dtype=torch.bool, device=device
            )
        self._observed = set(self.observation_spec.keys()) - {"log_likelihood", "kl", "verdicts"}
        self.action_spec = MultiCategorical(code, shape=(*batch, self.task.num_tokens), device=device)
        self.state_spec = Composite(action_log_prob=entry(), shape=batch, device=device)
        self.reward_spec = entry(1)
        done = Bounded(False, True, (*batch, 1), dtype=torch.bool, device=device)
        self.full_done_spec = Composite(done=done, terminated=done.clone(), shape=batch, device=device)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.generator.manual_seed(seed)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's. An empty state, all that a TorchRL collector saves of an env without transforms, is no error."""
        return super().load_state_dict(state_dict, strict=strict and len(state_dict) > 0, assign=assign)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        contexts, samples = self.batch_size
        index = torch.randint(len(self.data), (contexts,), generator=self.generator, device=self.device)
        drawn = {"observation": self.data[index]}  # [B, *x]
        if self.task.targets is not None:
            drawn["target"] = self.task.scored(index)
        if self.task.labels is not None:
            drawn["label"] = self.task.labels[index]
        if (allowed := self.task.allowed(index)) is not None:
            drawn["action_mask"] = allowed
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None and (mask != mask[:, :1]).any():  # where it is not set, TorchRL keeps what there was
            raise ValueError(
                "the K codes of a context reset together, got a `_reset` mask that splits a group; "
                "set it for all entries along dimension 1, or for none."
            )
        scored = sorted(set(self.observation_spec.keys()) - self._observed)
        return TensorDict(
            {
                **{name: x.unsqueeze(1).expand(contexts, samples, *x.shape[1:]) for name, x in drawn.items()},
                **{name: self.observation_spec[name].zero() for name in scored},
                # Not a number until an actor writes it: a value of an earlier step is never taken for this one's.
                "action_log_prob": self.state_spec["action_log_prob"].zero() * math.nan,
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        kept = {name: tensordict[name] for name in self._observed}
        x, codes = kept.get("target", kept["observation"])[:, :1], tensordict["action"]  # [B, 1, *y], [B, K, T]
        codes = self.task.closed(codes)
        labels = kept["label"][:, 0] if "label" in kept else None
        with torch.no_grad():
            log_likelihood, terms = self.task.judge(x, codes, labels)
        log_likelihood = log_likelihood.float()  # [B, K]
        log_prob = tensordict.get("action_log_prob", torch.full_like(log_likelihood, math.nan)).detach()
        missing = log_prob.isnan()
        if (self.beta > 0.0) & missing.any():
            raise KeyError(
                "with beta > 0 the step needs `action_log_prob` [B, K], the log-probability the code was drawn "
                "with, and it is missing or NaN; use an actor that returns it (return_log_prob=True), or set beta to 0."
            )
        with torch.no_grad():
            prior_log_prob = self.prior.log_prob(codes)
        check_same_shape(action_log_prob=log_prob, prior_log_prob=prior_log_prob)
        log_prob = torch.where(missing, prior_log_prob, log_prob)
        kl = kl_estimate(log_prob, prior_log_prob)
        worth = (terms, self.task.rate_weight, self.task.price(codes))
        reward = encoding_reward(log_likelihood, log_prob, prior_log_prob, self.beta, *worth)
        done = torch.ones(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return TensorDict(
            {
                **kept,
                "log_likelihood": log_likelihood.unsqueeze(-1),
                "kl": kl.float().unsqueeze(-1),
                **({} if terms is None else {"verdicts": terms.scores.movedim(0, -1)}),
                "reward": reward.float().unsqueeze(-1),
                "done": done,
                "terminated": done.clone(),
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Writes codes from the prior, `action` [B, K, T], and their `action_log_prob` [B, K]."""
        codes = self.prior.sample(self.batch_size).to(self.device)
        if tensordict is None:
            tensordict = TensorDict({}, batch_size=self.batch_size, device=self.device)
        return tensordict.update({"action": codes, "action_log_prob": self.prior.log_prob(codes).float()})
