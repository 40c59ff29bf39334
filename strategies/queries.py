"""Queries: private questions to some agents inside a round, and their decoded answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fl_market.errors import MarketError
from fl_market.protocol import Item
from strategies.exchange import ask
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
    return send(grid, seats, market_round, message_type, contents, decode, timeout)


def send(
    grid: Grid,
    seats: Seats,
    market_round: int,
    message_type: str,
    contents: Mapping[str, RecordDict],
    decode: Callable[[RecordDict], Answer],
    timeout: float,
) -> tuple[dict[str, Answer], dict[int, str]]:
    """Send each agent its own records, and return what :func:`query` returns.

    Parameters
    ----------
    grid, seats, market_round, message_type, decode, timeout
        As for :func:`query`.
    contents
        Agent -> records; the number of the round is added.
    """
    config = ConfigRecord({"server-round": market_round})
    by_node = {
        seat.node: RecordDict({"config": config, **contents[seat.name]}) for seat in seats if seat.name in contents
    }
    found, failures = ask(grid, by_node, message_type, market_round, timeout)
    answers: dict[str, Answer] = {}
    for seat in seats:
        try:
            if seat.node in found:
                answers[seat.name] = decode(found[seat.node])
        except MarketError as error:
            failures[seat.node] = str(error)
    return answers, failures
