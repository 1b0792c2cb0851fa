"""Settings of the agent: who learns, from how many codes, and how its gradients become steps."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from daps_rl.config.settings import Settings, documented, setting
from daps_rl.functional import ESS_FRACTION, SAMPLES

LEARNING_RATE_SCHEDULES = ("constant", "cosine")
GRADIENT_CLIPS = ("adaptive", "norm", "none")

_agent = functools.partial(setting, group="agent")
_optimizer = functools.partial(setting, group="optimiser")


@documented
@dataclass(frozen=True, kw_only=True)
class AgentConfig(Settings):
    """Which agent learns, and by which steps."""

    agent: str = _agent(
        "daps", "let this agent learn (list below), sb3:NAME, or package.module:Class of your own", common=True
    )
    agent_options: dict[str, Any] = _agent(  # noqa: RUF009  # a field
        dict, "pass more options to the agent, as NAME=VALUE,NAME=VALUE"
    )
    batch_size: int = _agent(256, "learn from so many data at a time (B)", above=0, common=True)
    samples: int = _agent(SAMPLES, "draw so many codes for each datum (K)", above=0, common=True)
    decoder_samples: int = _agent(
        1, "let the decoder learn from so many of the K codes, 0 for all; the others cost a third less", least=0
    )
    policy_samples: int = _agent(
        0,
        "score the policy with a gradient on so many of the K codes, 0 for all; if not given, agents like daps with an "
        "autoregressive policy, on data and without --config, take ess_fraction · K",
        least=0,
    )
    microbatch: int = _agent(
        0, "bound memory by so many data at a time, at the price of one more forward pass; 0 for no bound", least=0
    )
    beta_start: float = _agent(0.5, "weigh the KL by this at first; the weight (β) decays exponentially", above=0)
    beta_end: float = _agent(0.01, "weigh the KL by this at the end", above=0)
    ess_fraction: float = _agent(ESS_FRACTION, "aim at this effective sample size, as a fraction of K", above=0, most=1)
    trust_region: str = _agent("ess", "bound a step by ess or kl exactly, or take a fixed or an adaptive temperature")
    centered: bool = _agent(True, "centre the weights: the same expected gradient, with a smaller variance")
    learning_rate: float = _optimizer(
        4e-3, "let AdamW learn at this rate; agents and problems bring their own", above=0
    )
    learning_rate_schedule: str = _optimizer(
        "cosine", "keep the rate, or warm it up and let it fall to a fiftieth", choices=LEARNING_RATE_SCHEDULES
    )
    warmup_steps: int = _optimizer(100, "warm up for so many steps of the cosine schedule", least=0)
    weight_decay: float = _optimizer(1e-4, "let AdamW decay the weights by this", least=0)
    gradient_clip: str = _optimizer(
        "adaptive", "clip gradients unit by unit relative to the weights, or by their norm", choices=GRADIENT_CLIPS
    )
    clip_at: float = _optimizer(1.0, "clip them at this", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start < self.beta_end:
            raise ValueError(
                f"beta_start must be >= beta_end, got {self.beta_start} and {self.beta_end}; beta decays over the run."
            )
