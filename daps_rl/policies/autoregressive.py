"""The autoregressive policy: each token is drawn given the datum and the tokens before it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from daps_rl.functional import draw_categorical
from daps_rl.functional.checks import as_float, casting_once, in_full_precision
from daps_rl.kernels import KernelsUnavailable, load
from daps_rl.policies import compiled
from daps_rl.policies.checks import (
    Relaxation,
    RelaxedCodes,
    SampleShape,
    check_code_sizes,
    check_codes,
    check_transformer_sizes,
)
from daps_rl.policies.items import PointerHead
from daps_rl.policies.layers import Cache, DecoderBlock, GrowingCache, KeyValueCache, sinusoidal_positions
from daps_rl.policies.masks import CodeMask
from daps_rl.policies.observation import ObservationEncoder, make_readout
from daps_rl.recompute import in_microbatches

LARGEST_LOGITS = 2**26  # entries of [B, K, T, V] in memory at once, in scoring
CPU_TOKENS = 2**12  # scored at a time on a CPU, so that more of what a layer writes is in the cache for the next


class Context(NamedTuple):
    """An encoded datum, as the code's side reads it."""

    keys_values: list[tuple[Tensor, Tensor]]  # per block, each [B, H, P, D/H]
    aligned: Tensor | None  # [B, 1, T, D], added to the tokens' embeddings; None for cross-attention alone
    items: Tensor | None = None  # [B, V, D], embeddings of tokens that are the context's items
    keys: Tensor | None = None  # [B, V, D], of a pointer to them
    observation: Tensor | None = None  # [B, *x], where a mask reads it

    def split(self, size: int) -> list[Context]:
        """Of so many contexts each, and what is left."""
        blocks = [list(zip(keys.split(size), values.split(size), strict=True)) for keys, values in self.keys_values]
        count = len(blocks[0])
        others = [[None] * count if value is None else value.split(size) for value in self[1:]]
        return [Context([block[i] for block in blocks], *(other[i] for other in others)) for i in range(count)]


