"""Queries: private questions to some agents inside a round, and their decoded answers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fl_market.protocol import Item
from strategies.exchange import Outgoing, ask
from strategies.records import as_record
from strategies.seats import Seats

Answer = TypeVar("Answer")


def query(
    grid: Grid,
    seats: Seats,
    market_round: int,
    message_type: str,
    items: Mapping[str, Mapping[str, Sequence[Item]]],
    decode: Callable[[RecordDict], Answer],
    timeout: float,
) -> tuple[dict[str, Answer], dict[int, str]]:
    """Send each agent its own items, and return the answers by name and the failures by node.

    Parameters
    ----------
    grid, seats
        Connection to the nodes, and the agents at them.
    market_round, message_type
        Number of the round, and Flower's type of the message.
    items
        Name of a record -> agent -> items; an agent without items gets no message.
    decode
        Function from a reply's content to the answer; it raises MarketError on an invalid reply.
    timeout
        Seconds to wait for the replies.
    """
    contents: dict[str, RecordDict] = {}
    for record, some in items.items():
        for agent, own in some.items():
            contents.setdefault(agent, RecordDict())[record] = as_record(own)
    made = {agent: partial(RecordDict, dict(content)) for agent, content in contents.items()}
    return send(grid, seats, market_round, message_type, made, decode, timeout)


def send(
    grid: Grid,
    seats: Seats,
    market_round: int,
    message_type: str,
    contents: Mapping[str, Callable[[], RecordDict]],
    decode: Callable[[RecordDict], Answer],
    timeout: float,
) -> tuple[dict[str, Answer], dict[int, str]]:
    """Send each agent its own records, and return what :func:`query` returns.

    Parameters
    ----------
    grid, seats, market_round, message_type, decode, timeout
        As for :func:`query`.
    contents
        Agent -> a function that makes its records; the number of the round is added.
    """
    config = ConfigRecord({"server-round": market_round})

    def made(agent: str) -> RecordDict:
        return RecordDict({"config": config, **contents[agent]()})

    by_node = {seat.node: partial(made, seat.name) for seat in seats if seat.name in contents}
    found, failures = ask(grid, Outgoing(by_node, message_type, market_round), timeout, decode)
    return {seat.name: found[seat.node] for seat in seats if seat.node in found}, failures
