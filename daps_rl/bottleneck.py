"""A policy instead of a vector quantiser, between an encoder and a decoder of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.functional import (
    ESS_FRACTION,
    SAMPLES,
    DAPSTerms,
    VerdictTerms,
    code_perplexity,
    code_usage,
    daps_loss,
    encoding_reward,
    kl_estimate,
)
from daps_rl.functional.checks import check_beta, check_code_sizes, check_reward, read_flags
from daps_rl.functional.temperature import check_ess_fraction
from daps_rl.objectives.trust_regions import make_trust_region
from daps_rl.policies import EndEmbedding, EndToken, FactorizedCategorical, draw, score_drawn
from daps_rl.policies.factorized import uniform_codes
from daps_rl.policies.from_features import AutoregressiveHead, FactorizedHead
from daps_rl.policies.masks import check_price


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """The encoder's loss on the codes of one batch: called with their rewards, once these are known.

    A dataclass, so that DistributedDataParallel finds the graph behind `log_prob` among a model's outputs.
    """

    log_prob: Tensor  # log q(z|x) of each code, with gradient. [B, K]
    prior_log_prob: Tensor  # log p(z). [B, K]
    beta: Tensor  # weight of the KL to the prior. 0-dim
    trust_region: nn.Module  # gives the temperature
    centered: bool  # see `functional.weighted_likelihood_loss`
    price: Tensor | None = None  # what the tokens of each code cost; None where codes do not end. [B, K]

    def __call__(self, reward: Tensor, verdicts: VerdictTerms | None = None) -> Tensor:
        """`terms(...).loss`, averaged over the data, 0-dim; 0 where each datum has one code only (in eval mode)."""
        if self.log_prob.shape[1] == 1:
            return self.log_prob.new_zeros(())
        return self.terms(reward, verdicts).loss.mean()

    def terms(self, reward: Tensor, verdicts: VerdictTerms | None = None) -> DAPSTerms:
        """Weighted likelihood of the codes, scored by `functional.encoding_reward`, within the trust region.

        Args:
            reward: log p(x|z) of each code, or any other score of it; larger is better. No gradient flows. [B·K], in
                the order of the codes, or [B, K].
            verdicts: what else the codes are worth, as `daps_rl.verdicts.Verdicts` gives it of the same reward.
        Returns:
            DAPSTerms: loss [B]; weights [B, K] and effective_sample_size [B] (in samples), detached.
        Raises:
            ValueError: the reward has another shape, or is NaN or +inf somewhere.
        """
        groups = self.log_prob.shape
        if reward.shape not in (groups, (groups.numel(),)):
            raise ValueError(
                f"reward must be one number for each code, of shape [{groups.numel()}] or {list(groups)} (B·K, or B "
                f"and K), got {list(reward.shape)}; sum or average over the datum's own axes."
            )
        reward = reward.detach().reshape(groups)
        check_reward(reward)
        drawn = (self.log_prob.detach(), self.prior_log_prob)
        score = encoding_reward(reward, *drawn, self.beta, verdicts, price=self.price)
        temperature = self.trust_region(score, self.beta)
        return daps_loss(self.log_prob, score, temperature=temperature, centered=self.centered)

    @property
    def kl(self) -> Tensor:
        """log q(z|x) − log p(z) of each code, detached: its mean is KL(q ‖ p), in nats. [B, K]."""
        return kl_estimate(self.log_prob.detach(), self.prior_log_prob)


class Bottlenecked(NamedTuple):
    """What a `PolicyBottleneck` returns. In training mode the K codes of a datum follow one another, else K is 1."""

    embedded: Tensor  # [B·K, T, dim], or [B·K, dim, *grid]; gradient to the embedding alone
    codes: Tensor  # int64 [B·K, T], or [B·K, *grid]; -1 where the mask says padding
    policy_loss: PolicyLoss


class PolicyBottleneck(nn.Module):
    """Draws codes from a policy on an encoder's features, where a vector quantiser would take the nearest ones.

    The features give q(z|x). In training mode K codes are drawn for each datum and embedded, for the decoder to say
    how good each of them is; `policy_loss` of these rewards is the encoder's loss. The decoder and the embedding learn
    from the decoder's own loss; no gradient passes from the codes to the encoder, so that any reward will do. In eval
    mode each datum has its greedy code.

        z, codes, policy_loss = bottleneck(encoder(x))
        log_likelihood = -error(decoder(z), bottleneck.repeat(x))  # of each code, [B·K]
        loss = -log_likelihood.mean() + policy_loss(log_likelihood)

    Args:
        dim: of the features, and of an embedded token.
        vocab_size: V.
        samples: K, codes per datum in training mode; at least 2.
        num_tokens: T; needed by "autoregressive", and where codes end.
        policy: "factorized" (each token from its own feature), "autoregressive" (each also from the tokens before it,
            by a transformer), or a module of one's own: features [B, T, dim] → a distribution over codes, batch shape
            [B] and event shape [T].
        channel_first: features are [B, dim, *grid], as of a convolution, and codes [B·K, *grid].
        beta: weight of the KL to the uniform prior in the reward, in units of the reward per nat. Kept as the buffer
            `beta`, for a schedule to fill.
        token_price: what each token costs, in units of the reward; codes then end where they are long enough.
        end_token: codes end, without a price too: of V + 1 symbols the last is the end token, see `policies.EndToken`.
        min_tokens: how short a code that ends may be.
        ess_fraction: effective sample size of the weights to aim at, as a fraction of K, in (1/K, 1].
        trust_region: see `objectives.DAPSLoss`.
        centered: centred weights, see `functional.weighted_likelihood_loss`.
        num_heads, num_layers, mlp_ratio: of the autoregressive policy's transformer; num_heads divides dim.
    References:
        Drolet et al. (2026), arXiv 2509.24716.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        samples: int = SAMPLES,
        num_tokens: int | None = None,
        policy: str | nn.Module = "factorized",
        channel_first: bool = False,
        beta: float = 0.0,
        token_price: float = 0.0,
        end_token: bool = False,
        min_tokens: int = 1,
        ess_fraction: float = ESS_FRACTION,
        trust_region: str | nn.Module = "ess",
        centered: bool = True,
        num_heads: int = 4,
        num_layers: int = 1,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if samples < 2:
            raise ValueError(f"samples must be >= 2, got {samples}: a datum's codes are weighed against each other.")
        check_beta(beta)
        check_code_sizes(1 if num_tokens is None else num_tokens, vocab_size)
        check_ess_fraction(ess_fraction, samples)
        self.dim, self.vocab_size, self.samples, self.num_tokens = dim, vocab_size, samples, num_tokens
        self.channel_first, self.centered = channel_first, centered
        self.beta = nn.Buffer(torch.tensor(float(beta)))
        self.trust_region = make_trust_region(trust_region, ess_fraction)
        self.ends = EndToken(vocab_size, min_tokens) if end_token or token_price else None
        self.num_symbols, self.token_price = vocab_size + (self.ends is not None), token_price
        check_price(token_price, self.ends)
        table = nn.Embedding(vocab_size, dim)
        self.embedding = table if self.ends is None else EndEmbedding(table)
        if num_tokens is None and (policy == "autoregressive" or self.ends is not None):
            what = "codes that end need" if self.ends is not None else "an autoregressive policy needs"
            raise ValueError(f"{what} num_tokens, got None; pass the number of features.")
        if policy == "factorized":
            policy = FactorizedHead(dim, self.num_symbols, num_tokens, self.ends)
        elif policy == "autoregressive":
            sizes = (cast(int, num_tokens), num_heads, num_layers, mlp_ratio)
            policy = AutoregressiveHead(dim, self.num_symbols, *sizes, self.ends)
        elif not isinstance(policy, nn.Module):
            raise ValueError(f"policy must be one of factorized, autoregressive or a module, got {policy!r}.")
        self.policy = policy

    def forward(
        self, features: Tensor, *, mask: Tensor | None = None, deterministic: bool | None = None
    ) -> Bottlenecked:
        """Codes for a batch of features [B, T, dim], or [B, dim, *grid] with `channel_first`.

        Outside training mode they are the greedy code of each datum, or with `deterministic=False` a drawn one.

        Args:
            mask: True for tokens, False for padding, bool [B, T] or [B, *grid]. Padding has code -1 and is embedded as
                zeros, its features are not read, and it counts neither in log q nor in log p. Any for a factorised
                policy, on the right for others, whose distribution has `token_logits`.
        """
        tokens, grid = self._to_tokens(features)  # [B, T, dim]
        if mask is not None:
            mask = self._check_mask(mask, tokens, grid)
            tokens = torch.where(mask.unsqueeze(-1), tokens, 0.0)
        posterior = self.policy(tokens)
        if self.training:
            codes, drawn = draw(posterior, (self.samples,))  # [K, B, T], [K, B]
        else:
            codes = posterior.sample((1,)) if deterministic is False else posterior.mode[None]
        if mask is not None:
            log_prob = torch.where(mask, token_log_prob(posterior, codes), 0.0).sum(-1)
        else:
            log_prob = score_drawn(posterior, codes, drawn) if self.training else posterior.log_prob(codes)
        ends: EndToken | None = None
        if self.ends is not None:  # a policy of one's own need know neither the fewest nor what stands behind an end
            ends, codes = self.ends.of_any_length(), self.ends.close(codes)
        prior = uniform_codes(tokens.shape[1], self.num_symbols, ends, codes.device).log_prob(codes)
        if mask is not None:
            prior, codes = prior * mask.float().mean(-1), torch.where(mask, codes, -1)
        price = None if self.ends is None else self.token_price * self.ends.lengths(codes).T
        policy_loss = PolicyLoss(log_prob.T, prior.T, self.beta.clone(), self.trust_region, self.centered, price)
        codes = codes.transpose(0, 1).reshape(-1, *grid)  # [B·K, *grid]
        return Bottlenecked(self.embed(codes), codes, policy_loss)

    def embed(self, codes: Tensor) -> Tensor:
        """What the decoder takes of codes: [N, T] → [N, T, dim], or [N, *grid] → [N, dim, *grid]; zeros for -1."""
        embedded = torch.where((codes < 0).unsqueeze(-1), 0.0, self.embedding(codes.clamp(min=0)))
        return embedded.movedim(-1, 1) if self.channel_first else embedded

    def perplexity(self, codes: Tensor) -> Tensor:
        """exp of the entropy of a position's symbols in a set of codes, mean over positions: 1 … V. 0-dim."""
        return code_perplexity(self._counts(codes)).nanmean()  # a position may be padding in all of them

    def usage(self, codes: Tensor) -> Tensor:
        """Share of the V tokens that occur at a position of a set of codes, mean over positions. 0-dim."""
        return code_usage(self._counts(codes)[:, : self.vocab_size])

    def _counts(self, codes: Tensor) -> Tensor:
        """How often each position has each token. [N, T] or [N, *grid] → [T, V]."""
        flat = codes.flatten(1)
        places = torch.arange(flat.shape[1], device=flat.device) * self.num_symbols + flat
        size = flat.shape[1] * self.num_symbols
        return torch.bincount(places[flat >= 0], minlength=size).view(-1, self.num_symbols)

    def repeat(self, x: Tensor) -> Tensor:
        """Data in the order of the codes: each K times in training mode, once else. [B, ...] → [B·K, ...]."""
        return x.repeat_interleave(self.samples, 0) if self.training else x

    def _check_mask(self, mask: Tensor, tokens: Tensor, grid: torch.Size) -> Tensor:
        """The mask of tokens. [B, T]."""
        if mask.dtype != torch.bool or mask.shape != (len(tokens), *grid):
            raise ValueError(
                f"mask must be bool of shape {[len(tokens), *grid]}, True for tokens, got {mask.dtype} of shape "
                f"{list(mask.shape)}."
            )
        if self.ends is not None:
            raise ValueError("mask is for codes of the data's own lengths; leave it out, or end_token and token_price.")
        mask = mask.flatten(1)
        if not isinstance(self.policy, FactorizedHead) and any(read_flags((~mask[:, :-1] & mask[:, 1:]).any())):
            raise ValueError("mask must be False on the right alone, got tokens behind padding; move padding there.")
        return mask

    def _to_tokens(self, features: Tensor) -> tuple[Tensor, torch.Size]:
        """[B, T, dim], and the shape that one datum's codes have."""
        axis = 1 if self.channel_first else 2
        if features.ndim < 3 or (features.ndim > 3 and not self.channel_first) or features.shape[axis] != self.dim:
            expected = f"[B, {self.dim}, *grid]" if self.channel_first else f"[B, T, {self.dim}]"
            raise ValueError(
                f"features must be {expected}, got {list(features.shape)}; channel_first says where dim stands, and "
                f"is {self.channel_first}."
            )
        tokens = features.flatten(2).transpose(1, 2) if self.channel_first else features
        if self.num_tokens not in (None, tokens.shape[1]):
            raise ValueError(f"features must be of num_tokens={self.num_tokens} tokens, got {tokens.shape[1]}.")
        return tokens, features.shape[2:] if self.channel_first else features.shape[1:2]


def token_log_prob(posterior: Distribution, codes: Tensor) -> Tensor:
    """log q of each token given the datum and the tokens before it, in nats, with gradient. [K, B, T] → [K, B, T]."""
    if not isinstance(posterior, FactorizedCategorical):
        if not hasattr(posterior, "token_logits"):
            name = type(posterior).__name__
            raise ValueError(f"a mask needs a distribution that has token_logits, and {name} has none.")
        posterior = FactorizedCategorical(posterior.token_logits(codes))  # given the tokens before, independent
    return posterior.log_probs.expand(*codes.shape, -1).gather(-1, codes.unsqueeze(-1))[..., 0]
