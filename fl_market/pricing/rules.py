"""Pricing rules: from a bid and an ask, both in micro-credits, to a price or to no deal.

The midpoint of ``nash`` is not truthful: a buyer's best report equals the ask. By Myerson and
Satterthwaite no rule is efficient, truthful, individually rational and balanced at once. The rule
is therefore the user's choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from fl_market.catalogue import PRICING_RULE
from fl_market.errors import MarketError
from fl_market.plugins import find
from fl_market.pricing.money import credits_text, micro_credits


@dataclass(frozen=True)
class PricingRule:
    """A rule that sets prices, with its name.

    Attributes
    ----------
    name
        Name of the rule, as users write it.
    asks
        Whether the rule needs the seller's ask; otherwise there is no quote exchange, and the ask
        is 0.
    price
        (bid, ask) to the price, or to None for no deal; all in micro-credits.
    reveals
        (price, ask) to the bid; None if the price does not reveal the bid to the seller.
    """

    name: str
    asks: bool
    price: Callable[[int, int], int | None]
    reveals: Callable[[int, int], int] | None = None


def split(k: float) -> PricingRule:
    """Return the rule that gives the seller a share of the surplus between ask and bid.

    Parameters
    ----------
    k
        Share in [0, 1]. 0 is the ask, truthful for the buyer; 1 is the bid, truthful for the
        seller; ½ is Nash's.

    Raises
    ------
    MarketError
        If ``k`` is not in [0, 1].

    Examples
    --------
    >>> split(0.25).price(90, 10)
    30
    """
    if not 0 <= k <= 1:
        raise MarketError(f"the seller's share of the surplus must be in [0, 1]; got {k}")
    share = Fraction(k)

    def price(bid: int, ask: int) -> int | None:
        return ask + math.floor(share * (bid - ask)) if bid >= ask else None

    def reveals(price: int, ask: int) -> int:
        return ask + round((price - ask) / share)

    return PricingRule(f"split({k:g})", asks=True, price=price, reveals=reveals if share else None)


def posted(amount: int) -> PricingRule:
    """Return the rule of one fixed price, which is truthful for buyer and seller.

    Parameters
    ----------
    amount
        Price in micro-credits, at least 0.

    Raises
    ------
    MarketError
        If the amount is negative.
    """
    if amount < 0:
        raise MarketError(f"a posted price must be at least 0; got {amount}")

    def price(bid: int, ask: int) -> int | None:
        return amount if bid >= amount >= ask else None

    return PricingRule(f"posted({credits_text(amount)})", asks=True, price=price)


def _free(bid: int, ask: int) -> int | None:
    return 0 if bid >= 0 else None


def _nash(bid: int, ask: int) -> int | None:
    return (bid + ask) // 2 if bid >= ask else None


def _ask(bid: int, ask: int) -> int | None:
    return ask if bid >= ask else None


free = PricingRule("free", asks=False, price=_free)
"""The collaborative setting (section 6.1): every certified gain is a purchase, at the price 0."""
nash = PricingRule("nash", asks=True, price=_nash, reveals=lambda price, ask: 2 * price - ask)
"""The competitive setting (section 6.2): the midpoint, rounded down to whole micro-credits."""
ask = PricingRule("ask", asks=True, price=_ask)
"""The seller's Myerson price as a take-it-or-leave-it offer: truthful for the buyer."""

RULES = {rule.name: rule for rule in (free, nash, ask)}
"""The rules without a parameter, by name."""


def _posted_credits(price: float) -> PricingRule:
    return posted(micro_credits(price))


PRICING_RULES: dict[str, PricingRule | Callable[[float], PricingRule]] = {
    **RULES,
    "split": split,
    "posted": _posted_credits,
}
"""The rules by name, and what makes those with a number."""


def parse_rule(text: str) -> PricingRule:
    """Return the rule named by a text such as ``"nash"``, ``"split(0.25)"`` or ``"own.py:rule"``.

    Raises
    ------
    OptionError
        If the text names no rule, or its numbers do not fit.

    Examples
    --------
    >>> parse_rule("posted(0.5)").price(600_000, 100_000)
    500000
    """
    rule: PricingRule = find(PRICING_RULE, text)
    return rule
