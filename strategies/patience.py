"""How long a phase waits for its replies, and for which agents the next ones do not wait.

Flower's grid waits for every reply, up to one timeout. One silent agent then stalls each phase of
each round. Here the replies are taken as they arrive. Once a quorum has replied, the others have as
long again, and at least a short deadline. An agent that misses a phase is left out of the next
1, 2, 4, … rounds, and is asked again after each. From its second miss on, nobody waits for it: it
takes part again when its reply is in time, or when a late one shows that it lives.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING
from uuid import uuid4

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl_market.settings import RunSettings
from strategies.exchange import waiting

if TYPE_CHECKING:  # a generated module, which moves between Flower's releases
    from flwr.proto.node_pb2 import NodeInfo

POLL_SECONDS = 0.25
"""Pause between two looks for replies. Flower's own, of 3 s, is a large part of a short phase."""
TRUSTED_MISSES = 2
"""Missed phases from which on nobody waits for an agent."""
LONGEST_ABSENCE = 64
"""Rounds for which an agent is left out at most."""
LATE_KEPT = 1000
"""Messages of finished phases whose late replies are looked for, the last ones."""
LEFT_OUT = 503

_logger = logging.getLogger("fl_market")


class PatientGrid(Grid):
    """A grid with deadlines and back-off, around Flower's.

    Parameters
    ----------
    grid
        Flower's grid.
    quorum
        Share of the awaited agents, in (0, 1].
    short_deadline
        Seconds.
    now, pause
        Clock, and function that waits for some seconds.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        quorum: float,
        short_deadline: float,
        now: Callable[[], float] = monotonic,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self._grid, self._quorum, self._short = grid, quorum, short_deadline
        self._now, self._pause = now, pause
        self._missed: Counter[int] = Counter()
        self._left_out: dict[int, int] = {}
        self._late: dict[str, Metadata] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yield the replies that came in time, as they arrive.

        An error stands for each agent that is left out. Messages are taken one after the other, and
        only their metadata is kept.
        """
        self._look_for_late_replies()
        asked: dict[str, Metadata] = {}
        refusals: list[Message] = []
        for message in messages:
            if self._is_left_out(message.metadata):
                refusals.append(self._refusal(message))
            elif list(self._grid.push_messages([message])) == [message.metadata.message_id]:
                asked[message.metadata.message_id] = message.metadata
        yield from refusals
        yield from self._replies(asked, timeout)

    def _replies(self, asked: dict[str, Metadata], timeout: float | None) -> Iterator[Message]:
        awaited = {key for key, message in asked.items() if self._missed[message.dst_node_id] < TRUSTED_MISSES}
        awaited = awaited or set(asked)
        quorum = math.ceil(self._quorum * len(awaited))
        begun, kind = self._now(), next((message.message_type for message in asked.values()), "")
        deadline = math.inf if timeout is None else begun + timeout
        reached = False
        while True:
            with waiting(kind):
                arrived = list(self._grid.pull_messages(list(asked))) if asked else []
            for reply in arrived:
                message = asked.pop(reply.metadata.reply_to_message_id, None)
                if message is not None:
                    self._missed.pop(message.dst_node_id, None)
                    yield reply
            outstanding, passed = awaited & asked.keys(), self._now() - begun
            if not reached and len(awaited) - len(outstanding) >= quorum:
                reached, deadline = True, min(deadline, begun + passed + max(self._short, passed))
            if not outstanding or begun + passed >= deadline:
                break
            with waiting(kind):
                self._pause(POLL_SECONDS)
        for message in asked.values():
            self._miss(message)

    def _is_left_out(self, message: Metadata) -> bool:
        return _round(message) <= self._left_out.get(message.dst_node_id, -1)

    def _refusal(self, message: Message) -> Message:
        """Return an error in place of the reply of an agent that is not asked."""
        message.metadata.__dict__["_message_id"] = str(uuid4())
        until = self._left_out[message.metadata.dst_node_id]
        return Message(Error(LEFT_OUT, f"it missed a phase, and is left out up to round {until}"), reply_to=message)

    def _miss(self, message: Metadata) -> None:
        node = message.dst_node_id
        self._missed[node] += 1
        absence = min(2 ** (self._missed[node] - 1), LONGEST_ABSENCE)
        self._left_out[node] = _round(message) + absence
        self._late[message.message_id] = message
        while len(self._late) > LATE_KEPT:
            del self._late[next(iter(self._late))]

    def _look_for_late_replies(self) -> None:
        """Ignore late replies, but let their senders take part again."""
        for reply in self._grid.pull_messages(list(self._late)) if self._late else ():
            message = self._late.pop(reply.metadata.reply_to_message_id, None)
            if message is None or reply.has_error():  # Flower answers for nodes that it has lost
                continue
            node, kind = message.dst_node_id, message.message_type
            _logger.warning("round %d: node %d: its reply to %s came late, and is ignored", _round(message), node, kind)
            self._missed[node] = min(self._missed[node], 1)
            self._left_out.pop(node, None)

    # -- all else is the grid's own

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> "Iterable[NodeInfo]":
        """Return what is known of the connected nodes, such as their public keys."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages, and return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived."""
        return self._grid.pull_messages(message_ids)


def patient(grid: Grid, settings: RunSettings) -> PatientGrid:
    """Return a grid with the deadlines of a run."""
    return PatientGrid(grid, quorum=settings.quorum, short_deadline=settings.short_deadline)


def _round(message: Metadata) -> int:
    return int(message.group_id) if message.group_id.isdecimal() else 0
