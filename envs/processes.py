"""Environments in worker processes: threads after a fork, and decoders that would fall behind the one that learns."""

from __future__ import annotations

import multiprocessing
import os

import torch
from torch import Tensor, nn

_IMPORTED_IN = os.getpid()


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