class CodeTransformer(nn.Module):
    """Causal transformer over code tokens, cross-attending to an encoded context; gives the next token's logits.

    A learned start embedding, outside the vocabulary, stands before the first token. With a readout, the encoded
    datum is also brought to T positions and added there, so that a token's own part of the datum is at hand without
    attention.

    With a pointer, the tokens are the V items that the context consists of: a token's embedding is its item's encoding,
    and the next token is pointed at. With a mask, tokens that may not come next have a logit of -inf.
    """

    cpu_kernels = False
    """Whether passes on a CPU in float32 go through compiled kernels; see `use_cpu_kernels`."""

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        *,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        mlp_ratio: float,
        readout: nn.Module | None = None,
        token_sizes: Sequence[int] | None = None,
        head: nn.Module | None = None,
        pointer: bool = False,
        mask: CodeMask | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size, self.num_heads = num_tokens, vocab_size, num_heads
        self.mask = mask
        self.readout = readout
        # [T, V], which tokens a position may take; None where it may take them all.
        self.allowed: Tensor | None
        allowed = None if token_sizes is None else torch.arange(vocab_size) < torch.tensor(token_sizes)[:, None]
        self.register_buffer("allowed", allowed, persistent=False)
        self.start = nn.Parameter(torch.randn(embed_dim) * 0.02)
        self.embed: nn.Module  # of a token, or of the item that it is
        if pointer:
            self.embed = nn.Linear(embed_dim, embed_dim)
        else:
            self.embed = nn.Embedding(vocab_size, embed_dim)
            nn.init.normal_(self.embed.weight, std=0.02)
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(num_tokens, embed_dim), persistent=False)
        self.blocks = nn.ModuleList(DecoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = PointerHead(embed_dim) if pointer else head or nn.Linear(embed_dim, vocab_size)
        # Of what the mask tells, into the token's embedding.
        self.told = nn.Linear(mask.num_features, embed_dim) if mask is not None and mask.num_features else None

    def use_cpu_kernels(self) -> None:
        """From now on, passes on a CPU in float32 go through compiled kernels: the same, but for rounding, and faster.

        Raises:
            ValueError: there are none for a transformer like this.
            KernelsUnavailable: they cannot be compiled here.
        """
        reason = "it is a class of its own" if type(self) is not CodeTransformer else compiled.obstacle(self)
        if reason:
            raise ValueError(f"there are no kernels for this {type(self).__name__}: {reason}.")
        load()
        self.cpu_kernels = True

    def takes_kernels(self, context: Context) -> bool:
        """Whether a pass over this context goes through them: they are wanted, and nothing has come in between."""
        if not self.cpu_kernels or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        keys = context.keys_values[0][0]
        if keys.dtype != torch.float32 or keys.device.type != "cpu" or self.start.device.type != "cpu":
            return False
        transformed = torch._C._functorch.peek_interpreter_stack() is not None  # by torch.func
        return not transformed and compiled.obstacle(self) is None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy may be unpickled where kernels cannot be had."""
        super().__setstate__(state)
        if self.cpu_kernels:
            try:
                load()
            except KernelsUnavailable as error:
                self.cpu_kernels = False
                warnings.warn(f"the policy goes on without CPU kernels: {error}", stacklevel=2)

    def prepare(self, encoded: Tensor, observation: Tensor | None = None) -> Context:
        """All that the code's side needs of a datum, computed once per context. encoded [B, P, D]."""
        aligned = None if self.readout is None else self.readout(encoded).unsqueeze(1)
        keys_values = [cast(DecoderBlock, block).cross.keys_values(encoded) for block in self.blocks]
        items = keys = None
        if isinstance(self.head, PointerHead):
            if encoded.shape[1] != self.vocab_size:
                raise ValueError(
                    f"a pointer's tokens are the context's items: vocab_size is {self.vocab_size}, and the encoder "
                    f"gives {encoded.shape[1]} items; make them as many."
                )
            items, keys = self.embed(encoded), in_full_precision(self.head.keys, encoded)
        return Context(keys_values, aligned, items, keys, None if self.mask is None else observation)

    def embed_tokens(self, tokens: Tensor, context: Context) -> Tensor:
        """int64 [B, K, L], or one-hot with a gradient [B, K, L, V], → [B, K, L, D]."""
        if torch.is_floating_point(tokens):
            items = context.items
            table = cast(nn.Embedding, self.embed).weight if items is None else items.unsqueeze(1)  # [..., V, D]
            return tokens.to(table.dtype) @ table
        if context.items is None:
            return self.embed(tokens)
        b, k, length = tokens.shape
        index = tokens.reshape(b, k * length, 1).expand(-1, -1, context.items.shape[-1])
        return context.items.gather(1, index).view(b, k, length, -1)

    def logits(self, x: Tensor, context: Context) -> Tensor:
        """[B, K, D] or [B, K, L, D] → [..., V], before any mask."""
        keys = () if context.keys is None else (context.keys,)
        return in_full_precision(self.head, self.norm(x), *keys)

    def input_at(self, embedded: Tensor, context: Context, start: int) -> Tensor:
        """Adds positions start … start+L-1 and the datum's share of them. embedded [B, K, L, D] → [B, K, L, D]."""
        stop = start + embedded.shape[2]
        x = embedded + self.positions[start:stop]
        return x if context.aligned is None else x + context.aligned[:, :, start:stop]

    def forward(self, codes: Tensor, context: Context) -> Tensor:
        """Teacher-forced logits of all tokens at once. codes [B, K, T] → [B, K, T, V]."""
        return self.masked_logits(self.hidden(codes, context), codes, context)

    def log_prob(self, codes: Tensor, context: Context, known: Tensor | None = None) -> Tensor:
        """Teacher-forced log-probabilities, in nats, with gradient. codes [B, K, T] → [B, K].

        Where their value is known [B, K], kernels do not compute it again.

        On a CPU some contexts at a time, `CPU_TOKENS`. Logits of more than `LARGEST_LOGITS` entries are made, and in
        the backward pass made again, for some contexts at a time.
        """
        if codes.shape[-1] == self.num_tokens and self.takes_kernels(context):
            return compiled.log_prob(self, context, codes, known)
        size = max(1, CPU_TOKENS // codes[0].numel())
        if codes.device.type != "cpu" or size >= len(codes):
            return self._log_prob(codes, context)
        parts = zip(codes.split(size), context.split(size), strict=True)
        return torch.cat([self._log_prob(*part) for part in parts])

    def _log_prob(self, codes: Tensor, context: Context) -> Tensor:
        at_once = max(1, LARGEST_LOGITS // (codes[0].numel() * self.vocab_size))
        rows = {name: value for name in ("keys", "observation") if (value := getattr(context, name)) is not None}

        def score(hidden: Tensor, part: Tensor, *values: Tensor) -> Tensor:
            of_part: dict[str, Any] = dict(zip(rows, values, strict=True))
            logits = self.masked_logits(hidden, part, context._replace(**of_part))
            nll = F.cross_entropy(as_float(logits).flatten(0, 2), part.flatten(), reduction="none")
            return -nll.view(part.shape).sum(-1)

        return in_microbatches(score, self.hidden(codes, context), codes, *rows.values(), size=at_once, draws=False)

    def hidden(self, codes: Tensor, context: Context) -> Tensor:
        """What the logits are made of. codes [B, K, T] → [B, K, T, D]."""
        b, k, _ = codes.shape
        start = self.start.expand(b, k, 1, -1)
        x = self.input_at(torch.cat((start, self.embed_tokens(codes[..., :-1], context)), dim=2), context, 0)
        if self.told is not None:
            assert self.mask is not None
            assert context.observation is not None  # a policy with a mask passes it on
            x = x + self.told(self.mask.features_of(context.observation, codes).to(x.dtype))
        for block, keys_values in zip(self.blocks, context.keys_values, strict=True):
            x = block(x, keys_values)
        return x

    def masked_logits(self, hidden: Tensor, codes: Tensor, context: Context) -> Tensor:
        """hidden [B, K, T, D], codes [B, K, T] → [B, K, T, V], -inf for what may not come next."""
        logits = self.masked(self.logits(hidden, context), slice(None))
        if self.mask is None:
            return logits
        assert context.observation is not None  # a policy with a mask passes it on
        return torch.where(self.mask.of(context.observation, codes), logits, -math.inf)

    def masked(self, logits: Tensor, position: slice | int) -> Tensor:
        """-inf where a position may not take a token. [..., V] at one position, or [..., T, V] at all."""
        return logits if self.allowed is None else torch.where(self.allowed[position], logits, -math.inf)

    def step(
        self, embedded: Tensor, context: Context, caches: Sequence[Cache], features: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token from the embedding of the last. [B, K, 1, D] → [B, K, V].

        features [B, K, F] are what a mask tells before the next token.
        """
        position = caches[0].length
        x = self.input_at(embedded, context, position)
        if self.told is not None:
            assert features is not None  # `MaskedSteps` has them
            x = x + self.told(features.to(x.dtype)).unsqueeze(2)
        for block, keys_values, cache in zip(self.blocks, context.keys_values, caches, strict=True):
            x = block(x, keys_values, cache)
        return self.masked(self.logits(x[:, :, 0], context), position)


class MaskedSteps:
    """The state of a transformer's mask along codes that are being written; no mask allows everything."""

    def __init__(self, net: CodeTransformer, context: Context, samples: int) -> None:
        self.mask, self.position = net.mask, 0
        if self.mask is not None:
            assert context.observation is not None  # a policy with a mask passes it on
            self.state = self.mask.start(context.observation, samples)

    def features(self) -> Tensor | None:
        """What the policy is told before the next token, [B, K, F]; None where that is nothing."""
        if self.mask is None or not self.mask.num_features:
            return None
        return self.mask.features(self.state, self.position)

    def masked(self, logits: Tensor) -> Tensor:
        """[B, K, V], of the next token."""
        if self.mask is None:
            return logits
        allowed = self.mask.allowed(self.state, self.position)
        if allowed.device.type == "cpu" and not allowed.any(-1).all():  # a GPU is not waited for
            raise ValueError(
                f"{type(self.mask).__name__} allows no token at position {self.position} of some code; a mask must "
                "leave at least one at every position."
            )
        return torch.where(allowed, logits, -math.inf)

    def advance(self, token: Tensor) -> None:
        """Takes in the token that was chosen. [B, K]."""
        if self.mask is not None:
            self.state = self.mask.advance(self.state, self.position, token)
        self.position += 1


class AutoregressiveCategorical(Distribution):
    """q(z|x) = Π_t q(z_t | z_<t, x): batch shape [B], event shape [T].

    Holds the encoded context: x is encoded once, however many codes are drawn or scored. `sample` draws token by
    token with a key/value cache and no gradient; `log_prob` is one teacher-forced pass, with gradient.

    Args:
        transformer: gives the logits of the next token.
        context: from `transformer.prepare`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_enumerate_support = False

    def __init__(self, transformer: CodeTransformer, context: Context) -> None:
        self.transformer, self.context = transformer, context
        batch = context.keys_values[0][0].shape[0]
        super().__init__(torch.Size([batch]), torch.Size([transformer.num_tokens]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Codes: T integers in 0 … V-1."""
        return constraints.independent(constraints.integer_interval(0, self.transformer.vocab_size - 1), 1)

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws codes. [*sample_shape, B, T], int64, without gradient.

        Args:
            sample_shape: as in torch.distributions; (K,) draws K codes per context.
            generator: source of randomness; torch's global one if None.
        """
        return self.sample_with_log_prob(sample_shape, generator)[0]

    @torch.no_grad()
    def sample_with_log_prob(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws codes, and gives the log-probability they were drawn with.

        Returns:
            codes [*sample_shape, B, T], int64; log_prob [*sample_shape, B], in nats. Neither carries a gradient.
        """
        codes, log_prob = self._unroll(torch.Size(sample_shape).numel(), generator, greedy=False)
        codes = codes.transpose(0, 1).reshape(*sample_shape, *self.batch_shape, *self.event_shape)
        return codes, log_prob.transpose(0, 1).reshape(*sample_shape, *self.batch_shape)

    def relaxed_sample(self, relaxation: Relaxation, num_samples: int = 1) -> RelaxedCodes:
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
            tokens.append(relaxation(log_probs[-1]))
            if t + 1 < net.num_tokens:
                steps.advance(tokens[-1].argmax(-1))
            x = net.embed_tokens(tokens[-1].unsqueeze(2), self.context)
        return RelaxedCodes(torch.stack(tokens, dim=2), torch.stack(log_probs, dim=2))

    @property
    def mode(self) -> Tensor:
        """Greedy code: the likeliest token at each position given those before it. [B, T].

        Not always the likeliest code; finding that one takes a search.
        """
        return self._unroll(1, None, greedy=True)[0][:, 0]

    @torch.no_grad()
    def _unroll(self, samples: int, generator: torch.Generator | None, *, greedy: bool) -> tuple[Tensor, Tensor]:
        """Draws K codes token by token. Returns codes [B, K, T] and log_prob [B, K]."""
        net = self.transformer
        (batch,), like = self.batch_shape, self.context.keys_values[0][0]
        if net.takes_kernels(self.context):
            if greedy:
                return compiled.draw(net, self.context, None)
            # Token by token, as below: the same seed, the same codes.
            kind: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
            numbers = [torch.rand(batch, samples, 1, **kind) for _ in range(net.num_tokens)]
            return compiled.draw(net, self.context, torch.cat(numbers, -1))
        head_dim = like.shape[-1]
        caches = [KeyValueCache((batch * samples, net.num_heads, net.num_tokens, head_dim), like) for _ in net.blocks]
        codes = torch.empty(batch, samples, net.num_tokens, dtype=torch.int64, device=like.device)
        log_prob = as_float(like.new_zeros(batch, samples))
        steps = MaskedSteps(net, self.context, samples)
        with casting_once(like.device):
            logits = self._first_step(caches, samples)  # [B, K, V]
            for t in range(net.num_tokens):
                logits = steps.masked(logits)
                probs = torch.softmax(as_float(logits), dim=-1)
                if greedy:
                    token = logits.argmax(-1, keepdim=True)  # [B, K, 1]
                else:
                    uniform = torch.rand(batch, samples, 1, generator=generator, device=like.device, dtype=probs.dtype)
                    token = draw_categorical(probs, uniform)
                log_prob += probs.gather(-1, token)[..., 0].log()
                codes[..., t] = token[..., 0]
                if t + 1 < net.num_tokens:
                    steps.advance(token[..., 0])
                    last = net.embed_tokens(token, self.context)
                    logits = net.step(last, self.context, caches, steps.features())
        return codes, log_prob

    def _first_step(self, caches: list[KeyValueCache], samples: int) -> Tensor:
        """Logits of the first token, [B, K, V], computed once for the K codes of a context, which begin alike."""
        net, (batch,), like = self.transformer, self.batch_shape, self.context.keys_values[0][0]
        shape = (batch, net.num_heads, 1, like.shape[-1])
        firsts = [KeyValueCache(shape, like) for _ in caches]
        told = MaskedSteps(net, self.context, 1).features()
        logits = net.step(net.start.expand(batch, 1, 1, -1), self.context, firsts, told)  # [B, 1, V]
        for cache, first in zip(caches, firsts, strict=True):
            cache.fill(first, samples)
        return logits.expand(-1, samples, -1)

    def token_logits(self, value: Tensor) -> Tensor:
        """Logits of every token given those before it. [*S, B, T] → [*S, B, T, V], with gradient."""
        check_codes(value, self.event_shape[0], self.batch_shape)
        flat = value.reshape(-1, *self.batch_shape, *self.event_shape).transpose(0, 1)  # [B, K, T]
        logits = self.transformer(flat, self.context)
        return logits.transpose(0, 1).reshape(*value.shape, self.transformer.vocab_size)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), in nats: one teacher-forced pass. value [*S, B, T] → [*S, B], with gradient."""
        return self.log_prob_of_drawn(value, None)

    def log_prob_of_drawn(self, value: Tensor, log_prob: Tensor | None) -> Tensor:
        """log q(z|x) with gradient, of codes that this very distribution drew with log-probability [*S, B].

        That spares kernels the pass that would find it again; without kernels it is found again.
        """
        check_codes(value, self.event_shape[0], self.batch_shape)
        flat = value.reshape(-1, *self.batch_shape, *self.event_shape).transpose(0, 1)  # [B, K, T]
        known = None if log_prob is None else log_prob.reshape(-1, *self.batch_shape).transpose(0, 1)
        return self.transformer.log_prob(flat, self.context, known).transpose(0, 1).reshape(value.shape[:-1])

    def entropy(self, num_samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
        """Estimate of the entropy, in nats. [B].

        Unbiased: the mean over sampled codes of Σ_t H(q(· | z_<t, x)), each term exact given its prefix. The
        gradient flows through the conditional entropies only, not through the choice of prefixes, and so is biased.

        Args:
            num_samples: codes drawn per context.
            generator: source of randomness.
        """
        logits = self.token_logits(self.sample((num_samples,), generator))  # [N, B, T, V]
        log_probs = torch.log_softmax(as_float(logits), dim=-1)
        finite = torch.where(log_probs == -math.inf, 0.0, log_probs)  # a token that may not stand here adds nothing
        return -(log_probs.exp() * finite).sum((-2, -1)).mean(0)


class AutoregressivePolicy(nn.Module):
    """Transformer policy: a datum's patches are encoded, then a causal decoder writes the code.

    Called on observations [B, *observation_shape], gives an `AutoregressiveCategorical` of batch shape [B] and event
    shape [T].

    Args:
        observation_shape: shape of one observation: (C, H, W), (L, D) or (D,).
        num_tokens: T.
        vocab_size: V.
        embed_dim: width D of both transformers.
        num_heads: attention heads; divides embed_dim.
        num_layers: blocks on the x-side.
        num_code_layers: blocks on the code's side; as many as num_layers if None.
        mlp_ratio: width of the feed-forward layers over embed_dim.
        num_patches: patches of the observation; T if None, as published. With an encoder of one's own, how many it
            gives, where that is T, in the order of the tokens.
        aligned_patches: also add the encoded patches to the code's positions (through learned queries where there are
            not as many patches as tokens). Not published; learns faster.
        token_sizes: how many tokens each of the T positions may take, each at most V: the others have probability 0
            there. All V if None.
        encoder: in place of the patch transformer, any module [B, *observation_shape] → [B, P, embed_dim].
        head: in place of a linear layer to the logits, any module [..., embed_dim] → [..., V], such as
            `EmbeddingHead`.
        pointer: the tokens are the V items that the encoder gives (`ItemEncoder`, say): a pointer over them in the
            place of the head, and their encodings as the tokens' embeddings.
        mask: which tokens may come next, by the datum and the tokens before; the others have probability exactly 0, in
            sampling and in scoring. What it tells (`CodeMask.features`) is added to the tokens' embeddings.
    Raises:
        ValueError: a size is not positive, num_heads does not divide embed_dim, token_sizes do not fit T and V, or both
            head and pointer are given.
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
        token_sizes: Sequence[int] | None = None,
        encoder: nn.Module | None = None,
        head: nn.Module | None = None,
        pointer: bool = False,
        mask: CodeMask | None = None,
    ) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        if pointer and head is not None:
            raise ValueError("a pointer is a head; leave out head= or pointer=True.")
        if token_sizes is not None:
            check_token_sizes(token_sizes, num_tokens, vocab_size)
        num_code_layers = num_layers if num_code_layers is None else num_code_layers
        check_transformer_sizes(embed_dim, num_heads, min(num_layers, num_code_layers))
        self.observation_shape = tuple(observation_shape)
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        unknown = encoder is not None and num_patches is None  # how many an encoder of one's own gives
        num_patches = num_tokens if num_patches is None else num_patches
        readout = make_readout(num_tokens, num_patches, embed_dim, num_heads, own_encoder=unknown)
        self.encoder = encoder or ObservationEncoder(
            observation_shape,
            num_patches=num_patches,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            mlp_ratio=mlp_ratio,
        )
        self.transformer = CodeTransformer(
            num_tokens,
            vocab_size,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=num_code_layers,
            mlp_ratio=mlp_ratio,
            readout=readout if aligned_patches else None,
            token_sizes=token_sizes,
            head=head,
            pointer=pointer,
            mask=mask,
        )

    def forward(self, observation: Tensor) -> AutoregressiveCategorical:
        context = self.transformer.prepare(self.encoder(observation), observation)
        return AutoregressiveCategorical(self.transformer, context)


def check_token_sizes(token_sizes: Sequence[int], num_tokens: int, vocab_size: int) -> None:
    """Raises ValueError unless there is a size for each position, in 1 … V."""
    if len(token_sizes) != num_tokens or not all(1 <= size <= vocab_size for size in token_sizes):
        raise ValueError(
            f"token_sizes must be {num_tokens} numbers in 1 … {vocab_size} (num_tokens and vocab_size), "
            f"got {list(token_sizes)}; vocab_size is the largest of them."
        )
