"""The interface of every agent: a policy over codes that learns from rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from daps_rl.distributed import World
from daps_rl.functional import SAMPLES, keep_samples, weighted_likelihood_loss
from daps_rl.policies import draw, score_drawn
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

    Args:
        codes: [B, K, T], int64.
        log_prob: with which they were drawn, in nats; detached. [B, K].
        first: scores codes [B, M, T] that were drawn with log-probabilities [B, M] on the encoding that they were drawn
            from, as far as that is still at hand; [B, M], with gradient.
        again: the same under the policy as it is then, for a batch that is used more than once.
        policy_samples: M, how many of the K codes are scored at each use; 0 for all.
    """

    def __init__(self, codes: Tensor, log_prob: Tensor, first: Score, again: Score, policy_samples: int = 0) -> None:
        self.codes, self.log_prob = codes, log_prob
        self.score, self._again, self._policy_samples = first, again, policy_samples

    def loss(self, weights: Tensor, *, centered: bool = False) -> Tensor:
        """Minus the weighted likelihood, see `functional.weighted_likelihood_loss`. [B, K] → [B].

        Each call is one use of the batch, and scores the policy as it is then.
        """
        kept = keep_samples(weights, self._policy_samples, centered=centered)
        codes, drawn = self.codes, self.log_prob
        if kept is not None:
            codes = codes.gather(1, kept.indices.unsqueeze(-1).expand(-1, -1, codes.shape[-1]))
            drawn = drawn.gather(1, kept.indices)
        log_prob = self.score(codes, drawn)
        self.score = self._again
        return weighted_likelihood_loss(log_prob, weights, self.log_prob, kept, centered=centered)


