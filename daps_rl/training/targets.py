"""What a run is to reach, in bits, dB or nats, and the weight λ of the rate that follows from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig
from daps_rl.data import Splits
from daps_rl.data.kind import Kind
from daps_rl.distributed import World
from daps_rl.functional import dual_step
from daps_rl.functional.bounds import in_bits
from daps_rl.modes import eval_mode

EVERY = 5  # steps between two looks at validation data
DATA = 256  # of them, at most, at a look
BAND = 0.05  # of the relative error: outside it the weight moves as fast as it may
SPEED = 40.0  # how far log λ moves over a run at most, at the full learning rate
FALL = 2.0  # times as fast as it rises: codes that have become alike take long to part again
PENALTY = 1.0  # what the present error adds to log λ at most
LOWEST = 0.05  # λ that stands for none: of a code of 30 nats it changes the reward by about a nat
RAMP = 0.5  # share of a run over which a target in bits comes down from the code's capacity
WITHIN = 0.02  # of the target: as near counts as met
UNITS = {"target_bits": "bits", "target_psnr": "dB", "target_log_likelihood": "nats"}
METRICS = {"target_bits": "rate", "target_psnr": "psnr", "target_log_likelihood": "log_likelihood"}
"""By setting: the unit, and the metric of an evaluation that it is about."""


class Look(NamedTuple):
    """What one look at validation data has measured, means over data, 0-dim."""

    rate: Tensor  # −log p(z) of drawn codes, in nats
    reached: Tensor  # the metric of the target, in its unit


class RateTarget(nn.Module):
    """λ by dual ascent, so that a run ends at a given rate, PSNR or log-likelihood, whichever codes that takes.

    Every five steps codes are drawn for a part of the validation split. With e the error as a share, positive where the
    rate should fall, and d = min(max(e / 0.05, −1), 1),

        log m ← log m + 40 · d · √(learning rate over its base) · (share of the run since the last look),
        log λ = log m + d,

    and twice the first step where d < 0. m is the multiplier, at least 0.05, which counts as none; the second term, a
    penalty as in an augmented Lagrangian, damps: codes follow λ slowly, and m alone would swing. The error e is

        of a rate r and target R: log(r / R'), where R' falls from the capacity T·log₂ V to R over half the run;
        of a PSNR: that of the logarithm of the root mean squared error;
        of a log-likelihood ℓ and target L: (ℓ − L) / (m·r), as the best codes give m nats of ℓ for a nat of r.

    None has a unit, so that the numbers above need no tuning. All state is in buffers, which checkpoints hold.

    Args:
        setting, value: which target (of `METRICS`), in bits, dB or nats.
        x, y: validation data, which are looked at in turn, and what is scored, the same if None. [N, *x], [N, *y].
        kind: of the data.
        capacity: T·log₂ V.
        world: the processes that train together.
    Attributes:
        weight: λ, 0-dim, changed in place.
    """

    def __init__(
        self, setting: str, value: float, x: Tensor, y: Tensor | None, kind: Kind, capacity: float, world: World
    ) -> None:
        super().__init__()
        self.setting, self.value, self.capacity, self.world = setting, value, capacity, world
        self.kind = kind
        self.x, self.y = (nn.Buffer(data, persistent=False) for data in (x, x if y is None else y))
        self.weight = nn.Buffer(torch.tensor(LOWEST))
        self.log_multiplier = nn.Buffer(torch.tensor(LOWEST).log())
        self.progress = nn.Buffer(torch.zeros(()))  # of the run, at the last look

    def follow(self, model: DiscreteAutoencoder, step: int, progress: float, pace: float) -> None:
        """Looks at the data of this step, where one is due, and sets `weight`.

        Args:
            model: in training.
            step: of the run.
            progress: share of the run that is done.
            pace: the learning rate over its base.
        """
        if step % EVERY == 0:
            parts = math.ceil(len(self.x) / DATA)
            part = slice(step // EVERY % parts, None, parts)
            self.set_weight(self.error(self.look(model, part), progress), progress, pace)

    @torch.no_grad()
    def look(self, model: DiscreteAutoencoder, part: slice) -> Look:
        """Measures one drawn code for each datum of a part of the validation split."""
        with eval_mode(model):
            codes = model.policy(self.x[part]).sample()
            rate = -model.prior().log_prob(codes).mean()
            if self.setting == "target_bits":
                reached = in_bits(rate)
            elif self.setting == "target_psnr":
                reached = self.kind.metrics(model.decoder(codes).mean, self.y[part])["psnr"].mean()
            else:
                reached = model.decoder(codes).log_prob(self.y[part]).mean()
        return Look(*(self.world.total(torch.stack((rate, reached))) / self.world.size))

    def error(self, look: Look, progress: float) -> Tensor:
        """The error as a share, positive where the rate should fall. 0-dim."""
        if self.setting == "target_bits":
            above = self.capacity / self.value
            return (look.reached / (self.value * above ** max(1.0 - progress / RAMP, 0.0))).log()
        if self.setting == "target_psnr":
            return (look.reached - self.value) * (math.log(10.0) / 20.0)
        return (look.reached - self.value) / (self.log_multiplier.exp() * look.rate)

    def set_weight(self, error: Tensor, progress: float, pace: float) -> None:
        """Sets the multiplier and λ by the error at this share of the run."""
        violation, passed = error / BAND, progress - self.progress
        speed = torch.where(violation > 0.0, SPEED, SPEED * FALL)
        multiplier = dual_step(self.log_multiplier, violation, speed * math.sqrt(pace) * passed)
        self.log_multiplier.copy_(multiplier.clamp_min(math.log(LOWEST)))
        self.weight.copy_(dual_step(self.log_multiplier, violation, PENALTY).exp())
        self.progress.fill_(progress)

    def outcome(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """What `summary.json` says of the target: what was asked and reached, and in words why it was missed.

        Args:
            metrics: of the whole validation split.
        """
        reached, unit = metrics[METRICS[self.setting]], UNITS[self.setting]
        missed_by = abs(reached - self.value) / abs(self.value or 1.0)
        met = missed_by <= WITHIN
        found = f"{reached:.4g} {unit} on validation, {missed_by:.1%} from the target of {self.value:g}"
        words = found if met else f"{found}: {self._why(reached > self.value, unit, metrics['rate'])}"
        asked = {"name": self.setting, "target": self.value, "rate_weight": self.weight.item()}
        return {**asked, "reached": reached, "met": met, "in_words": words}

    def _why(self, above: bool, unit: str, rate: float) -> str:
        """What keeps a run from its target."""
        free = self.log_multiplier.item() < math.log(LOWEST) + 0.5 * PENALTY  # λ has next to no say
        if self.setting == "target_bits" and not above and free:
            return "the codes take no more bits, though none has a price; train longer, or raise --num-tokens"
        if self.setting != "target_bits" and not above and free:
            return f"at full rate, {rate:.3g} bits, there is no more; give more --num-tokens, or train longer"
        if self.setting != "target_bits" and above and rate < 1.0:
            return f"even codes of {rate:.2g} bits reach it; ask for more {unit}"
        return "the rate's weight was still on its way; train longer"


def make_target(config: TrainConfig, splits: Splits, validation: Tensor, world: World) -> RateTarget | None:
    """Returns the target that the settings name, or None; it is met on `validation`, of the validation split.

    Raises:
        ValueError: it lies above what the code can hold, or these data have no such measure or no validation split.
    """
    if config.target is None:
        return None
    setting, value = config.target
    if setting == "target_bits" and config.bits is not None and value > config.bits:
        raise ValueError(
            f"target_bits must be <= {config.bits:g}, all that {config.num_tokens} tokens of {config.vocab_size} hold, "
            f"got {value:g}; raise --num-tokens or --vocab-size."
        )
    if setting == "target_psnr" and (config.problem is not None or "psnr" not in splits.kind.measures):
        raise ValueError(
            f"target_psnr needs data with a PSNR, and {splits.name} has none; take target_bits or "
            "target_log_likelihood."
        )
    if not len(validation):
        raise ValueError(f"{setting} is met on validation data, and {splits.name} has none; take rate_weight.")
    y = None if splits.validation_targets is None else splits.validation_targets[: len(validation)]
    return RateTarget(setting, value, validation, y, splits.kind, config.bits or math.inf, world)
