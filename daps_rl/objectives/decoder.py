"""The decoder's likelihood as a TorchRL loss."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import nn
from torchrl.objectives import LossModule

from daps_rl.functional import decoder_loss
from daps_rl.objectives.weights import read
from daps_rl.policies import EndToken, end_token


class DecoderLoss(LossModule):
    """Maximum likelihood of the data given the codes that the policy drew, unweighted.

    Reads the observation [B, K, *x, ...] and the action [B, K, T]. No gradient reaches the policy: the codes are
    integers.

    Args:
        decoder: maps codes [..., T] to a distribution over x.
        decoder_samples: how many of a context's K codes to learn from; 0 for all. They are much alike, and one is
            nearly as good as all, for a fraction of the time.
        prior: a module that learns p(z) from the same codes, the environment's own; None for one that learns nothing.
        mask: where codes end, the environment's `EndToken`: they are read as there, up to their first end. The prior's
            own if None.
    Returns:
        a tensordict: `loss_decoder`, −log p(x|z) in nats, averaged over the batch; with a prior `loss_prior`, −log p(z)
        likewise.
    """

    @dataclass
    class _AcceptedKeys:
        action: NestedKey = "action"
        observation: NestedKey = "observation"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    out_keys = ["loss_decoder"]  # noqa: RUF012 (TorchRL's own form)

    def __init__(
        self,
        decoder: nn.Module,
        *,
        decoder_samples: int = 0,
        prior: nn.Module | None = None,
        mask: EndToken | None = None,
    ) -> None:
        super().__init__()
        if decoder_samples < 0:
            raise ValueError(f"decoder_samples must be >= 0, got {decoder_samples}; 0 learns from all codes.")
        self.decoder, self.decoder_samples, self.prior = decoder, decoder_samples, prior
        self.ends = end_token(prior) if mask is None else mask
        if prior is not None:
            self.out_keys = ["loss_decoder", "loss_prior"]
        self._forward_value_estimator_keys()

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        self.in_keys = [self.tensor_keys.observation, self.tensor_keys.action]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch; see the class."""
        first = slice(self.decoder_samples or None)
        keys, remedy = (self.tensor_keys.action, self.tensor_keys.observation), "name it with set_keys"
        action, observation = (read(tensordict, key, remedy)[:, first] for key in keys)
        action = action if self.ends is None else self.ends.close(action)
        log_likelihood = self.decoder(action).log_prob(observation)
        losses = {"loss_decoder": decoder_loss(log_likelihood.reshape(1, -1)).mean()}
        if self.prior is not None:
            losses["loss_prior"] = -self.prior().log_prob(action).mean()
        return TensorDict(losses, batch_size=[])
