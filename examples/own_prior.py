"""A user-defined prior: gains are 0 with some probability, else uniform up to a highest gain.

    fl-market run --strategy market-priced --prior "examples/own_prior.py:Spiked(0.3, 0.02)"

A prior is an object with a method ``price(cost)``, which returns the ask with the highest expected
revenue above the cost.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spiked:
    """A gain of 0 with some probability, and else uniform over [0, high]."""

    probability: float
    high: float

    def price(self, cost: float) -> float:
        """Return the best price; a gain of 0 never buys, so it does not change the maximum."""
        return math.inf if cost >= self.high else (self.high + cost) / 2


cautious = Spiked(0.5, 0.01)
"""Used as ``examples/own_prior.py:cautious``."""
