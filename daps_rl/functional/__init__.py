"""The method as pure tensor maths: every equation stands here once, and everything else calls it.

Shapes: B contexts, K codes sampled per context, T token positions, V tokens per position.
Units are nats. Nothing here needs more than torch.
"""

from daps_rl.functional.bounds import beta_elbo as beta_elbo
from daps_rl.functional.bounds import code_perplexity as code_perplexity
from daps_rl.functional.bounds import code_usage as code_usage
from daps_rl.functional.bounds import complete_reward as complete_reward
from daps_rl.functional.bounds import encoding_reward as encoding_reward
from daps_rl.functional.bounds import expectation as expectation
from daps_rl.functional.bounds import importance_weighted_bound as importance_weighted_bound
from daps_rl.functional.bounds import kl_estimate as kl_estimate
from daps_rl.functional.bounds import optimality_gap as optimality_gap
from daps_rl.functional.losses import DAPSTerms as DAPSTerms
from daps_rl.functional.losses import daps_loss as daps_loss
from daps_rl.functional.losses import decoder_loss as decoder_loss
from daps_rl.functional.losses import weighted_likelihood_loss as weighted_likelihood_loss
from daps_rl.functional.multipliers import dual_step as dual_step
from daps_rl.functional.multipliers import follow_temperature as follow_temperature
from daps_rl.functional.relaxations import draw_categorical as draw_categorical
from daps_rl.functional.relaxations import gumbel_rao as gumbel_rao
from daps_rl.functional.relaxations import gumbel_softmax as gumbel_softmax
from daps_rl.functional.relaxations import reinmax as reinmax
from daps_rl.functional.relaxations import straight_through as straight_through
from daps_rl.functional.relaxations import tokenwise_kl as tokenwise_kl
from daps_rl.functional.temperature import acceptance_probability as acceptance_probability
from daps_rl.functional.temperature import mean_effective_sample_size as mean_effective_sample_size
from daps_rl.functional.temperature import solve_temperature as solve_temperature
from daps_rl.functional.temperature import solve_temperature_kl as solve_temperature_kl
from daps_rl.functional.verdicts import VerdictTerms as VerdictTerms
from daps_rl.functional.verdicts import group_deviations as group_deviations
from daps_rl.functional.verdicts import reconstruction as reconstruction
from daps_rl.functional.weights import ESS_FRACTION as ESS_FRACTION
from daps_rl.functional.weights import SAMPLES as SAMPLES
from daps_rl.functional.weights import KeptSamples as KeptSamples
from daps_rl.functional.weights import effective_sample_size as effective_sample_size
from daps_rl.functional.weights import keep_samples as keep_samples
from daps_rl.functional.weights import leave_one_out_advantage as leave_one_out_advantage
from daps_rl.functional.weights import mean_of_kept as mean_of_kept
from daps_rl.functional.weights import one_sample_groups as one_sample_groups
from daps_rl.functional.weights import standardized_reward as standardized_reward
from daps_rl.functional.weights import target_weights as target_weights
from daps_rl.functional.weights import threshold_sample as threshold_sample
from daps_rl.functional.weights import weights_kl as weights_kl
