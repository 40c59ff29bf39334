"""The end of a round: deliveries, acknowledgements, and the decision on every deal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fl_market.ledger import Deal
from fl_market.market.state import MarketState
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt


@dataclass(frozen=True)
class Notice:
    """An event of a round that the operator should know: the agent and one clause about it."""

    agent: str
    text: str


@dataclass(frozen=True)
class Delivery:
    """The result of a round for one agent.

    Attributes
    ----------
    purchase
        The model that the agent receives, bought or free of charge; None if it keeps its own.
    digest
        SHA-256 of that model; empty without one.
    receipts
        Its purchases and sales.
    """

    purchase: StateDict | None = None
    digest: str = ""
    receipts: tuple[Receipt, ...] = ()

    def acknowledge(self) -> "Acknowledgement | None":
        """Return an honest buyer's acknowledgement; None without a purchase."""
        return None if self.purchase is None else Acknowledgement(digest(self.purchase))


@dataclass(frozen=True)
class Acknowledgement:
    """A buyer's statement of the model that it holds, as the SHA-256 of the parameters."""

    model_digest: str


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
    """

    settled: tuple[str, ...]
    refunded: tuple[str, ...]
    state: MarketState
    notices: tuple[Notice, ...] = ()

    @property
    def models(self) -> Mapping[str, StateDict]:
        """Agent -> its model."""
        return self.state.models


class Exchange(Protocol):
    """An exchange of models among the agents of one round, up to its conclusion."""

    @property
    def agreed(self) -> Sequence[Deal]:
        """The deals of the round."""

    def deliver(self) -> Mapping[str, Delivery]:
        """Return the delivery to each agent of the round."""

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the decision on the round."""
