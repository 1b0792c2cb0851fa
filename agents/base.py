"""The interface of every agent: a policy over codes that learns from rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.config import TrainConfig
from daps_rl.distributed import World
from daps_rl.functional import thinned_likelihood_loss
from daps_rl.policies.checks import draw_scored, draw_with_log_prob, score_drawn
from daps_rl.recompute import in_microbatches

Score = Callable[[Tensor, Tensor], Tensor]
"""(codes [B, K, T], their log-probability [B, K]) → rewards [B, K], in nats; one evaluation of the decoder.

In the training loop it is a `Scorer`, from which agents that learn through the decoder's gradient get more.
"""


class AgentLoss(NamedTuple):
    """One gradient step's loss, then what was drawn for it, detached."""

    loss: Tensor | None  # 0-dim; None where the agent has taken its own step
    codes: Tensor  # [B, K, T]
    metrics: dict[str, Tensor]  # 0-dim each, the same names every time; defined in docs/metrics.md


class Draw(NamedTuple):
    """K codes per context and their log-probability."""

    codes: Tensor  # [B, K, T], int64
    log_prob: Tensor  # [B, K], in nats, with gradient


class Conditions(NamedTuple):
    """What a run tells its agent before each batch."""

    world: World = World()  # the processes that train together; `world.gather` has what all of them have
    microbatch: int = 0  # data that `draw` and `draw_group` encode at a time; 0 for all at once
    progress: float = 0.0  # share of the run that is done, 0 … 1; for schedules of the agent's own
    learning_rate: float = 0.0  # as the run's schedule has it now; for an optimiser of the agent's own


class Group:
    """K codes per context, drawn without a gradient, and the weighted likelihood of them that a policy learns from.

    Attributes:
        codes: [B, K, T], int64.
        log_prob: [B, K], in nats; detached.
    """

    def __init__(
        self, codes: Tensor, log_prob: Tensor, score: Callable[[Tensor, Tensor], Tensor], policy_samples: int = 0
    ) -> None:
        self.codes, self.log_prob = codes, log_prob
        self._score, self._policy_samples = score, policy_samples

    def loss(self, weights: Tensor, *, centered: bool = False) -> Tensor:
        """Minus the weighted likelihood, with the policy scored on some of the codes or on all. [B, K] → [B].

        Args:
            weights: of either sign. [B, K].
            centered: subtract 1/K, see `functional.weighted_likelihood_loss`.
        """

        def log_prob_of(indices: Tensor | None) -> Tensor:
            if indices is None:
                return self._score(self.codes, self.log_prob)
            codes = self.codes.gather(1, indices.unsqueeze(-1).expand(-1, -1, self.codes.shape[-1]))
            return self._score(codes, self.log_prob.gather(1, indices))

        return thinned_likelihood_loss(log_prob_of, weights, self._policy_samples, centered=centered).loss


