"""What environments need to know of the process that they are in."""

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


def refuse_stale_copies(*parts: object) -> None:
    """Raises RuntimeError in a worker process where a part is a private copy that training would not reach.

    Parts are a decoder, β, a prior and λ: modules and tensors count, anything else cannot change.

    Parameters in shared memory (`decoder.share_memory()` before the workers start) are the same numbers in every
    process, and a decoder without trainable parameters cannot fall behind. What cannot be seen from here is a copy that
    was made first and shared then.
    """
    if multiprocessing.parent_process() is None:
        return
    tensors = [part for part in parts if isinstance(part, Tensor)]
    for module in (part for part in parts if isinstance(part, nn.Module)):
        tensors += [parameter for parameter in module.parameters() if parameter.requires_grad]
    if any(tensor.device.type == "cpu" and not tensor.is_shared() for tensor in tensors):
        raise RuntimeError(
            "this environment lives in a worker process and holds a copy of the decoder (or of beta, a prior or "
            "rate_weight) that training would not reach; call decoder.share_memory() and beta.share_memory_() before "
            "the workers start and start them through torch.multiprocessing or by fork (in Gymnasium: "
            "AsyncVectorEnv(..., context='fork'), in TorchRL: EnvCreator(make_env, {'decoder': decoder, 'beta': "
            "beta})), freeze the decoder "
            "(requires_grad_(False)), or use the batched environments, which need no workers."
        )
