"""What must fit together for a run: agent, model, verdicts and what is asked of the rate."""

from __future__ import annotations

import warnings

from torch import nn

from daps_rl.agents import Agent, Quantizer, find_agent
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig
from daps_rl.config.run import rate_settings
from daps_rl.distributed import World
from daps_rl.policies import end_token
from daps_rl.priors import NormalPrior, UniformPrior
from daps_rl.verdicts import Verdicts

NEEDS_PRIOR = "needs a prior that learns which codes are short; pass --prior autoregressive."


def check_fit(config: TrainConfig, autoencoder: DiscreteAutoencoder, agent: Agent, world: World) -> None:
    """Raises ValueError where an agent cannot work on parts of a batch; warns where these are not exact."""
    if world.size > 1 and not find_agent(config.agent).several_processes:
        raise ValueError(
            f"agent {config.agent!r} has an optimiser or a codebook of its own and trains in one process; leave "
            "out torchrun, or use another agent."
        )
    if config.microbatch and not agent.bounded_memory:
        raise ValueError(
            f"agent {config.agent!r} makes passes over whole batches and cannot keep to microbatch; leave it out "
            "and lower --batch-size, or use daps, daps-na, tpo, rloo or a relaxation."
        )
    _check_weights(config, autoencoder, agent)
    if config.token_price and end_token(autoencoder.policy) is None:
        raise ValueError(
            "token_price needs codes that end, and the policy's mask is no EndToken; build it with "
            "mask=daps_rl.policies.EndToken(V), or leave the price out."
        )
    if end_token(autoencoder.policy) is not None and agent.needs_decoder_gradient:
        raise ValueError(
            f"agent {config.agent!r} learns through the decoder's gradient, which does not say where a code should "
            "end; use an agent that learns from rewards (daps, rloo, grpo, ppo), or leave out token_price and "
            "end_token."
        )
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in autoencoder.modules())
    if norms and (config.microbatch or world.size > 1):
        warnings.warn(
            "batch norm counts a microbatch, or a process's part, as the batch: the gradients are not those of the "
            "whole batch; --decoder-norm group is exact.",
            stacklevel=4,
        )


def check_verdicts(verdicts: Verdicts, config: TrainConfig, agent: Agent) -> None:
    """Raises ValueError where nobody can learn from verdicts."""
    if config.problem is not None:
        raise ValueError(
            f"reward judges what is decoded, and problem {config.problem!r} decodes nothing; leave it out."
        )
    if agent.needs_decoder_gradient:
        measured = ",".join(f"{name}:0" for name in verdicts.learned)
        raise ValueError(
            f"agent {config.agent!r} learns through the decoder's gradient, which a verdict has none of; use an agent "
            f"that learns from rewards (daps, rloo, grpo, ppo), or --reward {measured} to measure alone."
        )


def _check_weights(config: TrainConfig, autoencoder: DiscreteAutoencoder, agent: Agent) -> None:
    """Raises ValueError where the rate has a weight that nothing can learn from, or β nothing to follow."""
    if config.beta == "auto" and (getattr(agent, "standardized", True) or config.trust_region == "fixed"):
        raise ValueError(
            f"beta must be schedule for agent {config.agent!r}, got auto; only where a trust region sets a temperature "
            "in nats (daps, daps-na) is there one to follow."
        )
    if not (names := rate_settings(vars(config))):
        return
    if not agent.learns_rate:
        why = "quantises, and " if isinstance(agent, Quantizer) else ""
        raise ValueError(
            f"agent {config.agent!r} {why}learns nothing from log p(z): leave out {names[0]}, or take an agent "
            "that learns from rewards (daps, daps-na)."
        )
    fixed = isinstance(autoencoder.prior, UniformPrior) and end_token(autoencoder.policy) is None
    if fixed or isinstance(autoencoder.prior, NormalPrior):
        raise ValueError(f"{names[0]} {NEEDS_PRIOR}")
