"""The method as pure tensor maths: every equation stands here once, and everything else calls it.

Shapes: B contexts, K codes sampled per context, T token positions, V tokens per position.
Units are nats. Nothing here needs more than torch.
"""

from daps_rl.functional.advantages import leave_one_out_advantage, standardized_reward
from daps_rl.functional.bounds import (
    beta_elbo,
    code_perplexity,
    code_usage,
    encoding_reward,
    expectation,
    host_reward,
    importance_weighted_bound,
    kl_estimate,
    optimality_gap,
)
from daps_rl.functional.losses import (
    DAPSTerms,
    LikelihoodTerms,
    daps_loss,
    decoder_loss,
    reused_likelihood_loss,
    thinned_likelihood_loss,
    weighted_likelihood_loss,
)
from daps_rl.functional.relaxations import gumbel_rao, gumbel_softmax, reinmax, straight_through, tokenwise_kl
from daps_rl.functional.sampling import draw_categorical
from daps_rl.functional.temperature import solve_temperature, solve_temperature_kl
from daps_rl.functional.weights import (
    KeptSamples,
    centered_weights,
    effective_sample_size,
    target_weights,
    thin_weights,
    weights_kl,
)

__all__ = [
    "DAPSTerms",
    "KeptSamples",
    "LikelihoodTerms",
    "beta_elbo",
    "centered_weights",
    "code_perplexity",
    "code_usage",
    "daps_loss",
    "decoder_loss",
    "draw_categorical",
    "effective_sample_size",
    "encoding_reward",
    "expectation",
    "gumbel_rao",
    "gumbel_softmax",
    "host_reward",
    "importance_weighted_bound",
    "kl_estimate",
    "leave_one_out_advantage",
    "optimality_gap",
    "reinmax",
    "reused_likelihood_loss",
    "solve_temperature",
    "solve_temperature_kl",
    "standardized_reward",
    "straight_through",
    "target_weights",
    "thin_weights",
    "thinned_likelihood_loss",
    "tokenwise_kl",
    "weighted_likelihood_loss",
    "weights_kl",
]
