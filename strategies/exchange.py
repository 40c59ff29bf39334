"""One exchange of messages with some nodes; each failure becomes one line."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import TypeVar

from flwr.app import ConfigRecord, Message, MessageType, Metadata, RecordDict
from flwr.serverapp import Grid

from fl_market.errors import MarketError
from fl_market.protocol import IDENTIFY
from fl_market.timing import timed

POLL_SECONDS = 0.5
NAME_SECONDS = 60.0
"""Longest wait for a node to send its agent's name."""
NO_ANSWER = "no answer in time"
LONGEST = 300
"""Number of characters of an agent's text that a warning quotes."""

Read = TypeVar("Read")

# not Flower's logger: warnings are shown even if Flower's log is hidden
_logger = logging.getLogger("fl_market")


def wait_for_nodes(
    grid: Grid, count: int, timeout: float, *, least: int | None = None, awaited: Sequence[str] = ()
) -> list[int]:
    """Return the connected nodes in a fixed order, once there are enough.

    Parameters
    ----------
    grid
        Connection to the nodes.
    count
        Number of nodes to wait for.
    timeout
        Seconds to wait.
    least
        Number of nodes that suffices after ``timeout`` seconds; ``count`` by default.
    awaited
        Names of the agents that took part before, for the log.

    Raises
    ------
    MarketError
        If fewer nodes are connected after ``timeout`` seconds.
    """
    deadline = monotonic() + timeout
    told = False
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if monotonic() >= deadline:
            if len(nodes) >= (count if least is None else least):
                return nodes
            if awaited:
                raise MarketError(f"none of the agents {', '.join(awaited)} came back within {timeout:g} s")
            raise MarketError(
                f"only {len(nodes)} of {count} agents connected within {timeout:g} s; start the others, or lower agents"
            )
        if awaited and not told:
            connected = f"{len(nodes)} of {count} agents are connected"
            _logger.warning("%s; waiting up to %g s for the rest of %s", connected, timeout, ", ".join(awaited))
            told = True
        sleep(min(POLL_SECONDS, timeout))
    return nodes


def waiting(message_type: str) -> AbstractContextManager[None]:
    """Return a context that counts the time of an exchange: see :mod:`fl_market.timing`."""
    return timed(
        {MessageType.TRAIN: "training", MessageType.EVALUATE: "evaluation"}.get(message_type, "bids, asks, deliveries")
    )


@dataclass(frozen=True)
class Outgoing(Iterable[Message]):
    """Messages to some nodes, each made when it is sent: together they could fill the memory.

    Attributes
    ----------
    contents
        Node -> a function that makes the content.
    message_type, server_round
        Flower's type of the messages, and the number of the round.
    sent
        Metadata of the messages that were made.
    """

    contents: Mapping[int, Callable[[], RecordDict]] = field(default_factory=dict)
    message_type: str = MessageType.TRAIN
    server_round: int = 0
    sent: list[Metadata] = field(default_factory=list)

    def __iter__(self) -> Iterator[Message]:
        """Make the messages one after the other."""
        self.sent.clear()
        for node, content in self.contents.items():
            group = str(self.server_round)
            message = Message(content(), dst_node_id=node, message_type=self.message_type, group_id=group)
            self.sent.append(message.metadata)
            yield message

    def to(self, nodes: Collection[int]) -> "Outgoing":
        """Return the messages to some of the nodes."""
        some = {node: content for node, content in self.contents.items() if node in nodes}
        return Outgoing(some, self.message_type, self.server_round)


def replies_by_node(sent: Sequence[Metadata], replies: Iterable[Message]) -> tuple[dict[int, Message], dict[int, str]]:
    """Return each node's reply, and the reason of failure for every other node."""
    return _read_by_node(sent, replies, lambda reply: reply)


def collect(
    sent: Sequence[Metadata], replies: Iterable[Message], read: Callable[[RecordDict], Read]
) -> tuple[dict[int, Read], dict[int, str]]:
    """Return what was read of each node's reply, and the reason of failure for every other node.

    Parameters
    ----------
    sent
        Metadata of the messages; more may be sent while replies are read.
    replies
        Each is read as it arrives, and then forgotten.
    read
        Function of a reply's content; it raises MarketError on an invalid one.
    """
    return _read_by_node(sent, replies, lambda reply: read(reply.content))


def _read_by_node(
    sent: Sequence[Metadata], replies: Iterable[Message], read: Callable[[Message], Read]
) -> tuple[dict[int, Read], dict[int, str]]:
    """Match replies by the message that they answer: Flower's error for a lost node names none."""
    asked: dict[str, int] = {}
    answers: dict[int, Read] = {}
    failures: dict[int, str] = {}
    for reply in replies:
        if reply.metadata.reply_to_message_id not in asked:  # more was sent while replies were read
            asked = {message.message_id: message.dst_node_id for message in sent}
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is None or node in answers or node in failures:
            continue
        if reply.has_error():
            failures[node] = _reason(str(reply.error.reason or ""))
            continue
        try:
            answers[node] = read(reply)
        except MarketError as error:
            failures[node] = str(error)
    for message in sent:
        if message.dst_node_id not in answers:
            failures.setdefault(message.dst_node_id, NO_ANSWER)
    return answers, failures


def _reason(text: str) -> str:
    r"""Return the last line of an error's reason, without the text that Flower adds.

    Examples
    --------
    >>> _reason("<class 'E'>:<'\nException ClientAppException occurred. Message: no data'>")
    'no data'
    """
    lines = text.strip().splitlines()
    line = lines[-1] if lines else "an error"
    line = line.removeprefix("Exception ClientAppException occurred. Message: ")
    return line.removesuffix("'>") if text.startswith("<class ") else line


def ask(
    grid: Grid, messages: Outgoing, timeout: float, read: Callable[[RecordDict], Read]
) -> tuple[dict[int, Read], dict[int, str]]:
    """Send messages, and return the result of :func:`collect` on the replies."""
    if not messages.contents:
        return {}, {}
    return collect(messages.sent, grid.send_and_receive(messages, timeout=timeout), read)


def names_at(grid: Grid, nodes: Iterable[int], server_round: int, timeout: float) -> dict[int, str]:
    """Ask the connected nodes for their agents' names; return the names of those that answer."""
    connected = sorted(set(nodes) & set(grid.get_node_ids()))
    answers, _ = ask(grid, identification(connected, server_round), min(timeout, NAME_SECONDS), name_in)
    return {node: name for node, name in answers.items() if name}


def identification(nodes: Iterable[int], server_round: int) -> Outgoing:
    """Return the messages that ask nodes for their agents' names."""
    content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
    return Outgoing({node: lambda: content for node in nodes}, IDENTIFY, server_round)


def name_in(content: RecordDict) -> str:
    """Return the agent's name in a reply's content, or an empty string."""
    record = content.config_records.get("agent")
    return "" if record is None else str(record.get("name", ""))


def warn(server_round: int, who: str, what: str) -> None:
    """Log one line of bounded length; the round continues with the other agents."""
    line = " ".join(what.split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    _logger.warning("round %d: %s: %s; the round goes on without it", server_round, who, line)
