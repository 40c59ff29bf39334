"""The outcomes of an agent's own quotes, and the prior that they teach.

Under some pricing rules a sale reveals the buyer's bid. Otherwise it shows that the bid was at
least the ask, as a declined quote shows that it was below.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from fl_market.pricing import CREDIT, Empirical, PricingRule
from fl_market.protocol import Ask, PublicPrice, Receipt

ENOUGH = 5
"""Observations from which on a seller trusts them more than its prior."""
REMEMBERED = 100
"""Quotes that are kept, the last ones."""
UNUSUAL = 10
"""Multiple of the median price above which a public price teaches nothing."""
_PENDING, _DECLINED = -2, -1


@dataclass(frozen=True)
class QuoteHistory:
    """An agent's last quotes; the three sequences have one length.

    Attributes
    ----------
    quotes
        Ids of the quotes.
    asks
        Micro-credits that were asked.
    prices
        Micro-credits that were paid, or a negative mark for a pending or a declined quote.
    """

    quotes: tuple[str, ...] = ()
    asks: tuple[int, ...] = ()
    prices: tuple[int, ...] = ()

    def with_asks(self, asks: Sequence[Ask]) -> "QuoteHistory":
        """Return the history with the asks of this round, whose outcome is pending."""
        return QuoteHistory(
            (*self.quotes, *(ask.quote for ask in asks))[-REMEMBERED:],
            (*self.asks, *(ask.amount for ask in asks))[-REMEMBERED:],
            (*self.prices, *(_PENDING for _ in asks))[-REMEMBERED:],
        )

    def resolved(self, receipts: Sequence[Receipt]) -> "QuoteHistory":
        """Return the history with the outcome of each pending quote: its price, or declined."""
        sold = {receipt.deal: receipt.price for receipt in receipts if receipt.side == "sold"}
        outcomes = (
            # the receipt of a sale may come a round late
            sold.get(quote, _DECLINED if price == _PENDING else price)
            for quote, price in zip(self.quotes, self.prices, strict=True)
        )
        return replace(self, prices=tuple(outcomes))

    def learned_prior(
        self, rule: PricingRule, bid_scale: float, public: Sequence[PublicPrice] = ()
    ) -> Empirical | None:
        """Return the prior over gains that past trades teach; None while there are too few.

        The agent's own quotes tell most. While they are too few, the public prices of past deals
        help: each was worth its price to some buyer.

        Parameters
        ----------
        rule
            The pricing rule of the market.
        bid_scale
            Credits that a gain of 1 is worth; with 0, asks say nothing of gains.
        public
            The public prices of past deals.
        """
        unit = bid_scale * CREDIT
        if not unit:
            return None
        values: list[float] = []
        declined: list[float] = []
        accepted: list[float] = []
        for ask, price in zip(self.asks, self.prices, strict=True):
            if price == _DECLINED and ask > 0:
                declined.append(ask / unit)
            elif price >= 0 and rule.reveals is not None:
                values.append(rule.reveals(price, ask) / unit)
            elif price >= 0:
                accepted.append(ask / unit)
        if len(values) + len(declined) + len(accepted) < ENOUGH:
            accepted += [amount / unit for amount in _usual(price.amount for price in public)]
        seen = len(values) + len(declined) + len(accepted)
        return Empirical(values, declined, accepted) if seen >= ENOUGH else None


def _usual(prices: Iterable[int]) -> list[int]:
    """Return the prices without those far above the median: two colluding agents can pay any.

    >>> _usual([2, 3, 2, 500])
    [2, 3, 2]
    """
    known = list(prices)
    return [price for price in known if price <= UNUSUAL * median(known)]
