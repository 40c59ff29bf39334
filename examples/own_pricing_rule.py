"""A user-defined pricing rule: the seller's ask plus a commission for the seller.

    fl-market run --strategy market-priced --pricing "examples/own_pricing_rule.py:commission(0.1)"

``NAME`` alone names a ``PricingRule``; ``NAME(number, …)`` calls a function that returns one. Bids,
asks and prices are whole micro-credits. ``fl_market.pricing.testing.check_rule`` tests a rule.
"""

from fl_market.pricing import PricingRule


def commission(share: float) -> PricingRule:
    """Return the rule: the ask plus a share of it, if the bid covers both."""

    def price(bid: int, ask: int) -> int | None:
        amount = ask + round(share * ask)
        return amount if bid >= amount else None

    return PricingRule(f"commission({share:g})", asks=True, price=price)
