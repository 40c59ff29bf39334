"""Pricing rules: from a bid and an ask, both in micro-credits, to a price or to no deal.

The midpoint of ``nash`` is not truthful (a buyer's best report equals the ask), and by Myerson and Satterthwaite no
rule is efficient, truthful, individually rational and balanced at once: so the rule is the user's choice.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PricingRule:
    """A named way to set prices.

    Attributes
    ----------
    name
        As users write it.
    asks
        Whether the rule needs the seller's ask; without, the quote exchange is skipped and the ask is 0.
    price
        (bid, ask) to the price, or to None where there is no deal; all in micro-credits.
    """

    name: str
    asks: bool
    price: Callable[[int, int], int | None]


def _free(bid: int, ask: int) -> int | None:
    return 0 if bid >= 0 else None


def _nash(bid: int, ask: int) -> int | None:
    return (bid + ask) // 2 if bid >= ask else None


free = PricingRule("free", asks=False, price=_free)
"""The collaborative setting (section 6.1): a certified gain is a purchase, and nobody pays."""
nash = PricingRule("nash", asks=True, price=_nash)
"""The competitive setting (section 6.2): the midpoint, rounded down to whole micro-credits."""

RULES = {rule.name: rule for rule in (free, nash)}
