"""Messages between agents and broker about trades, in plain numbers.

Each message is a frozen dataclass. :func:`to_columns` turns a sequence of them into the flat lists
that a Flower ``ConfigRecord`` holds, and :func:`from_columns` turns these back. Nothing here
depends on Flower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fl_market.errors import MarketError

DISCLOSURES = ("sealed", "paper", "sharp")
"""Disclosure policies. ``sealed`` tells sellers nothing about the buyer. ``paper`` and ``sharp``
disclose the numbers of a :class:`DisclosedQuote`, for the bounds of Theorem 4.1 or for sharp
bounds."""
OFFER, QUOTE = "query.offer", "query.quote"
"""Message types of the two exchanges between training and delivery."""
DELIVERY = "query.delivery"
"""Message type of a sealed purchase, whose key follows after the buyer's acknowledgement."""
IDENTIFY = "query.identify"
"""Message type that asks for the name of the agent at a node, for example after a restart."""


@dataclass(frozen=True)
class Offer:
    """A purchase that the broker tried and certified; sent to the buyer only.

    Attributes
    ----------
    id
        Id of the offer, to which a bid refers.
    seller
        The seller's pseudonym.
    layers
        The layers for sale: ``"all"``, or their names separated by commas.
    alpha
        Purchased weight; 0 where the terms withhold it.
    gain, lower_bound
        Certified gain-from-trade and its lower confidence bound, above 0.
    after
        Id of the offer before this incremental purchase, which needs a bid too; else empty.
    level_before, level_after
        Accuracy on the broker's fit split, to a thousandth: the best that the buyer could have
        without this purchase, and with it. 0 where gains are as published.
    """

    id: str
    seller: str
    layers: str
    alpha: float
    gain: float
    lower_bound: float
    after: str
    level_before: float = 0.0
    level_after: float = 0.0

    @property
    def round(self) -> int:
        """The round of the offer, with which its id begins."""
        return _round_in(self.id, "an offer")


@dataclass(frozen=True)
class Bid:
    """A buyer's answer: the highest amount that it would pay for one offer, in micro-credits."""

    offer: str
    amount: int


@dataclass(frozen=True)
class QuoteRequest:
    """A request for an ask, sent to the seller only; the policy ``sealed`` discloses no more.

    The public prices of past deals accompany the requests, without the names of their parties.
    """

    id: str
    layers: str


@dataclass(frozen=True)
class DisclosedQuote(QuoteRequest):
    """A quote request that discloses the numbers by which Theorem 4.1 bounds the buyer's gain.

    Attributes
    ----------
    id, layers
        As in a :class:`QuoteRequest`.
    alpha
        Weight with which the seller itself would buy from this buyer; 0 if it would gain nothing.
    beta
        Weight with which the buyer buys.
    gain
        The seller's own gain from that purchase, as the ratio of the losses before and after.
    """

    alpha: float
    beta: float
    gain: float


@dataclass(frozen=True)
class PublicPrice:
    """The public price of a past deal, in micro-credits."""

    amount: int


@dataclass(frozen=True)
class Ask:
    """A seller's answer: the lowest amount that it accepts, in micro-credits."""

    quote: str
    amount: int


@dataclass(frozen=True)
class Receipt:
    """One purchase or sale, for the agent that made it.

    Attributes
    ----------
    deal
        Id of the deal.
    side
        ``"bought"`` or ``"sold"``.
    partner
        The other side's pseudonym.
    price
        Micro-credits.
    """

    deal: str
    side: str
    partner: str
    price: int

    @property
    def round(self) -> int:
        """The round of the deal, with which its id begins; a receipt may come a round late.

        Raises
        ------
        MarketError
            If the id has no round.
        """
        return _round_in(self.deal, "a receipt")


def _round_in(identifier: str, what: str) -> int:
    number, _, partner = identifier.partition("/")
    if not number.isdecimal() or not partner:
        raise MarketError(f"the id of {what} must be ROUND/PARTNER; got {identifier!r}")
    return int(number)


Item = TypeVar("Item", Offer, Bid, QuoteRequest, DisclosedQuote, PublicPrice, Ask, Receipt)


def to_columns(items: Sequence[Item]) -> dict[str, Any]:
    """Return one list for each field; an empty mapping for no items.

    Examples
    --------
    >>> to_columns([Bid("a", 5), Bid("b", 7)])
    {'offer': ['a', 'b'], 'amount': [5, 7]}
    """
    return {field.name: [getattr(item, field.name) for item in items] for field in fields(items[0])} if items else {}


def from_columns(kind: type[Item], columns: Mapping[str, Any]) -> list[Item]:
    """Return the items in columns made by :func:`to_columns`.

    Parameters
    ----------
    kind
        Class of the items.
    columns
        Field -> one value for each item, as received: the sender may be broken or hostile.

    Raises
    ------
    MarketError
        If a field is missing or unknown, the lengths differ, or a value has the wrong type.

    Examples
    --------
    >>> from_columns(Bid, {"offer": ["a"], "amount": [5]})
    [Bid(offer='a', amount=5)]
    """
    if not columns:
        return []
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    if set(columns) != set(types):
        raise MarketError(
            f"a list of {kind.__name__.lower()}s must have the fields {', '.join(types)}; got {', '.join(columns)}"
        )
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise MarketError(f"the fields of a list of {kind.__name__.lower()}s must be lists of one length")
    for name, expected in types.items():
        for value in columns[name]:
            if type(value) is not expected:
                raise MarketError(
                    f"the field {name!r} of a {kind.__name__.lower()} must be of type {expected.__name__}; "
                    f"got {value!r}"
                )
    return [kind(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
