"""Choices shared by options and functions.

This module imports nothing, so that ``--help`` answers at once.
"""

GAINS = ("relative", "difference")
"""Forms of the gain-from-trade: a share of the loss before the purchase, or loss units."""
CERTIFICATES = ("run", "trial", "published")
"""Scope of a certificate's confidence: all purchases of the run, or each trial by itself; published
is the gain over the buyer's model as it is, each trial by itself."""
SELECTIONS = ("patient", "greedy")
"""Choice of α: near an equal share where that is no worse, or the least loss (as published)."""
SERVICES = ("tune", "none")
"""The broker's free service: gradient steps on its fit split, or nothing."""
RESTORATIONS = ("last", "always", "never")
"""Rounds after which a buyer gets its best certified model back."""
LEAST_CERTIFY_SAMPLES = 100
"""Fewest samples of a certify split in a run.

With fewer, hardly a purchase is certified, and a bound that assumes normal means is doubtful.
"""
GRANULARITIES = ("model", "layer", "row")
"""Parts of a model with a purchased weight of their own."""
FAULTS = ("none", "random-labels", "untrained", "noise", "sign-flip")
"""Simulated faults of an agent: in its data, or in the parameters that it sends."""
BENCH_PARTS = ("validity", "power", "worthless")
"""Parts of the benchmark of certificates."""