class Agent(nn.Module):
    """A learner. The training loop calls `losses` once per batch and takes a gradient step for each loss it yields.

    An agent of your own implements `losses`; whatever its `__init__` takes after the policy becomes an option
    (`--agent-options`). The training loop optimises `parameters()`, the policy's among them, and saves them.

    Args:
        policy: maps observations [B, *x] to a distribution over codes, batch shape [B], event shape [T].
        samples: K, codes per context.
    """

    on_device: bool = False
    """Whether `losses` works on tensors of the device alone: it reads no number that changes from step to step from
    the host (`progress`, `learning_rate`, one of its own) and copies none to it. A GPU then records it in a CUDA graph;
    what changes is brought to the device in `prepare`."""
    bounded_memory: bool = True
    """Whether the agent keeps to `microbatch`: it draws by `draw` or `draw_group`, and has no other pass over the whole
    batch."""

    def __init__(self, policy: nn.Module, *, samples: int = 8) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be >= 1, got {samples}; it is the number of codes drawn per context.")
        self.policy, self.samples = policy, samples
        self.world, self.microbatch, self.progress, self.learning_rate = Conditions()

    @classmethod
    def from_config(cls, config: TrainConfig, policy: nn.Module) -> Agent:
        """The agent that a run's settings describe.

        Settings that `__init__` takes by the same name (`samples`, say) go to it, and so do all `agent_options`.

        Raises:
            ValueError: an option is unknown or makes no sense.
        """
        parameters = list(inspect.signature(cls).parameters.values())[1:]
        known = [parameter.name for parameter in parameters]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters) or "samples" not in known:
            raise ValueError(
                f"{cls.__name__}.__init__ must name what it takes, `samples` among it, so that --samples and "
                "--agent-options reach it; write def __init__(self, policy, *, samples=8, ...)."
            )
        if unknown := sorted(set(config.agent_options) - set(known)):
            raise ValueError(
                f"unknown agent option {', '.join(unknown)}; {cls.__name__} takes {', '.join(known) or 'none'}."
            )
        settings = {name: getattr(config, name) for name in known if hasattr(config, name)}
        check_options(cls, config.agent_options)
        return cls(policy, **{**settings, **config.agent_options})

    def prepare(self, conditions: Conditions) -> None:
        """Takes up where the run stands; called before each batch."""
        self.world, self.microbatch, self.progress, self.learning_rate = conditions

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        """Draws codes, asks for their rewards, and yields the losses to descend, one gradient step each.

        Args:
            observation: a batch of data. [B, *x].
            score: gives the reward of codes; call it once.
            floor: β as it is now, the floor of a temperature. 0-dim.
        """
        raise NotImplementedError

    def trained(self) -> list[nn.Parameter]:
        """What the training loop's optimiser trains: all parameters, unless the agent has an optimiser of its own."""
        return list(self.parameters())

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """State of an optimiser of the agent's own, flat; saved with every checkpoint."""
        return {}

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes up the state that `optimizer_tensors` gave."""

    def draw(self, observation: Tensor) -> Draw:
        """Draws K codes per context and scores them, with gradient, on the very encoding they were drawn from.

        With `microbatch`, the data are encoded a part at a time, once to draw and once more in the backward pass.
        """
        if not 0 < self.microbatch < len(observation):
            codes, log_prob = draw_scored(self.policy(observation), (self.samples,))
            return Draw(codes.transpose(0, 1), log_prob.transpose(0, 1))
        with torch.no_grad():
            parts = [self.policy(x).sample((self.samples,)).transpose(0, 1) for x in observation.split(self.microbatch)]
        codes = torch.cat(parts)  # [B, K, T]
        return Draw(codes, self.log_prob_of(observation, codes))

    def draw_group(self, observation: Tensor, policy_samples: int = 0) -> Group:
        """Draws K codes per context without a gradient; `policy_samples` of them are scored once they have weights.

        With 0, all are scored at once, on the encoding they were drawn from, as in `draw`.
        """
        if policy_samples in (0, self.samples):
            codes, log_prob = self.draw(observation)
            return Group(codes, log_prob.detach(), lambda codes, drawn: log_prob)
        if not 0 < self.microbatch < len(observation):
            posterior = self.policy(observation)
            codes, drawn = draw_with_log_prob(posterior, (self.samples,))

            def score(z: Tensor, log_prob: Tensor) -> Tensor:
                return score_drawn(posterior, z.transpose(0, 1), log_prob.t()).t()

            return Group(codes.transpose(0, 1), drawn.t(), score, policy_samples)
        with torch.no_grad():
            parts = [draw_with_log_prob(self.policy(x), (self.samples,)) for x in observation.split(self.microbatch)]
        codes, drawn = (torch.cat([part[i] for part in parts], dim=1).transpose(0, 1) for i in (0, 1))
        return Group(codes, drawn, lambda z, log_prob: self.log_prob_of(observation, z), policy_samples)

    def log_prob_of(self, observation: Tensor, codes: Tensor) -> Tensor:
        """Log-probability of codes [B, M, T] under the policy as it is now, with gradient. [B, M], in nats."""
        scored: Tensor = in_microbatches(self._log_prob, observation, codes, size=self.microbatch)
        return scored

    def _log_prob(self, observation: Tensor, codes: Tensor) -> Tensor:
        return _log_prob(self.policy(observation), codes)


def check_positive_integers(**values: int) -> None:
    """Raises ValueError unless all are integers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")


def _log_prob(posterior: Distribution, codes: Tensor) -> Tensor:
    """Of codes [B, M, T]. [B, M]."""
    scored: Tensor = posterior.log_prob(codes.transpose(0, 1))
    return scored.transpose(0, 1)


def check_options(make: Callable[..., object], options: dict[str, object]) -> None:
    """Raises ValueError for text where what `make` takes by that name is a number."""
    parameters = inspect.signature(make).parameters
    for name, value in options.items():
        default = parameters[name].default
        if isinstance(value, str) and isinstance(default, bool | int | float):
            raise ValueError(f"agent option {name} must be a number such as {default}, got {value!r}.")


def check_group(name: str, samples: int) -> None:
    """Raises ValueError unless there are two codes per context to compare."""
    if samples < 2:
        raise ValueError(
            f"{name} compares the codes of a context and needs samples >= 2, got {samples}; pass --samples 8, or an "
            "agent with a critic (ppo, a2c, reinforce)."
        )
