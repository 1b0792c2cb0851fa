"""What every decoder network shares: the codes' embedding, and a likelihood that gives its outputs a meaning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.decoders.likelihoods import BernoulliLikelihood, Likelihood
from daps_rl.policies.checks import check_code_sizes


class CodeDecoder(nn.Module):
    """Base of the decoders p(x|z): codes [..., T] → a distribution over x, batch shape [...].

    Codes are integers, embedded by `embed`, or floats [..., T, E], taken as embedded already: relaxed one-hot codes
    times the embedding, the vectors of a quantiser, continuous latents. A network of one's own writes `outputs`.

    Args:
        num_tokens: T.
        vocab_size: V.
        observation_shape: shape of one datum.
        likelihood: what the outputs mean; Bernoulli if None.
        embed_dim: E, of a token.
        embed: any module [..., T] → [..., T, E], in place of a table of V learned vectors.
    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        observation_shape: tuple[int, ...],
        *,
        likelihood: Likelihood | None = None,
        embed_dim: int = 64,
        embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        self.num_tokens, self.vocab_size, self.embed_dim = num_tokens, vocab_size, embed_dim
        self.observation_shape = tuple(observation_shape)
        self.likelihood = likelihood or BernoulliLikelihood()
        self.embed = nn.Embedding(vocab_size, embed_dim) if embed is None else embed

    def outputs(self, embedded: Tensor) -> Tensor:
        """Embedded codes [N, T, E] → the likelihood's parameters [N, P, *observation_shape]."""
        raise NotImplementedError

    def forward(self, codes: Tensor) -> Distribution:
        embedded = codes if torch.is_floating_point(codes) else self.embed(codes)  # [..., T, E]
        outputs = self.outputs(embedded.reshape(-1, *embedded.shape[-2:]))
        outputs = outputs.view(*embedded.shape[:-2], *outputs.shape[1:])  # [..., P, *x]
        return self.likelihood(outputs, len(self.observation_shape))
