"""All metrics of a model on a split, one batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from daps_rl.autoencoder import DiscreteAutoencoder, code_sizes, codebook_size
from daps_rl.data import ImageStream
from daps_rl.data.kind import Kind
from daps_rl.data.pixels import Arrays
from daps_rl.decoders import RewardDistribution
from daps_rl.evaluation.codes import (
    ACTIVE,
    AllCodes,
    TokenInformation,
    count_codes,
    defined,
    kl_and_entropy,
    marginals,
    token_probs,
)
from daps_rl.evaluation.perceptual import Perceptual
from daps_rl.functional import beta_elbo, code_perplexity, code_usage, importance_weighted_bound, reconstruction
from daps_rl.functional.bounds import in_bits
from daps_rl.modes import eval_mode
from daps_rl.policies import end_token
from daps_rl.priors import UniformCodes
from daps_rl.search import CodeScore, Search

if TYPE_CHECKING:
    from daps_rl.verdicts import Verdicts

LARGEST_TABLE = 2**25  # entries
ENUMERABLE = 256  # codes
PER_DATUM = (
    "log_likelihood", "kl", "elbo", "beta_elbo", "code_gain", "psnr", "psnr_greedy", "ssim", "ssim_greedy",
    "importance_bound", "entropy",
)  # fmt: skip


class Evaluation(NamedTuple):
    """Metrics per datum, means over the split; how often each position used each code; and what the means are of."""

    metrics: dict[str, float | None]
    counts: Tensor | None  # [T, V], int64; None for continuous latents
    columns: dict[str, Tensor]  # [N] each, or as many as have draws


def evaluate(
    autoencoder: DiscreteAutoencoder,
    data: Tensor | np.ndarray | ImageStream,
    *,
    beta: float,
    kind: Kind | None = None,
    targets: Tensor | None = None,
    batch_size: int | None = None,
    importance_samples: int = 16,
    importance_data: int = 1000,
    enumerable: int = ENUMERABLE,
    perceptual: Perceptual | None = None,
    verdicts: Verdicts | None = None,
    labels: Tensor | None = None,
    search: Search | None = None,
    score: CodeScore | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluates on a whole split, with one sampled code per datum, and the greedy code where a name says so.

    Of at most `enumerable` codes all are decoded, and log-likelihood, KL and entropy are exact.

    The same model, data, batch size and seed give the same numbers; torch's global random state is left as it was. The
    posterior may be a distribution over codes, a point mass (a quantiser: no `log_prob`), or a distribution over
    continuous latents [B, T, E] with a prior over [T, E]; what is not defined is None.

    Args:
        autoencoder: the model; data go to its device.
        data: [N, *observation_shape], of any floating type, or a stream of as much.
        beta: weight of the KL in `beta_elbo`.
        kind: of the data, which says how reconstructions are measured; the model's own if None.
        targets: what is scored instead of the data, [N, *y].
        batch_size: data times draws in memory at once; if None 500, or as many as leave the tables of all tokens'
            probabilities, and the reconstructions, under about a gibibyte each.
        importance_samples: draws per datum of `importance_bound` and, where positions' probabilities have no closed
            form, of `active_positions`.
        importance_data: at most so many data, evenly spaced over the split, have that many draws. 0 leaves them out.
        enumerable: codes that there may be for sums over all of them.
        perceptual: also `fid` and `lpips`, of colour images.
        verdicts: also `verdict_NAME` of what is decoded, and `verdict_NAME_greedy`.
        labels: of the data, for verdicts that ask for them. [N].
        search: also measures of the codes that it finds, by names that end in `_search`; the others stay as they are.
        score: what it goes by; log p(x|z) if None.
        seed: of the sampled codes.
    Returns:
        what docs/metrics.md lists under `summary.json`, and the counts of the sampled codes.
    Raises:
        ValueError: there are no data, or a number is out of range.
    """
    if batch_size is None:
        batch_size = _batch_size(autoencoder)
    if len(data) == 0 or batch_size < 1 or importance_samples < 1 or importance_data < 0:
        raise ValueError(
            "evaluate needs data, batch_size and importance_samples >= 1 and importance_data >= 0, got "
            f"{len(data)}, {batch_size}, {importance_samples} and {importance_data}."
        )
    device = next(autoencoder.parameters()).device
    data = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
    of_weights = next((p.dtype for p in autoencoder.parameters() if p.is_floating_point()), torch.float32)
    kind = kind or autoencoder.kind
    collected = _Pass(autoencoder, kind, importance_samples, enumerable, perceptual, verdicts, search, score)
    every = math.ceil(len(data) / importance_data) if importance_data else 0
    own_numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with eval_mode(autoencoder), own_numbers, torch.no_grad():
        torch.manual_seed(seed)
        seen = 0
        for batch in data.split(batch_size):
            x = batch.to(device, of_weights if batch.is_floating_point() else batch.dtype)
            y = x if targets is None else targets[seen : seen + len(x)].to(device)
            collected.add(x, y, None if labels is None else labels[seen : seen + len(x)])
            spaced = slice(-seen % every, None, every) if every else slice(0)
            size = max(1, batch_size // importance_samples)
            if len(x[spaced]):
                for parts in zip(x[spaced].split(size), y[spaced].split(size), strict=True):
                    collected.add_draws(*parts)
            seen += len(x)
    return collected.result(beta)


def _batch_size(autoencoder: DiscreteAutoencoder) -> int:
    """Data at a time, so that [B, T, V] in float64 and a few tensors of the data's size stay small."""
    num_tokens, vocab_size = code_sizes(autoencoder.policy)
    entries = math.prod(getattr(autoencoder.policy, "observation_shape", ()))
    return max(1, min(500, LARGEST_TABLE // max(num_tokens * vocab_size, 16 * entries)))


@dataclass
class _Pass:
    """Takes in a split, batch by batch, and gives its metrics."""

    autoencoder: DiscreteAutoencoder
    kind: Kind
    importance_samples: int
    enumerable: int
    perceptual: Perceptual | None
    verdicts: Verdicts | None
    search: Search | None
    score: CodeScore | None
    information: TokenInformation = field(default_factory=TokenInformation)
    all_codes: AllCodes | None = None
    enumerated: int | None = None
    counts: Tensor | None = None
    columns: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prior = self.autoencoder.prior()
        self.num_tokens, _ = code_sizes(self.autoencoder.policy)
        self.vocab_size = codebook_size(self.autoencoder.policy)
        self.ends = end_token(self.autoencoder.policy)
        if self.perceptual is not None:
            self.perceptual.reset()

    def add(self, x: Tensor, y: Tensor, labels: Tensor | None) -> None:
        """One drawn code per datum. x [B, *x]; y, what is scored, [B, *y]; labels [B]."""
        posterior = self.autoencoder.policy(x)
        z, greedy = posterior.sample(), posterior.mode  # [B, T], or [B, T, E]
        distribution = self.autoencoder.decoder(z)
        log_likelihood = distribution.log_prob(y)
        self._keep(code_gain=log_likelihood - self.autoencoder.log_likelihood(y, z.roll(1, 0)))  # another datum's code
        exact = self._enumerated(posterior, z, y)
        self._keep(**(exact or {"log_likelihood": log_likelihood, **kl_and_entropy(posterior, self.prior, z)}))
        codes = {"": z, "_greedy": greedy}
        if self.search is not None:
            codes["_search"] = self._searched(self.search, x, y)
        for end, code in codes.items():
            self._add_decoded(self.autoencoder.decoder(code) if end else distribution, y, labels, end)
            if self.ends is not None:
                self._keep(**{f"length{end}": self.ends.lengths(code)})
        if not torch.is_floating_point(z):
            counts = count_codes(z, self.vocab_size)
            self.counts = counts if self.counts is None else self.counts + counts
            if not isinstance(self.prior, UniformCodes):
                self._keep(**{f"rate{end}": in_bits(-self.prior.log_prob(code)) for end, code in codes.items()})
            probs = marginals(posterior, z, self.vocab_size)
            if probs is not None:
                self.information.add(probs)

    def _searched(self, search: Search, x: Tensor, y: Tensor) -> Tensor:
        """The codes that a search finds, [B, T], with random numbers of its own."""
        with torch.random.fork_rng([y.device] if y.device.type == "cuda" else []):
            found = self.autoencoder.search(search, x, y, self.score)
        self._keep(search_evaluations=found.evaluations)
        return found.codes

    def _add_decoded(self, made: Distribution, y: Tensor, labels: Tensor | None, end: str) -> None:
        """What a drawn code of each datum decodes to, the greedy one, or one that was searched for. y [B, *y]."""
        problem = isinstance(made, RewardDistribution)
        if end and (problem or self.search is not None):
            self._keep(**{f"{'reward' if problem else 'log_likelihood'}{end}": made.log_prob(y)})
        if problem:
            return
        self._keep(**{f"{name}{end}": values for name, values in self.kind.metrics(made.mean, y).items()})
        if self.verdicts is not None:
            scores = self.verdicts.scores(reconstruction(made), y, labels)
            self._keep(**{f"verdict_{name}{end}": score for name, score in scores.items()})
        if self.perceptual is not None and isinstance(self.kind, Arrays) and not end:
            self.perceptual.add(made.mean, y, self.kind.value_range)

    def _enumerated(self, posterior: Distribution, z: Tensor, x: Tensor) -> dict[str, Tensor | None]:
        """Means over all codes, where there are few; empty where there are many, and for quantisers. x [B, *x]."""
        num_codes = self.vocab_size**self.num_tokens
        if torch.is_floating_point(z) or num_codes > min(self.enumerable, LARGEST_TABLE // x[0].numel()):
            return {}
        if self.all_codes is None:
            tokens = torch.arange(self.vocab_size, device=z.device)
            codes = torch.cartesian_prod(*[tokens] * self.num_tokens).view(-1, self.num_tokens)
            self.all_codes = AllCodes(self.autoencoder.decoder, self.prior, codes, LARGEST_TABLE)
        exact = self.all_codes.expectations(posterior, x)
        self.enumerated = num_codes if exact else None
        return exact

    def add_draws(self, x: Tensor, y: Tensor) -> None:
        """K drawn codes per datum. x [B, *x]; y, what is scored, [B, *y]."""
        posterior = self.autoencoder.policy(x)
        z = posterior.sample((self.importance_samples,))  # [K, B, T], or [K, B, T, E]
        log_prob = defined(lambda: posterior.log_prob(z))
        if log_prob is None:
            return
        distribution = self.autoencoder.decoder(z)
        log_likelihood = distribution.log_prob(y)  # [K, B]
        if isinstance(distribution, RewardDistribution):
            self._keep(reward_best=log_likelihood.amax(0))
        prior_log_prob = self.prior.log_prob(z)
        self._keep(importance_bound=importance_weighted_bound(log_likelihood.T, log_prob.T, prior_log_prob.T))
        inexact = not torch.is_floating_point(z) and marginals(posterior, z[0], self.vocab_size) is None
        if inexact and self.importance_samples > 1:
            self.information.add_draws(token_probs(posterior, z, self.vocab_size))

    def _keep(self, **row: Tensor | None) -> None:
        for name, value in row.items():
            if value is not None:
                self.columns.setdefault(name, []).append(value.double().cpu())

    def result(self, beta: float) -> Evaluation:
        columns = {name: torch.cat(values) for name, values in self.columns.items()}
        if "kl" in columns:
            columns["elbo"] = beta_elbo(columns["log_likelihood"], columns["kl"], 1.0)
            columns["beta_elbo"] = beta_elbo(columns["log_likelihood"], columns["kl"], beta)
        metrics: dict[str, float | None] = dict.fromkeys(PER_DATUM)
        metrics |= {name: values.mean().item() for name, values in columns.items()}
        bounds = columns.get("importance_bound")
        metrics["enumerated_codes"] = self.enumerated
        metrics["importance_samples"] = None if bounds is None else self.importance_samples
        metrics["importance_data"] = None if bounds is None else len(bounds)
        metrics |= self._code_metrics()
        if self.perceptual is not None:
            metrics |= self.perceptual.result()
        return Evaluation(metrics, None if self.counts is None else self.counts.cpu(), columns)

    def _code_metrics(self) -> dict[str, float | None]:
        """None for continuous latents."""
        if self.counts is None:
            return dict.fromkeys(("bits", "code_usage", "code_perplexity", "active_positions"))
        information = self.information.nats()
        tokens = self.vocab_size if self.ends is None else self.ends.end
        return {
            "bits": self.num_tokens * math.log2(tokens),
            "code_usage": code_usage(self.counts[:, :tokens]).item(),
            "code_perplexity": code_perplexity(self.counts).mean().item(),
            "active_positions": None if information is None else int((information > ACTIVE).sum()),
        }
