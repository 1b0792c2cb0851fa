"""What a verdict is, and several of them with their weights as terms of the reward."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from daps_rl.data.errors import one_line
from daps_rl.distributed import World
from daps_rl.functional import VerdictTerms, group_deviations
from daps_rl.functional.verdicts import rule_weights
from daps_rl.names import LARGEST

MEMORY = 0.99  # of the running deviations, over as many groups as a batch has


class Verdict(Protocol):
    """Says how good what a decoder makes of codes is. Any function of two arguments is one; no gradient is asked for.

    Class attributes may say more: `truth = "labels"` asks for the labels of the data in their place, `on_device = True`
    for tensors where they are, instead of on the CPU.
    """

    def __call__(self, truth: Any, decoded: Any, /) -> Any:
        """Scores M decoded data.

        Args:
            truth: the data that the codes are of, [M, *x], or their labels, int64 [M].
            decoded: what the decoder makes of the codes, [M, *x]: means, or the most probable symbols; detached.
        Returns:
            a number for each, larger is better, in any unit: [M], of NumPy, torch or a list. -inf, of what must not be,
            is allowed where who learns weighs codes: in DAPS and TPO, not in policy gradients.
        """


class Verdicts(nn.Module):
    """Terms of the reward beside the likelihood: verdicts by name, each with a weight in nats per unit.

    A weight that is not given follows from a rule. With sd_b(·) the standard deviation within the group of context b,
    averaged over those groups of the last hundred batches or so in which it is not 0,

        w = 2 · mean_b sd_b(log p(x|z)) / mean_b sd_b(v),

    so that the term moves the reward of a group twice as far as the likelihood does, whatever the units of the two. The
    running sums are a buffer, saved and restored with whatever holds this module; `eval()` keeps them as they are.

    Args:
        verdicts: by the name that they are logged under.
        weights: of some of them, >= 0. A verdict of weight 0 is measured in evaluation alone.
    Raises:
        ValueError: there is no verdict, a name cannot be a file's, a weight is out of range or nobody's, or a verdict
            asks for another truth than data or labels.
    """

    def __init__(self, verdicts: Mapping[str, Verdict], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.verdicts, weights = dict(verdicts), dict(weights or {})
        if not verdicts or set(weights) - set(verdicts):
            raise ValueError(
                f"weights must be of the verdicts given, {', '.join(verdicts) or 'and there are none'}, got weights of "
                f"{', '.join(weights) or 'none'}; give each weight the name of its verdict."
            )
        for name, verdict in self.verdicts.items():
            if not re.fullmatch(r"\w[\w.-]*", name) or not callable(verdict):
                raise ValueError(
                    f"verdict {name!r} must be a function under a name of letters, digits, '_', '-' and '.', got a "
                    f"{type(verdict).__name__}; pass {{'name': function}}."
                )
            if (truth := getattr(verdict, "truth", "data")) not in ("data", "labels"):
                raise ValueError(f"truth of verdict {name!r} must be 'data' or 'labels', got {truth!r}; mend it.")
        for name, weight in weights.items():
            if not 0.0 <= weight <= LARGEST:
                raise ValueError(
                    f"the weight of verdict {name!r} must be >= 0 and <= {LARGEST:g}, got {weight}; larger is better: "
                    "turn the verdict's sign round for what is to be small."
                )
        self.learned = [name for name in self.verdicts if weights.get(name) != 0.0]
        """Names of the verdicts that are terms of the reward."""
        self.world = World()  # the processes whose groups count
        self.forbids = True  # whether who learns from the terms can learn from -inf
        self.last: VerdictTerms | None = None  # of the batch judged last
        given = [weights.get(name, math.nan) for name in self.learned]
        self.given = nn.Buffer(torch.tensor(given), persistent=False)  # [J]; NaN for the rule
        self.sums = nn.Buffer(torch.zeros(2, 1 + len(given)))  # deviations, groups; of the likelihood and J verdicts

    @property
    def need_labels(self) -> list[str]:
        """Names of the verdicts that compare with labels."""
        return [name for name, verdict in self.verdicts.items() if getattr(verdict, "truth", "data") == "labels"]

    @torch.no_grad()
    def forward(
        self, log_likelihood: Tensor, decoded: Tensor, truth: Tensor, labels: Tensor | None = None
    ) -> VerdictTerms:
        """Judges K codes of each datum of a batch, and weighs the verdicts.

        Args:
            log_likelihood: log p(x|z) of the codes, in nats. [B, K], or [B·K] in the same order.
            decoded: what the decoder makes of them. [B, K, *x] or [B·K, *x].
            truth: the data. [B, *x].
            labels: of the data, where a verdict asks for them. int64 [B].
        Returns:
            scores [J, B, K] and weights [J], for `functional.encoding_reward`.
        Raises:
            ValueError: a verdict fails, or gives no M numbers, NaN or +inf, or -inf to who cannot learn from that; or
                in training there are no groups to weigh it by.
        """
        likelihood = log_likelihood.detach().float().reshape(len(truth), -1)
        samples = likelihood.shape[1]
        if self.training and samples < 2 and self.given.isnan().any():
            name = self.learned[int(self.given.isnan().int().argmax())]
            raise ValueError(
                f"the weight of verdict {name!r} follows from how the codes of a datum differ, and each datum has one "
                f"code; draw several (samples), give the weight, {name}:1, or keep it as it is (eval())."
            )
        truth = truth.repeat_interleave(samples, 0)
        labels = None if labels is None else labels.repeat_interleave(samples, 0)
        judged = self.scores(decoded.reshape(truth.shape), truth, labels, self.learned)
        scores = likelihood.new_zeros(len(judged), *likelihood.shape)
        for row, (name, score) in zip(scores, judged.items(), strict=True):
            if not self.forbids and (score == -math.inf).any():
                raise ValueError(
                    f"verdict {name!r} gave -inf, and a policy gradient has no finite step away from that; give a "
                    "number below those of other codes, or use an agent that weighs codes (daps, tpo)."
                )
            row.copy_(score.view_as(row))
        if self.training:
            self._count(torch.cat((likelihood[None], scores)))
        self.last = VerdictTerms(scores, self.weights())
        return self.last

    def _count(self, values: Tensor) -> None:
        """Takes a batch into account. [1 + J, B, K]."""
        sums, counts = group_deviations(values)
        batch = torch.stack((sums, counts, torch.full_like(sums, values.shape[1])))
        sums, counts, groups = self.world.total(batch)
        self.sums.mul_(MEMORY ** (counts / groups)).add_(torch.stack((sums, counts)))

    def weights(self) -> Tensor:
        """The weights as they are now, in nats per unit; next to nothing until two codes of a datum differ. [J]."""
        likelihood, verdicts = (self.sums[0] / self.sums[1]).split([1, len(self.given)])
        return torch.where(self.given.isnan(), rule_weights(likelihood, verdicts), self.given)

    def scores(
        self, decoded: Tensor, truth: Tensor, labels: Tensor | None = None, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Verdicts by name, of decoded data [M, *x] beside the true ones [M, *x] and their labels [M]; float32 [M]."""
        names = list(self.verdicts) if names is None else names
        if names and not decoded.isfinite().all():  # of a decoder that has diverged; the step is skipped and counted
            return {name: decoded.new_full((len(decoded),), math.nan) for name in names}
        return {name: self._judge(name, decoded, truth, labels) for name in names}

    def _judge(self, name: str, decoded: Tensor, truth: Tensor, labels: Tensor | None) -> Tensor:
        verdict = self.verdicts[name]
        asked = labels if name in self.need_labels else truth
        if asked is None:
            raise ValueError(f"verdict {name!r} compares with labels, and there are none; give the data's labels.")
        device: torch.device | str = decoded.device if getattr(verdict, "on_device", False) else "cpu"
        asked, decoded = asked.to(device), decoded.to(device)
        try:
            score = torch.as_tensor(verdict(asked, decoded)).detach().float()
        except (Exception, SystemExit) as error:
            raise ValueError(f"verdict {name!r} failed: {type(error).__name__}: {one_line(error)}") from error
        if score.shape != (len(decoded),):
            raise ValueError(
                f"verdict {name!r} must give one number for each of {len(decoded)} data, [{len(decoded)}], got shape "
                f"{list(score.shape)}; sum or average over a datum's own axes."
            )
        if not (score < math.inf).all():
            raise ValueError(f"verdict {name!r} gave NaN or +inf; give -inf to what must not be.")
        return score

    def savable(self) -> dict[str, Any]:
        """The verdicts that a run keeps a file of, those with `to_bytes` (classifiers), by the file's name."""
        return {file_name(name): each for name, each in self.verdicts.items() if hasattr(each, "to_bytes")}

    def metrics(self) -> dict[str, Tensor]:
        """Of the batch judged last: `reward/NAME`, the mean of each verdict, and `weight/NAME`; 0-dim each."""
        if self.last is None:
            return {}
        scores, weights = self.last
        means = {f"reward/{name}": score.mean() for name, score in zip(self.learned, scores, strict=True)}
        return means | {f"weight/{name}": weight for name, weight in zip(self.learned, weights, strict=True)}


def file_name(name: str) -> str:
    """Of a saved classifier."""
    return f"{name}.skops"
