"""The autoregressive policy: each token is drawn given the datum and the tokens before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from daps_rl.functional import tokenwise_kl
from daps_rl.functional.checks import as_float, casting_once, check_code_sizes, check_codes, check_transformer_sizes
from daps_rl.policies.code_transformer import CodeTransformer, Context
from daps_rl.policies.distribution import Drawn, RelaxedCodes, RelaxTokens, SequentialCodes, TokenSteps
from daps_rl.policies.glimpse import GlimpseDecoder
from daps_rl.policies.layers import GrowingCache
from daps_rl.policies.masks import CodeMask
from daps_rl.policies.observation import ObservationEncoder, make_readout
from daps_rl.policies.steps import MaskedSteps


class AutoregressiveCategorical(SequentialCodes):
    """q(z|x) = Π_t q(z_t | z_<t, x): batch shape [B], event shape [T].

    Holds the encoded context, from `transformer.prepare`: x is encoded once, however many codes are drawn or scored.
    `sample` draws token by token with a key/value cache and no gradient; `log_prob` is one teacher-forced pass, with
    gradient.
    """

    def __init__(self, transformer: CodeTransformer, context: Context) -> None:
        self.transformer, self.context = transformer, context
        batch = context.keys_values[0][0].shape[0]
        super().__init__(torch.Size([batch]), transformer.num_tokens, transformer.vocab_size)
        self.any_start = transformer.mask is not None and transformer.mask.any_start

    @property
    def mask(self) -> CodeMask | None:
        """Which tokens may come next."""
        return self.transformer.mask

    def relaxed_sample(self, relax: RelaxTokens, num_samples: int = 1) -> RelaxedCodes:
        """Draws K codes per context with a gradient through every drawn token. One-hot [B, K, T, V].

        Token by token, as each is the next one's input: memory grows with T².
        """
        net, batch = self.transformer, self.batch_shape[0]
        caches = [GrowingCache() for _ in net.blocks]
        x = net.start.expand(batch, num_samples, 1, -1)  # [B, K, 1, D]
        tokens, log_probs, steps = [], [], MaskedSteps(net, self.context, num_samples)
        for t in range(net.num_tokens):
            logits = steps.masked(net.step(x, self.context, caches, steps.features()))
            log_probs.append(torch.log_softmax(as_float(logits), dim=-1))  # [B, K, V]
            tokens.append(relax(log_probs[-1]))
            if t + 1 < net.num_tokens:
                steps.advance(tokens[-1].argmax(-1))
            x = net.embed_tokens(tokens[-1].unsqueeze(2), self.context)
        return RelaxedCodes(torch.stack(tokens, dim=2), torch.stack(log_probs, dim=2))

    def unroll(self, samples: int, generator: torch.Generator | None, *, greedy: bool) -> Drawn:
        net = self.transformer
        (batch,), like = self.batch_shape, self.context.keys_values[0][0]
        if backend := net.backend_for(self.context):
            # Token by token, as below: the same seed, the same codes.
            kind: dict[str, Any] = {"generator": generator, "dtype": as_float(like).dtype, "device": like.device}
            numbers = None if greedy else [torch.rand(batch, samples, 1, **kind) for _ in range(net.num_tokens)]
            codes, log_prob = backend.draw(net, self.context, None if numbers is None else torch.cat(numbers, -1))
            return Drawn(codes.transpose(0, 1), log_prob.transpose(0, 1))
        with casting_once(like.device):
            return super().unroll(samples, generator, greedy=greedy)

    @torch.no_grad()
    def steps(self, samples: int) -> TokenSteps:
        """Begins K codes for each context, without a gradient."""
        return self.transformer.begin(self.context, samples)

    def token_logits(self, value: Tensor) -> Tensor:
        """Logits of every token given those before it. [*S, B, T] → [*S, B, T, V], with gradient."""
        logits = self.transformer(self._per_context(value), self.context)
        return logits.transpose(0, 1).reshape(*value.shape, self.vocab_size)

    def _per_context(self, codes: Tensor) -> Tensor:
        """[*S, B, T] → [B, K, T]."""
        check_codes(codes, self.event_shape[0], self.batch_shape)
        return codes.reshape(-1, *self.batch_shape, *self.event_shape).transpose(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats: one teacher-forced pass. value [*S, B, T] → [*S, B], with gradient."""
        return self.score_drawn(value, None)

    def score_drawn(self, codes: Tensor, log_prob: Tensor | None) -> Tensor:
        """The same as `log_prob(codes)`, which a backend need not compute again; see `CodePosterior`."""
        known = None if log_prob is None else log_prob.reshape(-1, *self.batch_shape).transpose(0, 1)
        scores = self.transformer.log_prob(self._per_context(codes), self.context, known)
        return scores.transpose(0, 1).reshape(codes.shape[:-1])

    def entropy(self, num_samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
        """Unbiased estimate of the entropy, in nats, from num_samples codes per context. [B].

        The mean over sampled codes of Σ_t H(q(· | z_<t, x)), each term exact given its prefix. The gradient flows
        through the conditional entropies only, not through the choice of prefixes, and so is biased.
        """
        logits = self.token_logits(self.sample((num_samples,), generator))  # [N, B, T, V]
        return -tokenwise_kl(torch.log_softmax(as_float(logits), dim=-1), 0.0).mean(0)


class AutoregressivePolicy(nn.Module):
    """Transformer policy: a datum's patches are encoded, then a causal decoder writes the code.

    Called on observations [B, *observation_shape], gives an `AutoregressiveCategorical` of batch shape [B] and event
    shape [T].

    Args:
        observation_shape, num_tokens, embed_dim, num_heads, mlp_ratio: see `TokenEncoder`; of both transformers.
        vocab_size: V.
        num_layers: blocks on the x-side.
        num_code_layers: blocks on the code's side; as many as num_layers if None.
        num_patches: patches of the observation; T if None, as published. With an encoder of one's own, how many it
            gives, where that is T, in the order of the tokens.
        aligned_patches: also add the encoded patches to the code's positions (through learned queries where there are
            not as many patches as tokens). Not published; learns faster.
        encoder: see `TokenEncoder`.
        glimpse: write codes by a `GlimpseDecoder`, which points at items, instead of a transformer. Of the sizes it
            has embed_dim and num_heads; patches are not aligned.
        options: of the code's side, see `CodeTransformer`: token_sizes, head, pointer and mask.
    Raises:
        ValueError: a size is not positive, num_heads does not divide embed_dim, or options do not fit.
    References:
        Drolet et al. (2026), arXiv 2509.24716, appendix. Departure: the start token lies outside the vocabulary, and
        no token is masked, so that sampled and rescored log-probabilities agree.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_tokens: int,
        vocab_size: int,
        *,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 1,
        num_code_layers: int | None = None,
        mlp_ratio: float = 4.0,
        num_patches: int | None = None,
        aligned_patches: bool = True,
        encoder: nn.Module | None = None,
        glimpse: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        num_code_layers = num_layers if num_code_layers is None else num_code_layers
        check_transformer_sizes(embed_dim, num_heads, min(num_layers, num_code_layers))
        self.observation_shape = tuple(observation_shape)
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        unknown = encoder is not None and num_patches is None  # how many an encoder of one's own gives
        num_patches = num_tokens if num_patches is None else num_patches
        readout = make_readout(num_tokens, num_patches, embed_dim, num_heads, own_encoder=unknown)
        sizes: dict[str, Any] = {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
        self.encoder = encoder or ObservationEncoder(
            observation_shape, num_patches=num_patches, num_layers=num_layers, **sizes
        )
        self.transformer: CodeTransformer
        if glimpse:
            heads = {"embed_dim": embed_dim, "num_heads": num_heads}
            self.transformer = GlimpseDecoder(num_tokens, vocab_size, **heads, **options)
        else:
            sizes |= {"num_layers": num_code_layers, "readout": readout if aligned_patches else None}
            self.transformer = CodeTransformer(num_tokens, vocab_size, **sizes, **options)

    @property
    def mask(self) -> CodeMask | None:
        """Which tokens may come next."""
        return self.transformer.mask

    def forward(self, observation: Tensor) -> AutoregressiveCategorical:
        context = self.transformer.prepare(self.encoder(observation), observation)
        return AutoregressiveCategorical(self.transformer, context)
