"""What `daps_rl/Encoding-v0` encodes and scores with when nothing is given: digits, and their principal components."""

from __future__ import annotations

import os
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from daps_rl.data import Stream, load
from daps_rl.decoders import FixedGaussianLikelihood, MLPDecoder

Data = Tensor | np.ndarray | str | os.PathLike[str]
NUM_TOKENS, VOCAB_SIZE = 8, 16
MAX_ENTRIES = 4096  # of a datum: the covariance is this number squared
MIN_VARIANCE = 1e-3


def find_data(data: Data | None) -> Tensor:
    """The data [N, *x] of a tensor, an array, or a name or path for `daps_rl.data.load`; digits, flat, of None."""
    if data is not None and not isinstance(data, (str, os.PathLike)):
        return torch.as_tensor(data)
    train: Tensor | Stream = load("digits" if data is None else data).train
    if not isinstance(train, Tensor):
        raise ValueError(
            f"{data} is streamed, and an environment holds its data in memory; pass a tensor of them, such as "
            "daps_rl.data.load(...).train[:10_000]."
        )
    return train.flatten(1) if data is None else train


@torch.no_grad()
def principal_decoder(
    data: Tensor, num_tokens: int = NUM_TOKENS, vocab_size: int = VOCAB_SIZE, *, ends: bool = False
) -> MLPDecoder:
    """p(x|z) = N(mean + Σ_t level(z_t)·√λ_t·u_t, σ²): token t says how much of the data's t-th principal component.

    The levels are the V-quantiles of a standard normal, and σ² is the mean variance per entry that the T components
    leave over. No random number is drawn, and the parameters are frozen, so copies of it cannot fall behind.

    Args:
        data: [N, *x].
        num_tokens: T, at most the number of entries of a datum.
        vocab_size: V.
        ends: the last symbol is the end token, which says 0 of a component.
    Raises:
        ValueError: a datum has too many entries, or fewer than T.
    """
    flat = data.flatten(1).double()  # [N, D]
    count, entries = flat.shape
    if not num_tokens <= entries <= MAX_ENTRIES:
        raise ValueError(
            f"the default decoder needs data of {num_tokens} (num_tokens) to {MAX_ENTRIES} entries each, "
            f"got {entries}; pass a decoder."
        )
    mean = flat.mean(0)
    variances, components = torch.linalg.eigh((flat - mean).T @ (flat - mean) / count)  # ascending
    variances = variances.flip(-1).clamp(min=0.0)
    components = components.flip(-1)[:, :num_tokens]  # [D, T]
    strongest = components.gather(0, components.abs().argmax(0, keepdim=True))  # fixes the sign, which is free
    likelihood = FixedGaussianLikelihood(max(variances[num_tokens:].sum().item() / entries, MIN_VARIANCE))
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten, the caller's generator untouched
        decoder = MLPDecoder(
            num_tokens, vocab_size, tuple(data.shape[1:]), likelihood=likelihood, embed_dim=1, hidden=()
        )
    tokens = vocab_size - ends
    levels = torch.special.ndtri((torch.arange(tokens, dtype=torch.float64) + 0.5) / tokens)
    cast(nn.Embedding, decoder.embed).weight.zero_()[:tokens] = levels[:, None]
    (layer,) = (layer for layer in decoder.layers if isinstance(layer, nn.Linear))
    layer.weight.copy_(components * strongest.sign() * variances[:num_tokens].sqrt())
    layer.bias.copy_(mean)
    return decoder.requires_grad_(False).to(data.device)
