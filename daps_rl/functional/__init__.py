"""The method as pure tensor maths: every equation stands here once, and everything else calls it.

Shapes: B contexts, K codes sampled per context, T token positions, V tokens per position.
Units are nats. Nothing here needs more than torch.
"""

from daps_rl.functional.advantages import leave_one_out_advantage, standardized_reward
from daps_rl.functional.bounds import (
    beta_elbo,
    code_perplexity,
    code_usage,
    complete_reward,
    encoding_reward,
    expectation,
    importance_weighted_bound,
    kl_estimate,
    optimality_gap,
)
from daps_rl.functional.defaults import ESS_FRACTION, SAMPLES
from daps_rl.functional.losses import (
    DAPSTerms,
    daps_loss,
    decoder_loss,
    weighted_likelihood_loss,
)
from daps_rl.functional.relaxations import gumbel_rao, gumbel_softmax, reinmax, straight_through, tokenwise_kl
from daps_rl.functional.sampling import draw_categorical
from daps_rl.functional.temperature import mean_effective_sample_size, solve_temperature, solve_temperature_kl
from daps_rl.functional.weights import (
    KeptSamples,
    effective_sample_size,
    keep_samples,
    mean_of_kept,
    one_sample_groups,
    target_weights,
    threshold_sample,
    weights_kl,
)

__all__ = [
    "ESS_FRACTION",
    "SAMPLES",
    "DAPSTerms",
    "KeptSamples",
    "beta_elbo",
    "code_perplexity",
    "code_usage",
    "complete_reward",
    "daps_loss",
    "decoder_loss",
    "draw_categorical",
    "effective_sample_size",
    "encoding_reward",
    "expectation",
    "gumbel_rao",
    "gumbel_softmax",
    "importance_weighted_bound",
    "keep_samples",
    "kl_estimate",
    "leave_one_out_advantage",
    "mean_effective_sample_size",
    "mean_of_kept",
    "one_sample_groups",
    "optimality_gap",
    "reinmax",
    "solve_temperature",
    "solve_temperature_kl",
    "standardized_reward",
    "straight_through",
    "target_weights",
    "threshold_sample",
    "tokenwise_kl",
    "weighted_likelihood_loss",
    "weights_kl",
]
