"""A deal and the states that it goes through."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class DealState(StrEnum):
    """agreed → escrowed → delivered → settled; void before the escrow, refunded after it, and perhaps paid late."""

    AGREED = "agreed"
    ESCROWED = "escrowed"
    DELIVERED = "delivered"
    SETTLED = "settled"
    REFUNDED = "refunded"
    PAID_LATE = "paid late"
    VOID = "void"

    @property
    def paid(self) -> bool:
        """Whether the seller has its money."""
        return self in (DealState.SETTLED, DealState.PAID_LATE)


SUCCESSORS: dict[DealState, frozenset[DealState]] = {
    DealState.AGREED: frozenset({DealState.ESCROWED, DealState.VOID}),
    DealState.ESCROWED: frozenset({DealState.DELIVERED, DealState.REFUNDED}),
    DealState.DELIVERED: frozenset({DealState.SETTLED, DealState.REFUNDED}),
    DealState.SETTLED: frozenset(),
    DealState.REFUNDED: frozenset({DealState.PAID_LATE}),
    DealState.PAID_LATE: frozenset(),
    DealState.VOID: frozenset(),
}


@dataclass(frozen=True)
class Deal:
    """One agreed purchase.

    Attributes
    ----------
    id
        Unique in its ledger; every step of the deal is idempotent by it.
    round
        Round of the market.
    buyer, seller
        Names of their accounts.
    bid, ask, price
        Micro-credits.
    gain, lower_bound
        The certified gain-from-trade and its lower confidence bound.
    alpha
        Purchased weight: the share of the seller in the merged model.
    """

    id: str
    round: int
    buyer: str
    seller: str
    bid: int
    ask: int
    price: int
    gain: float
    lower_bound: float
    alpha: float

    def terms(self) -> str:
        """Return the terms as one line of JSON, as the journal keeps them."""
        return json.dumps(asdict(self), sort_keys=True)
