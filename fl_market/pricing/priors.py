r"""Priors over a buyer's valuation, and the seller's optimal ask (Myerson 1981; paper, Eq. 2).

The ask maximises the expected revenue :math:`(P - c)(1 - F(P))` over the support. Eq. 2 of the
paper is its first-order condition for c = 0. If the revenue already falls at the lower end of the
support, that end (the corner) is the maximum, and Eq. 2 has no root. A prior is any object with a
method ``price(cost)``; frozen distributions of ``scipy.stats`` are accepted as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import lambertw

from fl_market.catalogue import PRIOR
from fl_market.errors import MarketError
from fl_market.plugins import find
from fl_market.pricing.empirical import Empirical

NO_SALE = math.inf
"""The ask if no price sells at a profit."""


class Prior(Protocol):
    """A seller's belief about the buyer's valuation, in units of the gain."""

    def price(self, cost: float) -> float:
        """Return the price with the highest expected revenue; infinite if no sale can pay."""


@dataclass(frozen=True)
class Uniform:
    """Valuations with a uniform density on [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require(0 <= self.low < self.high < math.inf, f"a prior must have 0 <= low < high; got {self}")

    def price(self, cost: float) -> float:
        """Return ``max(low, (high + cost) / 2)``; infinite if the cost reaches ``high``."""
        return NO_SALE if cost >= self.high else max(self.low, (self.high + cost) / 2)


@dataclass(frozen=True)
class Exponential:
    """Valuations with density ``rate * exp(-rate * v)`` and mean ``1 / rate``."""

    rate: float

    def __post_init__(self) -> None:
        _require(0 < self.rate < math.inf, f"a prior must have a rate above 0; got {self}")

    def price(self, cost: float) -> float:
        """Return ``cost + 1 / rate``."""
        return cost + 1 / self.rate


@dataclass(frozen=True)
class TruncatedExponential:
    """Valuations with an exponential density ``exp(-rate * v)``, truncated to [low, high]."""

    rate: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _require(0 < self.rate < math.inf, f"a prior must have a rate above 0; got {self}")
        _require(0 <= self.low < self.high < math.inf, f"a prior must have 0 <= low < high; got {self}")

    def price(self, cost: float) -> float:
        """Return ``max(low, high - (k + W(exp(-k))) / rate)``.

        W is Lambert's function, and ``k = rate (high - cost) - 1``.
        """
        if cost >= self.high:
            return NO_SALE
        k = self.rate * (self.high - cost) - 1
        price = self.high - (k + float(lambertw(math.exp(-k)).real)) / self.rate
        # for a small rate nearly all digits of k + W cancel; Newton's steps on the first-order
        # condition restore them
        for _ in range(3):
            rest = self.rate * (self.high - price)
            price += (-math.expm1(-rest) / self.rate - (price - cost)) / (1 + math.exp(-rest))
        return max(self.low, price)


@dataclass(frozen=True)
class Pareto:
    """Valuations of at least ``scale`` with the heavy tail ``(scale / v) ** shape``."""

    shape: float
    scale: float

    def __post_init__(self) -> None:
        _require(
            0 < self.shape < math.inf and 0 < self.scale < math.inf,
            f"a prior must have shape and scale above 0; got {self}",
        )

    def price(self, cost: float) -> float:
        """Return ``max(scale, shape * cost / (shape - 1))``.

        Raises
        ------
        MarketError
            If the shape is at most 1: then no price is best.
        """
        if self.shape <= 1:
            flat = self.shape == 1 and cost == 0
            reason = f"every price from {self.scale} on earns the same" if flat else "a higher price always earns more"
            raise MarketError(f"the shape of a Pareto prior must be above 1; got {self}: {reason}")
        return max(self.scale, self.shape * cost / (self.shape - 1))


@dataclass(frozen=True)
class TruncatedPareto:
    """Valuations with density ``v ** (-shape - 1)``, truncated to [low, high]."""

    shape: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _require(0 < self.shape < math.inf, f"a prior must have a shape above 0; got {self}")
        _require(0 < self.low < self.high < math.inf, f"a prior must have 0 < low < high; got {self}")

    def price(self, cost: float) -> float:
        """Return the root of the first-order condition, or the lower end.

        Without cost the root is ``high (1 - shape) ** (1 / shape)``, if the shape is below 1.
        """
        if cost >= self.high:
            return NO_SALE
        if cost == 0:
            return max(self.low, self.high * (1 - self.shape) ** (1 / self.shape)) if self.shape < 1 else self.low

        def slope(price: float) -> float:
            return float(1 - (price / self.high) ** self.shape - self.shape * (1 - cost / price))

        return max(self.low, _root(slope, cost, self.high))


@dataclass(frozen=True)
class Power:
    """Valuations up to ``high`` with ``F(v) = (v / high) ** exponent``."""

    exponent: float
    high: float

    def __post_init__(self) -> None:
        _require(
            0 < self.exponent < math.inf and 0 < self.high < math.inf,
            f"a prior must have exponent and high above 0; got {self}",
        )

    def price(self, cost: float) -> float:
        """Return the root of the first-order condition above the cost.

        Without cost it is ``high * (exponent + 1) ** (-1 / exponent)``.
        """
        if cost >= self.high:
            return NO_SALE
        if cost == 0:
            return self.high * math.exp(-math.log1p(self.exponent) / self.exponent)
        k, share = self.exponent, cost / self.high

        def slope(part: float) -> float:
            return float(1 - part**k - k * part**k * (1 - share / part))

        return self.high * _root(slope, share, 1.0)


@dataclass(frozen=True)
class TruncatedNormal:
    """Valuations with a normal density (``mean``, ``std``), truncated to [low, high]."""

    mean: float
    std: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.mean) and 0 < self.std < math.inf,
            f"a prior must have a finite mean and a std above 0; got {self}",
        )
        _require(0 <= self.low < self.high < math.inf, f"a prior must have 0 <= low < high; got {self}")

    def price(self, cost: float) -> float:
        """Return the root of the first-order condition, or the lower end (log-concave density)."""
        if cost >= self.high:
            return NO_SALE
        bounds = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        from scipy.stats import truncnorm  # slow to import, for agents' processes without prices

        distribution = truncnorm(*bounds, loc=self.mean, scale=self.std)

        def slope(price: float) -> float:
            # slope of the revenue's logarithm: survival and density alone underflow in the tails
            hazard = math.exp(min(700.0, float(distribution.logpdf(price) - distribution.logsf(price))))
            return 1 - (price - cost) * hazard

        start = max(self.low, cost)
        if slope(start) <= 0:
            return start
        return _root(slope, start, self.high - 1e-12 * (self.high - start))


