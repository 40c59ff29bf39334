"""What an agent bids for an offer, and asks for its own parameters (paper, sections 3.4 and 4)."""

from collections.abc import Sequence

from fl_market.pricing import CREDIT, Prior, Uniform, exact_gain, gain_bounds, micro_credits, myerson_price
from fl_market.pricing.money import LIMIT
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, QuoteRequest

SAME_MINIMUM = 0.02
"""Weights of the two directions that add up to 1 but for this much point at one minimum."""


def decide(
    offers: Sequence[Offer], bid_scale: float, most_each: int | None = None, most_in_all: int | None = None
) -> list[Bid]:
    """Return a bid on the offer whose certified gain is surest and on each that comes on top of it.

    A bid is the gain-from-trade itself, times the credits that a gain of 1 is worth to this agent; there is none where
    there is no offer.

    Parameters
    ----------
    offers
        Those of one round.
    bid_scale
        Credits that a gain of 1 is worth.
    most_each, most_in_all
        Micro-credits that the agent will pay for one purchase, and for all of this round; None for no limit. Where
        nothing is left, there is no bid.
    """
    alone = [offer for offer in offers if not offer.after]
    best = max(alone, key=lambda offer: (offer.lower_bound, offer.gain), default=None)  # ids are random
    bids: list[Bid] = []
    left = most_in_all
    while best is not None and left != 0:
        limits = [limit for limit in (most_each, left) if limit is not None]
        bids.append(Bid(best.id, min(max(0, micro_credits(bid_scale * best.gain)), *limits, LIMIT)))
        left = None if left is None else left - bids[-1].amount
        best = next((offer for offer in offers if offer.after == bids[-1].offer), None)
    return bids


def value(requests: Sequence[QuoteRequest], prior: Prior, cost: float, bid_scale: float) -> list[Ask]:
    """Return an ask for each request: the Myerson price under the agent's prior, its virtual valuation.

    Prior and cost are in units of the gain; the agent takes the buyer to value gains as it does itself. A request that
    no price can serve at a profit is left without an answer.
    """
    price = bid_scale * myerson_price(prior, cost)
    return [Ask(request.id, micro_credits(price)) for request in requests if price * CREDIT < LIMIT]


def value_disclosed(requests: Sequence[DisclosedQuote], kind: str, cost: float, bid_scale: float) -> list[Ask]:
    """Return an ask for each request, from what the broker disclosed.

    ``"paper"``: the lower bound of Theorem 4.1 is the virtual valuation (section 6.2.1). ``"sharp"``: the Myerson price
    where the buyer's gain may lie anywhere between none and its greatest possible value. An error ratio Δ is a gain of
    1 - 1/Δ. The theorem is about linear models: for networks the ask is an estimate, and where it exceeds the bid there
    is no deal.
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
    """Return the greatest error ratio that the buyer can have; the exact one where both weights minimise one loss."""
    if abs(request.alpha + request.beta - 1) <= SAME_MINIMUM and request.alpha > 0:
        return min(high, exact_gain(request.gain, request.alpha))
    return high


def _relative(ratio: float) -> float:
    return 1 - 1 / ratio if ratio > 1 else 0.0
