"""What all encoding environments share: the data, what scores a code, the prior and β."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.functional import decoder_loss, encoding_reward
from daps_rl.optim import descend
from daps_rl.priors import UniformCodes

RewardFn = Callable[[Tensor, Tensor], Tensor]
_IMPORTED_IN = os.getpid()


class EncodingTask(nn.Module):
    """Data to encode, and how a code of them is paid. Holds the decoder itself, never a copy.

    The decoder scores in the mode it is in: one with batch statistics wants `decoder.eval()` where it is not to learn.

    Args:
        data: the data [N, ...], floating point; kept on `device`.
        decoder: maps codes [..., T] to a distribution over x; its log_prob(x) is paid. Or None, with `reward_fn`.
        num_tokens: T.
        vocab_size: V.
        beta: weight of the KL to the prior: a number, or a 0-dim tensor, which is kept by reference.
        prior: distribution over codes of event shape [T]; uniform if None.
        reward_fn: in the decoder's place, any function of x [B, 1, ...] and z [B, K, T] that gives [B, K]; need not be
            differentiable.
        targets: what is scored in the place of x, [N, *y], where the one who scores knows more than the one who encodes
            (the right answer, say).
        device: of data and decoder; the data's own if None.
    Raises:
        ValueError: data, sizes or beta make no sense, or not exactly one of decoder and reward_fn is given.
        RuntimeError: this is a worker process, and the decoder is a copy that would fall behind the one that learns.
    """

    def __init__(
        self,
        data: Tensor | np.ndarray,
        decoder: nn.Module | None = None,
        *,
        num_tokens: int,
        vocab_size: int,
        beta: Tensor | float = 0.0,
        prior: Distribution | None = None,
        reward_fn: RewardFn | None = None,
        targets: Tensor | np.ndarray | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        use_one_thread_after_fork()
        super().__init__()
        if (decoder is None) == (reward_fn is None):
            raise ValueError("exactly one of decoder and reward_fn must be given; pass the one that scores the codes.")
        data = check_data(data)
        scored = data if targets is None else check_targets(targets, len(data))
        check_decoder_sizes(decoder, num_tokens, vocab_size, tuple(scored.shape[1:]))
        if prior is not None and not hasattr(prior, "log_prob"):
            raise ValueError(
                f"prior must be a distribution over codes, got {type(prior).__name__}; of a module that makes it, give "
                "what it makes: prior=module()."
            )
        if beta < 0.0:
            raise ValueError(f"beta must be >= 0, got {float(beta)}; it weighs the KL to the prior.")
        if isinstance(beta, Tensor) and beta.ndim:
            raise ValueError(f"beta must be a number or a 0-dim tensor, got shape {tuple(beta.shape)}.")
        device = torch.device(device) if device is not None else data.device
        self.data: Tensor
        self.beta: Tensor
        self.register_buffer("data", data.to(device), persistent=False)
        self.targets: Tensor | None
        self.register_buffer("targets", None if targets is None else scored.to(device), persistent=False)
        self.register_buffer("beta", beta if isinstance(beta, Tensor) else torch.tensor(float(beta), device=device))
        self.decoder = decoder if decoder is None else decoder.to(device)
        self.reward_fn = reward_fn
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        self.prior = prior or UniformCodes(num_tokens, vocab_size, device)
        refuse_stale_copies(decoder, beta)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        use_one_thread_after_fork()
        refuse_stale_copies(self.decoder, self.beta)

    def fill_beta(self, value: Tensor | float) -> None:
        """Sets β, in place: whoever shares the tensor sees it.

        Raises:
            ValueError: value is negative or not a number.
        """
        if not value >= 0.0:
            raise ValueError(f"beta must be >= 0, got {float(value)}; it weighs the KL to the prior.")
        self.beta.fill_(value)

    @property
    def device(self) -> torch.device:
        """Where the data and the decoder are."""
        return self.data.device

    def scored(self, index: Tensor) -> Tensor:
        """What is scored of the data of those numbers: their targets, or themselves. [B, *y]."""
        return (self.data if self.targets is None else self.targets)[index]

    @torch.no_grad()
    def score(self, x: Tensor, codes: Tensor) -> Tensor:
        """log p(x|z), or reward_fn's value, of each code. x [B, 1, *x], codes [B, K, T] → [B, K], float32."""
        if self.reward_fn is not None:
            value = self.reward_fn(x, codes)
        else:
            assert self.decoder is not None  # one of the two is given
            value = self.decoder(codes).log_prob(x)
        if value.shape != codes.shape[:-1]:
            raise ValueError(
                f"{'the decoder' if self.reward_fn is None else 'reward_fn'} must score codes [B, K, T] as [B, K] = "
                f"{tuple(codes.shape[:-1])}, got shape {tuple(value.shape)}; sum over the entries of x."
            )
        return value.float()

    def pay(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What a host is paid that does not see log q: log p(x|z) + β·log p(z), in nats.

        Args:
            x: data. [B, 1, *x].
            codes: [B, K, T].
        Returns:
            reward [B, K] and log_likelihood [B, K], float32.
        """
        log_likelihood = self.score(x, codes)
        return encoding_reward(log_likelihood, None, self.prior.log_prob(codes), self.beta), log_likelihood

    def pay_and_learn(self, x: Tensor, codes: Tensor, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor]:
        """As `pay`, by the same one forward pass, and then a step on the decoder's loss, −mean log p(x|z).

        What is paid is what the decoder said before the step. A loss or gradient that is not finite takes no step.

        Args:
            x: data. [B, 1, *x].
            codes: [B, K, T].
            optimizer: of the decoder's parameters.
        Returns:
            reward [B, K] and log_likelihood [B, K], float32, detached.
        Raises:
            RuntimeError: there is no decoder.
        """
        if self.decoder is None:
            raise RuntimeError("reward_fn stands in the decoder's place, and it does not learn; call pay.")
        with torch.enable_grad():
            log_likelihood = self.decoder(codes).log_prob(x)
        paid = log_likelihood.detach().float()
        reward = encoding_reward(paid, None, self.prior.log_prob(codes), self.beta)  # refuses any shape but [B, K]
        with torch.enable_grad():
            loss = decoder_loss(log_likelihood).mean()
            descend(optimizer, loss, max_grad_norm=None)
        return reward, paid


def check_data(data: Tensor | np.ndarray) -> Tensor:
    """The data as a tensor.

    Raises:
        ValueError: they are not floating-point [N, ...], or not finite.
    """
    tensor = torch.as_tensor(data)
    if tensor.ndim < 2 or len(tensor) == 0 or not torch.is_floating_point(tensor):
        raise ValueError(
            f"data must be floating-point [N, ...], got {tensor.dtype} of shape {tuple(tensor.shape)}; "
            "convert it with .float() or .astype('float32')."
        )
    if not tensor.isfinite().all():
        raise ValueError("data must be finite, got NaN or infinite entries; remove the data that hold them.")
    return tensor


def check_targets(targets: Tensor | np.ndarray, count: int) -> Tensor:
    """The targets as a tensor.

    Raises:
        ValueError: they are not one for each datum.
    """
    tensor = torch.as_tensor(targets)
    if tensor.ndim < 1 or len(tensor) != count:
        raise ValueError(f"targets must be one for each of the {count} data, got shape {tuple(tensor.shape)}.")
    return tensor


def check_decoder_sizes(
    decoder: nn.Module | None, num_tokens: int, vocab_size: int, observation_shape: tuple[int, ...]
) -> None:
    """Raises ValueError where a decoder that says its sizes cannot read such codes, or explains other data."""
    own_vocab = getattr(decoder, "vocab_size", None)
    if isinstance(own_vocab, int) and vocab_size > own_vocab:
        raise ValueError(f"vocab_size must be at most the decoder's own, {own_vocab}, got {vocab_size}; lower it.")
    for name, value in (("num_tokens", num_tokens), ("observation_shape", observation_shape)):
        own = getattr(decoder, name, None)
        if isinstance(own, (int, tuple)) and own != value:
            raise ValueError(
                f"{name} must be the decoder's own, {own}, got {value}"
                f"{' from the data' if name == 'observation_shape' else ''}; make the two fit."
            )


def use_one_thread_after_fork() -> None:
    """In a forked process, has torch compute on one thread: OpenMP's other threads do not survive a fork.

    A process forked from one that has used them waits for them forever. (PyTorch's data loader does the same.)
    """
    if os.getpid() != _IMPORTED_IN:
        torch.set_num_threads(1)


def refuse_stale_copies(decoder: nn.Module | None, beta: Tensor | float) -> None:
    """Raises RuntimeError in a worker process whose decoder or β is a private copy that training would not reach.

    Parameters in shared memory (`decoder.share_memory()` before the workers start) are the same numbers in every
    process, and a decoder without trainable parameters cannot fall behind. What cannot be seen from here is a copy that
    was made first and shared then.
    """
    if multiprocessing.parent_process() is None:
        return
    tensors: list[Tensor] = [] if decoder is None else [p for p in decoder.parameters() if p.requires_grad]
    if isinstance(beta, Tensor):
        tensors.append(beta)
    if any(tensor.device.type == "cpu" and not tensor.is_shared() for tensor in tensors):
        raise RuntimeError(
            "this environment lives in a worker process and holds a copy of the decoder (or of beta) that training "
            "would not reach; call decoder.share_memory() and beta.share_memory_() before the workers start and start "
            "them through torch.multiprocessing or by fork (in Gymnasium: AsyncVectorEnv(..., context='fork'), in "
            "TorchRL: EnvCreator(make_env, {'decoder': decoder, 'beta': beta})), freeze the decoder "
            "(requires_grad_(False)), or use the batched environments, which need no workers."
        )
