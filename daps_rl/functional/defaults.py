"""The method's published defaults, in their one place."""

SAMPLES = 8
"""K, codes per context."""

ESS_FRACTION = 0.33
"""Effective sample size that the temperature is set for, as a fraction of K."""
