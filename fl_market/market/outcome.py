"""The end of a round: deliveries, acknowledgements, and the decision on every deal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from fl_market.ledger import Deal
from fl_market.market.state import MarketState
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt
from fl_market.sealing import seal


@dataclass(frozen=True)
class Notice:
    """An event of a round that the operator should know: the agent and one clause about it."""

    agent: str
    text: str


@dataclass(frozen=True)
class SealedDelivery:
    """A purchase that its buyer cannot read yet: it acknowledges it, pays, and gets the key.

    Attributes
    ----------
    model
        The model inside.
    key
        Opens it.
    """

    model: StateDict
    key: bytes = field(repr=False)

    @property
    def sealed(self) -> StateDict:
        """The encrypted parameters, as :func:`fl_market.sealing.seal` returns them.

        They are the same bytes each time, and not kept: those of all buyers would fill the memory.
        """
        return seal(self.model, self.key)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model inside."""
        return digest(self.model)

    def acknowledge(self) -> "Acknowledgement":
        """Return an honest buyer's acknowledgement."""
        return Acknowledgement(self._sealed_digest)

    @cached_property
    def _sealed_digest(self) -> str:
        return digest(self.sealed)


@dataclass(frozen=True)
class Acknowledgement:
    """A buyer's statement of the bytes that it holds, as the SHA-256 of the sealed parameters."""

    sealed_digest: str


@dataclass(frozen=True)
class Delivery:
    """The result of a round for one agent.

    Attributes
    ----------
    model
        The model that the agent now has, bought or free of charge; None if it keeps its own.
    digest
        SHA-256 of that model; empty without one.
    key
        Opens the sealed purchase; empty for a model that is free of charge.
    receipts
        Its purchases and sales, together with earlier ones that it has not confirmed.
    """

    model: StateDict | None = None
    digest: str = ""
    key: bytes = b""
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The decision on one round; nothing is booked yet.

    Attributes
    ----------
    settled, refunded
        Ids of the round's deals that pay the seller, and of those that refund the buyer.
    state
        The market after the round.
    notices
        Missing acknowledgements.
    deliveries
        Agent of the round -> what it gets after the booking.
    """

    settled: tuple[str, ...]
    refunded: tuple[str, ...]
    state: MarketState
    notices: tuple[Notice, ...] = ()
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)

    @property
    def models(self) -> Mapping[str, StateDict]:
        """Agent -> its model."""
        return self.state.models


class Exchange(Protocol):
    """An exchange of models among the agents of one round, up to its conclusion."""

    @property
    def agreed(self) -> Sequence[Deal]:
        """The deals of the round."""

    def deliver(self) -> Mapping[str, SealedDelivery]:
        """Return the sealed purchase of each buyer of the round."""

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the decision on the round."""
