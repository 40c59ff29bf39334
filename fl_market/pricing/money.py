"""Money is integers: micro-credits, a millionth of a credit."""

import math

from fl_market.errors import MarketError

CREDIT = 1_000_000
"""Micro-credits in a credit."""
LIMIT = 2**62
"""No amount may reach this: sums of two still fit the 64 bits that messages and databases use."""


def micro_credits(value: float) -> int:
    """Return a value in credits as micro-credits, rounded down so that nobody pays more than it said.

    Raises
    ------
    MarketError
        If the value is not a finite number or is too large.
    """
    if not math.isfinite(value) or abs(value) * CREDIT >= LIMIT:
        raise MarketError(f"an amount must be a finite number of at most {LIMIT // CREDIT} credits, not {value}")
    return math.floor(value * CREDIT)


def credits_text(amount: int) -> str:
    """Return micro-credits as credits with all six decimals: exact, for people."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // CREDIT}.{abs(amount) % CREDIT:06d}"
