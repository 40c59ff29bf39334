"""One exchange of messages with some nodes; each failure becomes one line."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
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


def waiting(messages: Sequence[Message]) -> AbstractContextManager[None]:
    """Return a context that counts the time of an exchange: see :mod:`fl_market.timing`."""
    kind = str(messages[0].metadata.message_type) if messages else ""
    return timed(
        {MessageType.TRAIN: "training", MessageType.EVALUATE: "evaluation"}.get(kind, "bids, asks, deliveries")
    )


def build_messages(contents: Mapping[int, RecordDict], message_type: str, server_round: int) -> list[Message]:
    """Return one message for each node, with a record of its own."""
    return [
        Message(content, dst_node_id=node, message_type=message_type, group_id=str(server_round))
        for node, content in contents.items()
    ]


def replies_by_node(
    messages: Iterable[Message], replies: Iterable[Message]
) -> tuple[dict[int, Message], dict[int, str]]:
    """Return each node's reply, and the reason of failure for every other node.

    Replies are matched by the message that they answer, because Flower's error for a lost node does
    not name the node.
    """
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    answers: dict[int, Message] = {}
    failures: dict[int, str] = {}
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is None or node in answers:
            continue
        if reply.has_error():
            failures[node] = _reason(str(reply.error.reason or ""))
        else:
            answers[node] = reply
    for node in asked.values():
        if node not in answers:
            failures.setdefault(node, NO_ANSWER)
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


def collect(messages: Iterable[Message], replies: Iterable[Message]) -> tuple[dict[int, RecordDict], dict[int, str]]:
    """Return the content of each node's reply, and the reason of failure for every other node."""
    answers, failures = replies_by_node(messages, replies)
    return {node: reply.content for node, reply in answers.items()}, failures


def ask(
    grid: Grid, contents: Mapping[int, RecordDict], message_type: str, server_round: int, timeout: float
) -> tuple[dict[int, RecordDict], dict[int, str]]:
    """Send one message to each node, and return the result of :func:`collect` on the replies."""
    if not contents:
        return {}, {}
    messages = build_messages(contents, message_type, server_round)
    return collect(messages, grid.send_and_receive(messages, timeout=timeout))


def names_at(grid: Grid, nodes: Iterable[int], server_round: int, timeout: float) -> dict[int, str]:
    """Ask the connected nodes for their agents' names; return the names of those that answer."""
    contents = {
        node: RecordDict({"config": ConfigRecord({"server-round": server_round})})
        for node in sorted(set(nodes) & set(grid.get_node_ids()))
    }
    answers, _ = ask(grid, contents, IDENTIFY, server_round, min(timeout, NAME_SECONDS))
    return {node: name for node, answer in answers.items() if (name := name_in(answer))}


def name_in(content: RecordDict) -> str:
    """Return the agent's name in a reply's content, or an empty string."""
    record = content.config_records.get("agent")
    return "" if record is None else str(record.get("name", ""))


def warn(server_round: int, who: str, what: str) -> None:
    """Log one line of bounded length; the round continues with the other agents."""
    line = " ".join(what.split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    _logger.warning("round %d: %s: %s; the round goes on without it", server_round, who, line)
