"""Money in integers: micro-credits, each a millionth of a credit."""

import math

from fl_market.errors import MarketError

CREDIT = 1_000_000
"""Micro-credits in a credit."""
LIMIT = 2**62
"""Upper bound of all amounts: the sum of two still fits the 64 bits of messages and databases."""


def micro_credits(value: float) -> int:
    """Return a value in credits as micro-credits, rounded down: no agent pays more than its bid.

    Raises
    ------
    MarketError
        If the value is not finite or is too large.

    Examples
    --------
    >>> micro_credits(0.9999999)
    999999
    """
    if not math.isfinite(value) or abs(value) * CREDIT >= LIMIT:
        raise MarketError(f"an amount must be a finite number of at most {LIMIT // CREDIT} credits; got {value}")
    return math.floor(value * CREDIT)


def credits_text(amount: int) -> str:
    """Return micro-credits as a text in credits, exact to all six decimals.

    Examples
    --------
    >>> credits_text(-1_500_000)
    '-1.500000'
    """
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // CREDIT}.{abs(amount) % CREDIT:06d}"
