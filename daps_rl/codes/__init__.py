"""What a trained model is for: priors of its codes, draws from them, searches for better ones, and codes in files."""

from daps_rl.codes.compression import Decompressed as Decompressed
from daps_rl.codes.compression import compress as compress
from daps_rl.codes.compression import decompress as decompress
from daps_rl.codes.compression import load_counts as load_counts
from daps_rl.codes.compression import save_counts as save_counts
from daps_rl.codes.container import HEADER as HEADER
from daps_rl.codes.container import Container as Container
from daps_rl.codes.draws import draw_codes as draw_codes
from daps_rl.codes.draws import quality_of_draws as quality_of_draws
from daps_rl.codes.observations import decode_all as decode_all
from daps_rl.codes.prior import Codes as Codes
from daps_rl.codes.prior import fit_prior as fit_prior
from daps_rl.codes.prior import fit_prior_of as fit_prior_of
from daps_rl.codes.prior import rate as rate
from daps_rl.search import CodeScore as CodeScore
from daps_rl.search import Found as Found
from daps_rl.search import Search as Search
from daps_rl.search import find_codes as find_codes
from daps_rl.search import likelihood_score as likelihood_score
