"""The defaults that every form of the method shares."""

SAMPLES = 8
"""K, codes per context."""

ESS_FRACTION = 0.33
"""Effective sample size to aim at, as a fraction of K."""
