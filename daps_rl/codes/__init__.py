"""What codes are for once a model is trained."""

from daps_rl.codes.search import CodeScore, Found, Search, find_codes, likelihood_score

__all__ = ["CodeScore", "Found", "Search", "find_codes", "likelihood_score"]
