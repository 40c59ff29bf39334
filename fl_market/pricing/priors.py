r"""Priors over a buyer's valuation, and the seller's Bayesian-optimal ask (Myerson 1981; paper, section 4, Eq. 2).

The ask maximises the expected revenue :math:`(P - c)(1 - F(P))` over the support. Eq. 2 of the paper is its
first-order condition for c = 0; where the revenue already falls at the lower end of the support, that end (the corner)
is the maximum, and Eq. 2 has no root.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Protocol

from fl_market.errors import MarketError


class Prior(Protocol):
    """What a seller believes of a buyer's valuation, in the unit of the gain."""

    def price(self, cost: float) -> float:
        """Return the price that maximises expected revenue above ``cost``; infinite where no sale can pay."""


@dataclass(frozen=True)
class Uniform:
    """Valuations spread evenly over [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require(0 <= self.low < self.high < math.inf, f"{self} needs 0 <= low < high")

    def price(self, cost: float) -> float:
        """Return ``max(low, (high + cost) / 2)``; infinite where the cost reaches ``high``."""
        return math.inf if cost >= self.high else max(self.low, (self.high + cost) / 2)


@dataclass(frozen=True)
class Exponential:
    """Valuations with density ``rate * exp(-rate * v)``: many small ones, few large, 1/rate on average."""

    rate: float

    def __post_init__(self) -> None:
        _require(0 < self.rate < math.inf, f"{self} needs a rate above 0")

    def price(self, cost: float) -> float:
        """Return ``cost + 1 / rate``."""
        return cost + 1 / self.rate


PRIORS: dict[str, type[Uniform] | type[Exponential]] = {"uniform": Uniform, "exponential": Exponential}


def myerson_price(prior: Prior, cost: float = 0.0) -> float:
    """Return the ask of a seller whose own cost is ``cost`` and who believes ``prior``.

    Parameters
    ----------
    prior
        Belief about the buyer's valuation.
    cost
        The seller's own cost of the sale, in the same unit, at least 0.

    Returns
    -------
    float
        The price that maximises ``(P - cost) * (1 - F(P))``; ``inf`` where no price sells at a profit.

    Raises
    ------
    MarketError
        If the cost is negative or not finite.

    Examples
    --------
    >>> myerson_price(Uniform(0, 1))
    0.5
    >>> myerson_price(Uniform(0.2, 2), cost=0.5)
    1.25
    """
    _require(0 <= cost < math.inf, f"a seller's cost must be a finite number of at least 0, not {cost}")
    return prior.price(cost)


def parse_prior(text: str) -> Prior:
    """Return the prior that a text such as ``"uniform(0, 1)"`` or ``"exponential(20)"`` names.

    Raises
    ------
    MarketError
        If the text names no prior, or its numbers do not fit.
    """
    accepted = ", ".join(f"{name}({', '.join(f.name for f in fields(kind))})" for name, kind in PRIORS.items())
    found = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    if found is None or found[1].lower() not in PRIORS:
        raise MarketError(f"unknown prior {text!r}; accepted are {accepted}")
    try:
        return PRIORS[found[1].lower()](*(float(number) for number in found[2].split(",")))
    except (TypeError, ValueError):
        raise MarketError(f"the prior {text!r} does not have the right numbers; accepted are {accepted}") from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MarketError(message)
