"""Prices in the linear market, by the seller's information (paper, section 6.2 and figure 5).

The buyer bids its gain-from-trade, an error ratio; the price is the midpoint of bid and ask. If
seller and buyer value alike, the price is the gain itself: the truthful optimum. The gap is the
distance of a price from it.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fl_market.linear.market import LinearRun, Purchase
from fl_market.pricing import Empirical, gain_bounds, myerson_price, nash_price

NO_TRADE = 1.0
"""The error ratio of a purchase that changes nothing."""
WINDOW = 20
"""Quotes that a learning seller remembers."""

Ask = Callable[[Purchase, Purchase], float]
"""(offer to the seller, offer to the buyer) -> the ask; of the latter, it may use the weight."""


def paper_ask(own: Purchase, bought: Purchase) -> float:
    """Return the lower bound of Theorem 4.1, the paper's estimate of the virtual valuation."""
    return gain_bounds(own.gain, own.weight, bought.weight, "paper")[0]


def sharp_ask(own: Purchase, bought: Purchase) -> float:
    """Return the sharp lower bound, at least 1: a quote is only asked for with a gain."""
    return max(NO_TRADE, gain_bounds(own.gain, own.weight, bought.weight, "sharp")[0])


class LearningSeller:
    """Asks the Myerson price under the prior that its own past quotes teach it, without disclosure.

    A sale at the midpoint reveals the buyer's bid; a declined quote is a censored observation.
    """

    def __init__(self) -> None:
        self._quotes: deque[tuple[float, float | None]] = deque(maxlen=WINDOW)

    def ask(self) -> float:
        """Return the ask: the value of no trade before the first sale."""
        values = [bid for _, bid in self._quotes if bid is not None]
        if not values:
            return NO_TRADE
        declined = [ask for ask, bid in self._quotes if bid is None]
        return max(NO_TRADE, myerson_price(Empirical(values, declined=declined)))

    def learn(self, ask: float, price: float | None) -> None:
        """Remember a quote and its price, None where the buyer declined.

        Parameters
        ----------
        ask
            The seller's ask.
        price
            The price of the deal, in the same error ratios.
        """
        self._quotes.append((ask, None if price is None else 2 * price - ask))


def price_history(run: LinearRun, buyer: int, kind: str) -> NDArray[np.float64]:
    """Return the price of one buyer's purchases in each round; without a trade, the last one.

    Parameters
    ----------
    run
        A run of the linear market.
    buyer
        0 for A, 1 for B.
    kind
        ``"optimum"``, ``"paper"``, ``"sharp"`` or ``"learned"``.
    """
    learner = LearningSeller()
    price, prices = NO_TRADE, []
    for offers in run.purchases:
        bought, own = offers[buyer], offers[1 - buyer]
        if bought.bought:
            if kind == "optimum":
                price = bought.gain
            else:
                ask = (
                    learner.ask() if kind == "learned" else {"paper": paper_ask, "sharp": sharp_ask}[kind](own, bought)
                )
                agreed = nash_price(bought.gain, ask)
                learner.learn(ask, agreed)
                price = price if agreed is None else agreed
        prices.append(price)
    return np.array(prices)
