"""A prior of one's own: gains are 0, or spread evenly up to a highest one.

    fl-market run --strategy market-priced --prior "examples/own_prior.py:Spiked(0.3, 0.02)"

A prior is an object with ``price(cost)``: the ask that maximises the expected revenue above the cost.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spiked:
    """A gain of 0 with some probability, and else evenly spread over [0, high]."""

    probability: float
    high: float

    def price(self, cost: float) -> float:
        """Return the best price: the spike never buys, so that it does not move the maximum."""
        return math.inf if cost >= self.high else (self.high + cost) / 2


cautious = Spiked(0.5, 0.01)
"""Used as ``examples/own_prior.py:cautious``."""
