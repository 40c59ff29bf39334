"""A prior learned from the trade history.

What a seller saw of each buyer is an interval: the very valuation where it was revealed, everything from the ask on
where a quote was accepted, everything below the ask where it was declined. The distribution of greatest likelihood
for such censored observations is found by Turnbull's self-consistency (1976).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_market.errors import MarketError

_STEPS = 200


@dataclass(frozen=True, init=False)
class Empirical:
    """Valuations as they were observed.

    Parameters
    ----------
    values
        Valuations that were revealed.
    declined
        Asks that were declined: the valuation was lower.
    accepted
        Asks that were accepted without revealing more: the valuation was as high or higher.

    Raises
    ------
    MarketError
        If there is no observation, one is negative or not finite, or an ask of 0 was declined.
    """

    values: tuple[float, ...]
    declined: tuple[float, ...]
    accepted: tuple[float, ...]

    def __init__(
        self, values: Sequence[float] = (), declined: Sequence[float] = (), accepted: Sequence[float] = ()
    ) -> None:
        object.__setattr__(self, "values", tuple(sorted(map(float, values))))
        object.__setattr__(self, "declined", tuple(sorted(map(float, declined))))
        object.__setattr__(self, "accepted", tuple(sorted(map(float, accepted))))
        seen = self.values + self.declined + self.accepted
        if not seen:
            raise MarketError("an empirical prior needs at least one observation")
        if not all(0 <= value < math.inf for value in seen) or 0.0 in self.declined:
            raise MarketError(
                "the observations of an empirical prior must be finite numbers of at least 0; no ask of 0 is declined"
            )

    def price(self, cost: float) -> float:
        """Return the observed value that earns most, by a cautious estimate of how often it sells.

        Without censoring, the value v_(i) of n sorted ones sells in (n - i + 1) / n of the cases. The estimate is
        lowered by its standard error, so that a few lucky sales do not drive the ask up; this vanishes as n grows.
        Infinite where no observed value exceeds the cost.
        """
        points, survival = self.survival()
        count = len(self.values) + len(self.declined) + len(self.accepted)
        cautious = np.maximum(survival - np.sqrt(survival * (1 - survival) / count), 0.0)
        revenue = (points - cost) * cautious
        best = int(revenue.argmax())
        return float(points[best]) if revenue[best] > 0 or (cost == 0 == points[best]) else math.inf

    def survival(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the points where the estimated distribution has mass, and the share of it at or above each.

        Mass that the observations only place in an interval is put at its lower end: that is where it surely sells.
        """
        points = np.unique([*self.values, *self.accepted, *([0.0] if self.declined else [])])
        exact = np.searchsorted(self.values, points, "right") - np.searchsorted(self.values, points, "left")
        asks, declines = np.unique(self.declined, return_counts=True)
        floors, accepts = np.unique(self.accepted, return_counts=True)
        possible = np.vstack([points < asks[:, None], points >= floors[:, None]])
        counts = np.concatenate([declines, accepts])
        total = exact.sum() + counts.sum()
        mass = np.full(len(points), 1 / len(points))
        for _ in range(_STEPS if len(counts) else 1):
            # each censored observation is shared out among the points that it allows, by what they have already
            shares = possible * mass
            mass = (exact + counts @ (shares / shares.sum(1, keepdims=True))) / total
        return points, mass[::-1].cumsum()[::-1].clip(0.0, 1.0)
