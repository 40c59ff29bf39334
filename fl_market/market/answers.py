"""Checks of the agents' answers: bids on their own offers, asks on their own quote requests."""

from collections.abc import Mapping, Sequence

from fl_market.errors import MarketError
from fl_market.market.trials import Trial
from fl_market.pricing.money import LIMIT
from fl_market.protocol import Ask, Bid


def chosen_purchases(offered: Mapping[str, Trial], bids: Sequence[Bid]) -> list[tuple[Trial, int]]:
    """Return the purchases that a buyer bids on, each with the amount in micro-credits.

    Parameters
    ----------
    offered
        Id of each of its offers -> the purchase.
    bids
        Its bids, in the order of the bundle.

    Raises
    ------
    MarketError
        If a bid is not on one of the buyer's own offers, an amount is invalid, or the bids are not
        on one offer followed by its incremental purchases.
    """
    chosen: list[tuple[Trial, int]] = []
    for bid in bids:
        if bid.offer not in offered:
            raise MarketError(f"it bids on the offer {bid.offer!r}, which is not one of its own")
        trial = offered[bid.offer]
        if trial.after != tuple(before.seller for before, _ in chosen):
            raise MarketError("its bids must be on one offer and the incremental purchases that follow it")
        chosen.append((trial, check_amount(bid.amount)))
    return chosen


def asked_amounts(requested: Mapping[str, str], asks: Sequence[Ask]) -> dict[str, int]:
    """Return a seller's asks, by buyer, in micro-credits.

    Parameters
    ----------
    requested
        Id of each of its quote requests -> the buyer.
    asks
        Its asks.

    Raises
    ------
    MarketError
        If an ask does not answer one of the seller's own requests, or an amount is invalid.
    """
    known = {}
    for ask in asks:
        if ask.quote not in requested:
            raise MarketError(f"it answers the quote request {ask.quote!r}, which it was not sent")
        known[requested[ask.quote]] = check_amount(ask.amount)
    return known


def check_amount(amount: int) -> int:
    """Return a bid or an ask in micro-credits.

    Raises
    ------
    MarketError
        If the amount is out of range.
    """
    if not 0 <= amount < LIMIT:
        raise MarketError(f"a bid or an ask must be at least 0 and below {LIMIT} micro-credits; got {amount}")
    return amount
