"""One exchange of messages with some nodes, with everything that can go wrong in it said in one line."""

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from time import monotonic, sleep

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl_market.errors import MarketError

POLL_SECONDS = 0.5
LONGEST = 300
"""Characters that the log quotes of what an agent sent."""


def wait_for_nodes(
    grid: Grid, count: int, timeout: float, *, least: int | None = None, awaited: Sequence[str] = ()
) -> list[int]:
    """Return the connected nodes in a fixed order, once there are ``count``, or ``least`` of them in time.

    Parameters
    ----------
    grid
        Connection to the nodes.
    count
        How many are waited for.
    timeout
        Seconds to wait.
    least
        With how many to go on when they have passed; by default with no fewer.
    awaited
        Names of the agents that were there before, for the log.

    Raises
    ------
    MarketError
        If there are not enough of them after ``timeout`` seconds.
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
            told_of = f"{len(nodes)} of {count} agents are connected"
            log(WARNING, "%s; waiting up to %g s for the rest of %s", told_of, timeout, ", ".join(awaited))
            told = True
        sleep(min(POLL_SECONDS, timeout))
    return nodes


def build_messages(contents: Mapping[int, RecordDict], message_type: str, server_round: int) -> list[Message]:
    """Return one message for each node, with a record of its own."""
    return [
        Message(content, dst_node_id=node, message_type=message_type, group_id=str(server_round))
        for node, content in contents.items()
    ]


def collect(messages: Iterable[Message], replies: Iterable[Message]) -> tuple[dict[int, RecordDict], dict[int, str]]:
    """Return the content of each node's reply, and for every other node why there is none.

    Replies are told apart by the message that they answer: an error that Flower reports for a lost node does not name
    it.
    """
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    contents: dict[int, RecordDict] = {}
    failures: dict[int, str] = {}
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is None or node in contents:
            continue
        if reply.has_error():
            lines = str(reply.error.reason or "").strip().splitlines()
            failures[node] = lines[-1] if lines else "an error"
        else:
            contents[node] = reply.content
    for node in asked.values():
        if node not in contents:
            failures.setdefault(node, "no answer in time")
    return contents, failures


def ask(
    grid: Grid, contents: Mapping[int, RecordDict], message_type: str, server_round: int, timeout: float
) -> tuple[dict[int, RecordDict], dict[int, str]]:
    """Send one message to each node and return what :func:`collect` makes of the replies; no message costs nothing."""
    if not contents:
        return {}, {}
    messages = build_messages(contents, message_type, server_round)
    return collect(messages, grid.send_and_receive(messages, timeout=timeout))


def warn(server_round: int, who: str, what: str) -> None:
    """Log one line of bounded length; the round goes on with who is left."""
    line = " ".join(what.split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    log(WARNING, "round %d: %s: %s; the round goes on without it", server_round, who, line)
