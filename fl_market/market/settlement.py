"""Settlement: the ledger's part of a round (paper, section 3.1, step 6).

A round decides first and books later. An :class:`~fl_market.market.outcome.Outcome` holds the
decision, a checkpoint keeps it, and :func:`apply` moves the money. Each step is idempotent, so that
a crash in between changes nothing.
"""

from collections.abc import Sequence

from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.market.identifiers import is_deal_of
from fl_market.market.outcome import Outcome


def escrow(ledger: Ledger, deal: Deal) -> bool:
    """Record a deal and escrow its price; return whether the buyer's balance covered it."""
    ledger.agree(deal)
    return ledger.escrow(deal.id) is DealState.ESCROWED


def apply(ledger: Ledger, outcome: Outcome) -> None:
    """Pay the sellers of settled deals and the buyers of refunded ones, in one transaction.

    Raises
    ------
    MarketError
        If a settled deal has been refunded in the meantime, by ``fl-market ledger abandon``. Then
        nothing is booked, and no key may be released.
    """
    with ledger.together((*outcome.settled, *outcome.refunded)):
        for deal in outcome.settled:
            if ledger.settle(deal) is not DealState.SETTLED:
                raise MarketError(f"the deal {deal!r} was refunded by the ledger's operator during its round")
        for deal in outcome.refunded:
            ledger.refund(deal)


def trades(ledger: Ledger, runs: Sequence[str]) -> list[tuple[Deal, DealState]]:
    """Return the deals of the given runs with their states, in the order of rounds and ids."""
    return [(deal, state) for deal, state in ledger.deals() if is_deal_of(runs, deal.id)]


def end_open_deals(ledger: Ledger, runs: Sequence[str]) -> int:
    """End the deals of the given runs that were left open by a lost round; return their number."""
    with ledger.together():
        return end_deals(ledger, [deal.id for deal, state in trades(ledger, runs) if state.open])


def end_deals(ledger: Ledger, deals: Sequence[str]) -> int:
    """End open deals, by their ids; return their number."""
    with ledger.together(deals):
        for deal in deals:
            ledger.abandon(deal)
    return len(deals)
