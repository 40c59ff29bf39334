"""A deal and its states."""

import json
from enum import StrEnum
from typing import NamedTuple


class DealState(StrEnum):
    """The states of a deal: agreed → escrowed → delivered → settled.

    A deal ends as void before the escrow, or as refunded after it.
    """

    AGREED = "agreed"
    ESCROWED = "escrowed"
    DELIVERED = "delivered"
    SETTLED = "settled"
    REFUNDED = "refunded"
    VOID = "void"

    @property
    def paid(self) -> bool:
        """Whether the seller has been paid."""
        return self is DealState.SETTLED

    @property
    def open(self) -> bool:
        """Whether the deal has not ended."""
        return bool(SUCCESSORS[self])


SUCCESSORS: dict[DealState, frozenset[DealState]] = {
    DealState.AGREED: frozenset({DealState.ESCROWED, DealState.VOID}),
    DealState.ESCROWED: frozenset({DealState.DELIVERED, DealState.REFUNDED}),
    DealState.DELIVERED: frozenset({DealState.SETTLED, DealState.REFUNDED}),
    DealState.SETTLED: frozenset(),
    DealState.REFUNDED: frozenset(),
    DealState.VOID: frozenset(),
}


STATES = {str(state): state for state in DealState}
"""Text -> state."""


class Deal(NamedTuple):
    """One agreed purchase.

    Attributes
    ----------
    id
        Unique in its ledger; it makes every step of the deal idempotent.
    round
        Round of the market.
    buyer, seller
        Names of their accounts.
    bid, ask, price
        Micro-credits.
    gain, lower_bound
        The certified gain-from-trade and its lower confidence bound.
    alpha
        Purchased weight: the seller's share of the merged model.
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
        """Return the terms as one line of JSON, the form that the journal keeps."""
        return json.dumps(self._asdict(), sort_keys=True)
