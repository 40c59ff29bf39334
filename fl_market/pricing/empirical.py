"""A prior learned from the trade history.

A seller observes each buyer's valuation as an interval: the value itself if it was revealed, all
values from the ask on if the quote was accepted, all values below the ask if it was declined.
Turnbull's self-consistency (1976) finds the distribution of maximum likelihood for such censored
observations.
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
    """The empirical distribution of censored valuations.

    Parameters
    ----------
    values
        Revealed valuations.
    declined
        Declined asks: the valuation was lower.
    accepted
        Accepted asks that revealed no more: the valuation was at least as high.

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
        if invalid := [value for value in seen if not 0 <= value < math.inf]:
            raise MarketError(f"observations must be finite numbers of at least 0; got {invalid[0]}")
        if 0.0 in self.declined:
            raise MarketError("the observation of a declined ask must be above 0; got 0.0")

    def price(self, cost: float) -> float:
        """Return the observed value with the highest expected revenue, by a cautious estimate.

        Without censoring, the value v_(i) of n sorted ones sells in (n - i + 1) / n of the cases.
        The estimate is lowered by its standard error, so that a few lucky sales do not raise the
        ask; the error vanishes as n grows. The price is infinite if no observed value exceeds the
        cost.
        """
        points, survival = self.survival()
        count = len(self.values) + len(self.declined) + len(self.accepted)
        cautious = np.maximum(survival - np.sqrt(survival * (1 - survival) / count), 0.0)
        revenue = (points - cost) * cautious
        best = int(revenue.argmax())
        return float(points[best]) if revenue[best] > 0 or (cost == 0 == points[best]) else math.inf

    def survival(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the points of the estimated distribution, and its survival function there.

        The survival function is the share of the mass at or above a point. Mass that the
        observations only place in an interval is put at its lower end, where it surely sells. If
        nothing was observed below the lowest declined ask, half of that ask is a point as well, to
        be tried: a seller that began too high would never sell, and never learn.

        Returns
        -------
        tuple of arrays
            Points in ascending order and survival in [0, 1], both of shape (points,).
        """
        points = np.unique([*self.values, *self.accepted, *([0.0] if self.declined else [])])
        if self.declined and not ((points > 0) & (points < self.declined[0])).any():
            points = np.unique([*points, self.declined[0] / 2])
        exact = np.searchsorted(self.values, points, "right") - np.searchsorted(self.values, points, "left")
        asks, declines = np.unique(self.declined, return_counts=True)
        floors, accepts = np.unique(self.accepted, return_counts=True)
        possible = np.vstack([points < asks[:, None], points >= floors[:, None]])
        counts = np.concatenate([declines, accepts])
        total = exact.sum() + counts.sum()
        mass = np.full(len(points), 1 / len(points))
        for _ in range(_STEPS if len(counts) else 1):
            # share each censored observation among the points that it allows, by their mass
            shares = possible * mass
            mass = (exact + counts @ (shares / shares.sum(1, keepdims=True))) / total
        return points, mass[::-1].cumsum()[::-1].clip(0.0, 1.0)