PRIORS: dict[str, Callable[..., Prior]] = {
    "uniform": Uniform,
    "exponential": Exponential,
    "truncated-exponential": TruncatedExponential,
    "pareto": Pareto,
    "truncated-pareto": TruncatedPareto,
    "power": Power,
    "truncated-normal": TruncatedNormal,
    "empirical": lambda *values: Empirical(values),
}
"""The priors by name."""


def myerson_price(prior: Any, cost: float = 0.0) -> float:
    """Return the ask of a seller with a prior and a cost of its own.

    Parameters
    ----------
    prior
        Belief about the buyer's valuation: a prior of this module, any object with a method
        ``price(cost)``, or a frozen continuous distribution of ``scipy.stats``.
    cost
        The seller's own cost of the sale, in the same unit, at least 0.

    Returns
    -------
    float
        The price that maximises ``(P - cost) * (1 - F(P))``; :data:`NO_SALE`, which is infinite, if
        no price sells at a profit.

    Raises
    ------
    MarketError
        If the cost is negative or not finite, the prior is invalid, or no price is best under it.

    Examples
    --------
    >>> myerson_price(Uniform(0, 1))
    0.5
    >>> myerson_price(Uniform(0.2, 2), cost=0.5)
    1.25
    """
    _require(0 <= cost < math.inf, f"a seller's cost must be a finite number of at least 0; got {cost}")
    if hasattr(prior, "price"):
        return float(prior.price(cost))
    if hasattr(prior, "sf") and hasattr(prior, "ppf"):
        return _numeric_price(prior, cost)
    raise MarketError(
        f"a prior must be one of {', '.join(PRIORS)}, or a frozen continuous distribution of scipy.stats; got {prior!r}"
    )


def _numeric_price(distribution: Any, cost: float) -> float:
    """Return the best price under a distribution with a numeric survival function.

    It is the best of many quantiles, refined between its neighbours: revenue may have several
    peaks.

    Raises
    ------
    MarketError
        If the revenue still rises in the far tail.
    """
    low, high = (float(end) for end in distribution.support())
    if not math.isfinite(low) or low < 0:
        raise MarketError(f"the support of a prior must begin at 0 or above; got {low}")
    if cost >= high:
        return NO_SALE
    tail = np.concatenate([np.linspace(0, 1, 2001)[1:-1], 1 - np.logspace(-4, -12, 200)])
    start = max(low, cost)
    prices = np.unique(np.concatenate([[start], distribution.ppf(tail)]))
    prices = prices[(prices >= start) & np.isfinite(prices)]
    # few quantiles lie above a high cost: follow the survival function down from there
    prices = np.unique(np.concatenate([prices, start + np.linspace(0, 1, 2001) * (float(prices[-1]) - start)]))
    revenue = (prices - cost) * distribution.sf(prices)
    best = int(revenue.argmax())
    if best == len(prices) - 1 and math.isinf(high):
        raise MarketError("a prior must have a best price; under this one a higher price always earns more")
    below, above = prices[max(0, best - 1)], prices[min(len(prices) - 1, best + 1)]
    from scipy.optimize import minimize_scalar  # as above

    found = minimize_scalar(
        lambda price: -(price - cost) * float(distribution.sf(price)),
        bounds=(below, above),
        method="bounded",
        options={"xatol": 1e-10 * max(1.0, float(above))},
    )
    return float(found.x) if -found.fun > revenue[best] else float(prices[best])


def parse_prior(text: str) -> Prior:
    """Return the prior that a text names, such as ``"uniform(0, 1)"`` or ``"own.py:prior"``.

    Raises
    ------
    OptionError
        If the text names no prior, or its numbers do not fit.

    Examples
    --------
    >>> parse_prior("uniform(0, 1)")
    Uniform(low=0.0, high=1.0)
    """
    prior: Prior = find(PRIOR, text)
    return prior


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of the revenue's slope, which falls through 0 once."""
    from scipy.optimize import brentq  # as above

    return float(brentq(slope, low, high, xtol=1e-14 * max(1.0, high), rtol=1e-14))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MarketError(message)
