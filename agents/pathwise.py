"""Agents that learn through the decoder's gradient, to compare with: relaxations, quantisers, continuous latents.

They need what DAPS does without, a decoder that can be differentiated; their loss is the negative β-ELBO itself (for
quantisers, which have none, the negative log-likelihood), and the decoder learns from that same loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from daps_rl.agents.base import FACTORIZED, Agent, AgentLoss, AgentSpec, Conditions, Score
from daps_rl.agents.scorer import Scorer, as_scorer
from daps_rl.functional import beta_elbo, gumbel_rao, gumbel_softmax, reinmax, tokenwise_kl
from daps_rl.optim import exponential_decay
from daps_rl.policies import QuantizerPolicy, UniformCodes
from daps_rl.recompute import in_microbatches


class Path(NamedTuple):
    """What was drawn for a batch, all with gradient but the codes."""

    log_likelihood: Tensor  # [B, K], in nats
    kl: Tensor  # [B, K], in nats; zero where it is not defined
    extra: Tensor  # [B], a loss of the agent's own
    codes: Tensor  # [B, K, T], or [B, K, T, E] for continuous latents
    entropy: Tensor  # [B], of the posterior, in nats


class PathwiseAgent(Agent):
    """Base of the agents that learn through the decoder: the loss is −log p(x|z) + β·KL, backpropagated throughout."""

    needs_decoder_gradient = True
    has_kl = True

    def __init__(self, policy: nn.Module, *, samples: int = 1) -> None:
        super().__init__(policy, samples=samples)

    def path(self, x: Tensor, target: Tensor, scorer: Scorer) -> Path:
        """Draws latents of x with a gradient, decodes them and scores what is to be decoded. [B, *x], [B, *y]."""
        raise NotImplementedError

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)

        def path(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.path(x, target, scorer))

        drawn = Path(*in_microbatches(path, observation, scorer.x, size=self.microbatch))
        scorer.learn_from(drawn.log_likelihood, drawn.kl.detach() if self.has_kl else None)
        loss = drawn.extra.mean() - beta_elbo(drawn.log_likelihood, drawn.kl, beta).mean()
        if isinstance(scorer.rate_weight, Tensor) or scorer.rate_weight:  # −E log p(z) = KL + H
            loss = loss + scorer.rate_weight * (drawn.kl.mean() + drawn.entropy.mean())
        yield AgentLoss(loss, drawn.codes.detach(), {**self.metrics(), "entropy": drawn.entropy.detach().mean()})

    def metrics(self) -> dict[str, Tensor]:
        """What else is worth a curve."""
        return {}


class Relaxation(PathwiseAgent):
    """Base of the relaxations: hard codes forward, a soft gradient backward, the KL in closed form token by token.

    Args:
        policy, samples: see `Agent`; the policy's distribution has `relaxed_sample`, as those of `daps_rl.policies` do.
        temperature_start, temperature_end: of the relaxation, decaying exponentially over the run.
    Raises:
        ValueError: a temperature is not positive.
    """

    on_device = True

    def __init__(
        self, policy: nn.Module, *, samples: int = 1, temperature_start: float = 1.0, temperature_end: float = 0.5
    ) -> None:
        super().__init__(policy, samples=samples)
        if min(temperature_start, temperature_end) <= 0.0:
            raise ValueError(
                f"temperatures must be positive, got {temperature_start} and {temperature_end}; 1.0 to 0.5 is usual."
            )
        self.temperature_start, self.temperature_end = temperature_start, temperature_end
        self.temperature = nn.Buffer(torch.tensor(float(temperature_start)), persistent=False)  # now; 0-dim

    def prepare(self, conditions: Conditions) -> None:
        super().prepare(conditions)
        self.temperature.fill_(exponential_decay(self.progress, self.temperature_start, self.temperature_end))

    def relax(self, logits: Tensor) -> Tensor:
        """One-hot tokens of logits [..., V], with a gradient."""
        raise NotImplementedError

    def path(self, x: Tensor, target: Tensor, scorer: Scorer) -> Path:
        posterior = self.policy(x)
        if not hasattr(posterior, "relaxed_sample"):
            raise ValueError(
                f"{type(self).__name__} needs a distribution with relaxed_sample, and {type(posterior).__name__} has "
                "none; use a policy of daps_rl.policies, or an agent that needs no such gradient (daps)."
            )
        drawn = posterior.relaxed_sample(self.relax, self.samples)  # [B, K, T, V]
        of_prior = getattr(scorer.prior, "token_log_probs", None)
        if not isinstance(of_prior, Tensor):
            raise ValueError(
                "a relaxation differentiates the KL token by token and needs a prior of independent tokens that has "
                f"token_log_probs [T, V]; {type(scorer.prior).__name__} has none. Agents that learn from rewards take "
                "any prior."
            )
        kl = tokenwise_kl(drawn.log_probs, of_prior)
        log_likelihood = scorer.likelihood(target, drawn.one_hot @ scorer.embedding())
        uniform = isinstance(scorer.prior, UniformCodes)  # the KL says the entropy too
        entropy = scorer.prior.entropy() - kl if uniform else -tokenwise_kl(drawn.log_probs, 0.0)
        return Path(log_likelihood, kl, torch.zeros_like(kl[:, 0]), drawn.one_hot.argmax(-1), entropy.mean(-1))

    def metrics(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature.clone()}


class GumbelSoftmax(Relaxation):
    """Straight-through Gumbel-Softmax. See `functional.gumbel_softmax` and `Relaxation`."""

    def relax(self, logits: Tensor) -> Tensor:
        return gumbel_softmax(logits, self.temperature)


class GumbelRao(Relaxation):
    """Rao-Blackwellised Gumbel-Softmax (GR-MCK), `noise_samples` draws averaged per token. See `functional.gumbel_rao`
    and `Relaxation`.
    """

    def __init__(self, policy: nn.Module, *, noise_samples: int = 10, **options: Any) -> None:
        super().__init__(policy, **options)
        if noise_samples < 1:
            raise ValueError(f"noise_samples must be >= 1, got {noise_samples}; the paper takes 10 to 1000.")
        self.noise_samples = noise_samples

    def relax(self, logits: Tensor) -> Tensor:
        return gumbel_rao(logits, self.temperature, self.noise_samples)


class ReinMax(Relaxation):
    """ReinMax, with temperatures of the gradient alone (1 and more). See `functional.reinmax` and `Relaxation`."""

    def __init__(self, policy: nn.Module, *, temperature_end: float = 1.0, **options: Any) -> None:
        super().__init__(policy, temperature_end=temperature_end, **options)

    def relax(self, logits: Tensor) -> Tensor:
        return reinmax(logits, self.temperature)


class Quantizer(PathwiseAgent):
    """VQ-VAE or FSQ: the nearest code forward, the gradient passed on to the encoder backward. One code per datum.

    Args:
        policy: a `QuantizerPolicy`.
        samples: 1; an encoder without randomness has no other.
        commitment: weight of the quantiser's own loss, in nats per unit (VQ's commitment; FSQ has none). The
            log-likelihood is a sum over the entries of x and the commitment a mean over those of a vector.
    Raises:
        ValueError: the policy is another.
    """

    has_kl = False
    learns_rate = False
    bounded_memory = False  # the codebook learns as it quantises: a pass may not be made twice

    def __init__(self, policy: nn.Module, *, samples: int = 1, commitment: float = 10.0) -> None:
        super().__init__(policy, samples=1)
        if not isinstance(policy, QuantizerPolicy):
            raise ValueError(f"a quantiser needs a QuantizerPolicy, got {type(policy).__name__}; pass --policy vq.")
        self.commitment = commitment

    def path(self, x: Tensor, target: Tensor, scorer: Scorer) -> Path:
        quantized = cast(QuantizerPolicy, self.policy).quantize(x)
        log_likelihood = scorer.likelihood(target, quantized.embedded.unsqueeze(1))
        zero = torch.zeros_like(log_likelihood)
        extra = (self.commitment * quantized.loss).expand(len(x))
        return Path(log_likelihood, zero, extra, quantized.codes.unsqueeze(1), zero[:, 0])


class GaussianVAE(PathwiseAgent):
    """A VAE with continuous latents: no codes and no bits, the ceiling that codes are held against.

    The policy gives distributions with `rsample`, such as `GaussianPolicy`.
    """

    on_device = True
    learns_rate = False

    def path(self, x: Tensor, target: Tensor, scorer: Scorer) -> Path:
        posterior: Distribution = self.policy(x)
        latents = posterior.rsample((self.samples,)).transpose(0, 1)  # [B, K, T, E]
        log_likelihood = scorer.likelihood(target, latents)
        kl = kl_divergence(posterior, scorer.prior).unsqueeze(1).expand_as(log_likelihood)
        return Path(log_likelihood, kl, torch.zeros_like(kl[:, 0]), latents, posterior.entropy())


# One code per datum: more cost as much again, for a gradient that is little less noisy.
ONE_CODE = {"samples": 1}
FACTORIZED_ONE = {**FACTORIZED, **ONE_CODE}
VQ = {"kmeans_init": True, "threshold_ema_dead_code": 2, "rotation_trick": False}
QUANTIZED = {**FACTORIZED_ONE, "policy": "vq", "policy_options": VQ}
ROTATED = {**QUANTIZED, "policy_options": {**VQ, "rotation_trick": True}}

# The codebook of "vq" learns by running means of its own, which processes would not share.
SPECS = (
    AgentSpec("gumbel", GumbelSoftmax, "relax codes by Gumbel-Softmax", ONE_CODE),
    AgentSpec("gumbel-na", GumbelSoftmax, "do as gumbel with a factorised policy", FACTORIZED_ONE),
    AgentSpec("gr-mck", GumbelRao, "relax codes by Gumbel-Rao", ONE_CODE),
    AgentSpec("gr-mck-na", GumbelRao, "do as gr-mck with a factorised policy", FACTORIZED_ONE),
    AgentSpec("reinmax", ReinMax, "relax codes by ReinMax", ONE_CODE),
    AgentSpec("reinmax-na", ReinMax, "do as reinmax with a factorised policy", FACTORIZED_ONE),
    AgentSpec("vq", Quantizer, "quantise by a learned codebook (VQ-VAE)", QUANTIZED, several_processes=False),
    AgentSpec("vq-rotation", Quantizer, "do as vq with the rotation trick", ROTATED, several_processes=False),
    AgentSpec("fsq", Quantizer, "quantise by rounding (FSQ)", {**FACTORIZED_ONE, "policy": "fsq"}),
    AgentSpec("gaussian", GaussianVAE, "encode to continuous latents (VAE)", {**FACTORIZED_ONE, "policy": "gaussian"}),
)
