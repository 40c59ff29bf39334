"""Choices shared by options and functions.

This module imports nothing, so that ``--help`` answers at once.
"""

GAINS = ("relative", "difference")
"""Forms of the gain-from-trade: a share of the loss before the purchase, or loss units."""
GRANULARITIES = ("model", "layer", "row")
"""Parts of a model with a purchased weight of their own."""
FAULTS = ("none", "random-labels", "untrained", "noise", "sign-flip")
"""Simulated faults of an agent: in its data, or in the parameters that it sends."""
