"""Search when encoding: the policy proposes codes, the decoder decides.

Every search starts at the greedy code and moves to what scores higher, so that it ends nowhere worse. Shapes: B data,
K codes for each, T positions, V tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.functional import encoding_reward
from daps_rl.functional.checks import as_float
from daps_rl.policies import AutoregressiveCategorical, EndToken, FactorizedCategorical, PointCodes, end_token
from daps_rl.policies.distribution import TokenSteps, write_codes

CodeScore = Callable[[Tensor, Tensor], Tensor]
"""(data [B, *x], codes [B, K, T]) → what the codes are worth, larger is better, [B, K]."""

NUMBER = r"([1-9]\d{0,5})"
PROPOSALS = rf"(?:(best-of|beam|sweep):{NUMBER}|(sweep):{NUMBER}/{NUMBER}|(greedy|multistart))"
FORMS = re.compile(rf"{PROPOSALS}(?:\+augment:{NUMBER})?|augment:{NUMBER}")
ENTRIES = 2**21  # of data that are decoded at once
PREFIXES, TOKENS = 2**13, 2**24  # of beams that are extended at once, and their next tokens
KEPT, TABLE = 32, 16  # a position counts as so many next tokens, an entry of a table of them all as a part of one


@dataclass(frozen=True)
class Search:
    """How to look for a better code than the greedy one: "best-of:16", "sweep:2/64", "beam:4", "multistart+augment:8".

    Attributes:
        method: "best-of": draws from the policy. "sweep": passes over the positions, each of whose tokens is replaced
            by the best of all. "beam": the prefixes that the policy holds likeliest, extended token by token.
            "multistart": the greedy codes after each first token (POMO, arXiv 2010.16011). "greedy": no others.
        count: draws, passes, or prefixes kept; 0 where there are none.
        top: of a sweep, how many tokens are tried at a position, the policy's likeliest given those before, of a
            quantiser's those nearest to its own; 0 for all.
        augment: search in so many views of a problem's context, in which all decisions are worth the same
            (`DiscreteProblem.views`); the first is the context itself.
    Raises:
        ValueError: there is no such search.
    """

    method: str
    count: int = 0
    top: int = 0
    augment: int = 1

    def __post_init__(self) -> None:
        _matched(str(self))

    @classmethod
    def parse(cls, text: str) -> Search:
        """Returns the search that is written so."""
        method, count, sweep, passes, top, word, with_views, views = _matched(text).groups(default="0")
        name = next((part for part in (method, sweep, word) if part != "0"), "greedy")
        return cls(name, int(count) or int(passes), int(top), int(with_views) or int(views) or 1)

    def data_at_once(self, num_tokens: int, vocab_size: int) -> int:
        """How many data a policy may be asked of at once, so that what it holds of them and their beams stays small."""
        width = {"beam": self.count, "multistart": vocab_size}.get(self.method, 1)
        # By the next tokens' logits, what a transformer keeps of those before, and a table of all tokens.
        each = max(vocab_size, KEPT * num_tokens, num_tokens * vocab_size // TABLE)
        return max(1, min(PREFIXES, TOKENS // each) // width)

    def __str__(self) -> str:
        parts = [self.method + (f":{self.count}" if self.count else "") + (f"/{self.top}" if self.top else "")]
        parts += [f"augment:{self.augment}"] if self.augment != 1 else []
        return "+".join(parts[1:] if self.method == "greedy" and parts[1:] else parts)


def _matched(text: str) -> re.Match[str]:
    match = FORMS.fullmatch(text)
    if match is None:
        raise ValueError(
            "search must be best-of:K, sweep:N, sweep:N/M, beam:W or multistart, any of them with +augment:N, or "
            f"augment:N, with whole numbers of 1 … 999999, got {text!r}; try sweep:2, two passes over the tokens."
        )
    return match


class Found(NamedTuple):
    """What a search ends at."""

    codes: Tensor  # int64 [B, T]
    score: Tensor  # [B]
    evaluations: Tensor  # of the decoder, int64 [B]


def likelihood_score(
    decoder: nn.Module,
    prior: Distribution | None = None,
    rate_weight: float = 0.0,
    ends: EndToken | None = None,
    token_price: float = 0.0,
) -> CodeScore:
    """Returns what codes are worth without a posterior, in nats: `functional.encoding_reward` with β = 0.

    Args:
        decoder: maps codes [..., T] to a distribution over x.
        prior: over codes; needed where they have a rate_weight.
        rate_weight: of log p(z).
        ends: how codes end; needed where tokens have a price.
        token_price: of each token, in nats.
    """

    def score(x: Tensor, codes: Tensor) -> Tensor:
        log_likelihood: Tensor = decoder(codes).log_prob(x.unsqueeze(1))
        rated = prior is not None and rate_weight != 0.0
        prior_log_prob = prior.log_prob(codes) if prior is not None and rated else torch.zeros_like(log_likelihood)
        price = None if ends is None or not token_price else token_price * ends.lengths(codes).to(log_likelihood)
        return encoding_reward(log_likelihood, None, prior_log_prob, 0.0, rate_weight=rate_weight, price=price)

    return score


@torch.no_grad()
def find_codes(search: Search | str, x: Tensor, posterior: Distribution, score: CodeScore, *, vocab_size: int) -> Found:
    """Looks for codes that score higher than the greedy ones.

    Codes to which the policy gives probability 0 are neither proposed nor scored.

    Args:
        search: how.
        x: data, as the score takes them. [B, *x].
        posterior: the policy's distribution of batch shape [B], event shape [T].
        score: what codes are worth; `likelihood_score`, a verdict, or any function of yours.
        vocab_size: V, tokens that there are; of FSQ its codebook's size.
    Returns:
        codes that score no lower than the greedy ones, with their scores.
    Raises:
        ValueError: latents are continuous, a quantiser is asked for draws, scores are no numbers [B, K], or the search
            is in several views, which have a posterior each (`best_of_views`).
    """
    search = Search.parse(search) if isinstance(search, str) else search
    if search.augment != 1:
        raise ValueError(f"search {search} is in several views, and this is a posterior of one; use model.search.")
    greedy = posterior.mode
    if greedy.is_floating_point():
        raise ValueError("search needs codes, and these latents are continuous; leave search out.")
    if isinstance(posterior, PointCodes) and search.method == "best-of":
        raise ValueError(f"search {search} draws codes, and a quantiser has one to draw; use sweep:2/16, or beam:16.")
    best = _Best(x, greedy, score)
    if search.method == "best-of":
        _draw(best, posterior, search.count)
    elif search.method == "beam":
        best.propose(likeliest_codes(posterior, search.count))
    elif search.method == "multistart":
        best.propose(codes_from_all_starts(posterior, vocab_size))
    elif search.method == "sweep":
        _sweep(best, posterior, search, vocab_size)
    return Found(best.codes, best.value, torch.full_like(best.codes[:, 0], best.evaluations))


def best_of_views(found: Sequence[Found]) -> Found:
    """Returns the best of what was found for the same data in several views, and the evaluations of all of them."""
    codes, score, evaluations = (torch.stack(parts) for parts in zip(*found, strict=True))  # [A, B, …]
    value, index = score.max(0)
    return Found(codes[index, torch.arange(len(index), device=index.device)], value, evaluations.sum(0))


class _Best:
    """The best code of each datum so far."""

    def __init__(self, x: Tensor, codes: Tensor, score: CodeScore) -> None:
        self.x, self.score, self.codes, self.evaluations = x, score, codes, 0
        self.at_once = max(1, ENTRIES // max(codes.shape[-1], x.shape[1:].numel()))  # codes
        self.width = max(1, self.at_once // max(1, len(x)))  # codes of each datum that a caller makes at once
        self.value = self._scores(codes.unsqueeze(1))[:, 0]  # [B]

    def propose(self, codes: Tensor) -> None:
        """Takes the best of these codes where it is better. [B, K, T]."""
        value, index = self._scores(codes).max(1)
        better = value > self.value
        chosen = codes[torch.arange(len(codes), device=codes.device), index]
        self.codes = torch.where(better.unsqueeze(-1), chosen, self.codes)
        self.value = torch.where(better, value, self.value)

    def _scores(self, codes: Tensor) -> Tensor:
        """[B, K, T] → [B, K], some data or some codes at a time."""
        count = codes.shape[1]
        self.evaluations += count
        rows = max(1, self.at_once // count)
        parts = []
        for x, of_part in zip(self.x.split(rows), codes.split(rows), strict=True):
            scores = [self._checked(x, some) for some in of_part.split(self.at_once, dim=1)]
            parts.append(torch.cat(scores, dim=1))
        return torch.cat(parts)

    def _checked(self, x: Tensor, codes: Tensor) -> Tensor:
        scores = self.score(x, codes)
        if scores.shape != codes.shape[:2] or scores.isnan().any():
            raise ValueError(
                f"a score of codes must be numbers [B, K] = {list(codes.shape[:2])}, got shape {list(scores.shape)} "
                f"with {int(scores.isnan().sum())} NaN; give -inf to what must not be."
            )
        return scores


def _draw(best: _Best, posterior: Distribution, count: int) -> None:
    """Draws codes from the policy, as many at a time as may be scored at once."""
    for start in range(0, count, best.width):
        draws = posterior.sample(torch.Size([min(best.width, count - start)]))  # [K, B, T]
        best.propose(draws.transpose(0, 1))


def _sweep(best: _Best, posterior: Distribution, search: Search, vocab_size: int) -> None:
    """Replaces token after token by the best there is, until nothing changes or the passes are over."""
    forbids, ends = _may_forbid(posterior, best.codes), end_token(posterior)
    for _ in range(search.count):
        before = best.codes
        steps = _begun(posterior) if search.top else None
        for position in range(best.codes.shape[-1]):
            current = best.codes[:, position : position + 1]  # [B, 1]
            if steps is None:
                others = torch.arange(1, vocab_size, device=current.device)
                tokens = (current + others) % vocab_size  # [B, V - 1]
            else:
                tokens = steps.logits[:, 0].topk(min(search.top, vocab_size)).indices  # [B, M]
            for some in tokens.split(best.width, dim=1):
                codes = best.codes.unsqueeze(1).repeat(1, some.shape[1], 1)
                codes[..., position] = some
                if ends is not None:  # a code that ends here has no tokens behind
                    codes = ends.close(codes)
                if forbids:
                    possible = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1) > -torch.inf
                    codes = torch.where(possible.unsqueeze(-1), codes, best.codes.unsqueeze(1))
                best.propose(codes)
            if steps is not None and position + 1 < best.codes.shape[-1]:
                steps.advance(best.codes[:, position : position + 1])
        if torch.equal(before, best.codes):
            break


def _may_forbid(posterior: Distribution, codes: Tensor) -> bool:
    """Whether codes may have probability 0, which costs a pass of the policy to see; a point mass does not tell."""
    if isinstance(posterior, AutoregressiveCategorical):
        return posterior.mask is not None or posterior.transformer.allowed is not None
    if isinstance(posterior, FactorizedCategorical):
        return bool(posterior.log_probs.isinf().any())
    try:
        posterior.log_prob(codes)
    except NotImplementedError:
        return False
    return True


def _begun(posterior: Distribution, samples: int = 1) -> TokenSteps:
    """K codes of each datum, before their first token; ValueError where the policy does not write token by token."""
    steps: Callable[[int], TokenSteps] | None = getattr(posterior, "steps", None)
    if steps is None:
        raise ValueError(
            "beam:W, multistart and sweep:N/M need a policy that tells a token's probabilities given those before it, "
            f"by `steps`, and {type(posterior).__name__} has none; use sweep:2 or best-of:16."
        )
    return steps(samples)


def codes_from_all_starts(posterior: Distribution, vocab_size: int) -> Tensor:
    """Returns the greedy codes after each first token; the likeliest stands for those that may not be. [B, V, T]."""
    steps, num_tokens = _begun(posterior, vocab_size), posterior.event_shape[0]
    first = torch.arange(vocab_size, device=steps.logits.device).expand(steps.logits.shape[:2])
    possible = steps.logits.gather(-1, first.unsqueeze(-1))[..., 0] > -torch.inf
    first = torch.where(possible, first, steps.logits.argmax(-1)).unsqueeze(-1)
    if num_tokens == 1:
        return first
    steps.advance(first[..., 0])
    rest = write_codes(steps, num_tokens - 1, greedy=True).codes.transpose(0, 1)
    return torch.cat((first, rest), dim=-1)


def likeliest_codes(posterior: Distribution, width: int) -> Tensor:
    """Returns the codes that a beam search ends at: as many prefixes are kept at each token, the likeliest.

    Where there are fewer codes of a probability above 0, the likeliest stands for those that are missing.
    [B, min(W, V^T), T].
    """
    steps = _begun(posterior)
    batch, _, vocab_size = steps.logits.shape
    codes = torch.empty(batch, 1, 0, dtype=torch.int64, device=steps.logits.device)
    log_prob = as_float(steps.logits.new_zeros(batch, 1))
    for position in range(posterior.event_shape[0]):
        if position:
            steps.advance(codes[..., -1])
        log_probs = log_prob.unsqueeze(-1) + torch.log_softmax(as_float(steps.logits), dim=-1)  # [B, K, V]
        log_prob, index = log_probs.flatten(1).topk(min(width, log_probs.shape[1:].numel()))
        index = torch.where(log_prob > -torch.inf, index, index[:, :1])
        parent, token = index // vocab_size, index % vocab_size
        steps.select(parent)
        prefixes = codes.gather(1, parent.unsqueeze(-1).expand(-1, -1, position))
        codes = torch.cat((prefixes, token.unsqueeze(-1)), dim=-1)
    return codes
