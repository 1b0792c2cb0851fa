"""DAPS in TRL: a script's `GRPOTrainer` becomes `DAPSTrainer`, and everything but the loss stays TRL's.

Works with trl 1.16. It builds on five of TRL's own methods (`HOOKS`); tests/test_trl.py holds them.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from daps_rl.functional import ESS_FRACTION, mean_effective_sample_size, target_weights, weighted_likelihood_loss
from daps_rl.functional.checks import as_float, check_pooling, check_reward
from daps_rl.functional.temperature import check_ess_fraction, check_floor
from daps_rl.objectives import ESSTrustRegion

try:
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    raise ImportError(f"daps_rl.agents.trl needs TRL: pip install 'daps-rl[language-models]' ({error})") from error

HOOKS = (
    "_calculate_rewards",
    "_generate_and_score_completions",
    "_compute_loss",
    "_get_per_token_logps_and_entropies",
    "_log_completion_extra",
)
"""Methods of GRPOTrainer that are built on: they are TRL's own and may change with its version."""

UNUSED = (
    "epsilon", "epsilon_high", "delta", "scale_rewards", "multi_objective_aggregation", "importance_sampling_level",
    "top_entropy_quantile", "off_policy_mask_threshold", "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos",
    "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
)  # fmt: skip
"""Options of GRPOConfig that shape GRPO's own loss, and have nothing to do here."""


@dataclasses.dataclass
class DAPSConfig(GRPOConfig):
    """GRPOConfig and what DAPS has beside it. A GRPOConfig does as well: these then have their defaults.

    Args:
        ess_fraction: effective sample size to aim at, as a fraction of num_generations (K), in (1/K, 1].
        temperature_floor: the target's temperature never falls below it, in units of the reward. (`temperature` is the
            one that completions are sampled at.)
        pooling: completions of an average prompt that count beside a prompt's own K where its weights are normalised,
            see `daps_rl.functional.target_weights`; for rewards that mean the same for all prompts, such as 0 and 1.
    """

    ess_fraction: float = dataclasses.field(
        default=ESS_FRACTION, metadata={"help": "Effective sample size to aim at, as a fraction of num_generations."}
    )
    temperature_floor: float = dataclasses.field(
        default=0.0, metadata={"help": "Least temperature of the target, in units of the reward."}
    )
    pooling: float = dataclasses.field(
        default=0.0, metadata={"help": "Completions of an average prompt that count where weights are normalised."}
    )