class Agent(nn.Module):
    """A learner. The training loop calls `losses` once per batch and takes a gradient step for each loss it yields.

    An agent of your own implements `losses`. Whatever its `__init__` takes after the policy becomes an option
    (`--agent-options`), and with `**options` whatever the class above takes, but what is `fixed`; of the run's settings
    it is given those in `run_settings`. Class attributes `settings`, `recipe`, `several_processes`, `scores_some` say
    what else a run must know, see `AgentSpec`. The training loop optimises `parameters()`, the policy's
    among them, and saves them.

    Args:
        policy: maps observations [B, *x] to a distribution over codes, batch shape [B], event shape [T].
        samples: K, codes per context.
    """

    run_settings: ClassVar[tuple[str, ...]] = ("samples",)
    """Settings of a run that the constructor takes, by name; everything else comes from `--agent-options`."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Options of the class it derives from that it decides itself."""
    needs_decoder_gradient: ClassVar[bool] = False
    """Whether it learns through the decoder, which must then be differentiable."""
    learns_rate: ClassVar[bool] = True
    """Whether it learns from log p(z), what its codes cost; a quantiser does not."""
    forbids: ClassVar[bool] = False
    """Whether it knows what to do with a reward of -inf, which forbids a code; else a verdict that gives one is an
    error."""
    on_device: bool = False
    """Whether `losses` works on tensors of the device alone: it reads no number that changes from step to step from
    the host (`progress`, `learning_rate`, one of its own) and copies none to it. A GPU then records it in a CUDA graph;
    what changes is brought to the device in `prepare`."""
    bounded_memory: bool = True
    """Whether the agent keeps to `microbatch`: it draws by `draw` or `draw_group`, and has no other pass over the whole
    batch."""

    least_samples: ClassVar[int] = 1
    """The smallest K: 2 where the codes of a context are compared with each other."""

    def __init__(self, policy: nn.Module, *, samples: int = SAMPLES) -> None:
        super().__init__()
        if samples < self.least_samples:
            raise ValueError(
                f"{type(self).__name__} needs samples >= {self.least_samples} (codes per context), got {samples}; pass "
                "--samples 8, or take an agent with a critic (ppo, a2c, reinforce), which needs one."
            )
        self.policy, self.samples = policy, samples
        self.world, self.microbatch, self.progress, self.learning_rate = Conditions()

    @classmethod
    def options(cls) -> Mapping[str, inspect.Parameter]:
        """What `--agent-options` can name, beside the policy; raises ValueError where a run's setting is not among it.

        The `**options` of a constructor are what the next class takes, up to one that names all; never what is `fixed`.
        """
        known: dict[str, inspect.Parameter] = {}
        for base in (part for part in cls.__mro__ if "__init__" in vars(part)):
            own = list(inspect.signature(base).parameters.values())[1:]  # behind the policy
            known = {**{p.name: p for p in own if p.kind is not p.VAR_KEYWORD and p.name not in cls.fixed}, **known}
            if not any(p.kind is p.VAR_KEYWORD for p in own):
                break
        if not set(cls.run_settings) <= set(known):
            raise ValueError(
                f"{cls.__name__}.__init__ must name what it takes, {', '.join(cls.run_settings)} among it, so that the "
                "run's settings and --agent-options reach it; write def __init__(self, policy, *, samples=8, ...)."
            )
        return known

    @classmethod
    def from_config(cls, config: Any, policy: nn.Module) -> Agent:
        """The agent that a `daps_rl.config.TrainConfig` describes: by its `run_settings`, and all `agent_options`.

        Raises:
            ValueError: an option is unknown or makes no sense.
        """
        check_options(cls.__name__, cls.options(), config.agent_options)
        settings = {name: getattr(config, name) for name in cls.run_settings}
        return cls(policy, **{**settings, **config.agent_options})

    def prepare(self, conditions: Conditions) -> None:
        """Takes up where the run stands; called before each batch."""
        self.world, self.microbatch, self.progress, self.learning_rate = conditions

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        """Draws codes, asks for their rewards, and yields the losses to descend, one gradient step each.

        Args:
            observation: a batch of data. [B, *x].
            score: gives the reward of codes; call it once.
            beta: weight of the KL in the reward, as it is now; a temperature stays above it. 0-dim.
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
        group = self.draw_group(observation)
        return Draw(group.codes, group.score(group.codes, group.log_prob))

    def draw_group(self, observation: Tensor, policy_samples: int = 0) -> Group:
        """Draws K codes per context without a gradient; `policy_samples` of them are scored once they have weights.

        With 0, all are scored at once, on the encoding they were drawn from, as in `draw`.
        """

        def first(codes: Tensor, drawn: Tensor) -> Tensor:
            return score_drawn(posterior, codes.transpose(0, 1), drawn.t()).t()

        def again(codes: Tensor, drawn: Tensor) -> Tensor:
            return self.log_prob_of(observation, codes)

        parted = 0 < self.microbatch < len(observation)
        if parted:
            with torch.no_grad():
                parts = [draw(self.policy(x), (self.samples,)) for x in observation.split(self.microbatch)]
            codes, drawn = (torch.cat(values, dim=1).transpose(0, 1) for values in zip(*parts, strict=True))
        else:
            posterior = self.policy(observation)
            codes, drawn = (value.transpose(0, 1) for value in draw(posterior, (self.samples,)))
        score = again if parted else first
        if policy_samples not in (0, self.samples):
            return Group(codes, drawn, score, again, policy_samples)
        log_prob = score(codes, drawn)
        return Group(codes, log_prob.detach(), lambda codes, drawn: log_prob, again)

    def log_prob_of(self, observation: Tensor, codes: Tensor) -> Tensor:
        """Log-probability of codes [B, M, T] under the policy as it is now, with gradient. [B, M], in nats."""

        def log_prob(x: Tensor, z: Tensor) -> Tensor:
            return self.policy(x).log_prob(z.transpose(0, 1)).t()

        return in_microbatches(log_prob, observation, codes, size=self.microbatch)


def check_options(name: str, known: Mapping[str, inspect.Parameter], options: Mapping[str, object]) -> None:
    """Raises ValueError for an option that is not known, or is text where it stands for a number."""
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"unknown agent option {', '.join(unknown)}; {name} takes {', '.join(sorted(known)) or 'none'}."
        )
    for option, value in options.items():
        default = known[option].default
        if isinstance(value, str) and isinstance(default, bool | int | float):
            raise ValueError(f"agent option {option} must be a number such as {default}, got {value!r}.")


FACTORIZED: Mapping[str, Any] = {"policy": "factorized", "num_layers": 2, "mlp_ratio": 6.0}
"""Settings of an agent with a factorised policy, as wide in all as an autoregressive one."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent by name. A class of one's own says the same by class attributes of the names from `settings` on.

    Attributes:
        name: `--agent`.
        cls: the class.
        help: what it does, a line that begins with a verb.
        settings: of a run, that make the agent what it is under any preset.
        recipe: more of them, as tuned by us; a published preset brings its own.
        several_processes: whether it can train in several.
        scores_some: whether an autoregressive policy, whose passes cost the most of a step, is scored on
            ess_fraction · K of the codes unless settings say otherwise.
    """

    name: str
    cls: type[Agent]
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    several_processes: bool = True
    scores_some: bool = False


def spec_of(name: str, cls: type[Agent]) -> AgentSpec:
    """The description of an agent that is not registered, from the attributes of its class."""
    names = ("settings", "recipe", "several_processes", "scores_some")
    own = {key: getattr(cls, key) for key in names if hasattr(cls, key)}
    return AgentSpec(name, cls, (cls.__doc__ or name).partition("\n")[0], **own)
