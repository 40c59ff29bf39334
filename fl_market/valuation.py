"""An agent's valuations: bids for offers, and asks for its own parameters (paper, 3.4 and 4)."""

import math
from collections.abc import Callable, Sequence

from fl_market.pricing import CREDIT, Prior, Uniform, exact_gain, gain_bounds, micro_credits, myerson_price
from fl_market.pricing.money import LIMIT
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, QuoteRequest

SAME_MINIMUM = 0.02
"""Largest distance of α + β from 1 at which both weights are taken to minimise the same loss."""

Valuation = Callable[[Offer], float]
"""The value of an offer to a buyer, in credits; a negative value counts as 0."""


def proportional_to_gain(bid_scale: float = 1.0) -> Valuation:
    """Return the valuation that is proportional to the certified gain-from-trade.

    Parameters
    ----------
    bid_scale
        Credits that a gain of 1 is worth.

    Examples
    --------
    >>> offer = Offer("o", "agent-1", "all", alpha=0.5, gain=0.25, lower_bound=0.1, after="")
    >>> proportional_to_gain(bid_scale=2.0)(offer)
    0.5
    """

    def valuation(offer: Offer) -> float:
        return bid_scale * offer.gain

    return valuation


VALUATIONS: dict[str, Callable[..., Valuation]] = {"gain": proportional_to_gain}
"""Name -> a function that makes the valuation from the agent's ``bid-scale``."""


def check_valuation(valuation: Valuation) -> None:
    """Raise unless a valuation returns a finite number for typical offers, the same each time.

    Run it on a valuation of your own before an agent uses it.

    Parameters
    ----------
    valuation
        Any valuation.

    Raises
    ------
    AssertionError
        If an offer's value is not a number that can be paid, or changes between two calls; the
        message shows the offer.

    Examples
    --------
    >>> check_valuation(proportional_to_gain(2.0))
    """
    for gain in (0.0, 1e-6, 0.01, 0.3, 1.0):
        for layers, alpha, after in (("all", 0.5, ""), ("0,2", 1.0, ""), ("all", 0.1, "first")):
            offer = Offer("offer", "agent-1", layers, alpha, gain, gain / 2, after)
            value = valuation(offer)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise AssertionError(f"the valuation must return a number; got {value!r} for {offer}")
            if not math.isfinite(value) or abs(value) * CREDIT >= LIMIT:
                raise AssertionError(
                    f"the valuation must be finite and below {LIMIT // CREDIT} credits; got {value} for {offer}"
                )
            if valuation(offer) != value:
                raise AssertionError(f"the valuation must depend on the offer alone; got two values for {offer}")


def decide(
    offers: Sequence[Offer], valuation: Valuation, most_each: int | None = None, most_in_all: int | None = None
) -> list[Bid]:
    """Return a buyer's bids on the best offer and on each incremental purchase after it.

    The best offer has the highest lower bound. A bid is the offer's valuation in micro-credits, at
    least 0. Without offers there are no bids.

    Parameters
    ----------
    offers
        The offers of one round.
    valuation
        The value of an offer in credits.
    most_each, most_in_all
        Limits in micro-credits for one purchase, and for all of this round; None for no limit. Once
        nothing is left, no further bid is made.

    Raises
    ------
    MarketError
        If a valuation is not finite or is too large to be paid.

    Examples
    --------
    >>> offers = [Offer("o", "agent-1", "all", alpha=0.5, gain=0.25, lower_bound=0.1, after="")]
    >>> decide(offers, proportional_to_gain(2.0))
    [Bid(offer='o', amount=500000)]
    """
    single = [offer for offer in offers if not offer.after]
    best = max(single, key=lambda offer: (offer.lower_bound, offer.gain), default=None)  # ids are random
    bids: list[Bid] = []
    left = most_in_all
    while best is not None and left != 0:
        limits = [limit for limit in (most_each, left) if limit is not None]
        bids.append(Bid(best.id, min(max(0, micro_credits(valuation(best))), *limits, LIMIT)))
        left = None if left is None else left - bids[-1].amount
        best = next((offer for offer in offers if offer.after == bids[-1].offer), None)
    return bids


def value(requests: Sequence[QuoteRequest], prior: Prior, cost: float, bid_scale: float) -> list[Ask]:
    """Return a seller's asks: the Myerson price under its prior, which is its virtual valuation.

    Prior and cost are in units of the gain; the seller assumes that the buyer values gains as it
    does itself. A request that no price serves at a profit gets no ask.

    Parameters
    ----------
    requests
        The quote requests of one round.
    prior
        The seller's belief about the buyer's gain.
    cost
        The seller's own cost of a sale, in units of the gain.
    bid_scale
        Credits that a gain of 1 is worth.

    Raises
    ------
    MarketError
        If no price is best under the prior.

    Examples
    --------
    >>> value([QuoteRequest("q", "all")], Uniform(0, 1), cost=0.0, bid_scale=2.0)
    [Ask(quote='q', amount=1000000)]
    """
    price = bid_scale * myerson_price(prior, cost)
    return [Ask(request.id, micro_credits(price)) for request in requests if price * CREDIT < LIMIT]


def value_disclosed(requests: Sequence[DisclosedQuote], kind: str, cost: float, bid_scale: float) -> list[Ask]:
    """Return a seller's asks on quote requests that disclose its own gain and both weights.

    The theorem is about linear models. For networks the ask is an estimate, and an ask above the
    bid makes no deal.

    Parameters
    ----------
    requests
        The quote requests of one round. An error ratio Δ is a gain of 1 - 1/Δ.
    kind
        ``"paper"``: the lower bound of Theorem 4.1 is the virtual valuation (section 6.2.1).
        ``"sharp"``: the Myerson price for a buyer's gain anywhere between 0 and its sharp upper
        bound.
    cost
        The seller's own cost of a sale, in units of the gain.
    bid_scale
        Credits that a gain of 1 is worth.

    Raises
    ------
    MarketError
        If the kind is unknown, or a disclosed number is out of its range.
    """
    asks = []
    for request in requests:
        low, high = gain_bounds(request.gain, request.alpha, request.beta, kind)
        price = max(cost, _relative(low))
        if kind == "sharp":
            most = _relative(_greatest(request, high))
            price = myerson_price(Uniform(0.0, most), cost) if most > cost else cost
        asks.append(Ask(request.id, micro_credits(bid_scale * price)))
    return asks


def _greatest(request: DisclosedQuote, high: float) -> float:
    """Return the buyer's greatest error ratio, exact if both weights minimise one loss."""
    if abs(request.alpha + request.beta - 1) <= SAME_MINIMUM and request.alpha > 0:
        return min(high, exact_gain(request.gain, request.alpha))
    return high


def _relative(ratio: float) -> float:
    return 1 - 1 / ratio if ratio > 1 else 0.0
