"""Choices shared by options and functions.

This module imports nothing, so that ``--help`` answers at once.
"""

GAINS = ("relative", "difference")
"""Forms of the gain-from-trade: a share of the loss before the purchase, or loss units."""
LEAST_CERTIFY_SAMPLES = 100
"""Fewest samples of a certify split in a run.

With fewer, hardly a purchase is certified, and a bound that assumes normal means is doubtful.
"""
GRANULARITIES = ("model", "layer", "row")
"""Parts of a model with a purchased weight of their own."""
