"""The seats of the agents: the node and the model of each agent."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fl_market.errors import MarketError
from fl_market.market.outcome import Delivery
from fl_market.parameters import StateDict, digest


@dataclass
class Seat:
    """One agent at its node.

    Parameters are sent only if the two digests differ. Both are digests of the broker's record,
    except for an agent that sends the broker a noisy copy and keeps the exact model.

    Attributes
    ----------
    name
        Name of the agent.
    node
        Id of its node.
    model_digest
        SHA-256 of the model that the agent must hold.
    agent_digest
        SHA-256 of the model that it is known to hold; empty if unknown.
    """

    name: str
    node: int
    model_digest: str
    agent_digest: str = ""

    def hold(self, model_digest: str) -> None:
        """Record that the agent holds its current model."""
        self.model_digest = self.agent_digest = model_digest

    def forget(self, record: StateDict) -> None:
        """Treat the agent's own copy as unknown: the next message carries the broker's record."""
        self.model_digest, self.agent_digest = digest(record), ""

    def conclude(self, delivery: Delivery, held: str, record: StateDict) -> None:
        """Record the end of a round.

        Parameters
        ----------
        delivery
            Delivery to the agent.
        held
            SHA-256 of the model that it says it holds; empty without an answer.
        record
            The broker's record after the round.
        """
        self.agent_digest = held
        if not held or delivery.model is not None:
            self.model_digest = digest(record)


class Seats:
    """All seats of a market, by node."""

    def __init__(self) -> None:
        self._by_node: dict[int, Seat] = {}

    def __iter__(self) -> Iterator[Seat]:
        """Iterate in the order of the agents' names."""
        return iter(sorted(self._by_node.values(), key=lambda seat: seat.name))

    def __len__(self) -> int:
        return len(self._by_node)

    def __contains__(self, node: int) -> bool:
        return node in self._by_node

    def at(self, node: int) -> Seat | None:
        """Return the seat at a node, or None."""
        return self._by_node.get(node)

    @property
    def names(self) -> Collection[str]:
        """Names of the seated agents."""
        return {seat.name for seat in self._by_node.values()}

    def check(self, name: str, node: int) -> None:
        """Raise MarketError if the name is at another node, or another name at this node."""
        seated = next((seat for seat in self._by_node.values() if seat.name == name), None)
        if seated is not None and seated.node != node:
            raise MarketError(f"it claims to be agent {name}, which is seated at another node")
        known = self._by_node.get(node)
        if known is not None and known.name != name:
            raise MarketError(f"agent {known.name} now claims to be agent {name}")

    def take(self, seat: Seat) -> None:
        """Seat an agent."""
        self.check(seat.name, seat.node)
        self._by_node[seat.node] = seat
