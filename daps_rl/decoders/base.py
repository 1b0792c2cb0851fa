"""What every decoder network shares: the codes' embedding, and a likelihood that gives its outputs a meaning."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.decoders.likelihoods import BernoulliLikelihood, Likelihood
from daps_rl.functional.checks import as_float, check_code_sizes, check_positive_integers

LAST_LAYER_SCALE = 0.3  # of a usual start, in units of the likelihood's scale


class CodeDecoder(nn.Module):
    """Base of the decoders p(x|z): codes [..., T] → a distribution over x, batch shape [...].

    Codes are integers, embedded by `embed`, or floats [..., T, E], taken as embedded already: relaxed one-hot codes
    times the embedding, the vectors of a quantiser, continuous latents. A network of one's own writes `outputs`.

    A decoder's last layer starts small, around the data's mean where that is given. Otherwise the decoder first learns
    the mean, and to do so learns to ignore the codes: hundreds of steps are lost.

    Args:
        num_tokens, vocab_size: T and V.
        observation_shape: shape of one datum.
        likelihood: what the outputs mean; Bernoulli if None.
        embed_dim: E, of a token.
        embed: any module [..., T] → [..., T, E], in place of a table of V learned vectors.
    Raises:
        ValueError: a size is not positive.
    """

    model_settings: ClassVar[dict[str, str]] = {}
    """What else the constructor takes from the settings of a model: names of the settings by those of arguments."""

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
        check_positive_integers(embed_dim=embed_dim)
        self.num_tokens, self.vocab_size, self.embed_dim = num_tokens, vocab_size, embed_dim
        self.observation_shape = tuple(observation_shape)
        self.likelihood = likelihood or BernoulliLikelihood()
        self.embed = nn.Embedding(vocab_size, embed_dim) if embed is None else embed

    def outputs(self, embedded: Tensor) -> Tensor:
        """Embedded codes [N, T, E] → the likelihood's parameters, [N, *likelihood.output_shape(observation_shape)]."""
        raise NotImplementedError

    def start_at(self, data_mean: Tensor | None) -> None:
        """Makes the buffer that outputs are to be added to: those for the mean of the data's features, or zeros."""
        start = torch.zeros(self.likelihood.output_shape(self.observation_shape))
        if data_mean is not None:
            start.copy_(self.likelihood.outputs_at(data_mean).detach())
        self.outputs_at_start = nn.Buffer(start)

    def forward(self, codes: Tensor) -> Distribution:
        embedded = codes if torch.is_floating_point(codes) else self.embed(codes)  # [..., T, E]
        if embedded.shape[-2:] != (self.num_tokens, self.embed_dim):
            raise ValueError(
                f"codes must be integers [..., {self.num_tokens}] or embedded [..., {self.num_tokens}, "
                f"{self.embed_dim}], got {codes.dtype} of shape {tuple(codes.shape)}; make num_tokens and embed_dim "
                "fit them."
            )
        outputs = as_float(self.outputs(embedded.reshape(-1, *embedded.shape[-2:])))
        outputs = outputs.reshape(*embedded.shape[:-2], *outputs.shape[1:])  # [..., P, *x]
        return self.likelihood(outputs, len(self.observation_shape))
