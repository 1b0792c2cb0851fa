"""What a trained model is for: priors of its codes, and draws from them."""

from daps_rl.codes.draws import draw_codes as draw_codes
from daps_rl.codes.draws import quality_of_draws as quality_of_draws
from daps_rl.codes.prior import Codes as Codes
from daps_rl.codes.prior import fit_prior as fit_prior
from daps_rl.codes.prior import fit_prior_of as fit_prior_of
from daps_rl.codes.prior import rate as rate