class DAPSTrainer(GRPOTrainer):
    """GRPOTrainer with the loss of `DAPSLoss`: weighted maximum likelihood of whole completions.

    A generation batch has one temperature, at which the weights w = softmax(reward / temperature) of a prompt's K
    completions have the effective sample size asked for. The loss of a completion z is

        −K·w · log q(z) + q(z)/q_b(z) − 1,        log q(z) = Σ_t log q(z_t | prompt, z_<t),

    with q_b the policy that drew it: see `functional.weighted_likelihood_loss`, with `centered`. It is a sum over
    completions, so that TRL may shuffle and split them; with num_iterations > 1 it is least at the target itself, and
    nothing is clipped. Where all K rewards of a prompt are equal, w = 1/K, its gradient is zero on first use.

    Length: a completion counts by its whole likelihood, the sum over its tokens, whatever its length. The sum over all
    completions is divided by one number, the tokens of the generation batch, as in TRL's default `loss_type="dapo"`, so
    that learning rates and max_grad_norm of a GRPO script fit. `loss_type` says how TRL normalises its own terms.

    TRL's own terms are what its loss is when all advantages are zero: β times the KL to the reference model, the
    entropy bonus, the loss of a mixture of experts. A completion that no reward function scores (`None`) counts neither
    in the loss nor in the weights and the pooling. Of vLLM's completions q_b is vLLM's, with
    vllm_importance_sampling_correction.

    Logs `daps/ESS` (fraction of K), `daps/temperature` and `daps/kl_approx` (mean of log q_b(z) − log q(z), nats)
    beside TRL's metrics, and a column `target_ratio` (K·w) in its table of completions. TRL's `clip_ratio/*` and
    `policy_loss` are of its own terms.

    Args:
        args, kwargs: those of GRPOTrainer; its `args` a GRPOConfig or `DAPSConfig`.
    Raises:
        ValueError: an option is out of range, or num_generations is too small for ess_fraction; in training: a reward
            is +inf.
    Attributes:
        trust_region: called with rewards [B, K], -inf where there is none, and the floor; gives the temperature. May be
            replaced, by `daps_rl.objectives.KLTrustRegion(0.5)`, say.
    """

    args: Any  # of its many types in TRL's classes, the one that is given here
    _tag_names = ["trl", "daps"]  # noqa: RUF012 (TRL's own form)
    _name = "DAPS"
    _paper = {"title": "Discrete Variational Autoencoding via Policy Search", "id": "2509.24716"}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pooling: float = getattr(self.args, "pooling", DAPSConfig.pooling)
        self.temperature_floor: float = getattr(self.args, "temperature_floor", DAPSConfig.temperature_floor)
        ess_fraction = getattr(self.args, "ess_fraction", DAPSConfig.ess_fraction)
        check_pooling(self.pooling)
        check_floor(self.temperature_floor)
        for samples in (self.num_generations, self.num_generations_eval):
            check_ess_fraction(ess_fraction, samples)
        self.trust_region: nn.Module | Callable[..., Tensor] = ESSTrustRegion(ess_fraction)
        unused = [name for name in UNUSED if getattr(self.args, name, None) != getattr(GRPOConfig, name, None)]
        if unused:
            warnings.warn(f"DAPSTrainer has no use for {', '.join(unused)}, of GRPO's own loss.", stacklevel=2)

    def target_ratio(self, reward: Tensor) -> Tensor:
        """The target's ratio to the policy that drew, K·w, of each completion of a generation batch.

        Override it for another target; see also `trust_region`.

        Args:
            reward: NaN where there is none. [B, K].
        Returns:
            1 on average over a prompt's scored completions (without pooling), NaN where there is no reward. [B, K].
        """
        samples, scored = reward.shape[-1], ~reward.isnan()
        reward = torch.where(scored, reward, -math.inf)
        check_reward(reward)
        temperature = self.trust_region(reward, self.temperature_floor)
        pool = reward[scored][None] if scored.any() else None  # what has no reward says nothing of the others
        weights = target_weights(reward, temperature, pooling=self.pooling, batch=pool)
        counted = scored.sum(-1, keepdim=True)
        self._log("daps/ESS", mean_effective_sample_size(reward, temperature) / samples)
        self._log("daps/temperature", temperature)
        # For K − n completions that are not scored, K·w·(n + pooling)/(K + pooling) is n·w, as if they had not been.
        ratio = weights * (samples * (counted + self.pooling) / (samples + self.pooling))
        return torch.where(scored, ratio, math.nan)

    def _calculate_rewards(self, inputs: list[Any], *rest: Any) -> Tensor:
        """TRL's rewards [N, F] of all processes; keeps the ratios of this process's completions."""
        rewards = super()._calculate_rewards(inputs, *rest)
        samples: Any = self.num_generations if self._mode == "train" else self.num_generations_eval
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(-1)
        total = torch.where(rewards.isnan().all(-1), math.nan, total)
        ratio = self.target_ratio(total.view(-1, samples)).flatten()
        start = self.accelerator.process_index * len(inputs)
        self._ratio = ratio[start : start + len(inputs)]
        self._log_completion_extra("target_ratio", self._ratio.tolist())
        return rewards

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        return {**batch, "target_ratio": self._ratio}  # TRL shuffles and splits it with the rest

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        scores = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._token_log_prob = scores[0]  # so that the model is run once a loss
        return scores

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """TRL's own terms and ours, of a micro-batch of N completions. 0-dim."""
        theirs = super()._compute_loss(model, {**inputs, "advantages": torch.zeros_like(inputs["advantages"])})
        tokens = self._token_log_prob  # [N, T]
        del self._token_log_prob  # and with it the graph, once the step is done
        drawn = self._behaviour(inputs, tokens.detach())
        ratio = inputs["target_ratio"]  # [N]
        scored = ~ratio.isnan()
        counts = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool() & scored[:, None]
        log_prob, behaviour = (torch.where(counts, as_float(v), 0.0).sum(-1, keepdim=True) for v in (tokens, drawn))
        weights = torch.where(scored, ratio, 0.0)[:, None]  # each completion is a group of its own, [N, 1]
        loss = weighted_likelihood_loss(log_prob, weights, behaviour, centered=True)
        self._log("daps/kl_approx", self.accelerator.gather((behaviour - log_prob).detach()).mean())
        return theirs + loss.sum() / self._tokens_of_a_step(inputs)

    def _behaviour(self, inputs: dict[str, Any], now: Tensor) -> Tensor:
        """Log-probability of each token under the policy that drew it; as it is now on first use. [N, T]."""
        names = ["old_per_token_logps"]
        if self.use_vllm and self.vllm_importance_sampling_correction:
            names.insert(0, "sampling_per_token_logps")
        drawn = next((inputs[name] for name in names if inputs.get(name) is not None), now)
        return torch.where(drawn.isnan(), now, drawn)  # tokens that vLLM could not score

    def _tokens_of_a_step(self, inputs: dict[str, Any]) -> Tensor:
        """How many tokens an optimiser step of this process learns from, as TRL counts them for "dapo". 0-dim."""
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self._mode == "eval":
            return tokens
        return tokens * (self.current_gradient_accumulation_steps / self.args.steps_per_generation)

    @property
    def _mode(self) -> str:
        """What TRL keeps its metrics under: "train" or "eval"."""
        return "train" if cast(nn.Module, self.model).training else "eval"

    def _log(self, name: str, value: Tensor) -> None:
        self._metrics[self._mode][name].append(value.item())
