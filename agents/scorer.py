"""The decoder's side of one batch, as an agent sees it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.agents.base import Score
from daps_rl.functional import beta_elbo, decoder_loss, encoding_reward, kl_estimate, reconstruction
from daps_rl.policies import EndToken
from daps_rl.recompute import in_microbatches

if TYPE_CHECKING:
    from daps_rl.verdicts import Verdicts


class Scorer:
    """Scores codes of a batch of data, once, and keeps what the decoder learns from. The training loop makes one each.

    An agent calls it for rewards. One that learns through the decoder's own gradient calls `log_likelihood` and then
    `learn_from` instead, and has the decoder's loss in its own.

    Args:
        decoder: maps codes [..., T], or embedded codes [..., T, E], to a distribution over x.
        prior: over codes.
        x: the batch. [B, *x].
        beta: weight of the KL. 0-dim.
        microbatch: data at a time; 0 for all at once.
        decoder_samples: how many of the K codes the decoder learns from, 0 for all. The codes of a datum are much
            alike, and a gradient through one costs twice as much as its score.
        low_precision: where some codes are scored alone, all are scored with matrix products in bfloat16, by decoder
            and prior: the codes of a datum differ by much more than its rounding.
        verdicts: what else a code is worth; nothing if None.
        labels: of the batch, for verdicts that ask for them. int64 [B].
        rate_weight: of log p(z) in the reward, beside its part of the KL.
        ends: how codes end, where they do.
        token_price: what a token costs, in nats.
    """

    def __init__(
        self,
        decoder: nn.Module,
        prior: Distribution,
        x: Tensor,
        beta: Tensor,
        microbatch: int = 0,
        decoder_samples: int = 0,
        low_precision: bool = False,
        verdicts: Verdicts | None = None,
        labels: Tensor | None = None,
        rate_weight: Tensor | float = 0.0,
        ends: EndToken | None = None,
        token_price: Tensor | float = 0.0,
    ) -> None:
        self.decoder, self.prior, self.x, self.beta = decoder, prior, x, beta
        self.microbatch, self.decoder_samples, self.low_precision = microbatch, decoder_samples, low_precision
        self.verdicts, self.labels, self.rate_weight = verdicts, labels, rate_weight
        self.ends, self.token_price = ends, token_price
        self.lengths: Tensor | None = None  # [B, K], in tokens; None where codes do not end
        self.evaluations = 0  # data decoded for the batch
        self.log_likelihood: Tensor | None = None  # [B, K], of all codes
        self.learned_from: Tensor | None = None  # [B, n], of the codes that the decoder learns from
        self.kl: Tensor | None = None  # [B, K] or [B], of the same codes; None where it is not defined
        self.pathwise = False  # whether the agent's loss holds the decoder's

    def __call__(self, codes: Tensor, log_prob: Tensor) -> Tensor:
        """Rewards, see `functional.encoding_reward`, in nats, detached. codes [B, K, T] → [B, K].

        Raises:
            ValueError: the batch has been scored already, or a verdict fails.
        """
        self._once()
        count = self.decoder_samples or codes.shape[1]
        rounded = self.low_precision and count < codes.shape[1]
        low = torch.autocast(codes.device.type, torch.bfloat16) if rounded else contextlib.nullcontext()
        with torch.no_grad(), low:
            prior_log_prob = self.prior.log_prob(codes)
        scored = learned = self._decode(codes[:, :count])
        if rounded:  # all, so that no code has the advantage of another rounding
            with torch.no_grad(), low:
                scored = self._decode(codes)
        elif count < codes.shape[1]:
            with torch.no_grad():
                others = self._decode(codes[:, count:])
                scored = tuple(torch.cat(parts, dim=1) for parts in zip(learned, others, strict=True))
        self.learned_from, self.log_likelihood = learned[0], scored[0]
        self.kl = kl_estimate(log_prob, prior_log_prob)
        log_likelihood = self.log_likelihood.detach()
        terms = None if self.verdicts is None else self.verdicts(log_likelihood, scored[1], self.x, self.labels)
        self.lengths = None if self.ends is None else self.ends.lengths(codes)
        price = None if self.lengths is None else self.token_price * self.lengths
        worth = (terms, self.rate_weight, price)
        return encoding_reward(log_likelihood, log_prob, prior_log_prob, self.beta, *worth)

    def _decode(self, codes: Tensor) -> tuple[Tensor, ...]:
        """log p(x|z) [B, K], with gradient, and where there are verdicts what they judge, [B, K, *x]."""

        def decode(x: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
            distribution = self.decoder(codes)
            log_likelihood = distribution.log_prob(x.unsqueeze(1))
            return (log_likelihood,) if self.verdicts is None else (log_likelihood, reconstruction(distribution))

        self.evaluations += codes.shape[0] * codes.shape[1]
        decoded: tuple[Tensor, ...] = in_microbatches(decode, self.x, codes, size=self.microbatch)
        return decoded

    def likelihood(self, x: Tensor, latents: Tensor) -> Tensor:
        """log p(x|z), in nats, with gradient. x [B, *x], codes [B, K, T] or embedded codes [B, K, T, E] → [B, K]."""
        return self.decoder(latents).log_prob(x.unsqueeze(1))

    def learn_from(self, log_likelihood: Tensor, kl: Tensor | None) -> None:
        """Says what the agent's own loss, which holds the decoder's, was made of; once. [B, K] each, in nats."""
        self._once()
        self.evaluations = log_likelihood.numel()
        self.log_likelihood = self.learned_from = log_likelihood
        self.kl, self.pathwise = kl, True

    def embedding(self) -> Tensor:
        """The decoder's table of token vectors [V, E], for one-hot codes; raises ValueError where it has none."""
        weight = getattr(getattr(self.decoder, "embed", None), "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(
                f"this agent sends gradients through the decoder's embedding, and {type(self.decoder).__name__} has "
                "no nn.Embedding by the name of embed; derive the decoder from daps_rl.decoders.CodeDecoder, or use "
                "an agent that needs no such gradient (daps)."
            )
        return weight

    @property
    def scored(self) -> bool:
        """Whether the batch has been scored."""
        return self.log_likelihood is not None

    def decoder_loss(self) -> Tensor:
        """−mean log p(x|z) of the codes that the decoder learns from. 0-dim."""
        return decoder_loss(cast(Tensor, self.learned_from)).mean()

    def prior_loss(self, codes: Tensor) -> Tensor:
        """−mean log p(z) of as many codes as the decoder learns from, with gradient. int64 [B, K, T] → 0-dim."""
        return -self.prior.log_prob(codes[:, : self.decoder_samples or codes.shape[1]]).mean()

    def metrics(self) -> dict[str, Tensor]:
        """Means over the batch, in nats, detached, 0-dim each; kl, elbo and beta_elbo where they are defined.

        Of verdicts `Verdicts.metrics`; where codes end, their mean length in tokens.
        """
        log_likelihood = cast(Tensor, self.log_likelihood).detach().mean()
        judged = {} if self.verdicts is None else self.verdicts.metrics()
        if self.lengths is not None:
            judged["length"] = self.lengths.float().mean()
        if self.kl is None:
            return {"log_likelihood": log_likelihood, **judged}
        kl = self.kl.detach().mean()
        bounds = {"elbo": beta_elbo(log_likelihood, kl, 1.0), "beta_elbo": beta_elbo(log_likelihood, kl, self.beta)}
        return {"log_likelihood": log_likelihood, "kl": kl, **bounds, **judged}

    def _once(self) -> None:
        if self.scored:
            raise ValueError("an agent asked for the rewards of a batch twice; `losses` calls `score` once.")


def as_scorer(score: Score) -> Scorer:
    """What an agent needs that learns through the decoder's gradient; raises ValueError for rewards alone."""
    if not isinstance(score, Scorer):
        raise ValueError(
            "this agent learns through the decoder's own gradient and got a function of rewards alone; use the "
            "training loop, pass a daps_rl.agents.Scorer, or use an agent that needs rewards only (daps)."
        )
    return score
