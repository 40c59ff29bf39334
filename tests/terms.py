"""Terms under which small models trade in every round."""

PUBLISHED = {"certificate": "published", "selection": "greedy", "service": "none"}
"""The terms of the paper, for tests of trading itself: deals, prices, refunds, recovery.

Toy models gain from one another in every round, but seldom more than what placebo sellers and the
broker's own steps bring: under the default terms there is hardly a deal to test. These trials also
take a fifth of the time.
"""
PUBLISHED_FLAGS = [word for name, value in PUBLISHED.items() for word in (f"--{name}", value)]
"""The same as flags of the command line."""
