"""What all encoding environments share: the data, what scores a code, the prior and β."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.envs.checks import check_data, check_labels, find_size
from daps_rl.envs.default import NUM_TOKENS, VOCAB_SIZE, Data, find_data, principal_decoder
from daps_rl.envs.processes import refuse_stale_copies, use_one_thread_after_fork
from daps_rl.functional import VerdictTerms, decoder_loss, encoding_reward, reconstruction
from daps_rl.functional.checks import check_beta
from daps_rl.optim import descend
from daps_rl.policies import CodeMask, EndToken
from daps_rl.policies.factorized import uniform_codes
from daps_rl.policies.masks import check_ends, check_price

if TYPE_CHECKING:
    from daps_rl.verdicts import Verdicts

RewardFn = Callable[[Tensor, Tensor], Tensor]


class TaskOptions(TypedDict, total=False):
    """What every encoding environment takes by name: see `EncodingTask`."""

    num_tokens: int | None
    vocab_size: int | None
    beta: Tensor | float
    prior: Distribution | nn.Module | None
    rate_weight: Tensor | float
    reward_fn: RewardFn | None
    targets: Tensor | np.ndarray | None
    mask: CodeMask | None
    token_price: float
    verdicts: Verdicts | None
    labels: Tensor | np.ndarray | None
    device: torch.device | str | None


class EncodingTask(nn.Module):
    """Data to encode, and what a code of them is worth. Holds the decoder itself, never a copy.

    The decoder scores in the mode it is in: one with batch statistics wants `decoder.eval()` where it is not to learn.

    Args:
        data: a floating-point tensor or array [N, ...], a name or path for `daps_rl.data.load` (its training split), or
            None: digits, flat.
        decoder: maps codes [..., T] to a distribution over x, whose log_prob(x) is the score. If None, `reward_fn`
            scores, or where there is none either the data's principal components, frozen.
        num_tokens, vocab_size: T and V; the decoder's own if None.
        beta: weight of the KL to the prior: a number, or a 0-dim tensor, which is kept by reference.
        prior: distribution over codes of event shape [T], or a module that gives it, called anew for each reward, so
            that it may learn meanwhile; uniform if None.
        rate_weight: of log p(z) in the reward beside its part of the KL: a number, or a 0-dim tensor, kept by
            reference.
        reward_fn: instead of a decoder, any function of x [B, 1, ...] and z [B, K, T] that gives [B, K]; need not be
            differentiable. -inf is a score, NaN and +inf are errors.
        targets: what is scored instead of x, where more is known of it than the encoder sees. [N, *y].
        mask: which tokens may come next, for policies and outside clients to ask; codes that break it are scored too.
            With an `EndToken`, V + 1 symbols, codes are read up to their first end, whatever stands behind it.
        token_price: what each token before the end costs, in nats of the reward.
        verdicts: what a code is worth beside log p(x|z), see `daps_rl.verdicts.Verdicts`; of a decoder's alone.
        labels: of the data, for verdicts that ask for them. Integers [N].
        device: of data and decoder; if None the accelerator's, where one of them is on one.
    Raises:
        ValueError: data, labels, sizes, beta or token_price make no sense, T and V can be had from nowhere, or
            reward_fn is given beside a decoder or verdicts.
    """

    def __init__(
        self,
        data: Data | None = None,
        decoder: nn.Module | None = None,
        *,
        num_tokens: int | None = None,
        vocab_size: int | None = None,
        beta: Tensor | float = 0.0,
        prior: Distribution | nn.Module | None = None,
        rate_weight: Tensor | float = 0.0,
        reward_fn: RewardFn | None = None,
        targets: Tensor | np.ndarray | None = None,
        mask: CodeMask | None = None,
        token_price: float = 0.0,
        verdicts: Verdicts | None = None,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        use_one_thread_after_fork()
        super().__init__()
        if decoder is not None and reward_fn is not None:
            raise ValueError("exactly one of decoder and reward_fn scores the codes, got both; leave one of them out.")
        if verdicts is not None and reward_fn is not None:
            raise ValueError("verdicts judge what a decoder makes of codes, and there is a reward_fn; leave one out.")
        tensor = check_data(find_data(data))
        scored = tensor if targets is None else torch.as_tensor(targets)
        if scored.ndim < 1 or len(scored) != len(tensor):
            raise ValueError(
                f"targets must be one for each of the {len(tensor)} data, got shape {tuple(scored.shape)}."
            )
        labels = check_labels(labels, verdicts, len(tensor))
        self.ends = mask if isinstance(mask, EndToken) else None
        if decoder is None and reward_fn is None:
            symbols = vocab_size or (VOCAB_SIZE if self.ends is None else self.ends.end + 1)
            decoder = principal_decoder(tensor, num_tokens or NUM_TOKENS, symbols, ends=self.ends is not None)
        self.num_tokens = find_size("num_tokens", num_tokens, decoder)
        self.vocab_size = find_size("vocab_size", vocab_size, decoder)
        if self.ends is not None:
            check_ends(self.ends, self.num_tokens, self.vocab_size)
        check_price(token_price, self.ends)
        self.token_price = token_price
        own, shape = getattr(decoder, "observation_shape", None), tuple(scored.shape[1:])
        if isinstance(own, tuple) and own != shape:
            raise ValueError(
                f"observation_shape must be the decoder's own, {own}, got {shape} from the data; make the two fit."
            )
        if prior is not None and not (hasattr(prior, "log_prob") or isinstance(prior, nn.Module)):
            raise ValueError(
                f"prior must be a distribution over codes, or a module that gives one, got {type(prior).__name__}."
            )
        check_beta(beta)
        if device is None:
            parameters = iter(()) if decoder is None else decoder.parameters()
            device = next(parameters, tensor).device if tensor.device.type == "cpu" else tensor.device
        self.data: Tensor
        self.beta: Tensor
        self.register_buffer("data", tensor.to(device), persistent=False)
        self.targets: Tensor | None
        self.register_buffer("targets", None if targets is None else scored.to(device), persistent=False)
        self.labels: Tensor | None
        self.register_buffer("labels", None if labels is None else labels.to(device), persistent=False)
        self.verdicts = None if verdicts is None else verdicts.to(device)
        self.register_buffer("beta", beta if isinstance(beta, Tensor) else torch.tensor(float(beta), device=device))
        self.decoder = decoder if decoder is None else decoder.to(device)
        self.reward_fn, self.mask = reward_fn, mask
        self.rate_weight = rate_weight
        # Of codes that end, every one has a probability under the prior: a host's policy need not know the fewest.
        ends = None if self.ends is None else self.ends.of_any_length()
        self._prior: Any = prior or uniform_codes(self.num_tokens, self.vocab_size, ends, self.device)
        if isinstance(prior, nn.Module):
            self._prior = prior.to(self.device)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        use_one_thread_after_fork()
        refuse_stale_copies(self.decoder, self.beta, self._prior, self.rate_weight)

    @property
    def prior(self) -> Distribution:
        """The prior over codes, as it is now."""
        return self._prior() if isinstance(self._prior, nn.Module) else self._prior

    @property
    def learned_prior(self) -> nn.Module | None:
        """The prior's module, where it has parameters to learn."""
        prior = self._prior if isinstance(self._prior, nn.Module) else None
        return prior if prior is not None and any(p.requires_grad for p in prior.parameters()) else None

    def prior_loss(self, codes: Tensor) -> Tensor | float:
        """−mean log p(z) of codes [..., T], with gradient, in nats; 0 where the prior learns nothing."""
        return 0.0 if self.learned_prior is None else -self.prior.log_prob(codes).mean()

    @property
    def device(self) -> torch.device:
        """Where the data and the decoder are."""
        return self.data.device

    def scored(self, index: Tensor) -> Tensor:
        """What is scored of the data of those numbers: their targets, or themselves. [B, *y]."""
        return (self.data if self.targets is None else self.targets)[index]

    def allowed(self, index: Tensor) -> Tensor | None:
        """Which tokens the data of those numbers allow, bool [B, V], where a code is one token and there is a mask."""
        if self.mask is None or self.num_tokens > 1:
            return None
        observation = self.data[index]
        return self.mask.allowed(self.mask.start(observation, 1), 0)[:, 0]

    def closed(self, codes: Tensor) -> Tensor:
        """The codes as they are read: what stands behind an end token is the end token. [..., T]."""
        return codes if self.ends is None else self.ends.close(codes)

    def price(self, codes: Tensor) -> Tensor | None:
        """What the tokens of codes [..., T] cost, in nats, [...]; None where codes do not end."""
        return None if self.ends is None else self.token_price * self.ends.lengths(codes)

    def score(self, x: Tensor, codes: Tensor) -> Tensor:
        """log p(x|z), or reward_fn's value, with its gradient. x [B, 1, *x], codes [B, K, T] → [B, K]."""
        return self._score(x, codes)[0]

    def judge(self, x: Tensor, codes: Tensor, labels: Tensor | None) -> tuple[Tensor, VerdictTerms | None]:
        """`score`, and what the verdicts say of the same codes, where there are any. labels [B]."""
        value, distribution = self._score(x, codes)
        if self.verdicts is None or distribution is None:
            return value, None
        return value, self.verdicts(value, reconstruction(distribution), x.squeeze(1), labels)

    def _score(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Distribution | None]:
        distribution: Distribution | None = None
        if self.reward_fn is not None:
            value = self.reward_fn(x, codes)
        else:
            assert self.decoder is not None  # one of the two is given
            distribution = self.decoder(codes)
            value = distribution.log_prob(x)
        if value.shape != codes.shape[:-1]:
            raise ValueError(
                f"{'the decoder' if self.reward_fn is None else 'reward_fn'} must score codes [B, K, T] as [B, K] = "
                f"{tuple(codes.shape[:-1])}, got shape {tuple(value.shape)}; sum over the entries of x."
            )
        if self.reward_fn is not None and not (value < math.inf).all():  # of a decoder, asking would wait for a GPU
            raise ValueError("reward_fn gave NaN or +inf, which no code can be worth; give -inf to what must not be.")
        return value, distribution

    def reward(
        self,
        x: Tensor,
        codes: Tensor,
        optimizer: torch.optim.Optimizer | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gives what codes are worth to a host that does not see log q: log p(x|z) + β·log p(z), and the verdicts.

        Args:
            x: data. [B, 1, *x].
            codes: as they are read, see `closed`. [B, K, T].
            optimizer: of the decoder's parameters, and a learned prior's. If given, the same forward pass also makes a
                step on −mean log p(x|z) − mean log p(z), unless that or its gradient is not finite; the rewards are
                those before the step.
            labels: of the data, for verdicts that ask for them. [B].
        Returns:
            reward [B, K] and log_likelihood [B, K], float32, detached, in nats.
        """
        with torch.set_grad_enabled(optimizer is not None):
            log_likelihood, terms = self.judge(x, codes, labels)
        scored = log_likelihood.detach().float()
        with torch.no_grad():
            prior_log_prob = self.prior.log_prob(codes)
        worth = (terms, self.rate_weight, self.price(codes))
        reward = encoding_reward(scored, None, prior_log_prob, self.beta, *worth)
        if optimizer is not None:
            with torch.enable_grad():
                loss = decoder_loss(log_likelihood).mean() + self.prior_loss(codes)
                descend(optimizer, loss, max_grad_norm=None)
        return reward.detach(), scored


Constructor = TypeVar("Constructor", bound=Callable[..., None])


def takes_task_arguments(init: Constructor) -> Constructor:
    """Decorates an environment's constructor: `**` is listed by name in its signature, and any other is an error."""
    *own, _ = inspect.signature(init).parameters.values()
    named = {parameter.name for parameter in own}
    task = [p for name, p in inspect.signature(EncodingTask.__init__).parameters.items() if name not in named]
    signature = inspect.Signature([*own, *task])

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **arguments: Any) -> None:
        for name in arguments.keys() - signature.parameters.keys():
            known = ", ".join(list(signature.parameters)[1:])
            raise TypeError(f"{type(self).__name__} has no argument {name!r}; it takes {known}.")
        init(self, *args, **arguments)

    checked.__signature__ = signature  # type: ignore[attr-defined]  # where inspect looks
    return checked  # type: ignore[return-value]  # the same, for a type checker


class HoldsTask:
    """Mixed into environments that hold an `EncodingTask`: its parts."""

    task: EncodingTask

    @property
    def decoder(self) -> nn.Module | None:
        """The decoder itself, not a copy."""
        return self.task.decoder

    @property
    def beta(self) -> Tensor:
        """The one shared value of β, 0-dim. Assigning a number fills it in place; ValueError unless it can be a β."""
        return self.task.beta

    @beta.setter
    def beta(self, value: Tensor | float) -> None:
        check_beta(value)
        self.task.beta.fill_(value)
