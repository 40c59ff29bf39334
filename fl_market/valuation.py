"""An agent's valuations: bids for offers, and asks for its own parameters (paper, 3.4 and 4)."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from fl_market.errors import MarketError
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


def points(worth: float, until: float = 1.0, rounds: int = 0) -> Valuation:
    """Return the valuation of so many credits for each point of accuracy, as percent are called.

    Parameters
    ----------
    worth
        Credits for one point.
    until
        Accuracy, in (0, 1], above which no more is paid.
    rounds
        Last round in which a purchase is worth anything; 0 for no deadline.

    Raises
    ------
    MarketError
        If a number is out of range.

    Examples
    --------
    >>> offer = Offer("7/x", "x", "all", 0.5, 0.25, 0.1, "", level_before=0.86, level_after=0.92)
    >>> round(points(100, until=0.9)(offer), 6)
    400.0
    >>> points(100, until=0.9, rounds=6)(offer)
    0.0
    """
    if not 0 < until <= 1:
        raise MarketError(f"until must be an accuracy in (0, 1]; got {until:g}")
    return curve(0.0, 0.0, until, 100 * worth * until, rounds=rounds)


def curve(*levels_and_credits: float, rounds: int = 0) -> Valuation:
    """Return the valuation by what each accuracy is worth, linear between the given ones.

    Parameters
    ----------
    levels_and_credits
        Accuracy, credits, accuracy, credits, …, in ascending order. Below the first and above the
        last accuracy nothing more is paid.
    rounds
        As for :func:`points`.

    Raises
    ------
    MarketError
        If the numbers are no such curve.

    Examples
    --------
    The first points are worth more than the last ones:

    >>> offer = Offer("7/x", "x", "all", 0.5, 0.25, 0.1, "", level_before=0.8, level_after=0.95)
    >>> round(curve(0.5, 0, 0.9, 80, 1.0, 90)(offer), 6)
    25.0
    """
    levels, worth = levels_and_credits[::2], levels_and_credits[1::2]
    ascending = all(low < high for low, high in pairwise(levels)) and all(low <= high for low, high in pairwise(worth))
    if len(levels) < 2 or len(levels) != len(worth) or not ascending or not 0 <= levels[0] < levels[-1] <= 1:
        raise MarketError(
            "a curve must be two or more accuracies in [0, 1], each with its credits, both in ascending order; got "
            + ", ".join(f"{number:g}" for number in levels_and_credits)
        )
    if rounds < 0:
        raise MarketError(f"rounds must be at least 0; got {rounds}")

    def credits_of(level: float) -> float:
        for (low, less), (high, more) in pairwise(zip(levels, worth, strict=True)):
            if level <= high:
                return less + (more - less) * max(0.0, level - low) / (high - low)
        return worth[-1]

    def valuation(offer: Offer) -> float:
        late = rounds and offer.round > rounds
        return 0.0 if late else credits_of(offer.level_after) - credits_of(offer.level_before)

    return valuation


VALUATIONS: dict[str, Callable[..., Valuation]] = {"gain": proportional_to_gain, "points": points, "curve": curve}
"""Name -> a function that makes the valuation: ``gain`` from the agent's ``bid-scale``."""


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
            offer = Offer("7/agent-1", "agent-1", layers, alpha, gain, gain / 2, after, 0.9 - gain / 4, 0.9)
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
    least 0, and 0 for an offer without a certified gain, which has no price. Without offers there
    are no bids.

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
        worth = max(0, micro_credits(valuation(best))) if best.gain > 0 else 0
        bids.append(Bid(best.id, min(worth, *limits, LIMIT)))
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
