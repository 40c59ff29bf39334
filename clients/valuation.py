"""What an agent bids for an offer, and asks for its own parameters (paper, sections 3.4 and 4)."""

from collections.abc import Sequence

from fl_market.pricing import Prior, micro_credits, myerson_price
from fl_market.pricing.money import LIMIT
from fl_market.protocol import Ask, Bid, Offer, QuoteRequest


def decide(offers: Sequence[Offer], bid_scale: float) -> list[Bid]:
    """Return a bid on the offer whose certified gain is surest, or none where there is no offer.

    The bid is the gain-from-trade itself, times the credits that a gain of 1 is worth to this agent.
    """
    if not offers:
        return []
    best = max(offers, key=lambda offer: (offer.lower_bound, offer.gain, offer.id))
    return [Bid(best.id, max(0, micro_credits(bid_scale * best.gain)))]


def value(requests: Sequence[QuoteRequest], prior: Prior, cost: float, bid_scale: float) -> list[Ask]:
    """Return an ask for each request: the Myerson price under the agent's prior, its virtual valuation.

    Prior and cost are in units of the gain; the agent takes the buyer to value gains as it does itself. A request that
    no price can serve at a profit is left without an answer.
    """
    price = bid_scale * myerson_price(prior, cost)
    if price * 1e6 >= LIMIT:
        return []
    return [Ask(request.id, micro_credits(price)) for request in requests]
