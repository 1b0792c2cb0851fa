"""A mixture of distributions over codes: the prior of all classes together, or of the one that there is."""

from __future__ import annotations

import torch
from torch import Tensor

from daps_rl.policies.distribution import SequentialCodes, TokenSteps

SCORED_AT_ONCE = 2**24  # entries of [N, C, T, V]
CPU_TOKENS = 2**12  # scored at a time on a CPU, see `CodeTransformer.log_prob`


class MixtureCodes(SequentialCodes):
    """p(z) = Σ_c p(c) p(z|c): batch shape [], event shape [T].

    Args:
        components: p(z|c), of batch shape [C], with `log_prob` and `steps`.
        log_weights: log p(c). [C].
    """

    def __init__(self, components: SequentialCodes, log_weights: Tensor) -> None:
        self.components, self.log_weights = components, log_weights
        super().__init__(torch.Size(), components.event_shape[0], components.vocab_size)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), in nats, with gradient, some codes at a time. [..., T] → [...]."""
        classes, num_tokens = len(self.log_weights), self.event_shape[0]
        size = CPU_TOKENS // num_tokens
        if value.device.type != "cpu":
            size = SCORED_AT_ONCE // (classes * num_tokens * self.vocab_size)
        flat = value.reshape(-1, 1, num_tokens).expand(-1, classes, -1)  # [N, C, T]
        parts = [self.components.log_prob(part) for part in flat.split(max(1, size))]
        return (torch.cat(parts) + self.log_weights).logsumexp(-1).reshape(value.shape[:-1])

    def steps(self, samples: int) -> MixtureSteps:
        """Begins K codes; see `TokenSteps`."""
        return MixtureSteps(self.components.steps(samples), self.log_weights)


class MixtureSteps:
    """The steps of a mixture: each component's, weighted by what the tokens so far say of the class."""

    def __init__(self, steps: TokenSteps, log_weights: Tensor) -> None:
        self._steps = steps
        self._weights = log_weights.unsqueeze(1).expand(steps.logits.shape[:2])  # log p(c|z_<t), [C, K]
        self._mix()

    def _mix(self) -> None:
        """The next token's log-probabilities, and those of each class with it. [1, K, V]; [C, K, V]."""
        self._joint = self._weights.unsqueeze(-1) + torch.log_softmax(self._steps.logits, dim=-1)
        self.logits = self._joint.logsumexp(0, keepdim=True)

    def advance(self, token: Tensor) -> None:
        token = token.expand(len(self._weights), -1)
        joint = self._joint.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        self._weights = joint - joint.logsumexp(0)  # so that long codes lose no digits
        self._steps.advance(token)
        self._mix()

    def select(self, index: Tensor) -> None:
        index = index.expand(len(self._weights), -1)
        self._steps.select(index)
        self._weights = self._weights.gather(1, index)
        self._mix()
