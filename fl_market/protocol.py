"""What agents and broker say to each other about trades, in plain numbers.

Each message is a frozen dataclass; :func:`to_columns` and :func:`from_columns` turn a sequence of them into the flat
lists that a Flower ``ConfigRecord`` holds, and back, so that nothing here depends on Flower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fl_market.errors import MarketError

DISCLOSURES = ("sealed", "paper", "sharp")
"""What sellers are told: with ``sealed``, nothing of the buyer; else what a :class:`DisclosedQuote` holds, from which
they take the bounds of Theorem 4.1 (``paper``) or the sharp ones."""
OFFER, QUOTE = "query.offer", "query.quote"
"""Message types of the two exchanges between training and delivery."""
DEBT = "query.debt"
"""Message type that asks a buyer to pay for what it did not acknowledge."""
IDENTIFY = "query.identify"
"""Message type that asks who is at a node, after a broker came back."""


@dataclass(frozen=True)
class Offer:
    """What the broker tells a buyer, privately: one purchase that it tried and certified.

    Attributes
    ----------
    id
        Refers to the offer in a bid.
    seller
        The seller's pseudonym.
    layers
        What is sold: ``"all"``, or the names of layers with commas between.
    alpha
        Purchased weight.
    gain, lower_bound
        Certified gain-from-trade and its lower confidence bound, above 0.
    after
        Id of the offer that this one comes on top of, and must be bid on as well; empty for none.
    """

    id: str
    seller: str
    layers: str
    alpha: float
    gain: float
    lower_bound: float
    after: str


@dataclass(frozen=True)
class Bid:
    """A buyer's answer: what it would pay at most for one offer, in micro-credits."""

    offer: str
    amount: int


@dataclass(frozen=True)
class QuoteRequest:
    """What the broker tells a seller, privately: somebody would buy this. The policy ``sealed`` discloses no more.

    With the requests go the public prices of past deals, without the names of who dealt.
    """

    id: str
    layers: str


@dataclass(frozen=True)
class DisclosedQuote(QuoteRequest):
    """A quote request that discloses what Theorem 4.1 bounds the buyer's gain with.

    Attributes
    ----------
    id, layers
        As in a :class:`QuoteRequest`.
    alpha
        Weight with which the seller itself would buy from this buyer; 0 where nothing is to be gained.
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
    """The price of a past deal, in micro-credits: what everybody may know."""

    amount: int


@dataclass(frozen=True)
class Ask:
    """A seller's answer: what it wants at least, in micro-credits."""

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


@dataclass(frozen=True)
class Debt:
    """A delivery that a buyer did not acknowledge, and whose payment was given back to it.

    Attributes
    ----------
    deal
        Id of the deal, as on its receipt.
    price
        Micro-credits.
    """

    deal: str
    price: int


Item = TypeVar("Item", Offer, Bid, QuoteRequest, DisclosedQuote, PublicPrice, Ask, Receipt, Debt)


def to_columns(items: Sequence[Item]) -> dict[str, Any]:
    """Return one list for each field; an empty mapping for no items."""
    return {field.name: [getattr(item, field.name) for item in items] for field in fields(items[0])} if items else {}


def from_columns(kind: type[Item], columns: Mapping[str, Any]) -> list[Item]:
    """Return the items that :func:`to_columns` was given.

    Raises
    ------
    MarketError
        If a field is missing or unknown, or a value has the wrong type; whoever sent it may be broken or hostile.
    """
    if not columns:
        return []
    types = {field.name: field.type for field in fields(kind)}
    if set(columns) != set(types):
        raise MarketError(f"a list of {kind.__name__.lower()}s must have the fields {', '.join(types)}")
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise MarketError(f"the fields of a list of {kind.__name__.lower()}s must be lists of one length")
    for name, expected in types.items():
        for value in columns[name]:
            if type(value) is not expected:
                raise MarketError(f"the field {name!r} of a {kind.__name__.lower()} cannot be {value!r}")
    return [kind(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
